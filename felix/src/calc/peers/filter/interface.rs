//! Rules of BGPFilters on `interface`: by which device packets of a route leave.
//!
//! The speaker knows no devices, so a rule becomes conditions on what it knows. A learned route leaves by the device that the host's
//! own routes to its next hop have; own addresses leave by the device of the pod or tunnel that has them. Blocks and addresses of
//! Services lead to no device and match no such rule, nor does a next hop that has no way or is link-local. What follows changes with
//! the host's routes and with pods, and the session goes on.

use bgp::policy::{Match, PrefixRange};
use bgp::route::RouteSource;
use ipnet::IpNet;

use super::super::Inputs;
use super::Direction;
use crate::ownership::{IPIP_DEVICE, vxlan_device};
use crate::rules::Family;

impl Inputs<'_> {
    /// The conditions of a rule on `interface`: of any of these lists all must hold. None when no route fits.
    pub(super) fn leaves_by(&self, pattern: &str, direction: Direction) -> Vec<Vec<Match>> {
        let fits = |ifname: &str| fits(pattern, ifname);
        let mut ways = Vec::new();
        // Of both families: IPv4 routes may have IPv6 next hops (RFC 8950).
        let next_hops = self.underlay.leading_by(fits);
        if !next_hops.is_empty() {
            let learned = Match::PeerType(vec![RouteSource::Ebgp, RouteSource::Ibgp]);
            ways.push(vec![learned, Match::NextHop(next_hops)]);
        }
        if direction == Direction::Export {
            let own = self.own_addresses_on(fits);
            let own: Vec<PrefixRange> = own.map(PrefixRange::exactly).collect();
            if !own.is_empty() {
                let local = Match::PeerType(vec![RouteSource::Local]);
                ways.push(vec![local, Match::Prefix(own)]);
            }
        }
        ways
    }

    /// This node's addresses on such devices that may be announced by themselves.
    fn own_addresses_on(&self, fits: impl Fn(&str) -> bool) -> impl Iterator<Item = IpNet> {
        let node = &self.settings.node_name;
        let on_pod = |addr: &IpNet| {
            let pod = self.workloads.at(&addr.addr());
            pod.is_some_and(|pod| fits(&pod.ifname.0))
        };
        let by_itself = |addr: &IpNet| {
            self.settings.normal_route_metric < self.normal[Family::of(addr.addr())]
                || !self.blocks.is_aggregated(node, addr)
        };
        let pods = self.workloads.addrs().filter(by_itself).filter(on_pod);
        let tunnels = Family::ALL.into_iter().filter_map(|family| {
            let local = &self.local.families[family];
            Some((local.vxlan.and(local.vxlan_addr)?, vxlan_device(family)))
        });
        let ipip = self.local.ipip.and(self.local.ipip_addr);
        let ipip = ipip.map(|addr| (addr.into(), IPIP_DEVICE));
        let tunnels = tunnels.chain(ipip).filter(|(_, device)| fits(device));
        let tunnels = tunnels.map(|(addr, _)| IpNet::from(addr)).filter(by_itself);
        let mut all: Vec<IpNet> = pods.chain(tunnels).collect();
        all.sort();
        all.dedup();
        all.into_iter()
    }
}

/// Whether a name is what a pattern says, in which `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            let ends = (0..=rest.len()).filter(|end| rest.is_char_boundary(*end));
            ends.into_iter().any(|end| fits(after, &rest[end..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_any_text_anywhere() {
        for (pattern, name, fitting) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth0", true),
            ("eth*", "eth", true),
            ("*", "bond0.100", true),
            ("*.100", "bond0.100", true),
            ("*.100", "bond0.1000", false),
            ("b*0.1*0", "bond0.100", true),
            ("b*x*", "bond0", false),
        ] {
            assert_eq!(fits(pattern, name), fitting, "{pattern} {name}");
        }
    }
}
