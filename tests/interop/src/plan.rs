//! What another daemon is to do, in no daemon's language.

use std::net::{IpAddr, Ipv4Addr};

use bgp::types::AfiSafi;
use ipnet::IpNet;

/// One other daemon.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its AS.
    pub asn: u32,
    /// Its BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Its sessions.
    pub neighbours: Vec<Neighbour>,
    /// Its own routes.
    pub routes: Vec<Announced>,
}

impl Plan {
    /// A daemon of that AS with one IPv4 session, from `address` to `ours` in AS `our_asn`, and no routes.
    #[must_use]
    pub fn new(asn: u32, address: Ipv4Addr, ours: Ipv4Addr, our_asn: u32) -> Self {
        Self {
            asn,
            router_id: address,
            neighbours: vec![Neighbour {
                address: IpAddr::V4(ours),
                asn: our_asn,
                local: IpAddr::V4(address),
                interface: None,
                families: vec![AfiSafi::Ipv4Unicast],
                key: None,
                ttl_security: false,
                graceful: Graceful::Off,
                client: false,
                four_octet: true,
                add_paths: false,
                ipv6_next_hops: false,
                role: None,
                hold_time: 240,
            }],
            routes: Vec::new(),
        }
    }

    /// With a route of its own.
    #[must_use]
    pub fn announcing(mut self, route: Announced) -> Self {
        self.routes.push(route);
        self
    }

    /// With its first neighbour changed.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Neighbour)) -> Self {
        change(&mut self.neighbours[0]);
        self
    }

    /// Its routes of a family.
    pub fn routes_of(&self, family: AfiSafi) -> impl Iterator<Item = &Announced> {
        self.routes
            .iter()
            .filter(move |route| family_of(route.prefix) == family)
    }
}

/// A session of another daemon.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// Our address.
    pub address: IpAddr,
    /// Our AS.
    pub asn: u32,
    /// The daemon's own address on this session.
    pub local: IpAddr,
    /// The device of link-local addresses.
    pub interface: Option<&'static str>,
    /// Families offered.
    pub families: Vec<AfiSafi>,
    /// TCP MD5 key.
    pub key: Option<&'static str>,
    /// RFC 5082, one hop.
    pub ttl_security: bool,
    /// RFC 4724.
    pub graceful: Graceful,
    /// We are the daemon's route reflector client.
    pub client: bool,
    /// RFC 6793.
    pub four_octet: bool,
    /// All paths of a prefix, both ways (RFC 7911).
    pub add_paths: bool,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub ipv6_next_hops: bool,
    /// What the daemon says it is to us, in the words of RFC 9234 with hyphens: `customer`, `rs-client`.
    pub role: Option<&'static str>,
    /// Offered, in seconds.
    pub hold_time: u16,
}

/// How the daemon restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Graceful {
    /// It offers nothing.
    Off,
    /// RFC 4724, with 60 s.
    On,
    /// And the N bit of RFC 8538.
    OverNotifications,
}

/// A route of another daemon's own.
#[derive(Clone, Debug)]
pub struct Announced {
    /// The prefix.
    pub prefix: IpNet,
    /// The next hop to announce; the daemon's own address on the session when absent.
    pub next_hop: Option<IpAddr>,
    /// RFC 1997.
    pub communities: Vec<(u16, u16)>,
    /// RFC 8092.
    pub large: Vec<(u32, u32, u32)>,
    /// Route targets of RFC 4360.
    pub targets: Vec<(u16, u32)>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// In front of AS_PATH, behind the daemon's own number.
    pub behind: Option<u32>,
}

impl Announced {
    /// A route with nothing special.
    ///
    /// # Panics
    /// When `prefix` is none.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.parse().expect("a prefix"),
            next_hop: None,
            communities: Vec::new(),
            large: Vec::new(),
            targets: Vec::new(),
            med: None,
            behind: None,
        }
    }
}

/// The family of a prefix.
#[must_use]
pub const fn family_of(prefix: IpNet) -> AfiSafi {
    match prefix {
        IpNet::V4(_) => AfiSafi::Ipv4Unicast,
        IpNet::V6(_) => AfiSafi::Ipv6Unicast,
    }
}
