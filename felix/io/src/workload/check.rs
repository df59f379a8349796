//! CNI CHECK: is the pod's network as ADD left it?

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use felix::desired::{IfName, RouteKey, RouteSpec, Row};
use felix::kernel::KernelEvent;
use ipnet::IpNet;

use super::pair::{find_veth, pod_routes};
use super::{PairSpec, PodNetwork, WorkloadError};
use crate::netlink::decode::{self, Names};
use crate::netlink::link;
use crate::netlink::socket::{Failure, Requests};
use crate::netlink::uapi::{AF_INET, AF_INET6, AF_UNSPEC, RTM_GETADDR, RTM_GETROUTE};
use crate::netlink::wire::RouteHead;
use crate::netns;

/// Compares both ends, the pod's addresses and its routes with what is expected.
///
/// # Errors
/// [`WorkloadError::Differs`] names the first thing that is missing.
pub async fn check(
    netns: OwnedFd,
    spec: PairSpec,
    network: PodNetwork,
) -> Result<(), WorkloadError> {
    netns::on_thread("felix-check", move || check_now(&netns, &spec, &network))
        .await
        .map_err(WorkloadError::Thread)?
}

fn check_now(netns: &OwnedFd, spec: &PairSpec, network: &PodNetwork) -> Result<(), WorkloadError> {
    let mut host = super::requests()?;
    let host_ifname = &spec.host_ifname;
    let differs = |text: String| Err(WorkloadError::Differs(text));
    match find_veth(&mut host, host_ifname)? {
        None => return differs(format!("the host has no interface `{host_ifname}`")),
        Some(link) if !link.admin_up => {
            return differs(format!("the host's interface `{host_ifname}` is down"));
        }
        Some(_) => {}
    }
    netns::enter(netns.as_fd()).map_err(WorkloadError::Namespace)?;
    let mut pod = super::requests()?;
    let ifname = &spec.pod_ifname;
    let doing = || format!("read the pod's interface `{ifname}`");
    let found = link::find(&mut pod, ifname).map_err(WorkloadError::kernel(doing()))?;
    match found {
        None => return differs(format!("the pod has no interface `{ifname}`")),
        Some(link) if !link.state.up => {
            return differs(format!("the pod's interface `{ifname}` is not up"));
        }
        Some(_) => {}
    }
    let state = PodState::read(&mut pod, ifname).map_err(WorkloadError::kernel(doing()))?;
    for addr in &network.addresses {
        if !state.addresses.contains(addr) {
            return differs(format!(
                "the pod's interface `{ifname}` lacks the address {addr}"
            ));
        }
    }
    for (dst, gateway) in pod_routes(&network.routes, spec.host_mac) {
        if !state.has_route(dst, gateway, ifname) {
            let via = gateway
                .map(|gateway| format!(" via {gateway}"))
                .unwrap_or_default();
            return differs(format!("the pod lacks the route {dst}{via} on `{ifname}`"));
        }
    }
    Ok(())
}

/// Addresses of the pod's interface and the pod's routes.
struct PodState {
    addresses: Vec<IpAddr>,
    routes: Vec<(RouteKey, RouteSpec)>,
}

impl PodState {
    fn read(pod: &mut Requests, ifname: &IfName) -> Result<Self, Failure> {
        let mut names = Names::default();
        let lookup = pod.as_fd().try_clone_to_owned()?;
        let mut events = pod.dump(
            RTM_GETADDR,
            |writer| writer.ifaddr(AF_UNSPEC, 0, 0, 0),
            |message, out| decode::events(&message, lookup.as_fd(), &mut names, out),
        )?;
        for family in [AF_INET, AF_INET6] {
            events.append(&mut pod.dump(
                RTM_GETROUTE,
                |writer| {
                    writer.route(RouteHead {
                        family,
                        ..RouteHead::default()
                    })
                },
                |message, out| decode::events(&message, lookup.as_fd(), &mut names, out),
            )?);
        }
        let mut state = Self {
            addresses: Vec::new(),
            routes: Vec::new(),
        };
        for event in events {
            match event {
                KernelEvent::RowSet(Row::Addr(key)) if key.ifname == *ifname => {
                    state.addresses.push(key.addr.addr());
                }
                KernelEvent::RowSet(Row::Route(key, spec)) => state.routes.push((key, spec)),
                _ => {}
            }
        }
        Ok(state)
    }

    fn has_route(&self, dst: IpNet, gateway: Option<IpAddr>, ifname: &IfName) -> bool {
        self.routes.iter().any(|(key, spec)| {
            key.dst == dst
                && spec
                    .next_hops
                    .iter()
                    .any(|hop| hop.gateway == gateway && hop.ifname.as_ref() == Some(ifname))
        })
    }
}
