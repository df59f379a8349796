//! The smallest place for a session: two namespaces and a cable.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use ipnet::Ipv4Net;
use lab::NetNs;

/// Our end's address.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The other daemon's.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Two new namespaces joined by a veth pair: ours with [`NEAR`]/24, then the other daemon's with [`FAR`]/24.
///
/// # Errors
/// What the kernel answers.
pub fn joined() -> io::Result<(NetNs, NetNs)> {
    let (near, far) = (NetNs::new("near")?, NetNs::new("far")?);
    let mut in_near = near.netlink()?;
    in_near
        .add_veth("eth0", "eth0", far.fd().as_raw_fd(), [2, 0, 0, 0, 0, 2])
        .map_err(io::Error::other)?;
    for (mut netlink, address) in [(in_near, NEAR), (far.netlink()?, FAR)] {
        let subnet = Ipv4Net::new(address, 24).map_err(io::Error::other)?;
        netlink
            .add_address("eth0", subnet)
            .map_err(io::Error::other)?;
        netlink.set_up("eth0").map_err(io::Error::other)?;
    }
    Ok((near, far))
}
