//! No speaker at all: every UPDATE that a peer sends is written to all other peers as it came, by one thread. What the bench measures
//! of it is what the kernel and the bench itself take, which no daemon can be faster than. Withdraws nothing when a peer goes, answers no
//! ROUTE-REFRESH, and prefers no sender.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use anyhow::Context;
use bench::plan::Family;
use bench::wire::{self, HEADER, Message};
use rustix::event::epoll;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Octets read at a time.
const READ_OCTETS: usize = 256 << 10;
/// In place of a peer's number: the listening socket.
const LISTENER: u64 = u64::MAX;

struct Peer {
    stream: TcpStream,
    /// The beginning of a message whose end has not come.
    received: Vec<u8>,
}

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("usage: bench-floor FILE")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let mut words = text.split_whitespace();
    let mut word = |what: &'static str| words.next().context(what);
    let router_id: Ipv4Addr = word("no BGP Identifier")?.parse()?;
    let address = SocketAddr::new(word("no address")?.parse()?, word("no port")?.parse()?);
    let family = if word("no family")? == "ipv6" {
        Family::V6
    } else {
        Family::V4
    };
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let local = socket.local_addr()?.as_socket();
    println!("{}", local.context("a TCP socket has an address")?);
    let mut greeting = Vec::new();
    wire::write_open(&mut greeting, wire::ASN, router_id, family);
    wire::write_keepalive(&mut greeting);
    serve(&socket, &greeting)
}

fn serve(socket: &Socket, greeting: &[u8]) -> anyhow::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let add = |stream: &Socket, number: u64| {
        let data = epoll::EventData::new_u64(number);
        epoll::add(&epoll, stream, data, epoll::EventFlags::IN)
    };
    add(socket, LISTENER)?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut events = Vec::with_capacity(256);
    let mut buffer = vec![0; READ_OCTETS];
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let number = event.data.u64();
            if number == LISTENER {
                let (stream, _) = socket.accept()?;
                stream.set_tcp_nodelay(true)?;
                add(&stream, u64::try_from(peers.len())?)?;
                peers.push(Some(Peer {
                    stream: stream.into(),
                    received: Vec::new(),
                }));
                continue;
            }
            let from = usize::try_from(number)?;
            let updates = match peers.get_mut(from) {
                Some(Some(peer)) => peer.read(&mut buffer, greeting)?,
                Some(None) | None => continue,
            };
            match updates {
                None => peers[from] = None,
                Some(updates) if updates.is_empty() => {}
                Some(updates) => {
                    let others = peers.iter_mut().enumerate().filter(|(to, _)| *to != from);
                    for (_, peer) in others {
                        // One that has gone is found out when it is read.
                        let _ = peer.as_mut().map(|peer| peer.stream.write_all(&updates));
                    }
                }
            }
        }
    }
}

impl Peer {
    /// Reads once; returns the UPDATEs that came, `None` at the end.
    fn read(&mut self, buffer: &mut [u8], greeting: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        let octets = match self.stream.read(buffer) {
            Ok(0) => return Ok(None),
            Ok(octets) => octets,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.received.extend(&buffer[..octets]);
        let mut updates = Vec::new();
        let mut read = 0;
        while let Some((message, length)) = wire::next_message(&self.received[read..])? {
            match message {
                Message::Open => self.stream.write_all(greeting)?,
                Message::Update(body) => {
                    updates.extend(&self.received[read..read + HEADER + body.len()]);
                }
                Message::Keepalive | Message::Refresh | Message::Notification(..) => {}
            }
            read += length;
        }
        self.received.drain(..read);
        Ok(Some(updates))
    }
}
