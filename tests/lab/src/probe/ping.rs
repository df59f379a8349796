//! ICMP echo (RFC 792, RFC 4443 §4) over a raw socket; no `ping` program needed.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::netns::NetNs;

/// Types of messages.
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;
/// So many answers fit into a receive buffer of the size that every machine allows (rmem_max, 208 KiB), by far.
const OUTSTANDING_MAX: usize = 100;

/// A raw ICMP or ICMPv6 socket inside one namespace.
#[derive(Debug)]
pub struct Pinger {
    /// No UDP: the type has `recv_from`, which tells the sender.
    socket: UdpSocket,
    is_v6: bool,
    identifier: u16,
    sequence: u16,
}

impl Pinger {
    /// Opens a socket for IPv4 in `namespace`. Pingers of one namespace must not share an `identifier`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(namespace: &NetNs, identifier: u16) -> io::Result<Self> {
        let socket =
            namespace.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))?;
        socket.attach_filter(&only_replies_to(identifier))?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: socket.into(),
            is_v6: false,
            identifier,
            sequence: 0,
        })
    }

    /// As [`Pinger::open`], for IPv6.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open_v6(namespace: &NetNs, identifier: u16) -> io::Result<Self> {
        let socket =
            namespace.run(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)))?;
        socket.attach_filter(&only_v6_replies_to(identifier))?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: socket.into(),
            is_v6: true,
            identifier,
            sequence: 0,
        })
    }

    /// [`Pinger::open`] or [`Pinger::open_v6`], whichever pings `target`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open_for(namespace: &NetNs, identifier: u16, target: IpAddr) -> io::Result<Self> {
        match target {
            IpAddr::V4(_) => Self::open(namespace, identifier),
            IpAddr::V6(_) => Self::open_v6(namespace, identifier),
        }
    }

    /// Pings one address once; its round-trip time, or `None` when no answer came in time.
    ///
    /// # Errors
    /// What the kernel answers to sending, e.g. ENETUNREACH.
    pub fn ping(
        &mut self,
        target: impl Into<IpAddr>,
        timeout: Duration,
    ) -> io::Result<Option<Duration>> {
        let target = target.into();
        Ok(self
            .ping_all(&[target], timeout)
            .remove(&target)
            .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
            .ok())
    }

    /// Pings each address once, many at the same time, each for at most `timeout`. Each gets its round-trip time, or the reason why there is none: the error of
    /// sending, or `TimedOut` when no answer came.
    pub fn ping_all(
        &mut self,
        targets: &[IpAddr],
        timeout: Duration,
    ) -> BTreeMap<IpAddr, io::Result<Duration>> {
        let mut results = BTreeMap::new();
        let mut waiting: BTreeMap<u16, (IpAddr, Instant)> = BTreeMap::new();
        let mut to_send = targets.iter().copied();
        loop {
            while waiting.len() < OUTSTANDING_MAX
                && let Some(target) = to_send.next()
            {
                let sent_at = Instant::now();
                match self.send_request(target) {
                    Ok(sequence) => {
                        waiting.insert(sequence, (target, sent_at));
                    }
                    Err(error) => {
                        results.insert(target, Err(error));
                    }
                }
            }
            // The one that was sent first.
            let Some(oldest) = waiting.values().map(|(_, sent_at)| *sent_at).min() else {
                return results;
            };
            let left = (oldest + timeout).saturating_duration_since(Instant::now());
            let is_there = crate::wait::readable(self.socket.as_raw_fd(), left).unwrap_or(false);
            while let Some((from, sequence)) = self.read_reply() {
                if waiting
                    .get(&sequence)
                    .is_some_and(|(target, _)| *target == from)
                    && let Some((target, sent_at)) = waiting.remove(&sequence)
                {
                    results.insert(target, Ok(sent_at.elapsed()));
                }
            }
            if !is_there {
                waiting.retain(|_, (target, sent_at)| {
                    let is_late = sent_at.elapsed() >= timeout;
                    if is_late {
                        results.insert(*target, Err(io::ErrorKind::TimedOut.into()));
                    }
                    !is_late
                });
            }
        }
    }

    /// Sends one echo request. Its sequence number.
    fn send_request(&mut self, target: IpAddr) -> io::Result<u16> {
        self.sequence = self.sequence.wrapping_add(1);
        let kind = if self.is_v6 {
            V6_ECHO_REQUEST
        } else {
            ECHO_REQUEST
        };
        let packet = echo_request(kind, self.identifier, self.sequence);
        self.socket.send_to(&packet, SocketAddr::new(target, 0))?;
        Ok(self.sequence)
    }

    /// The sender and sequence number of the next echo reply to this pinger, if one is queued.
    fn read_reply(&mut self) -> Option<(IpAddr, u16)> {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer).ok()?;
            let packet = buffer.get(..length)?;
            // IPv4's header comes with the message, IPv6's does not.
            let header = if self.is_v6 {
                0
            } else {
                usize::from(packet.first()? & 0x0f) * 4
            };
            let Some(&[ECHO_REPLY | V6_ECHO_REPLY, _, _, _, i1, i2, s1, s2]) =
                packet.get(header..).and_then(<[u8]>::first_chunk)
            else {
                continue;
            };
            if u16::from_be_bytes([i1, i2]) == self.identifier {
                return Some((from.ip(), u16::from_be_bytes([s1, s2])));
            }
        }
    }
}

/// A raw socket gets a copy of every ICMP message to its namespace. Where hundreds ping each other, others' requests would fill its buffer
/// and replies be lost there: this (classic BPF) lets echo replies with our identifier through only.
fn only_replies_to(identifier: u16) -> [SockFilter; 7] {
    const DROP: u32 = 0;
    const ACCEPT: u32 = u32::MAX;
    let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    // X: the IPv4 header's length.
    let length = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    let octet = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
    let two = (libc::BPF_LD | libc::BPF_H | libc::BPF_IND) as u16;
    [
        SockFilter::new(length, 0, 0, 0),
        SockFilter::new(octet, 0, 0, 0),
        SockFilter::new(jump, 0, 3, u32::from(ECHO_REPLY)),
        SockFilter::new(two, 0, 0, 4),
        SockFilter::new(jump, 0, 1, u32::from(identifier)),
        SockFilter::new(answer, 0, 0, ACCEPT),
        SockFilter::new(answer, 0, 0, DROP),
    ]
}

/// As [`only_replies_to`], where the message comes without the IP header.
fn only_v6_replies_to(identifier: u16) -> [SockFilter; 6] {
    const DROP: u32 = 0;
    const ACCEPT: u32 = u32::MAX;
    let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let octet = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    let two = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    [
        SockFilter::new(octet, 0, 0, 0),
        SockFilter::new(jump, 0, 3, u32::from(V6_ECHO_REPLY)),
        SockFilter::new(two, 0, 0, 4),
        SockFilter::new(jump, 0, 1, u32::from(identifier)),
        SockFilter::new(answer, 0, 0, ACCEPT),
        SockFilter::new(answer, 0, 0, DROP),
    ]
}

/// Type, code, checksum (2), identifier (2), sequence number (2), then data. The kernel sets the checksum of ICMPv6.
fn echo_request(kind: u8, identifier: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend([0x54; 24]);
    let checksum = internet_checksum(&packet);
    packet.splice(2..4, checksum.to_be_bytes());
    packet
}

/// RFC 1071, for an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
