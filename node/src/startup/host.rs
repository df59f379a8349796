//! The host, as the kernel shows it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use api::params::Params;
use regex::Regex;
use tracing::warn;

use super::address::{Family, Host, HostInterface};

/// The interfaces of the process's network namespace at one moment.
#[derive(Debug)]
pub struct LiveHost {
    interfaces: Vec<HostInterface>,
    mtus: Vec<(String, u32)>,
    /// The destinations of `can-reach` and their addresses.
    destinations: Vec<(String, Vec<SocketAddr>)>,
}

/// How long the resolver may take for the name of a destination.
const RESOLVE_MAX: Duration = Duration::from_secs(5);

impl LiveHost {
    /// Asks the kernel, and the resolver for the destinations that IP_AUTODETECTION_METHOD and IP6_AUTODETECTION_METHOD
    /// name.
    pub async fn read(params: &Params) -> io::Result<Self> {
        let mut destinations: Vec<(String, Vec<SocketAddr>)> = Vec::new();
        for method in [
            &params.ip_autodetection_method,
            &params.ip6_autodetection_method,
        ] {
            if let Some(name) = method.strip_prefix("can-reach=").map(str::trim)
                && !destinations.iter().any(|(known, _)| known == name)
            {
                destinations.push((name.to_owned(), resolve(name).await));
            }
        }
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
        Ok(Self {
            interfaces,
            mtus,
            destinations,
        })
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
        let mut known = self.destinations.iter();
        let (_, addresses) = known.find(|(name, _)| name == destination)?;
        let wanted = |addr: &&SocketAddr| Family::of(addr.ip()) == family;
        let remote = addresses.iter().find(wanted)?;
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(remote).ok()?;
        socket.local_addr().ok().map(|local| local.ip())
    }

    fn has_ipv6(&self) -> bool {
        std::path::Path::new("/proc/sys/net/ipv6").exists()
    }
}

/// The addresses of a name, or of an address in text; none when the resolver has none in time.
async fn resolve(name: &str) -> Vec<SocketAddr> {
    let looked_up = tokio::time::timeout(RESOLVE_MAX, tokio::net::lookup_host((name, 80))).await;
    match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            warn!(destination = name, %error, "IP_AUTODETECTION_METHOD: can-reach");
            Vec::new()
        }
        Err(_) => {
            warn!(
                destination = name,
                "IP_AUTODETECTION_METHOD: can-reach: the resolver does not answer"
            );
            Vec::new()
        }
    }
}

/// The kernel's host name.
pub fn kernel_hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The kernel's release, as `uname -r` says it.
pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// Whether a kernel of this release leaves checksums of VXLAN's inner packets to hardware that gets them wrong: Linux 5.7 and before. One
/// whose release cannot be read is taken for a newer one.
pub fn breaks_checksums(release: &str) -> bool {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    match (number(), number()) {
        (Some(major), Some(minor)) => (major, minor) <= (5, 7),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_up_to_5_7_break_checksums() {
        for old in [
            "5.7.19",
            "5.7.0-3-amd64",
            "5.4.0-150-generic",
            "4.18.0-553.el8",
        ] {
            assert!(breaks_checksums(old), "{old}");
        }
        for new in [
            "5.8.0",
            "5.10.0-9-amd64",
            "6.1",
            "6.18.44-fc",
            "unknown",
            "",
        ] {
            assert!(!breaks_checksums(new), "{new}");
        }
    }

    #[tokio::test]
    async fn the_source_towards_a_destination_is_the_kernels_choice() {
        let read = async |method: &str| {
            let variable = ("IP_AUTODETECTION_METHOD".to_owned(), method.to_owned());
            let params = Params::from_env([variable]).unwrap();
            LiveHost::read(&params).await.unwrap()
        };
        let host = read("can-reach= 127.0.0.9 ").await;
        let found = host.source_towards("127.0.0.9", Family::V4);
        assert_eq!(found, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(host.source_towards("127.0.0.9", Family::V6), None);
        let host = read("first-found").await;
        assert_eq!(host.source_towards("127.0.0.9", Family::V4), None);
    }
}
