//! BIRD's answer to `show route all`, read.
//!
//! ```text
//! 192.168.0.0/26       unicast [n1 13:13:02.804] * (100) [AS64512i]
//!         via 10.10.1.11 on eth0
//!         Type: BGP univ
//!         BGP.as_path: 64512
//!                      unicast [n2 13:13:02.804] (100s) [AS64512i]
//! ```
//! A second route of the same prefix leaves the prefix's column empty. BIRD 1.6 has the first next hop in the first line instead:
//!
//! ```text
//! 192.168.0.0/26     via 10.10.1.11 on eth0 [n1 13:13:02 from 10.10.1.11] * (100) [AS64512i]
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// A route in BIRD's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BirdRoute {
    /// Destination.
    pub prefix: IpNet,
    /// `unicast`, `unreachable`, …
    pub kind: String,
    /// The protocol that it came from.
    pub protocol: String,
    /// Whether BIRD uses it.
    pub best: bool,
    /// Where packets go.
    pub next_hop: Option<IpAddr>,
    /// BGP attributes in BIRD's words, e.g. `BGP.as_path` → `64512`.
    pub attributes: BTreeMap<String, String>,
}

impl BirdRoute {
    /// An attribute by its name without `BGP.`; empty when the route has none.
    #[must_use]
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes
            .get(&format!("BGP.{name}"))
            .map_or("", String::as_str)
    }
}

pub(super) fn parse(answer: &str) -> Vec<BirdRoute> {
    let mut routes: Vec<BirdRoute> = Vec::new();
    for line in answer.lines() {
        if let Some(detail) = line.strip_prefix('\t') {
            if let Some(route) = routes.last_mut() {
                add_detail(route, detail);
            }
        } else if let Some(route) = begin(line, routes.last().map(|route| route.prefix)) {
            routes.push(route);
        }
    }
    routes
}

fn begin(line: &str, former: Option<IpNet>) -> Option<BirdRoute> {
    let (head, rest) = line.split_once('[')?;
    let (origin, flags) = rest.split_once(']')?;
    let words: Vec<&str> = head.split_whitespace().collect();
    let first = words.first().and_then(|word| word.parse().ok());
    let (kind, next_hop) = match words.as_slice() {
        [.., "via", address, "on", _] => ("unicast", address.parse().ok()),
        [.., kind] => (*kind, None),
        [] => return None,
    };
    Some(BirdRoute {
        prefix: first.or(former)?,
        kind: kind.to_owned(),
        protocol: origin.split_whitespace().next()?.to_owned(),
        best: flags.trim_start().starts_with('*'),
        next_hop,
        attributes: BTreeMap::new(),
    })
}

fn add_detail(route: &mut BirdRoute, detail: &str) {
    if let Some(via) = detail.strip_prefix("via ") {
        let address = via.split_whitespace().next();
        route.next_hop = address.and_then(|address| address.parse().ok());
    } else if let Some((name, value)) = detail.split_once(": ") {
        route
            .attributes
            .insert(name.to_owned(), value.trim().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn two_routes_of_one_prefix_are_told_apart() {
        let answer = "Table master4:\n\
            192.168.0.0/26       unicast [n1 13:13:02.804] * (100) [AS64512i]\n\
            \tvia 10.10.1.11 on eth0\n\
            \tType: BGP univ\n\
            \tBGP.as_path: 64512\n\
            \x20                    unicast [n2 13:13:02.805] (100) [AS64512i]\n\
            \tvia 10.10.1.12 on eth0\n\
            203.0.113.0/24       unreachable [announced 13:13:02.805] * (200)\n";
        let routes = parse(answer);
        assert_eq!(routes.len(), 3, "{routes:?}");
        assert_eq!(
            (routes[0].attribute("as_path"), routes[0].best),
            ("64512", true)
        );
        assert_eq!(routes[1].prefix, routes[0].prefix);
        assert_eq!(
            routes[1].next_hop,
            Some(IpAddr::V4(Ipv4Addr::new(10, 10, 1, 12)))
        );
        assert!(!routes[1].best);
        assert_eq!(
            (routes[2].kind.as_str(), routes[2].next_hop),
            ("unreachable", None)
        );
    }

    #[test]
    fn bird_1_has_the_next_hop_in_the_first_line() {
        let answer = "192.168.0.0/26     via 10.10.1.11 on eth0 [n1 13:13:02 from 10.10.1.11] * (100) [AS64512i]\n\
            \tType: BGP unicast univ\n\
            \tBGP.as_path: 64512\n\
            \x20                  via 10.10.1.12 on eth0 [n2 13:13:02] (100) [AS64512i]\n\
            203.0.113.0/24     unreachable [announced 13:13:02] * (200)\n";
        let routes = parse(answer);
        assert_eq!(routes.len(), 3, "{routes:?}");
        assert_eq!(routes[0].attribute("as_path"), "64512");
        assert_eq!(routes[1].prefix, routes[0].prefix);
        assert_eq!(
            routes[1].next_hop,
            Some(IpAddr::V4(Ipv4Addr::new(10, 10, 1, 12)))
        );
        assert_eq!(routes[2].kind, "unreachable");
    }
}
