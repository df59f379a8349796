//! Capturing frames in a namespace (packet(7)), parsed as far as the lab's questions go.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::NetNs;

const ETH_P_ALL: u16 = 3;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Octets of an IPv6 header. What follows is looked at where no extension header comes first.
const IPV6_HEADER: usize = 40;
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// A socket that sees every frame of every link of one namespace, in both directions.
#[derive(Debug)]
pub struct Capture {
    socket: Socket,
}

/// An IP packet of a captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number; of IPv6 that of the first header behind the fixed one.
    pub protocol: u8,
    /// What it carries, as far as it is understood.
    pub content: Content,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A frame in VXLAN (RFC 7348), found by UDP destination port 4789.
    Vxlan {
        /// VXLAN network identifier.
        vni: u32,
        /// The inner frame's IP packet, when it has one.
        inner: Option<Box<Packet>>,
    },
    /// An IPv4 packet in IPv4 (RFC 2003).
    Ipip(Box<Packet>),
    /// UDP or TCP, by ports.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Octets behind the UDP or TCP header.
        data: usize,
    },
    /// Anything else.
    Other,
}

impl Capture {
    /// Starts to capture in `namespace`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(namespace: &NetNs) -> io::Result<Self> {
        let socket = namespace.run(|| {
            Socket::new(
                Domain::PACKET,
                Type::RAW,
                Some(Protocol::from(i32::from(ETH_P_ALL.to_be()))),
            )
        })?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// The next IP packet that satisfies `wanted`, or `None` at the deadline.
    ///
    /// # Errors
    /// What the kernel answers to reading.
    pub fn find(
        &mut self,
        deadline: Instant,
        mut wanted: impl FnMut(&Packet) -> bool,
    ) -> io::Result<Option<Packet>> {
        let mut buffer = vec![0; 65_536];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(length) => {
                    if let Some(packet) = parse_frame(&buffer[..length]).filter(&mut wanted) {
                        return Ok(Some(packet));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !crate::wait::readable(self.socket.as_raw_fd(), left)? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Everything captured so far, without waiting.
    ///
    /// # Errors
    /// As [`Capture::find`].
    pub fn drain(&mut self) -> io::Result<Vec<Packet>> {
        let mut packets = Vec::new();
        let now = Instant::now() + Duration::ZERO;
        while let Some(packet) = self.find(now, |_| true)? {
            packets.push(packet);
        }
        Ok(packets)
    }
}

fn parse_frame(frame: &[u8]) -> Option<Packet> {
    let packet = frame.get(14..)?;
    match frame.get(12..14)?.try_into().ok()? {
        ETHERTYPE_IPV4 => parse_ipv4(packet),
        ETHERTYPE_IPV6 => parse_ipv6(packet),
        _ => None,
    }
}

fn parse_ipv6(packet: &[u8]) -> Option<Packet> {
    let address = |at: usize| {
        let octets = <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?;
        Some(IpAddr::from(Ipv6Addr::from(octets)))
    };
    let protocol = *packet.get(6)?;
    let payload = packet.get(IPV6_HEADER..)?;
    Some(Packet {
        source: address(8)?,
        destination: address(24)?,
        protocol,
        content: parse_content(protocol, payload).unwrap_or(Content::Other),
    })
}

fn parse_ipv4(packet: &[u8]) -> Option<Packet> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let address = |at: usize| {
        let octets = <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?;
        Some(IpAddr::from(Ipv4Addr::from(octets)))
    };
    let protocol = *packet.get(9)?;
    let payload = packet.get(header..)?;
    Some(Packet {
        source: address(12)?,
        destination: address(16)?,
        protocol,
        content: parse_content(protocol, payload).unwrap_or(Content::Other),
    })
}

fn parse_content(protocol: u8, payload: &[u8]) -> Option<Content> {
    match i32::from(protocol) {
        libc::IPPROTO_IPIP => Some(Content::Ipip(Box::new(parse_ipv4(payload)?))),
        libc::IPPROTO_UDP | libc::IPPROTO_TCP => {
            let &[s1, s2, d1, d2] = payload.first_chunk()?;
            let destination = u16::from_be_bytes([d1, d2]);
            if i32::from(protocol) == libc::IPPROTO_UDP && destination == 4789 {
                // UDP header of 8 bytes, then flags (1), reserved (3), VNI (3), reserved (1).
                let &[v1, v2, v3] = payload.get(12..15)?.first_chunk()?;
                let inner = payload.get(16..).and_then(parse_frame).map(Box::new);
                return Some(Content::Vxlan {
                    vni: u32::from_be_bytes([0, v1, v2, v3]),
                    inner,
                });
            }
            Some(Content::Ports {
                source: u16::from_be_bytes([s1, s2]),
                destination,
                data: data_of(protocol, payload)?,
            })
        }
        _ => None,
    }
}

/// How many octets are behind the header.
fn data_of(protocol: u8, payload: &[u8]) -> Option<usize> {
    let header = match i32::from(protocol) {
        libc::IPPROTO_TCP => usize::from(payload.get(12)? >> 4) * 4,
        _ => 8,
    };
    payload.len().checked_sub(header)
}
