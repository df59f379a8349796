//! The smallest place for a session: two namespaces and a cable.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use ipnet::{Ipv4Net, Ipv6Net};
use lab::NetNs;

/// Our end's address.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The other daemon's.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Our end's IPv6 address.
pub const NEAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// The other daemon's.
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// Two new namespaces joined by a veth pair: ours with [`NEAR`]/24, then the other daemon's with [`FAR`]/24; and [`NEAR6`]/64 and
/// [`FAR6`]/64.
///
/// # Errors
/// What the kernel answers.
pub fn joined() -> io::Result<(NetNs, NetNs)> {
    let (near, far) = (NetNs::new("near")?, NetNs::new("far")?);
    let mut in_near = near.netlink()?;
    in_near
        .add_veth("eth0", "eth0", far.fd().as_raw_fd(), [2, 0, 0, 0, 0, 2])
        .map_err(io::Error::other)?;
    let ends = [(in_near, NEAR, NEAR6), (far.netlink()?, FAR, FAR6)];
    for (mut netlink, address, address6) in ends {
        let subnet = Ipv4Net::new(address, 24).map_err(io::Error::other)?;
        let subnet6 = Ipv6Net::new(address6, 64).map_err(io::Error::other)?;
        netlink
            .add_address("eth0", subnet)
            .map_err(io::Error::other)?;
        netlink.set_up("eth0").map_err(io::Error::other)?;
        netlink
            .add_address6("eth0", subnet6)
            .map_err(io::Error::other)?;
    }
    Ok((near, far))
}
