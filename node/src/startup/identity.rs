//! The node's name and BGP Identifier.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

/// Where a node name may come from, in order of precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameSources {
    /// NODENAME.
    pub nodename: Option<String>,
    /// Content of the nodename file.
    pub file: Option<String>,
    /// HOSTNAME.
    pub hostname: Option<String>,
    /// The kernel's.
    pub kernel: Option<String>,
}

/// The node's name. The host names are lower-cased, as Calico does.
pub fn node_name(sources: &NameSources) -> Option<String> {
    let text = |source: &Option<String>| {
        source
            .as_deref()
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
    };
    text(&sources.nodename)
        .or_else(|| text(&sources.file))
        .or_else(|| text(&sources.hostname).map(|name| name.to_lowercase()))
        .or_else(|| text(&sources.kernel).map(|name| name.to_lowercase()))
}

/// Why there is no BGP Identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouterIdError {
    /// Neither set nor an IPv4 address to take.
    #[error("is not set and the node has no IPv4 address: set it to `hash` or to a dotted quad")]
    Missing,
    /// Neither `hash` nor an address.
    #[error("{0:?}: must be `hash` or a dotted quad other than 0.0.0.0")]
    Invalid(String),
}

/// The BGP Identifier: CALICO_ROUTER_ID (`hash` or a dotted quad), else the node's IPv4 address.
pub fn router_id(
    setting: &str,
    node: &str,
    ipv4: Option<IpNet>,
) -> Result<Ipv4Addr, RouterIdError> {
    match setting {
        "" => match ipv4 {
            Some(IpNet::V4(net)) => Ok(net.addr()),
            Some(IpNet::V6(_)) | None => Err(RouterIdError::Missing),
        },
        "hash" => Ok(hashed(node)),
        literal => literal
            .parse()
            .ok()
            .filter(|id: &Ipv4Addr| !id.is_unspecified())
            .ok_or_else(|| RouterIdError::Invalid(literal.to_owned())),
    }
}

/// First four bytes of the name's SHA-256, the first byte lowered by 32 when above 223 to stay out of multicast.
fn hashed(node: &str) -> Ipv4Addr {
    let digest = Sha256::digest(node.as_bytes());
    let [first, second, third, fourth] = [digest[0], digest[1], digest[2], digest[3]];
    let first = if first > 223 { first - 32 } else { first };
    Ipv4Addr::new(first, second, third, fourth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_name_comes_from_the_first_source_that_has_one() {
        let mut sources = NameSources {
            nodename: Some("Given".to_owned()),
            file: Some("file\n".to_owned()),
            hostname: Some("Host".to_owned()),
            kernel: Some("Kernel ".to_owned()),
        };
        assert_eq!(node_name(&sources).as_deref(), Some("Given"));
        sources.nodename = Some(String::new());
        assert_eq!(node_name(&sources).as_deref(), Some("file"));
        sources.file = None;
        assert_eq!(node_name(&sources).as_deref(), Some("host"));
        sources.hostname = None;
        assert_eq!(node_name(&sources).as_deref(), Some("kernel"));
        assert_eq!(node_name(&NameSources::default()), None);
    }

    #[test]
    fn router_id_is_the_address_unless_told_otherwise() {
        let net = Some("10.0.0.7/24".parse().unwrap());
        assert_eq!(router_id("", "n1", net), Ok(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(
            router_id("1.2.3.4", "n1", net),
            Ok(Ipv4Addr::new(1, 2, 3, 4))
        );
        assert_eq!(router_id("", "n1", None), Err(RouterIdError::Missing));
        assert!(router_id("0.0.0.0", "n1", net).is_err());
        assert!(router_id("x", "n1", net).is_err());
    }

    #[test]
    fn hashed_router_id_is_the_digests_head_outside_multicast() {
        // `printf n1 | sha256sum` begins f3 80 46 4a …: 0xf3 - 32 = 211
        let id = router_id("hash", "n1", None).unwrap();
        let digest = Sha256::digest(b"n1");
        let first = if digest[0] > 223 { digest[0] - 32 } else { digest[0] };
        assert_eq!(id.octets(), [first, digest[1], digest[2], digest[3]]);
        assert!(!id.is_multicast());
    }
}
