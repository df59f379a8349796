//! Racks, a router between them, and nodes: the machines that the product runs on.
//!
//! ```text
//! pod ─ cali… [node n1] eth0 ── n1 [switch of rack 1] uplink ── rack1 [router] rack2 ── uplink [switch of rack 2] n2 ── eth0 [node n2]
//!               10.10.1.11/24              bridge             10.10.1.1   10.10.2.1           bridge           10.10.2.12/24
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::enter::{doing, mount_new};
use crate::netlink::{Netlink, NetlinkError};
use crate::netns::NetNs;

/// Most nodes that the address plan holds.
pub(crate) const NODES_MAX: usize = 200;
/// Directories that each node has for itself, at the paths that the product uses.
const NODE_DIRECTORIES: [&str; 6] = [
    "/var/lib/calico",
    "/var/run/calico",
    "/etc/cni/net.d",
    "/run/netns",
    "/var/run/netns",
    "/run/bird",
];
const BRIDGE: &str = "br0";
/// Metric of a machine's own default route: a last resort, behind one learned by BGP.
const DEFAULT_METRIC: u32 = 4_294_967_040;
/// How long a link may take to come up, by far.
const LINK_PATIENCE: Duration = Duration::from_secs(10);

/// A subnet: one switch, numbered from 1.
#[derive(Clone, Debug)]
pub struct Rack {
    /// 1 or 2.
    pub number: u8,
    /// The namespace that holds the bridge; a capture here sees what passes the rack's switch.
    pub switch: NetNs,
}

impl Rack {
    /// The router's address in this rack: every node's default gateway.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        gateway(self.number)
    }

    /// As [`Rack::gateway`], of the family of `like`.
    #[must_use]
    pub fn gateway_like(&self, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => self.gateway().into(),
            IpAddr::V6(_) => address6(self.gateway()).into(),
        }
    }
}

/// A machine of the cluster: a network and a mount namespace.
#[derive(Clone, Debug)]
pub struct Site {
    /// `n1`, `n2`, …
    pub name: String,
    /// Number of its rack, from 1.
    pub rack: u8,
    /// Its own address, on eth0; that of IPv4 where it has both.
    pub address: IpAddr,
    /// That of IPv6, where it has one.
    pub address6: Option<Ipv6Addr>,
    /// Where commands of this machine run.
    pub namespace: NetNs,
}

impl Site {
    /// Its own addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        addresses(self.address, self.address6)
    }

    /// Its address of the family of `like`.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> IpAddr {
        self.addresses()
            .find(|own| own.is_ipv4() == like.is_ipv4())
            .expect("machines have addresses of the pods' families")
    }

    /// Its IPv4 address with the length of its rack's subnet, where it has one.
    #[must_use]
    pub fn net4(&self) -> Option<Ipv4Net> {
        match self.address {
            IpAddr::V4(address) => Some(subnet(address)),
            IpAddr::V6(_) => None,
        }
    }

    /// Its IPv6 address with the length of its rack's subnet, where it has one.
    #[must_use]
    pub fn net6(&self) -> Option<Ipv6Net> {
        self.address6.map(subnet6)
    }
}

/// Of who has a first address and perhaps one of IPv6: each once, IPv4 first.
pub(crate) fn addresses(
    first: IpAddr,
    v6: Option<Ipv6Addr>,
) -> impl Iterator<Item = IpAddr> + use<> {
    let second = v6.map(IpAddr::V6).filter(|second| *second != first);
    std::iter::once(first).chain(second)
}

/// Which families nodes and pods have addresses of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
    /// Both.
    Both,
}

impl Families {
    /// Whether IPv4 is among them.
    #[must_use]
    pub fn has_v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is among them.
    #[must_use]
    pub fn has_v6(self) -> bool {
        self != Self::V4
    }
}

/// Everything between the pods and the products: racks, router, machines.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The racks, by number.
    pub racks: Vec<Rack>,
    /// Joins the racks' subnets; a capture here sees what passes between racks.
    pub router: NetNs,
    /// The machines, by number.
    pub sites: Vec<Site>,
    families: Families,
}

impl Topology {
    /// Builds `racks` racks and spreads `nodes` machines over them in turn.
    ///
    /// # Errors
    /// What the kernel answers, with what was being built.
    pub fn build(nodes: usize, racks: u8, families: Families) -> io::Result<Self> {
        assert!(
            nodes <= NODES_MAX,
            "the address plan ends at {NODES_MAX} nodes"
        );
        let router = NetNs::new("router")?;
        router.set_sysctl("net/ipv4/ip_forward", "1")?;
        if families.has_v6() {
            router.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        let racks = (1..=racks)
            .map(|number| build_rack(number, &router, families))
            .collect::<io::Result<Vec<_>>>()?;
        let sites = (1..=nodes)
            .map(|index| build_site(index, &racks[(index - 1) % racks.len()], families))
            .collect::<io::Result<Vec<_>>>()?;
        let topology = Self {
            racks,
            router,
            sites,
            families,
        };
        topology
            .install_neighbours()
            .map_err(NetlinkError::into_io)?;
        Ok(topology)
    }

    /// Puts one more machine on a rack's switch, e.g. for another product's BGP speaker. It is no node: it is in no mesh and gets no
    /// agent. `host` is the last octet of its address, 2 to 10 or 211 to 254.
    ///
    /// # Errors
    /// What the kernel answers.
    ///
    /// # Panics
    /// When there is no such rack.
    pub fn attach(&self, name: &str, host: u8, rack: u8) -> io::Result<Site> {
        attach(
            name,
            host,
            &self.racks[usize::from(rack) - 1],
            self.families,
        )
    }

    /// Gives a machine an interface on one more rack's switch. Returns its addresses there, IPv4 first.
    ///
    /// # Errors
    /// What the kernel answers.
    ///
    /// # Panics
    /// When there is no such rack.
    pub fn attach_again(
        &self,
        site: &Site,
        ifname: &str,
        host: u8,
        rack: u8,
    ) -> io::Result<Vec<IpAddr>> {
        let rack = &self.racks[usize::from(rack) - 1];
        let place = (Ipv4Addr::new(10, 10, rack.number, host), self.families);
        plug(&site.name, ifname, &site.namespace, place, rack).map_err(NetlinkError::into_io)?;
        site.namespace.wait_link_up(ifname, LINK_PATIENCE)?;
        let (first, v6) = of_place(place);
        Ok(addresses(first, v6).collect())
    }

    /// Gives a machine its default routes again, which went with its interface or its addresses.
    pub(crate) fn add_default_routes(&self, site: &Site) -> Result<(), NetlinkError> {
        let rack = &self.racks[usize::from(site.rack) - 1];
        add_default_routes(&site.namespace, rack, self.families)
    }

    /// Permanent ARP entries between all that share a subnet: the kernel's neighbour table is one for the whole machine
    /// (gc_thresh3, 1024 by default) and full meshes would fill it; permanent entries do not count.
    fn install_neighbours(&self) -> Result<(), NetlinkError> {
        let mut router = open(&self.router)?;
        for site in &self.sites {
            let IpAddr::V4(own) = site.address else {
                continue;
            };
            router.add_neighbour(&uplink(site.rack), own, mac(own))?;
            let mut netlink = open(&site.namespace)?;
            let eth0 = netlink.index_of("eth0")?;
            netlink.add_neighbour_at(eth0, gateway(site.rack), mac(gateway(site.rack)))?;
            let others = self.sites.iter().filter(|other| other.name != site.name);
            for other in others.filter(|other| other.rack == site.rack) {
                if let IpAddr::V4(other) = other.address {
                    netlink.add_neighbour_at(eth0, other, mac(other))?;
                }
            }
        }
        Ok(())
    }

    /// Tells the router, as the operator of a routed fabric would, which machine a block of pod addresses lies behind.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn route_on_router(&self, block: IpNet, owner: &Site) -> Result<(), NetlinkError> {
        let gateway = owner.address_like(block.addr());
        open(&self.router)?.add_route(block, gateway)
    }
}

fn build_rack(number: u8, router: &NetNs, families: Families) -> io::Result<Rack> {
    let switch = NetNs::new(&format!("rack{number}"))?;
    let port = uplink(number);
    let address = gateway(number);
    let build = || -> Result<(), NetlinkError> {
        let mut netlink = open(&switch)?;
        netlink.add_bridge(BRIDGE)?;
        netlink.add_veth("uplink", &port, router.fd().as_raw_fd(), mac(address))?;
        netlink.set_master("uplink", BRIDGE)?;
        let mut netlink = open(router)?;
        if families.has_v4() {
            netlink.add_address(&port, subnet(address))?;
        }
        if families.has_v6() {
            netlink.add_address6(&port, subnet6(address6(address)))?;
        }
        netlink.set_up(&port)
    };
    build().map_err(NetlinkError::into_io)?;
    Ok(Rack { number, switch })
}

fn build_site(index: usize, rack: &Rack, families: Families) -> io::Result<Site> {
    let host = u8::try_from(10 + index).expect("NODES_MAX keeps addresses below 255");
    attach(&format!("n{index}"), host, rack, families)
}

/// A new machine on a rack's switch.
fn attach(name: &str, host: u8, rack: &Rack, families: Families) -> io::Result<Site> {
    let place = (Ipv4Addr::new(10, 10, rack.number, host), families);
    let namespace = NetNs::new(name)?;
    let build = || -> Result<(), NetlinkError> {
        plug(name, "eth0", &namespace, place, rack)?;
        add_default_routes(&namespace, rack, families)
    };
    build().map_err(NetlinkError::into_io)?;
    let namespace = namespace.with_mounts(mount_node_directories)?;
    namespace.wait_link_up("eth0", LINK_PATIENCE)?;
    let (address, address6) = of_place(place);
    Ok(Site {
        name: name.to_owned(),
        rack: rack.number,
        address,
        address6,
        namespace,
    })
}

/// A machine's last resort, of each family.
fn add_default_routes(
    namespace: &NetNs,
    rack: &Rack,
    families: Families,
) -> Result<(), NetlinkError> {
    let mut netlink = open(namespace)?;
    if families.has_v4() {
        // Proxy ARP for the pods' gateway 169.254.1.1 answers only where a route to it exists.
        netlink.add_route_of_metric(Ipv4Net::default(), rack.gateway(), DEFAULT_METRIC)?;
    }
    if families.has_v6() {
        let gateway = address6(rack.gateway());
        netlink.add_route_of_metric(Ipv6Net::default(), gateway, DEFAULT_METRIC)?;
    }
    Ok(())
}

/// The first address of a machine at a place of the address plan, and that of IPv6, where there is one.
fn of_place((place, families): (Ipv4Addr, Families)) -> (IpAddr, Option<Ipv6Addr>) {
    let v6 = address6(place);
    match families {
        Families::V4 => (place.into(), None),
        Families::V6 => (v6.into(), Some(v6)),
        Families::Both => (place.into(), Some(v6)),
    }
}

/// A cable from a machine to a rack's switch, with addresses at the machine's end.
fn plug(
    name: &str,
    ifname: &str,
    namespace: &NetNs,
    (address, families): (Ipv4Addr, Families),
    rack: &Rack,
) -> Result<(), NetlinkError> {
    let mut netlink = open(&rack.switch)?;
    netlink.add_veth(name, ifname, namespace.fd().as_raw_fd(), mac(address))?;
    netlink.set_master(name, BRIDGE)?;
    let mut netlink = open(namespace)?;
    if families.has_v4() {
        netlink.add_address(ifname, subnet(address))?;
    }
    if families.has_v6() {
        netlink.add_address6(ifname, subnet6(address6(address)))?;
        // The same of its link-local address, which asks for neighbours: as long as that is looked for elsewhere, packets wait.
        let key = format!("net/ipv6/conf/{ifname}/accept_dad");
        let unasked = namespace.set_sysctl(&key, "0");
        unasked.map_err(|source| NetlinkError {
            what: format!("write {key} of {name}"),
            source,
        })?;
    }
    netlink.set_up(ifname)
}

fn mount_node_directories() -> io::Result<()> {
    // /proc and /sys follow the namespaces of whoever mounts; a container may forbid /sys, which only tools started by hand read.
    let _ = mount_new("sysfs", Path::new("/sys"));
    let mut done = Vec::new();
    for directory in NODE_DIRECTORIES {
        let Ok(real) = Path::new(directory).canonicalize() else {
            continue;
        };
        if !done.contains(&real) {
            mount_new("tmpfs", &real)?;
            done.push(real);
        }
    }
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .map_err(|error| doing("make a node's mounts private", error))
}

fn open(namespace: &NetNs) -> Result<Netlink, NetlinkError> {
    namespace.netlink().map_err(|source| NetlinkError {
        what: format!("open a netlink socket in {}", namespace.name()),
        source,
    })
}

fn uplink(rack: u8) -> String {
    format!("rack{rack}")
}

fn gateway(rack: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 10, rack, 1)
}

fn subnet(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new(address, 24).expect("24 is a prefix length")
}

/// 10.10.R.H → fd00:10:10:R::H, the last two in decimal digits.
fn address6(address: Ipv4Addr) -> Ipv6Addr {
    let [_, _, rack, host] = address.octets();
    let digits = |octet: u8| u16::from_str_radix(&octet.to_string(), 16).unwrap_or_default();
    Ipv6Addr::new(0xfd00, 0x10, 0x10, digits(rack), 0, 0, 0, digits(host))
}

fn subnet6(address: Ipv6Addr) -> Ipv6Net {
    Ipv6Net::new(address, 64).expect("64 is a prefix length")
}

/// A locally administered address made from the IPv4 address, so that everybody can know everybody's.
fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0, a, b, c, d]
}
