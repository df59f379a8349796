//! The steps of an attachment, on the thread made for it.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use felix::desired::{
    AddrKey, IfName, Mac, NeighKey, NextHop, RouteKey, RouteKind, RouteSpec, SysctlKey,
};
use ipnet::IpNet;
use netlink_sys::Socket;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{
    Attached, Families, Forwarding, OldPair, PairSpec, PodNetwork, Routing, WorkloadError, routing,
};
use crate::netlink::decode::Link;
use crate::netlink::socket::{self, Requests};
use crate::netlink::uapi::*;
use crate::netlink::wire::{Batch, Writer};
use crate::netlink::{encode, link};
use crate::{netns, sysctl};

/// How long both ends may take to become operational; it takes 15 microseconds normally.
const OPERATIONAL_WITHIN: Duration = Duration::from_secs(5);

/// RFC 8200 §5.
const IPV6_MTU_MIN: u32 = 1280;

/// A pair that exists; the thread is in the pod's namespace.
pub(super) struct Pair {
    spec: PairSpec,
    /// In the host's namespace, as sockets stay where they were made.
    host: Requests,
    /// Link notifications of the host's namespace.
    host_links: Socket,
    pod: Requests,
    host_link: Link,
    pod_link: Link,
}

impl Pair {
    /// Makes the pair and moves the calling thread into the pod's namespace.
    pub(super) fn make(netns: &OwnedFd, spec: PairSpec) -> Result<Self, WorkloadError> {
        check_name(&spec.host_ifname)?;
        check_name(&spec.pod_ifname)?;
        check_mtu(&spec)?;
        netns::check(netns.as_fd()).map_err(WorkloadError::Namespace)?;
        if netns::is_current(netns.as_fd()).map_err(WorkloadError::Namespace)? {
            return Err(WorkloadError::HostNamespace);
        }
        let mut host = super::requests()?;
        if let Some(old) = find_veth(&mut host, &spec.host_ifname)? {
            if spec.old_pair == OldPair::Keep && !old.is_detached() {
                return Err(WorkloadError::HostInterfaceExists {
                    ifname: spec.host_ifname,
                    alias: old.alias,
                });
            }
            let doing = format!("delete the old interface `{}`", spec.host_ifname);
            link::delete(&mut host, &spec.host_ifname).map_err(WorkloadError::kernel(doing))?;
        }
        create(&mut host, netns, &spec)?;
        let name = spec.host_ifname.clone();
        let made = Self::made(netns, spec, &mut host);
        match made {
            Ok((spec, host_links, pod, host_link, pod_link)) => Ok(Self {
                spec,
                host,
                host_links,
                pod,
                host_link,
                pod_link,
            }),
            Err(error) => {
                delete_logged(&mut host, &name);
                Err(error)
            }
        }
    }

    /// What follows the creation and must be undone when it fails.
    fn made(
        netns: &OwnedFd,
        spec: PairSpec,
        host: &mut Requests,
    ) -> Result<(PairSpec, Socket, Requests, Link, Link), WorkloadError> {
        host_sysctls(&spec)?;
        let name = &spec.host_ifname;
        let host_link = must_find(host, name)?;
        host.request(RTM_SETLINK, 0, |writer| {
            writer.ifinfo(AF_UNSPEC, host_link.state.ifindex, IFF_UP, IFF_UP);
            if !spec.alias.is_empty() {
                writer.attr_str(IFLA_IFALIAS, &spec.alias);
            }
        })
        .map_err(WorkloadError::kernel(format!("raise interface `{name}`")))?;
        let host_links = link_notifications()?;
        netns::enter(netns.as_fd()).map_err(WorkloadError::Namespace)?;
        let mut pod = super::requests()?;
        let pod_link = must_find(&mut pod, &spec.pod_ifname)?;
        Ok((spec, host_links, pod, host_link, pod_link))
    }

    pub(super) fn host_ifindex(&self) -> u32 {
        self.host_link.state.ifindex
    }

    fn host_mac(&self) -> Mac {
        self.host_link.state.mac.unwrap_or(self.spec.host_mac)
    }

    pub(super) fn pod_mac(&self) -> Mac {
        self.pod_link.state.mac.unwrap_or(Mac([0; 6]))
    }

    /// Configures the pod's side and waits for both ends.
    pub(super) fn configure(&mut self, network: &PodNetwork) -> Result<Attached, WorkloadError> {
        let pod_ifname = self.spec.pod_ifname.clone();
        pod_sysctls(&pod_ifname, network)?;
        if network.routing == Routing::BySource {
            routing::clear_rules(&mut self.pod, &pod_ifname)?;
        }
        let (batch, doings) = self.pod_batch(network);
        for (answer, doing) in self.pod.exchange(&batch).into_iter().zip(doings) {
            answer.map_err(WorkloadError::kernel(doing))?;
        }
        let deadline = Instant::now() + OPERATIONAL_WITHIN;
        wait_operational(&mut self.pod, None, &pod_ifname, deadline)?;
        let host_ifname = &self.spec.host_ifname;
        wait_operational(
            &mut self.host,
            Some(&self.host_links),
            host_ifname,
            deadline,
        )?;
        Ok(Attached {
            host_ifname: self.spec.host_ifname.clone(),
            host_ifindex: self.host_ifindex(),
            host_mac: self.host_mac(),
            pod_ifname,
            pod_mac: self.pod_mac(),
            mtu_bytes: self.pod_link.state.mtu_bytes,
        })
    }

    /// Up, addresses and routes of the pod in one datagram, and the name of each step.
    fn pod_batch(&self, network: &PodNetwork) -> (Batch, Vec<String>) {
        let ifindex = self.pod_link.state.ifindex;
        let ifname = &self.spec.pod_ifname;
        let mut batch = Batch::default();
        let mut doings = vec![format!("raise the pod's interface `{ifname}`")];
        batch.request(RTM_SETLINK, 0, |writer| {
            writer.ifinfo(AF_UNSPEC, ifindex, IFF_UP, IFF_UP);
        });
        for addr in &network.addresses {
            let key = AddrKey {
                ifname: ifname.clone(),
                addr: IpNet::from(*addr),
            };
            encode::set_addr(&mut batch, &key, ifindex);
            doings.push(format!("give the pod the address {addr}"));
        }
        for (dst, gateway) in routing::routes(network, self.spec.host_mac) {
            let key = RouteKey {
                table: routing::table(network.routing, ifname),
                dst,
                tos: 0,
                metric: 0,
            };
            let scope = match (dst, gateway) {
                (IpNet::V4(_), None) => RT_SCOPE_LINK,
                _ => RT_SCOPE_UNIVERSE,
            };
            let hop = NextHop {
                gateway,
                ifname: Some(ifname.clone()),
                // In a table of its own the gateway is not looked up in the main one.
                onlink: gateway.is_some() && network.routing == Routing::BySource,
            };
            let spec = RouteSpec {
                kind: RouteKind::Unicast,
                scope,
                protocol: RTPROT_BOOT,
                next_hops: vec![hop].into(),
                object: None,
                prefsrc: None,
                mtu_bytes: None,
            };
            let Ok(()) = encode::set_route(&mut batch, &key, &spec, &mut |_| {
                Ok::<u32, std::convert::Infallible>(ifindex)
            });
            doings.push(format!("give the pod the route {dst}"));
        }
        for gateway in routing::gateways(network, self.spec.host_mac) {
            let key = NeighKey {
                ifname: ifname.clone(),
                addr: gateway,
            };
            encode::set_neigh(&mut batch, &key, self.host_mac(), ifindex);
            doings.push(format!("give the pod its gateway's MAC ({gateway})"));
        }
        if network.routing == Routing::BySource {
            for addr in &network.addresses {
                routing::add_rule(&mut batch, *addr, ifname);
                doings.push(format!("give the pod the rule for packets from {addr}"));
            }
        }
        (batch, doings)
    }

    /// Removes the pair.
    pub(super) fn undo(&mut self) {
        delete_logged(&mut self.host, &self.spec.host_ifname);
    }
}

/// The pair in one message: the pod's end is born in the pod's namespace under its final name. It
/// cannot be born up, since its peer does not exist yet at that moment.
fn create(host: &mut Requests, netns: &OwnedFd, spec: &PairSpec) -> Result<(), WorkloadError> {
    let end = |writer: &mut Writer<'_>, name: &IfName, mac: Option<Mac>| {
        writer.ifinfo(AF_UNSPEC, 0, 0, 0);
        writer.attr_str(IFLA_IFNAME, &name.0);
        if let Some(mtu) = spec.mtu_bytes {
            writer.attr_u32(IFLA_MTU, mtu);
        }
        if let Some(Mac(mac)) = mac {
            writer.attr(IFLA_ADDRESS, &mac);
        }
        writer.attr_u32(IFLA_NUM_TX_QUEUES, spec.queues);
        writer.attr_u32(IFLA_NUM_RX_QUEUES, spec.queues);
    };
    let made = host.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |writer| {
        end(writer, &spec.host_ifname, Some(spec.host_mac));
        writer.nest(IFLA_LINKINFO, |writer| {
            writer.attr_str(IFLA_INFO_KIND, "veth");
            writer.nest(IFLA_INFO_DATA, |writer| {
                writer.nest(VETH_INFO_PEER, |writer| {
                    end(writer, &spec.pod_ifname, spec.pod_mac);
                    writer.attr_u32(IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
                });
            });
        });
    });
    let doing = format!(
        "create the interface pair `{}`/`{}`",
        spec.host_ifname, spec.pod_ifname
    );
    match made {
        Err(failure) if failure.errno == libc::EEXIST => {
            Err(WorkloadError::PodInterfaceExists(spec.pod_ifname.clone()))
        }
        made => made.map_err(WorkloadError::kernel(doing)),
    }
}

/// Sysctls of the host end that the first packet needs; the reconciler keeps them afterwards.
fn host_sysctls(spec: &PairSpec) -> Result<(), WorkloadError> {
    let name = &spec.host_ifname;
    let mut wanted = vec![
        (format!("net/ipv4/conf/{name}/route_localnet"), "1"),
        (format!("net/ipv4/conf/{name}/proxy_arp"), "1"),
        (format!("net/ipv4/conf/{name}/forwarding"), "1"),
    ];
    // A pod works without these two: proxy ARP then answers late, and the host may believe routers.
    let mut optional = vec![(format!("net/ipv4/neigh/{name}/proxy_delay"), "0")];
    if spec.families == Families::Dual {
        for (key, value) in [
            ("disable_ipv6", "0"),
            ("accept_dad", "0"),
            ("proxy_ndp", "1"),
            ("forwarding", "1"),
        ] {
            wanted.push((format!("net/ipv6/conf/{name}/{key}"), value));
        }
    }
    // Also of a pod without an IPv6 address, which may send what it likes.
    let accept_ra = format!("net/ipv6/conf/{name}/accept_ra");
    if Path::new("/proc/sys").join(&accept_ra).exists() {
        optional.push((accept_ra, "0"));
    }
    if let Err(error) = write_all(name, &optional) {
        tracing::warn!(ifname = %name, %error, "an optional setting of a pod's interface is refused");
    }
    write_all(name, &wanted)
}

fn pod_sysctls(ifname: &IfName, network: &PodNetwork) -> Result<(), WorkloadError> {
    // Forwarding is the whole pod's: a further interface does not switch off what the first was given.
    let forwarding = match (network.forwarding, network.routing) {
        (Forwarding::Off, Routing::Main) => Some("0"),
        (Forwarding::Off, Routing::BySource) => None,
        (Forwarding::On, _) => Some("1"),
    };
    let mut wanted = Vec::new();
    if let Some(value) = forwarding
        && network.addresses.iter().any(IpAddr::is_ipv4)
    {
        wanted.push(("net/ipv4/ip_forward".to_owned(), value));
    }
    if network.addresses.iter().any(IpAddr::is_ipv6) {
        for device in ["all", "default", "lo"] {
            wanted.push((format!("net/ipv6/conf/{device}/disable_ipv6"), "0"));
        }
        wanted.push((format!("net/ipv6/conf/{ifname}/accept_dad"), "0"));
        if let Some(value) = forwarding {
            wanted.push(("net/ipv6/conf/all/forwarding".to_owned(), value));
        }
    }
    write_all(ifname, &wanted)
}

fn write_all(ifname: &IfName, wanted: &[(String, &str)]) -> Result<(), WorkloadError> {
    for (key, value) in wanted {
        sysctl::overwrite(&SysctlKey(Arc::from(key.as_str())), value).map_err(|source| {
            WorkloadError::Sysctl {
                ifname: ifname.clone(),
                source,
            }
        })?;
    }
    Ok(())
}

/// Waits for `IFLA_OPERSTATE` up. Notifications are subscribed before the state is asked for, so
/// that no change falls in between: in `links`, or here if the state is not up at once.
fn wait_operational(
    requests: &mut Requests,
    links: Option<&Socket>,
    ifname: &IfName,
    deadline: Instant,
) -> Result<(), WorkloadError> {
    if must_find(requests, ifname)?.operstate == IF_OPER_UP {
        return Ok(());
    }
    let own;
    let links = if let Some(links) = links {
        links
    } else {
        own = link_notifications()?;
        &own
    };
    let mut buffer = [0; 16 * 1024];
    while must_find(requests, ifname)?.operstate != IF_OPER_UP {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let waited_ms = OPERATIONAL_WITHIN.as_millis();
            return Err(WorkloadError::NotOperational {
                ifname: ifname.clone(),
                waited_ms,
            });
        }
        // Any notification, a lost one or the deadline: the state is asked for again.
        let _woken = set_socket_timeout(links, Timeout::Recv, Some(left))
            .and_then(|()| rustix::net::recv(links, &mut buffer[..], RecvFlags::TRUNC));
    }
    Ok(())
}

fn link_notifications() -> Result<Socket, WorkloadError> {
    socket::open(&[RTNLGRP_LINK])
        .map_err(|error| WorkloadError::kernel("open a netlink socket".to_owned())(error.into()))
}

/// A pod's host end of this name; any other kind of device is an error.
pub(super) fn find_veth(
    host: &mut Requests,
    ifname: &IfName,
) -> Result<Option<Link>, WorkloadError> {
    let doing = format!("look up interface `{ifname}`");
    match link::find(host, ifname).map_err(WorkloadError::kernel(doing))? {
        Some(link) if link.state.kind.as_deref() != Some("veth") => {
            Err(WorkloadError::ForeignLink {
                ifname: ifname.clone(),
                kind: link.state.kind.as_deref().unwrap_or("hardware").to_owned(),
            })
        }
        found => Ok(found),
    }
}

fn must_find(requests: &mut Requests, ifname: &IfName) -> Result<Link, WorkloadError> {
    let doing = || format!("look up interface `{ifname}`");
    link::find(requests, ifname)
        .map_err(WorkloadError::kernel(doing()))?
        .ok_or_else(|| WorkloadError::Kernel {
            doing: doing(),
            errno: libc::ENODEV,
            text: "it vanished".to_owned(),
        })
}

fn delete_logged(host: &mut Requests, ifname: &IfName) {
    if let Err(error) = link::delete(host, ifname) {
        tracing::warn!(%ifname, %error, "a pod's interface is left over");
    }
}

fn check_name(ifname: &IfName) -> Result<(), WorkloadError> {
    let name = &*ifname.0;
    let bad = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name.len() > 15 || matches!(name, "." | "..") || name.contains(bad) {
        return Err(WorkloadError::Name(ifname.clone()));
    }
    Ok(())
}

/// The kernel would take the pair, and refuse the addresses.
fn check_mtu(spec: &PairSpec) -> Result<(), WorkloadError> {
    match spec.mtu_bytes {
        Some(mtu_bytes) if spec.families == Families::Dual && mtu_bytes < IPV6_MTU_MIN => {
            Err(WorkloadError::MtuTooSmall {
                ifname: spec.pod_ifname.clone(),
                mtu_bytes,
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_refuses_are_refused_before_anything_is_made() {
        for name in ["", "..", "a/b", "a b", "sixteen-bytes-xx"] {
            assert!(matches!(
                check_name(&IfName::from(name)),
                Err(WorkloadError::Name(_))
            ));
        }
        check_name(&IfName::from("cali0123456789a")).unwrap();
    }
}
