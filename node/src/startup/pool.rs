//! The pool made when the cluster has none of its family.

use std::net::{IpAddr, Ipv4Addr};

use api::metadata::{Metadata, Resource, api_version};
use api::pool::{EncapMode, IPPool, IPPoolSpec};
use ipnet::{IpNet, Ipv4Net};

use super::address::{Family, Host};

/// What the environment says about the default pool of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Range; `None` leaves the choice to us.
    pub cidr: Option<IpNet>,
    /// Prefix length of blocks.
    pub block_size: u8,
    /// IPIP.
    pub ipip: EncapMode,
    /// VXLAN.
    pub vxlan: EncapMode,
    /// Masquerade.
    pub nat_outgoing: bool,
    /// Which nodes may use it.
    pub node_selector: Option<String>,
    /// Keep it out of BGP.
    pub disable_bgp_export: bool,
}

/// Name of the default pool of a family.
pub const fn pool_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "default-ipv4-ippool",
        Family::V6 => "default-ipv6-ippool",
    }
}

/// The default pool as an object.
pub fn default_pool(family: Family, cidr: IpNet, settings: &PoolSettings) -> IPPool {
    let spec = IPPoolSpec {
        cidr,
        block_size: Some(settings.block_size),
        ipip_mode: settings.ipip,
        vxlan_mode: settings.vxlan,
        nat_outgoing: settings.nat_outgoing,
        disabled: false,
        disable_bgp_export: settings.disable_bgp_export,
        node_selector: Some(settings.node_selector.clone().unwrap_or_else(|| "all()".to_owned())),
        allowed_uses: None,
        extra: serde_json::Map::new(),
    };
    Resource {
        api_version: api_version(),
        kind: "IPPool".to_owned(),
        metadata: Metadata {
            name: pool_name(family).to_owned(),
            ..Metadata::default()
        },
        spec,
        extra: serde_json::Map::new(),
    }
}

/// The IPv4 range when the environment names none: 192.168.0.0/16, or, when an address of the host lies in it, the
/// first of 172.16.0.0/16 … 172.31.0.0/16 without one; 192.168.0.0/16 after all when each has one.
pub fn free_ipv4_range(host: &dyn Host) -> IpNet {
    let preferred = [192, 168];
    let others = (16..=31).map(|second| [172, second]);
    let range = |[first, second]: [u8; 2]| {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(first, second, 0, 0), 16))
    };
    std::iter::once(preferred)
        .chain(others)
        .map(range)
        .find(|range| !overlaps_host(host, *range))
        .unwrap_or_else(|| range(preferred))
}

fn overlaps_host(host: &dyn Host, range: IpNet) -> bool {
    host.interfaces()
        .iter()
        .flat_map(|interface| &interface.addresses)
        .any(|net| {
            let network = net.trunc();
            range.contains(&network) || network.contains(&range)
        })
}

/// A pool that `wanted` would overlap.
pub fn overlapping(wanted: IpNet, pools: &[IPPool]) -> Option<&IPPool> {
    pools
        .iter()
        .find(|pool| pool.spec.cidr.contains(&wanted) || wanted.contains(&pool.spec.cidr))
}

/// The node's address lies in the range: pods would then share the hosts' subnet.
pub fn holds_node_address(cidr: IpNet, node: Option<IpAddr>) -> bool {
    node.is_some_and(|addr| cidr.contains(&addr))
}

#[cfg(test)]
mod tests {
    use super::super::address::HostInterface;
    use super::*;

    struct Fake(Vec<HostInterface>);

    impl Host for Fake {
        fn interfaces(&self) -> &[HostInterface] {
            &self.0
        }

        fn source_towards(&self, _: &str, _: Family) -> Option<IpAddr> {
            None
        }
    }

    fn host(addresses: &[&str]) -> Fake {
        Fake(vec![HostInterface {
            name: "eth0".to_owned(),
            ifindex: 2,
            addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
        }])
    }

    fn settings() -> PoolSettings {
        PoolSettings {
            cidr: None,
            block_size: 26,
            ipip: EncapMode::Never,
            vxlan: EncapMode::CrossSubnet,
            nat_outgoing: true,
            node_selector: None,
            disable_bgp_export: false,
        }
    }

    #[test]
    fn range_moves_away_from_the_hosts_own_addresses() {
        let range = |addresses: &[&str]| free_ipv4_range(&host(addresses)).to_string();
        assert_eq!(range(&["10.0.0.5/24"]), "192.168.0.0/16");
        assert_eq!(range(&["192.168.178.5/24"]), "172.16.0.0/16");
        assert_eq!(range(&["192.168.1.5/24", "172.16.0.1/12"]), "192.168.0.0/16");
        assert_eq!(
            range(&["192.168.1.5/24", "172.16.3.1/24", "172.17.0.1/16"]),
            "172.18.0.0/16"
        );
    }

    #[test]
    fn default_pool_is_written_as_calico_writes_it() {
        let cidr = "10.48.0.0/16".parse().unwrap();
        let pool = default_pool(Family::V4, cidr, &settings());
        let json = serde_json::to_value(&pool).unwrap();
        assert_eq!(json["metadata"]["name"], "default-ipv4-ippool");
        assert_eq!(json["spec"]["blockSize"], 26);
        assert_eq!(json["spec"]["ipipMode"], "Never");
        assert_eq!(json["spec"]["vxlanMode"], "CrossSubnet");
        assert_eq!(json["spec"]["natOutgoing"], true);
        assert_eq!(json["spec"]["nodeSelector"], "all()");
    }

    #[test]
    fn overlap_is_seen_in_both_directions() {
        let pool = default_pool(Family::V4, "10.48.0.0/16".parse().unwrap(), &settings());
        let pools = [pool];
        let clash = |cidr: &str| overlapping(cidr.parse().unwrap(), &pools).is_some();
        assert!(clash("10.48.7.0/24"));
        assert!(clash("10.0.0.0/8"));
        assert!(!clash("10.49.0.0/16"));
        assert!(!clash("fd00::/64"));
    }
}
