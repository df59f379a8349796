//! The floor: messages of RTM_NEWROUTE made one after the other and sent 500 at a time. Only the last of a batch is acknowledged;
//! errors are answered in any case.

use std::net::Ipv4Addr;

use anyhow::{bail, ensure};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::network::{PROTOCOL, Wanted};

const BATCH: usize = 500;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Create, and fail when it is there.
pub(super) const ADD: u16 = 0x400 | 0x200;
/// Create or replace.
pub(super) const REPLACE: u16 = 0x400 | 0x100;
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

fn open() -> anyhow::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_netlink_get_strict_chk(true)?;
    socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES)?;
    Ok(socket)
}

/// Writes the routes, by this device.
pub(super) fn write(
    routes: impl Iterator<Item = Wanted>,
    flags: u16,
    device: usize,
    ifindex: u32,
) -> anyhow::Result<()> {
    let socket = open()?;
    let mut datagram = Vec::with_capacity(64 * BATCH);
    let mut routes = routes.peekable();
    let mut messages = 0;
    while let Some(route) = routes.next() {
        messages += 1;
        let last = messages == BATCH || routes.peek().is_none();
        let flags = NLM_F_REQUEST | flags | if last { NLM_F_ACK } else { 0 };
        message(&mut datagram, flags, &route, route.gateway(device), ifindex);
        if last {
            socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
            acknowledged(&socket)?;
            datagram.clear();
            messages = 0;
        }
    }
    Ok(())
}

fn message(out: &mut Vec<u8>, flags: u16, route: &Wanted, gateway: Ipv4Addr, ifindex: u32) {
    const LENGTH: u32 = 16 + 12 + 3 * 8;
    out.extend_from_slice(&LENGTH.to_ne_bytes());
    out.extend_from_slice(&RTM_NEWROUTE.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    // Family, lengths, type of service; table main, protocol, scope universe, unicast; flags.
    out.extend_from_slice(&[2, route.prefix.prefix_len(), 0, 0, 254, PROTOCOL, 0, 1]);
    out.extend_from_slice(&[0; 4]);
    for (kind, value) in [
        (1_u16, route.prefix.network().octets()),
        (5, gateway.octets()),
        (4, ifindex.to_ne_bytes()),
    ] {
        out.extend_from_slice(&8_u16.to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&value);
    }
}

/// Reads the one answer there must be.
fn acknowledged(socket: &Socket) -> anyhow::Result<()> {
    let (answer, _) = socket.recv_from_full()?;
    match answer.get(16..20) {
        Some([0, 0, 0, 0]) => Ok(()),
        Some(code) => bail!("the kernel refused a route: {code:?}"),
        None => bail!("the kernel's answer is too short"),
    }
}

/// Reads the table of routes and counts those of the protocol.
pub(super) fn count() -> anyhow::Result<usize> {
    let socket = open()?;
    let mut request = 28_u32.to_ne_bytes().to_vec();
    request.extend_from_slice(&RTM_GETROUTE.to_ne_bytes());
    request.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[2, 0, 0, 0, 254, PROTOCOL, 0, 0, 0, 0, 0, 0]);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut buffer = bytes::BytesMut::with_capacity(64 * 1024);
    let mut count = 0;
    loop {
        buffer.clear();
        socket.recv_from(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while let Some((header, _)) = rest.split_first_chunk::<8>() {
            let [a, b, c, d, kind @ .., _, _] = *header;
            let length = u32::from_ne_bytes([a, b, c, d]) as usize;
            match u16::from_ne_bytes(kind) {
                NLMSG_DONE => return Ok(count),
                RTM_NEWROUTE => count += 1,
                NLMSG_ERROR => bail!("the kernel refused to show its routes"),
                _ => {}
            }
            ensure!(length >= 16, "a message of {length} octets");
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
