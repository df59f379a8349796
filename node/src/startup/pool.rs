//! The pool made when the cluster has none of its family.

use std::net::Ipv4Addr;

use api::key::{Key, Kind};
use api::metadata::Resource;
use api::params::{PoolCidr, Values};
use api::pool::{IPPool, IPPoolSpec};
use ipnet::{IpNet, Ipv4Net};

use super::address::{Host, counts};

/// Name of the pool made at the first start.
pub const POOL_NAME: &str = "default-ipv4-ippool";

/// The pool the environment asks for; `None` when it asks for none.
pub fn default_pool(values: &Values, host: &dyn Host) -> Option<IPPool> {
    let cidr = match values.pool_cidr {
        PoolCidr::None => return None,
        PoolCidr::Choose => free_ipv4_range(host),
        PoolCidr::Cidr(cidr) => cidr,
    };
    if values.no_default_pools {
        return None;
    }
    let spec = IPPoolSpec {
        cidr: IpNet::V4(cidr),
        block_size: Some(values.pool_block_size),
        ipip_mode: values.pool_ipip,
        vxlan_mode: values.pool_vxlan,
        nat_outgoing: values.pool_nat_outgoing,
        disabled: false,
        disable_bgp_export: values.pool_disable_bgp_export,
        node_selector: Some(values.pool_node_selector.to_string()),
        allowed_uses: None,
        extra: serde_json::Map::new(),
    };
    Some(Resource::new(&Key::new(Kind::IPPool, POOL_NAME), spec))
}

/// The IPv4 range when the environment names none: 192.168.0.0/16, or, when an address of the host lies in it, the
/// first of 172.16.0.0/16 … 172.31.0.0/16 without one; 192.168.0.0/16 after all when each has one.
pub fn free_ipv4_range(host: &dyn Host) -> Ipv4Net {
    let preferred = [192, 168];
    let others = (16..=31).map(|second| [172, second]);
    let range =
        |[first, second]: [u8; 2]| Ipv4Net::new_assert(Ipv4Addr::new(first, second, 0, 0), 16);
    std::iter::once(preferred)
        .chain(others)
        .map(range)
        .find(|range| !overlaps_host(host, *range))
        .unwrap_or_else(|| range(preferred))
}

/// The range for the pool holds an address of the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "CALICO_IPV4POOL_CIDR=\"{cidr}\" overlaps another range: it holds {address}, the address of this host's interface \
     {interface}; allowed: a range for pods only"
)]
pub struct OverlapError {
    /// The range.
    pub cidr: IpNet,
    /// The host's address with its network's prefix length.
    pub address: IpNet,
    /// Its interface.
    pub interface: String,
}

/// Refuses a range that holds one of the host's addresses: traffic to the host would be taken for a pod's. Interfaces
/// that address detection leaves out do not count. A range inside a host's wide network may well be meant.
pub fn check_host_addresses(cidr: IpNet, host: &dyn Host) -> Result<(), OverlapError> {
    let interfaces = host
        .interfaces()
        .iter()
        .filter(|interface| counts(interface));
    for interface in interfaces {
        for address in &interface.addresses {
            if cidr.contains(&address.addr()) {
                return Err(OverlapError {
                    cidr,
                    address: *address,
                    interface: interface.name.clone(),
                });
            }
        }
    }
    Ok(())
}

fn overlaps_host(host: &dyn Host, range: Ipv4Net) -> bool {
    let range = IpNet::V4(range);
    host.interfaces()
        .iter()
        .flat_map(|interface| &interface.addresses)
        .any(|net| {
            let network = net.trunc();
            range.contains(&network) || network.contains(&range)
        })
}

#[cfg(test)]
mod tests {
    use api::params::Params;

    use super::super::address::HostInterface;
    use super::super::tests::Fake;
    use super::*;

    fn host(addresses: &[&str]) -> Fake {
        Fake(vec![HostInterface {
            name: "eth0".to_owned(),
            ifindex: 2,
            addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
        }])
    }

    fn params(variables: &[(&str, &str)]) -> Params {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Params::from_env(variables.iter().map(owned)).unwrap()
    }

    #[test]
    fn range_moves_away_from_the_hosts_own_addresses() {
        let range = |addresses: &[&str]| free_ipv4_range(&host(addresses)).to_string();
        assert_eq!(range(&["10.0.0.5/24"]), "192.168.0.0/16");
        assert_eq!(range(&["192.168.178.5/24"]), "172.16.0.0/16");
        assert_eq!(
            range(&["192.168.1.5/24", "172.16.0.1/12"]),
            "192.168.0.0/16"
        );
        assert_eq!(
            range(&["192.168.1.5/24", "172.16.3.1/24", "172.17.0.1/16"]),
            "172.18.0.0/16"
        );
    }

    #[test]
    fn range_that_holds_an_address_of_the_host_is_refused_with_both() {
        let host = host(&["10.48.3.4/24", "fd00::1/64"]);
        let check = |cidr: &str| check_host_addresses(cidr.parse().unwrap(), &host);
        for cidr in ["10.49.0.0/16", "10.48.3.128/25"] {
            assert_eq!(check(cidr), Ok(()));
        }
        for cidr in ["10.48.0.0/16", "10.48.3.0/25", "10.48.3.4/32"] {
            let said = check(cidr).unwrap_err().to_string();
            for word in [
                "CALICO_IPV4POOL_CIDR",
                cidr,
                "10.48.3.4/24",
                "eth0",
                "allowed",
            ] {
                assert!(said.contains(word), "no {word:?} in: {said}");
            }
        }
    }

    #[test]
    fn default_pool_is_written_as_calico_writes_it() {
        let params = params(&[
            ("CALICO_IPV4POOL_CIDR", "10.48.0.0/16"),
            ("CALICO_IPV4POOL_VXLAN", "CrossSubnet"),
        ]);
        let pool = default_pool(&params, &host(&[])).unwrap();
        let json = serde_json::to_value(&pool).unwrap();
        assert_eq!(json["metadata"]["name"], "default-ipv4-ippool");
        assert_eq!(json["spec"]["cidr"], "10.48.0.0/16");
        assert_eq!(json["spec"]["blockSize"], 26);
        assert_eq!(json["spec"]["ipipMode"], "Never");
        assert_eq!(json["spec"]["vxlanMode"], "CrossSubnet");
        assert_eq!(json["spec"]["natOutgoing"], true);
        assert_eq!(json["spec"]["nodeSelector"], "all()");
    }

    #[test]
    fn no_pool_is_made_when_none_is_wanted() {
        for variable in [
            ("CALICO_IPV4POOL_CIDR", "none"),
            ("NO_DEFAULT_POOLS", "true"),
        ] {
            assert_eq!(default_pool(&params(&[variable]), &host(&[])), None);
        }
    }
}
