//! The routes inside a pod.
//!
//! Those of the pod's first interface stand in the main table. Those of a further one stand in a table of its own, which
//! rules choose by the packet's source address: so it neither takes the default route from the first one, nor are its
//! connections answered over the first one's device, where the host's reverse path filter would drop the answers.
//!
//! ```text
//! 1000:   from 10.65.0.7 lookup <table of net1>
//! 32766:  from all lookup main
//! ```
//! A rule outlives its interface; its table is empty then, and the next ADD of that interface removes it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use felix::desired::{IfName, Mac};
use ipnet::IpNet;

use super::{GATEWAY_V4, PodNetwork, Routing, WorkloadError};
use crate::netlink::encode;
use crate::netlink::socket::{Failure, Requests};
use crate::netlink::uapi::*;
use crate::netlink::wire::{Attr, Attrs, Batch, RouteHead};

/// Priority of the rules, ahead of the main table's 32766.
const RULE_PRIORITY: u32 = 1000;
/// Tables of further interfaces: this, and 24 bits of the name's hash.
const TABLE_BASE: u32 = 0x7400_0000;
/// Bytes of `struct rtmsg`, and of `struct fib_rule_hdr`, which has its layout.
const ROUTE_HEAD_BYTES: usize = 12;

/// The table that holds an interface's routes.
pub(super) fn table(routing: Routing, ifname: &IfName) -> u32 {
    match routing {
        Routing::Main => u32::from(RT_TABLE_MAIN),
        // FNV-1a: the same for a name in every release, as a rule of an earlier one is to be found again.
        Routing::BySource => {
            let hash = ifname.0.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
            TABLE_BASE | (hash & 0x00ff_ffff)
        }
    }
}

/// Destinations and gateways of an interface's routes, the gateway's own first.
pub(super) fn routes(network: &PodNetwork, host_mac: Mac) -> Vec<(IpNet, Option<IpAddr>)> {
    let mut routes = Vec::with_capacity(network.routes.len() + 1);
    if network.routes.iter().any(|dst| matches!(dst, IpNet::V4(_))) {
        routes.push((IpNet::from(IpAddr::V4(GATEWAY_V4)), None));
    }
    for dst in &network.routes {
        let gateway = match dst {
            IpNet::V4(_) => IpAddr::V4(GATEWAY_V4),
            IpNet::V6(_) => IpAddr::V6(link_local(host_mac)),
        };
        routes.push((*dst, Some(gateway)));
    }
    routes
}

/// The gateways of an interface's routes, each once.
pub(super) fn gateways(network: &PodNetwork, host_mac: Mac) -> BTreeSet<IpAddr> {
    let routes = routes(network, host_mac);
    routes
        .into_iter()
        .filter_map(|(_, gateway)| gateway)
        .collect()
}

/// The link-local address that the kernel derives from a MAC (RFC 4291 appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let be = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        be(a ^ 2, b),
        be(c, 0xff),
        be(0xfe, d),
        be(e, f),
    )
}

/// Removes the rules that an earlier interface of the name left.
pub(super) fn clear_rules(pod: &mut Requests, ifname: &IfName) -> Result<(), WorkloadError> {
    let table = table(Routing::BySource, ifname);
    let doing = || format!("remove the rules of an earlier `{ifname}`");
    let old = rules(pod, table).map_err(WorkloadError::kernel(doing()))?;
    let mut batch = Batch::default();
    for addr in old {
        rule(&mut batch, RTM_DELRULE, 0, addr, table);
    }
    for answer in pod.exchange(&batch) {
        answer.map_err(WorkloadError::kernel(doing()))?;
    }
    Ok(())
}

/// Adds the rule that packets from `addr` take the interface's own table.
pub(super) fn add_rule(batch: &mut Batch, addr: IpAddr, ifname: &IfName) {
    let table = table(Routing::BySource, ifname);
    rule(batch, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, addr, table);
}

fn rule(batch: &mut Batch, kind: u16, flags: u16, addr: IpAddr, table: u32) {
    batch.request(kind, flags, |writer| {
        encode::source_rule(writer, addr, RULE_PRIORITY, table);
    });
}

/// Source addresses of the rules that lead to a table.
pub(super) fn rules(pod: &mut Requests, table: u32) -> Result<Vec<IpAddr>, Failure> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let head = RouteHead {
            family,
            ..RouteHead::default()
        };
        found.append(&mut pod.dump(
            RTM_GETRULE,
            |writer| writer.route(head),
            |message, out| {
                let attrs = Attrs::after(message.payload, ROUTE_HEAD_BYTES);
                let to = attrs.find(FRA_TABLE).and_then(Attr::u32);
                if to == Some(table) {
                    out.extend(attrs.find(FRA_SRC).and_then(Attr::ip));
                }
            },
        )?);
    }
    Ok(found)
}

/// Destinations and gateways of the routes that a table has to an interface.
pub(super) fn present(
    pod: &mut Requests,
    table: u32,
    ifindex: u32,
) -> Result<Vec<(IpNet, Option<IpAddr>)>, Failure> {
    let mut found = Vec::new();
    for (family, any) in [(AF_INET, "0.0.0.0/0"), (AF_INET6, "::/0")] {
        let any: IpNet = any.parse().expect("a prefix");
        let head = RouteHead {
            family,
            ..RouteHead::default()
        };
        found.append(&mut pod.dump(
            RTM_GETROUTE,
            |writer| writer.route(head),
            |message, out| {
                let attrs = Attrs::after(message.payload, ROUTE_HEAD_BYTES);
                let number = |kind| attrs.find(kind).and_then(Attr::u32);
                if number(RTA_TABLE) != Some(table) || number(RTA_OIF) != Some(ifindex) {
                    return;
                }
                let dst = match attrs.find(RTA_DST).map(Attr::ip) {
                    None => Some(any),
                    Some(addr) => addr
                        .zip(message.payload.get(1))
                        .and_then(|(addr, len)| IpNet::new(addr, *len).ok()),
                };
                let gateway = attrs.find(RTA_GATEWAY).and_then(Attr::ip);
                out.extend(dst.map(|dst| (dst, gateway)));
            },
        )?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_ipv6_gateway_follows_from_the_host_ends_mac() {
        assert_eq!(
            link_local(super::super::HOST_MAC).to_string(),
            "fe80::ecee:eeff:feee:eeee"
        );
    }

    #[test]
    fn each_further_interface_has_a_table_of_its_own() {
        let main = table(Routing::Main, &IfName::from("net1"));
        let net1 = table(Routing::BySource, &IfName::from("net1"));
        let net2 = table(Routing::BySource, &IfName::from("net2"));
        assert_eq!(main, 254);
        assert!(net1 != net2 && net1 > 0xffff && net2 > 0xffff);
    }
}
