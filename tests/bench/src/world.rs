//! A network of our own: addresses for every peer on the loopback, and a link that next hops lie on.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};

use crate::plan::{Family, Peers, Plan};
use crate::wire::ASN;

/// Set for the program inside its network.
const INSIDE: &str = "TORTIE_BENCH_INSIDE";

/// AS of the first sender outside the daemon's; the others follow.
const FIRST_SENDER_ASN: u16 = 64_601;
/// AS of the first receiver outside the daemon's.
const FIRST_RECEIVER_ASN: u16 = 64_701;
/// Hosts of one /24 of peers.
const HOSTS: u16 = 250;
/// The third octet of the first sender's address, and of the first receiver's: there is room for 25,000 of each.
const FIRST_NETS: [u8; 2] = [1, 101];
/// IPv6 addresses of each side: each is an address of its own on the loopback device.
const HOSTS_V6: u16 = 100;

/// Where everybody is.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// The first two octets of everybody's IPv4 address.
    pub base: [u8; 2],
    /// Port of the daemon; 0 lets it choose, which only ours can.
    pub port: u16,
    /// Whether IPv6 routes are exchanged over IPv6. Otherwise every session is of IPv4.
    pub sessions_v6: bool,
}

/// A peer of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it connects from.
    pub address: IpAddr,
    /// Its AS.
    pub asn: u16,
    /// Its BGP Identifier.
    pub router_id: Ipv4Addr,
}

impl World {
    /// A network namespace's.
    pub const PRIVATE: Self = Self {
        base: [10, 99],
        port: 179,
        sessions_v6: true,
    };
    /// The host's loopback, for our own speaker.
    pub const LOOPBACK: Self = Self {
        base: [127, 99],
        port: 0,
        sessions_v6: false,
    };

    fn address(&self, family: Family, net: u8, host: u8) -> IpAddr {
        if family == Family::V6 && self.sessions_v6 {
            Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, net.into(), host.into()).into()
        } else {
            Ipv4Addr::new(self.base[0], self.base[1], net, host).into()
        }
    }

    /// The daemon's BGP Identifier, and its IPv4 address.
    #[must_use]
    pub const fn router_id(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.base[0], self.base[1], 0, 1)
    }

    /// The daemon's address.
    #[must_use]
    pub fn daemon(&self, family: Family) -> IpAddr {
        self.address(family, 0, 1)
    }

    /// A plan's peers: the senders, then the receivers.
    #[must_use]
    pub fn peers(&self, plan: &Plan) -> Vec<Peer> {
        let [of_senders, of_receivers] = FIRST_NETS;
        let peer = |first_net: u8, number: u16, asn: u16| {
            let (net, host) = place(first_net, number);
            Peer {
                address: self.address(plan.family, net, host),
                asn,
                router_id: Ipv4Addr::new(self.base[0], self.base[1], net, host),
            }
        };
        let senders = (0..plan.senders)
            .map(|number| peer(of_senders, number, Self::sender_asn(plan.peers, number)));
        let receivers = (0..plan.receivers).map(|number| {
            let asn = match plan.peers {
                Peers::Reflected => ASN,
                Peers::External => FIRST_RECEIVER_ASN + number,
            };
            peer(of_receivers, number, asn)
        });
        senders.chain(receivers).collect()
    }

    /// The AS of a sender.
    #[must_use]
    pub fn sender_asn(peers: Peers, number: u16) -> u16 {
        match peers {
            Peers::Reflected => ASN,
            Peers::External => FIRST_SENDER_ASN + number,
        }
    }

    /// The next hop that a sender names: a neighbour on the link, so that no daemon has to doubt it.
    #[must_use]
    pub fn next_hop(number: u16) -> Ipv4Addr {
        let (net, host) = place(1, number);
        Ipv4Addr::new(198, 18, net, host)
    }

    /// The same for IPv6 routes.
    #[must_use]
    pub fn next_hop_v6(number: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 1, number + 1)
    }
}

/// The last two octets of an address.
fn place(first_net: u8, number: u16) -> (u8, u8) {
    let net = u16::from(first_net) + number / HOSTS;
    let octet = |number: u16| u8::try_from(number).expect("plans have fewer peers than nets");
    (octet(net), octet(number % HOSTS + 1))
}

/// Runs this program again in a network namespace of its own, with the same arguments; `None` when this is that run, and the
/// network is made.
///
/// # Errors
/// When `unshare` or `ip` is missing or refuses.
pub fn enter() -> anyhow::Result<Option<ExitCode>> {
    if std::env::var_os(INSIDE).is_some() {
        return furnish().map(|()| None);
    }
    let program = std::env::current_exe()?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let status = command
        .arg(program)
        .args(arguments)
        .env(INSIDE, "1")
        .status()
        .context("running unshare, of util-linux")?;
    Ok(Some(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }))
}

fn furnish() -> anyhow::Result<()> {
    let [a, b] = World::PRIVATE.base;
    let mut batch = format!(
        "link set lo up\n\
         address add {a}.{b}.0.1/16 dev lo\n\
         address add fd99::1 dev lo\n\
         link add nexthops type veth peer name far\n\
         address add 198.18.0.1/16 dev nexthops\n\
         address add fd98::1/64 dev nexthops nodad\n\
         link set nexthops up\n\
         link set far up\n"
    );
    // On the loopback device a whole IPv4 prefix is local, so that every address in it can be bound; of IPv6 only each address.
    let places = FIRST_NETS.map(|net| (0..HOSTS_V6).map(move |number| place(net, number)));
    for (net, host) in places.into_iter().flatten() {
        let address = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, net.into(), host.into());
        // Writing to a string cannot fail.
        let _ = writeln!(batch, "address add {address} dev lo");
    }
    let path = std::env::temp_dir().join(format!("tortie-bench-network-{}", std::process::id()));
    fs::write(&path, batch)?;
    let status = Command::new("ip").arg("-batch").arg(&path).status();
    fs::remove_file(&path)?;
    let status = status.context("running ip, of iproute2")?;
    ensure!(status.success(), "making the private network: ip {status}");
    Ok(())
}
