//! The pools made when the cluster has none of their family.

use std::net::Ipv4Addr;

use api::key::{Key, Kind};
use api::metadata::Resource;
use api::params::{PoolCidr, Values};
use api::pool::{EncapMode, IPPool, IPPoolSpec};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::address::{Family, Host, counts};

/// What is known when a pool's range is chosen.
pub struct Known<'a> {
    /// Settings.
    pub values: &'a Values,
    /// The host.
    pub host: &'a dyn Host,
    /// Ranges that the cluster gives its pods, one of a family.
    pub cluster: &'a [IpNet],
    /// For a range of IPv6 that no other cluster has.
    pub random: [u8; 5],
}

/// Name of the pool of a family that is made at the first start.
pub const fn pool_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "default-ipv4-ippool",
        Family::V6 => "default-ipv6-ippool",
    }
}

/// The pool of a family that the environment asks for; `None` when it asks for none.
pub fn default_pool(known: &Known<'_>, family: Family) -> Option<IPPool> {
    let values = known.values;
    let wanted = match family {
        Family::V4 => values.pool_cidr,
        Family::V6 if values.ipv6_support && known.host.has_ipv6() => values.pool6_cidr,
        Family::V6 => return None,
    };
    let of_cluster = || {
        let mut ranges = known.cluster.iter();
        let of_family = |range: &&IpNet| Family::of(range.addr()) == family;
        ranges.find(of_family).copied()
    };
    let cidr = match wanted {
        PoolCidr::None => return None,
        PoolCidr::Cidr(cidr) => cidr,
        PoolCidr::Choose => of_cluster().unwrap_or_else(|| match family {
            Family::V4 => IpNet::V4(free_ipv4_range(known.host)),
            Family::V6 => IpNet::V6(unique_local_range(known.random)),
        }),
    };
    if values.no_default_pools {
        return None;
    }
    let spec = match family {
        Family::V4 => IPPoolSpec {
            cidr,
            block_size: Some(values.pool_block_size),
            ipip_mode: values.pool_ipip,
            vxlan_mode: values.pool_vxlan,
            nat_outgoing: values.pool_nat_outgoing,
            disabled: false,
            disable_bgp_export: values.pool_disable_bgp_export,
            node_selector: Some(values.pool_node_selector.to_string()),
            allowed_uses: None,
            extra: serde_json::Map::new(),
        },
        Family::V6 => IPPoolSpec {
            cidr,
            block_size: Some(values.pool6_block_size),
            ipip_mode: EncapMode::Never,
            vxlan_mode: values.pool6_vxlan,
            nat_outgoing: values.pool6_nat_outgoing,
            disabled: false,
            disable_bgp_export: values.pool6_disable_bgp_export,
            node_selector: Some(values.pool6_node_selector.to_string()),
            allowed_uses: None,
            extra: serde_json::Map::new(),
        },
    };
    Some(Resource::new(
        &Key::new(Kind::IPPool, pool_name(family)),
        spec,
    ))
}

/// A unique local range (RFC 4193) with this global id.
fn unique_local_range(global_id: [u8; 5]) -> Ipv6Net {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&global_id);
    Ipv6Net::new_assert(octets.into(), 48)
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
    "{variable}=\"{cidr}\" overlaps another range: it holds {address}, the address of this host's interface \
     {interface}; allowed: a range for pods only"
)]
pub struct OverlapError {
    /// CALICO_IPV4POOL_CIDR, or the variable of IPv6.
    pub variable: &'static str,
    /// The range.
    pub cidr: IpNet,
    /// The host's address with its network's prefix length.
    pub address: IpNet,
    /// Its interface.
    pub interface: String,
}

/// Which range the pods have is not known, and it may grow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{variable}=\"\": the range of the cluster's pods cannot be told: its Nodes have {nodes} in spec.podCIDRs, such as {example}, \
     which are parts of it, and a pool's range cannot be changed later; allowed: the range that kube-controller-manager has \
     as --cluster-cidr, another one for pods only, or `none` for no pool"
)]
pub struct UnknownRangeError {
    /// CALICO_IPV4POOL_CIDR, or the variable of IPv6.
    pub variable: &'static str,
    /// How many ranges the Nodes have.
    pub nodes: usize,
    /// One of them.
    pub example: IpNet,
}

/// Refuses to guess a range where Nodes have parts of one.
pub fn check_known(
    family: Family,
    cluster: Option<IpNet>,
    nodes: &[IpNet],
) -> Result<(), UnknownRangeError> {
    let of_family = |range: &&IpNet| Family::of(range.addr()) == family;
    let mut parts = nodes.iter().filter(of_family);
    match (cluster, parts.next()) {
        (None, Some(example)) => Err(UnknownRangeError {
            variable: variable(family),
            nodes: 1 + parts.count(),
            example: *example,
        }),
        (Some(_), _) | (None, None) => Ok(()),
    }
}

/// The variable that names the range of a family's pool.
pub const fn variable(family: Family) -> &'static str {
    match family {
        Family::V4 => "CALICO_IPV4POOL_CIDR",
        Family::V6 => "CALICO_IPV6POOL_CIDR",
    }
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
                    variable: variable(Family::of(cidr.addr())),
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

    fn pool_of(values: &Values, family: Family, pod_cidrs: &[IpNet]) -> Option<IPPool> {
        let known = Known {
            values,
            host: &host(&[]),
            cluster: pod_cidrs,
            random: [1, 2, 3, 4, 5],
        };
        default_pool(&known, family)
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
        let pool = pool_of(&params, Family::V4, &[]).unwrap();
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
            assert_eq!(pool_of(&params(&[variable]), Family::V4, &[]), None);
        }
        for variable in [
            ("CALICO_IPV6POOL_CIDR", "none"),
            ("NO_DEFAULT_POOLS", "true"),
            ("FELIX_IPV6SUPPORT", "false"),
        ] {
            assert_eq!(pool_of(&params(&[variable]), Family::V6, &[]), None);
        }
    }

    #[test]
    fn the_clusters_pod_range_comes_after_the_variable_and_before_the_default() {
        let ranges = ["10.244.0.0/16", "fd00:10:244::/56"].map(|range| range.parse().unwrap());
        let range = |variables: &[(&str, &str)], family, ranges: &[IpNet]| {
            let pool = pool_of(&params(variables), family, ranges);
            pool.unwrap().spec.cidr.to_string()
        };
        assert_eq!(range(&[], Family::V4, &ranges), "10.244.0.0/16");
        assert_eq!(range(&[], Family::V6, &ranges), "fd00:10:244::/56");
        let given = [
            ("CALICO_IPV4POOL_CIDR", "10.9.0.0/16"),
            ("CALICO_IPV6POOL_CIDR", "fd09::/48"),
        ];
        assert_eq!(range(&given, Family::V4, &ranges), "10.9.0.0/16");
        assert_eq!(range(&given, Family::V6, &ranges), "fd09::/48");
        assert_eq!(range(&[], Family::V4, &ranges[1..]), "192.168.0.0/16");
        assert_eq!(range(&[], Family::V6, &ranges[..1]), "fd01:203:405::/48");
    }

    #[test]
    fn parts_of_a_range_are_not_taken_for_it() {
        let range = |text: &str| text.parse::<IpNet>().unwrap();
        let parts = ["10.42.0.0/24", "fd42::/64", "10.42.1.0/24"].map(range);
        let check = |family, cluster| check_known(family, cluster, &parts);
        let said = check(Family::V4, None).unwrap_err().to_string();
        for word in [
            "CALICO_IPV4POOL_CIDR=\"\"",
            "have 2",
            "10.42.0.0/24",
            "--cluster-cidr",
            "`none`",
        ] {
            assert!(said.contains(word), "no {word:?} in: {said}");
        }
        let said = check(Family::V6, None).unwrap_err().to_string();
        assert!(said.starts_with("CALICO_IPV6POOL_CIDR") && said.contains("fd42::/64"));
        assert_eq!(check(Family::V4, Some(range("10.42.0.0/16"))), Ok(()));
        assert_eq!(check_known(Family::V4, None, &parts[1..2]), Ok(()));
    }

    #[test]
    fn the_ipv6_pool_is_written_as_calico_writes_it() {
        let params = params(&[
            ("CALICO_IPV6POOL_VXLAN", "Always"),
            ("CALICO_IPV6POOL_NODE_SELECTOR", "rack == 'r1'"),
            ("CALICO_IPV6POOL_DISABLE_BGP_EXPORT", "true"),
        ]);
        let pool = pool_of(&params, Family::V6, &[]).unwrap();
        let json = serde_json::to_value(&pool).unwrap();
        assert_eq!(json["metadata"]["name"], "default-ipv6-ippool");
        assert_eq!(json["spec"]["cidr"], "fd01:203:405::/48");
        assert_eq!(json["spec"]["blockSize"], 122);
        assert_eq!(json["spec"]["ipipMode"], "Never");
        assert_eq!(json["spec"]["vxlanMode"], "Always");
        assert_eq!(
            json["spec"].get("natOutgoing").unwrap_or(&false.into()),
            false
        );
        assert_eq!(json["spec"]["disableBGPExport"], true);
        assert_eq!(json["spec"]["nodeSelector"], "rack == 'r1'");
    }
}
