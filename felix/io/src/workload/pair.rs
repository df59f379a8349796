//! The steps of an attachment, on one of the threads.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use felix::desired::{
    AddrKey, IfName, Mac, NeighKey, NextHop, RouteKey, RouteKind, RouteSpec, SysctlKey,
};
use ipnet::IpNet;
use netlink_sys::Socket;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::threads::Host;
use super::{
    Attached, Families, Forwarding, OldPair, PairSpec, PodNetwork, Routing, WorkloadError, routing,
};
use crate::netlink::decode::Link;
use crate::netlink::encode::{self, VethEnd};
use crate::netlink::link;
use crate::netlink::socket::{self, Requests};
use crate::netlink::uapi::*;
use crate::netlink::wire::Batch;
use crate::sysctl::{self, SysctlError};

/// How long both ends may take to become operational; it takes 15 microseconds normally.
const OPERATIONAL_WITHIN: Duration = Duration::from_secs(5);

/// RFC 8200 §5.
const IPV6_MTU_MIN: u32 = 1280;

/// A pair that exists.
#[derive(Debug)]
pub(super) struct Pair {
    netns: OwnedFd,
    spec: PairSpec,
    host_ifindex: u32,
    pod_mac: Mac,
}

impl Pair {
    /// Makes the pair, and brings the host's end up.
    pub(super) fn make(
        host: &mut Host<'_>,
        netns: OwnedFd,
        spec: PairSpec,
    ) -> Result<Self, WorkloadError> {
        check_name(&spec.host_ifname)?;
        check_name(&spec.pod_ifname)?;
        check_mtu(&spec)?;
        host.check(&netns)?;
        let requests = host.requests()?;
        if let Some(old) = find_veth(requests, &spec.host_ifname)? {
            if spec.old_pair == OldPair::Keep && !old.is_detached() {
                return Err(WorkloadError::HostInterfaceExists {
                    ifname: spec.host_ifname,
                    alias: old.alias,
                });
            }
            let doing = format!("delete the old interface `{}`", spec.host_ifname);
            link::delete(requests, &spec.host_ifname).map_err(WorkloadError::kernel(doing))?;
        }
        create(requests, &netns, &spec)?;
        match raise(host, &netns, &spec) {
            Ok((host_ifindex, pod_mac)) => Ok(Self {
                netns,
                spec,
                host_ifindex,
                pod_mac,
            }),
            Err(error) => {
                delete_logged(host, &spec.host_ifname);
                Err(error)
            }
        }
    }

    pub(super) const fn host_ifindex(&self) -> u32 {
        self.host_ifindex
    }

    pub(super) const fn pod_mac(&self) -> Mac {
        self.pod_mac
    }

    /// Configures the pod's side and waits for both ends.
    pub(super) fn configure(
        &self,
        host: &mut Host<'_>,
        network: &PodNetwork,
    ) -> Result<Attached, WorkloadError> {
        let pod_ifname = &self.spec.pod_ifname;
        let deadline = Instant::now() + OPERATIONAL_WITHIN;
        let pod_link = host.within(&self.netns, || {
            pod_sysctls(pod_ifname, network)?;
            let mut pod = super::requests()?;
            if network.routing == Routing::BySource {
                routing::clear_rules(&mut pod, pod_ifname)?;
            }
            let (batch, doings) = self.pod_batch(network, ifindex(&pod, pod_ifname)?);
            for (answer, doing) in pod.exchange(&batch).into_iter().zip(doings) {
                answer.map_err(WorkloadError::kernel(doing))?;
            }
            wait_operational(&mut pod, pod_ifname, deadline)
        })?;
        let host_ifname = &self.spec.host_ifname;
        let host_link = wait_operational(host.requests()?, host_ifname, deadline)?;
        Ok(Attached {
            host_ifname: host_ifname.clone(),
            host_ifindex: self.host_ifindex,
            host_mac: host_link.state.mac.unwrap_or(self.spec.host_mac),
            pod_ifname: pod_ifname.clone(),
            pod_mac: self.pod_mac,
            mtu_bytes: pod_link.state.mtu_bytes,
        })
    }

    /// Up, addresses and routes of the pod in one datagram, and the name of each step.
    fn pod_batch(&self, network: &PodNetwork, ifindex: u32) -> (Batch, Vec<String>) {
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
            encode::set_neigh(&mut batch, &key, self.spec.host_mac, ifindex);
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
    pub(super) fn undo(&self, host: &mut Host<'_>) {
        delete_logged(host, &self.spec.host_ifname);
    }
}

/// Brings the host's end up, with the settings that the first packet needs; its number, and the MAC of the pod's end.
fn raise(
    host: &mut Host<'_>,
    netns: &OwnedFd,
    spec: &PairSpec,
) -> Result<(u32, Mac), WorkloadError> {
    host_sysctls(spec)?;
    let name = &spec.host_ifname;
    let requests = host.requests()?;
    let number = ifindex(requests, name)?;
    let raised = requests.request(RTM_SETLINK, 0, |writer| {
        writer.ifinfo(AF_UNSPEC, number, IFF_UP, IFF_UP);
        if !spec.alias.is_empty() {
            writer.attr_str(IFLA_IFALIAS, &spec.alias);
        }
        // As files below /proc/sys each would cost more than this message, and wait for whoever else changes a device.
        writer.nest(IFLA_AF_SPEC, |writer| {
            writer.nest(u16::from(AF_INET), |writer| {
                writer.nest(IFLA_INET_CONF, |writer| {
                    for setting in HOST_SETTINGS_V4 {
                        writer.attr_u32(setting, 1);
                    }
                });
            });
        });
    });
    raised.map_err(WorkloadError::kernel(format!("raise interface `{name}`")))?;
    let pod_mac = match spec.pod_mac {
        Some(mac) => mac,
        None => host.within(netns, || {
            let link = must_find(&mut super::requests()?, &spec.pod_ifname)?;
            Ok(link.state.mac.unwrap_or(Mac([0; 6])))
        })?,
    };
    Ok((number, pod_mac))
}

/// What is switched on for IPv4 on the host's end; the reconciler keeps it afterwards.
const HOST_SETTINGS_V4: [u16; 3] = [
    IPV4_DEVCONF_ROUTE_LOCALNET,
    IPV4_DEVCONF_PROXY_ARP,
    IPV4_DEVCONF_FORWARDING,
];

/// The pair in one message: the pod's end is born in the pod's namespace under its final name. It
/// cannot be born up, since its peer does not exist yet at that moment.
fn create(host: &mut Requests, netns: &OwnedFd, spec: &PairSpec) -> Result<(), WorkloadError> {
    let end = |name, mac| VethEnd {
        name,
        mac,
        mtu_bytes: spec.mtu_bytes,
        queues: spec.queues,
    };
    let of_host = end(&spec.host_ifname, Some(spec.host_mac));
    let of_pod = end(&spec.pod_ifname, spec.pod_mac);
    let made = host.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |writer| {
        encode::veth_pair(writer, &of_host, &of_pod, netns.as_raw_fd());
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

/// Sysctls of the host end that no message sets; the reconciler keeps them afterwards.
fn host_sysctls(spec: &PairSpec) -> Result<(), WorkloadError> {
    let name = &spec.host_ifname;
    let mut wanted = Vec::new();
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
    // Also of a pod without an IPv6 address, which may send what it likes; a kernel without IPv6 has no such file.
    optional.push((format!("net/ipv6/conf/{name}/accept_ra"), "0"));
    for setting in &optional {
        if let Err(error) = write_all(name, std::slice::from_ref(setting))
            && !matches!(&error, WorkloadError::Sysctl { source: SysctlError::Write { source, .. }, .. } if source.kind() == ErrorKind::NotFound)
        {
            tracing::warn!(ifname = %name, %error, "an optional setting of a pod's interface is refused");
        }
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

/// Waits for `IFLA_OPERSTATE` up in the thread's namespace. If it is not up at once, notifications are subscribed before the state is asked for again, so
/// that no change falls in between.
fn wait_operational(
    requests: &mut Requests,
    ifname: &IfName,
    deadline: Instant,
) -> Result<Link, WorkloadError> {
    let found = must_find(requests, ifname)?;
    if found.operstate == IF_OPER_UP {
        return Ok(found);
    }
    let links = link_notifications()?;
    let mut buffer = [0; 16 * 1024];
    loop {
        let found = must_find(requests, ifname)?;
        if found.operstate == IF_OPER_UP {
            return Ok(found);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let waited_ms = OPERATIONAL_WITHIN.as_millis();
            return Err(WorkloadError::NotOperational {
                ifname: ifname.clone(),
                waited_ms,
            });
        }
        // Any notification, a lost one or the deadline: the state is asked for again.
        let _woken = set_socket_timeout(&links, Timeout::Recv, Some(left))
            .and_then(|()| rustix::net::recv(&links, &mut buffer[..], RecvFlags::TRUNC));
    }
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

/// The kernel's number of an interface in the socket's namespace.
fn ifindex(requests: &Requests, ifname: &IfName) -> Result<u32, WorkloadError> {
    let doing = || format!("look up interface `{ifname}`");
    rustix::net::netdevice::name_to_index(requests, &ifname.0)
        .map_err(|errno| WorkloadError::kernel(doing())(errno.into()))
}

fn delete_logged(host: &mut Host<'_>, ifname: &IfName) {
    let deleted = host.requests().and_then(|requests| {
        let doing = "delete it".to_owned();
        link::delete(requests, ifname).map_err(WorkloadError::kernel(doing))
    });
    if let Err(error) = deleted {
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
