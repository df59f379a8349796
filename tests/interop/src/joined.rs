//! The smallest place for a session: two namespaces and a cable.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use ipnet::Ipv4Net;
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
    for (mut netlink, address) in [(in_near, NEAR), (far.netlink()?, FAR)] {
        let subnet = Ipv4Net::new(address, 24).map_err(io::Error::other)?;
        netlink
            .add_address("eth0", subnet)
            .map_err(io::Error::other)?;
        netlink.set_up("eth0").map_err(io::Error::other)?;
    }
    for (namespace, address) in [(&near, NEAR6), (&far, FAR6)] {
        // Without the wait for other holders of the address (RFC 4862 §5.4): a connection must be able to come from it at once.
        let words = [
            "-6",
            "address",
            "add",
            &format!("{address}/64"),
            "dev",
            "eth0",
            "nodad",
        ];
        let status = namespace.command("ip").args(words).status()?;
        if !status.success() {
            return Err(io::Error::other(format!(
                "ip {}: {status}",
                words.join(" ")
            )));
        }
    }
    Ok((near, far))
}
