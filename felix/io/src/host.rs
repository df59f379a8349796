//! Facts about the host that start-up asks for once.

use std::collections::BTreeMap;
use std::io;

use felix::desired::{IfName, Mac};
use ipnet::IpNet;

use crate::netlink::socket::Requests;
use crate::netlink::uapi::{AF_UNSPEC, RTM_GETADDR};
use crate::netlink::{decode, link};

/// A device of the host with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name.
    pub ifname: IfName,
    /// Index, in which order they are listed.
    pub ifindex: u32,
    /// IFF_UP and operationally up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu_bytes: u32,
    /// MAC, for Ethernet-like devices.
    pub mac: Option<Mac>,
    /// Addresses with prefix lengths, host bits kept, in the kernel's order.
    pub addresses: Vec<IpNet>,
}

/// Devices of the calling thread's network namespace, by index. Blocks for a few microseconds.
///
/// # Errors
/// The kernel could not be asked.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut requests = Requests::open()?;
    let addresses = requests.dump(
        RTM_GETADDR,
        |writer| writer.ifaddr(AF_UNSPEC, 0, 0, 0),
        |message, items| items.extend(decode::addr_fields(&message)),
    )?;
    let mut by_index: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for (ifindex, addr) in addresses {
        by_index.entry(ifindex).or_default().push(addr);
    }
    let mut interfaces: Vec<Interface> = link::list(&mut requests)?
        .into_iter()
        .map(|link| Interface {
            ifname: link.state.ifname,
            ifindex: link.state.ifindex,
            up: link.state.up,
            mtu_bytes: link.state.mtu_bytes,
            mac: link.state.mac,
            addresses: by_index.remove(&link.state.ifindex).unwrap_or_default(),
        })
        .collect();
    interfaces.sort_by_key(|interface| interface.ifindex);
    Ok(interfaces)
}
