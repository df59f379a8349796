//! What people ask of a pod's network in annotations of the Pod and of its namespace.
//!
//! Source: Calico, "Configure the Calico CNI plugins" and "Use a specific IP address with a pod".

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;

/// What the cluster says of a pod and its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodWords {
    /// Annotations of the Pod.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of its namespace.
    pub namespace_annotations: BTreeMap<String, String>,
    /// Labels of its namespace.
    pub namespace_labels: BTreeMap<String, String>,
}

/// What the annotations ask for. What is absent is left to the network's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// `ipv4pools`: names or CIDRs of the only IPv4 pools.
    pub ipv4_pools: Option<Vec<String>>,
    /// `ipv6pools`.
    pub ipv6_pools: Option<Vec<String>>,
    /// `ipFamilies`: whether IPv4, and whether IPv6.
    pub families: Option<(bool, bool)>,
    /// `ipAddrs`: addresses to be had from IPAM.
    pub addresses: Vec<IpAddr>,
    /// `ipAddrsNoIpam`: addresses that IPAM does not know.
    pub addresses_without_ipam: Vec<IpAddr>,
    /// `floatingIPs`: further addresses that are translated to the pod's.
    pub floating_ips: Vec<IpAddr>,
    /// `hwAddr`: MAC of the pod's interface.
    pub mac: Option<[u8; 6]>,
}

/// An annotation that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {value:?}; allowed: {allowed}")]
pub struct AnnotationFault {
    /// Its name.
    pub annotation: String,
    /// Its text.
    pub value: String,
    /// What it may be.
    pub allowed: &'static str,
}

const POOLS: &str = "a JSON list of names of IPPools or their CIDRs, of this family";
const ADDRESSES: &str = "a JSON list of at most one IPv4 and one IPv6 address";

impl PodWords {
    /// What they ask for. Pools and families of the namespace count where the Pod has none of its own.
    ///
    /// # Errors
    /// The first annotation that cannot be followed: a pod that gets another network than it asks for is worse than none.
    pub fn wishes(&self) -> Result<Wishes, AnnotationFault> {
        let own = |name| Annotation::of(name, &self.annotations);
        let either = |name| own(name).or_else(|| Annotation::of(name, &self.namespace_annotations));
        let wishes = Wishes {
            ipv4_pools: either("ipv4pools").map(|it| it.pools(true)).transpose()?,
            ipv6_pools: either("ipv6pools").map(|it| it.pools(false)).transpose()?,
            families: either("ipFamilies").map(|it| it.families()).transpose()?,
            addresses: own("ipAddrs").map_or(Ok(Vec::new()), |it| it.addresses())?,
            addresses_without_ipam: own("ipAddrsNoIpam")
                .map_or(Ok(Vec::new()), |it| it.addresses())?,
            floating_ips: own("floatingIPs").map_or(Ok(Vec::new()), |it| it.list(ADDRESSES))?,
            mac: own("hwAddr").map(|it| it.mac()).transpose()?,
        };
        if !wishes.addresses.is_empty()
            && !wishes.addresses_without_ipam.is_empty()
            && let Some(both) = own("ipAddrsNoIpam")
        {
            return Err(both.fault("no ipAddrsNoIpam beside ipAddrs"));
        }
        Ok(wishes)
    }
}

/// One annotation of Calico's.
struct Annotation<'a> {
    name: String,
    text: &'a str,
}

impl<'a> Annotation<'a> {
    /// An empty one says nothing.
    fn of(name: &str, annotations: &'a BTreeMap<String, String>) -> Option<Self> {
        let name = format!("cni.projectcalico.org/{name}");
        let text = annotations.get(&name)?.trim();
        (!text.is_empty()).then_some(Self { name, text })
    }

    fn fault(&self, allowed: &'static str) -> AnnotationFault {
        AnnotationFault {
            annotation: self.name.clone(),
            value: self.text.to_owned(),
            allowed,
        }
    }

    fn list<T: DeserializeOwned>(&self, allowed: &'static str) -> Result<Vec<T>, AnnotationFault> {
        serde_json::from_str(self.text).map_err(|_| self.fault(allowed))
    }

    fn pools(&self, of_ipv4: bool) -> Result<Vec<String>, AnnotationFault> {
        let pools: Vec<String> = self.list(POOLS)?;
        let fits = |pool: &String| {
            !pool.is_empty()
                && (!pool.contains('/')
                    || pool
                        .parse()
                        .is_ok_and(|net: IpNet| net.addr().is_ipv4() == of_ipv4))
        };
        match !pools.is_empty() && pools.iter().all(fits) {
            true => Ok(pools),
            false => Err(self.fault(POOLS)),
        }
    }

    fn families(&self) -> Result<(bool, bool), AnnotationFault> {
        let allowed = r#"a JSON list of "IPv4" and "IPv6""#;
        let families: Vec<String> = self.list(allowed)?;
        let known = |family: &String| matches!(family.as_str(), "IPv4" | "IPv6");
        if families.is_empty() || !families.iter().all(known) {
            return Err(self.fault(allowed));
        }
        let has = |family: &str| families.iter().any(|found| found == family);
        Ok((has("IPv4"), has("IPv6")))
    }

    fn addresses(&self) -> Result<Vec<IpAddr>, AnnotationFault> {
        let mut addresses: Vec<IpAddr> = self.list(ADDRESSES)?;
        let of_ipv4 = addresses.iter().filter(|address| address.is_ipv4()).count();
        if addresses.is_empty() || of_ipv4 > 1 || addresses.len() - of_ipv4 > 1 {
            return Err(self.fault(ADDRESSES));
        }
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    fn mac(&self) -> Result<[u8; 6], AnnotationFault> {
        parse_mac(self.text).ok_or_else(|| self.fault(MAC))
    }
}

/// What a pod's MAC may be.
pub const MAC: &str = "six octets of an Ethernet address of one station, such as 02:00:00:00:00:01";

/// A MAC of one station: neither zero nor of a group.
#[must_use]
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octets: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|part| match part.len() {
            2 => u8::from_str_radix(part, 16).ok(),
            _ => None,
        })
        .collect();
    let mac: [u8; 6] = octets?.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, text): &(&str, &str)| {
            (format!("cni.projectcalico.org/{name}"), (*text).to_owned())
        };
        pairs.iter().map(owned).collect()
    }

    fn wishes(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> Result<Wishes, AnnotationFault> {
        PodWords {
            annotations: annotated(pod),
            namespace_annotations: annotated(namespace),
            ..PodWords::default()
        }
        .wishes()
    }

    #[test]
    fn a_pods_pools_and_families_go_before_its_namespaces_and_nothing_else_is_the_namespaces() {
        let namespace = [
            ("ipv4pools", r#"["of-namespace"]"#),
            ("ipv6pools", r#"["fd00::/64"]"#),
            ("ipFamilies", r#"["IPv4","IPv6"]"#),
            ("ipAddrs", r#"["10.0.0.1"]"#),
        ];
        let found = wishes(
            &[("ipv4pools", r#"["10.1.0.0/16","b"]"#), ("ipFamilies", "")],
            &namespace,
        );
        let found = found.unwrap();
        assert_eq!(
            found.ipv4_pools,
            Some(vec!["10.1.0.0/16".to_owned(), "b".to_owned()])
        );
        assert_eq!(found.ipv6_pools, Some(vec!["fd00::/64".to_owned()]));
        assert_eq!(found.families, Some((true, true)));
        assert_eq!(found.addresses, [] as [IpAddr; 0]);
        assert_eq!(wishes(&[], &[]), Ok(Wishes::default()));
    }

    #[test]
    fn addresses_are_one_of_each_family_ipv4_first() {
        let found = wishes(&[("ipAddrs", r#"["fd00::5", "10.0.0.5"]"#)], &[]).unwrap();
        let expected: [IpAddr; 2] = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(found.addresses, expected);
        let found = wishes(&[("ipAddrsNoIpam", r#"["10.0.0.5"]"#)], &[]).unwrap();
        assert_eq!(found.addresses_without_ipam, expected[..1]);
        let found = wishes(&[("hwAddr", "02:00:5E:10:00:00")], &[]).unwrap();
        assert_eq!(found.mac, Some([2, 0, 0x5e, 0x10, 0, 0]));
    }

    #[test]
    fn each_annotation_that_cannot_be_followed_is_named_with_its_text_and_what_is_allowed() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("ipv4pools", "pool")], "JSON list"),
            (&[("ipv4pools", "[]")], "JSON list"),
            (&[("ipv4pools", r#"["fd00::/64"]"#)], "of this family"),
            (&[("ipv6pools", r#"["10.0.0.0/8"]"#)], "of this family"),
            (&[("ipFamilies", r#"["ipv4"]"#)], r#""IPv4""#),
            (&[("ipAddrs", r#"["10.0.0.1","10.0.0.2"]"#)], "one IPv4"),
            (&[("ipAddrs", r#"["10.0.0.1/24"]"#)], "one IPv4"),
            (&[("ipAddrs", "[]")], "one IPv4"),
            (&[("ipAddrsNoIpam", "10.0.0.1")], "one IPv4"),
            (
                &[
                    ("ipAddrs", r#"["10.0.0.1"]"#),
                    ("ipAddrsNoIpam", r#"["10.0.0.2"]"#),
                ],
                "beside ipAddrs",
            ),
            (&[("floatingIPs", "{}")], "JSON list"),
            (&[("hwAddr", "01:00:00:00:00:01")], "one station"),
            (&[("hwAddr", "00:00:00:00:00:00")], "one station"),
            (&[("hwAddr", "2:0:0:0:0:1")], "six octets"),
        ];
        for (annotations, allowed) in cases {
            let fault = wishes(annotations, &[]).expect_err(annotations[0].1);
            let (name, text) = annotations[annotations.len() - 1];
            let said = fault.to_string();
            assert!(
                said.contains(&format!("cni.projectcalico.org/{name}")) && said.contains(allowed),
                "{said}"
            );
            assert_eq!(fault.value, text);
        }
    }
}
