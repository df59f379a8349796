//! CNI CHECK: is the pod's network as ADD left it?

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::pair::find_veth;
use super::{PairSpec, PodNetwork, Routing, WorkloadError, routing};
use crate::netlink::socket::{Failure, Requests};
use crate::netlink::uapi::{AF_UNSPEC, RTM_GETADDR};
use crate::netlink::{decode, link};
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
    let cannot = |failure| WorkloadError::kernel(doing())(failure);
    let found = match link::find(&mut pod, ifname).map_err(cannot)? {
        None => return differs(format!("the pod has no interface `{ifname}`")),
        Some(link) if !link.state.up => {
            return differs(format!("the pod's interface `{ifname}` is not up"));
        }
        Some(link) => link.state.ifindex,
    };
    let addresses = addresses(&mut pod, found).map_err(cannot)?;
    for addr in &network.addresses {
        if !addresses.contains(addr) {
            return differs(format!(
                "the pod's interface `{ifname}` lacks the address {addr}"
            ));
        }
    }
    let table = routing::table(network.routing, ifname);
    let present = routing::present(&mut pod, table, found).map_err(cannot)?;
    for route in routing::routes(network, spec.host_mac) {
        if !present.contains(&route) {
            let (dst, gateway) = route;
            let via = gateway
                .map(|gateway| format!(" via {gateway}"))
                .unwrap_or_default();
            return differs(format!("the pod lacks the route {dst}{via} on `{ifname}`"));
        }
    }
    if network.routing == Routing::BySource {
        let rules = routing::rules(&mut pod, table).map_err(cannot)?;
        if let Some(addr) = network.addresses.iter().find(|addr| !rules.contains(addr)) {
            return differs(format!(
                "the pod lacks the rule that packets from {addr} take table {table}"
            ));
        }
    }
    Ok(())
}

/// Addresses of an interface.
fn addresses(pod: &mut Requests, ifindex: u32) -> Result<Vec<IpAddr>, Failure> {
    pod.dump(
        RTM_GETADDR,
        |writer| writer.ifaddr(AF_UNSPEC, 0, 0, 0),
        |message, out| {
            let fields = decode::addr_fields(&message);
            out.extend(
                fields
                    .filter(|(of, _)| *of == ifindex)
                    .map(|(_, addr)| addr.addr()),
            );
        },
    )
}
