//! The host, as the kernel shows it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use regex::Regex;

use super::address::{Family, Host, HostInterface};

/// The interfaces of the process's network namespace at one moment.
#[derive(Debug)]
pub struct LiveHost {
    interfaces: Vec<HostInterface>,
    mtus: Vec<(String, u32)>,
}

impl LiveHost {
    /// Asks the kernel.
    pub fn read() -> io::Result<Self> {
        let found = felix_io::host::interfaces()?;
        let mtus = found
            .iter()
            .map(|interface| (interface.ifname.to_string(), interface.mtu_bytes))
            .collect();
        let interfaces = found
            .into_iter()
            .map(|interface| HostInterface {
                name: interface.ifname.to_string(),
                ifindex: interface.ifindex,
                addresses: interface.addresses,
            })
            .collect();
        Ok(Self { interfaces, mtus })
    }

    /// The host's MTU in bytes: the smallest of the interfaces whose names match.
    pub fn mtu_bytes(&self, pattern: &Regex) -> Option<u32> {
        self.mtus
            .iter()
            .filter(|(name, _)| pattern.is_match(name))
            .map(|(_, mtu)| *mtu)
            .min()
    }
}

impl Host for LiveHost {
    fn interfaces(&self) -> &[HostInterface] {
        &self.interfaces
    }

    /// Connects an UDP socket, which sends nothing, and asks which address it got.
    fn source_towards(&self, destination: &str, family: Family) -> Option<IpAddr> {
        let wanted = |addr: &SocketAddr| Family::of(addr.ip()) == family;
        let remote = (destination, 80).to_socket_addrs().ok()?.find(wanted)?;
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(remote).ok()?;
        socket.local_addr().ok().map(|local| local.ip())
    }
}

/// The kernel's host name.
pub fn kernel_hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
