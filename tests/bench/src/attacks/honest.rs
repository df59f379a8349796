//! Two honest peers: the first announces a table, then a route ten times a second; the second notes when each comes, and the
//! KEEPALIVEs between.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::{DAEMON, HOLD_SECONDS, HONEST, START_TIME};
use crate::plan::Family;
use crate::wire::{self, ASN, Message};

/// Between two routes.
const BETWEEN: Duration = Duration::from_millis(100);
/// Between two KEEPALIVEs of ours.
const OWN_KEEPALIVE: Duration = Duration::from_secs(HOLD_SECONDS / 3);
/// The first octet of prefixes that are timed: /32 with a number.
const TIMED: u8 = 9;

/// See the module.
pub(super) struct Honest {
    sender: TcpStream,
    drain: JoinHandle<()>,
    receiver: JoinHandle<anyhow::Result<Received>>,
    sent: std::cell::RefCell<Vec<Instant>>,
    over: Arc<AtomicBool>,
}

#[derive(Default)]
struct Received {
    keepalives: Vec<Instant>,
    /// When each came first: who reads too slowly for the log of changes is told some again.
    routes: BTreeMap<u32, Instant>,
}

impl Honest {
    /// Returns when the second one has the table.
    pub(super) fn start(routes: u32) -> anyhow::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let (receiver, rest) = establish(HONEST[1], OpenWith::HoldTime)?;
        let receiver = {
            let (over, count) = (Arc::clone(&over), Arc::clone(&count));
            std::thread::spawn(move || receive(receiver, rest, &over, &count))
        };
        let (mut sender, _) = establish(HONEST[0], OpenWith::HoldTime)?;
        let drain = drain(sender.try_clone()?);
        sender.write_all(&table(routes))?;
        let wanted = usize::try_from(routes)?;
        let deadline = Instant::now() + START_TIME;
        let mut alive = Instant::now();
        while count.load(Ordering::Relaxed) < wanted {
            ensure!(Instant::now() < deadline, "the table did not arrive");
            if alive.elapsed() >= OWN_KEEPALIVE {
                alive = Instant::now();
                sender.write_all(&keepalive())?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self {
            sender,
            drain,
            receiver,
            sent: Vec::new().into(),
            over,
        })
    }

    /// Announces a route every tenth of a second until then.
    pub(super) fn tell_until(&self, end: Instant) -> anyhow::Result<()> {
        let mut next = Instant::now();
        while next < end {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            next += BETWEEN;
            let mut sent = self.sent.borrow_mut();
            let number = u32::try_from(sent.len())?;
            let [_, a, b, c] = number.to_be_bytes();
            let update = update(&[], &[&[32, TIMED, a, b, c]]);
            sent.push(Instant::now());
            (&self.sender).write_all(&update)?;
        }
        Ok(())
    }

    /// The longest time between KEEPALIVEs, and the median and longest time of a route.
    pub(super) fn finish(self) -> anyhow::Result<(Duration, (Duration, Duration))> {
        // What is on its way has time to come.
        std::thread::sleep(Duration::from_secs(1));
        self.over.store(true, Ordering::Relaxed);
        let received = self.receiver.join().expect("no panic")?;
        self.sender.shutdown(std::net::Shutdown::Both)?;
        self.drain.join().expect("no panic");
        let sent = self.sent.into_inner();
        ensure!(
            received.routes.len() == sent.len(),
            "{} of {} routes arrived",
            received.routes.len(),
            sent.len()
        );
        let delay = |(number, at): (&u32, &Instant)| {
            let sent = sent.get(usize::try_from(*number).ok()?)?;
            Some(at.duration_since(*sent))
        };
        let mut delays: Vec<Duration> = received.routes.iter().filter_map(delay).collect();
        delays.sort_unstable();
        let longest = *delays.last().context("no route was told")?;
        let gaps = received.keepalives.windows(2).map(|pair| pair[1] - pair[0]);
        let gap = gaps.max().context("fewer than two KEEPALIVEs came")?;
        Ok((gap, (delays[delays.len() / 2], longest)))
    }
}

fn receive(
    mut stream: TcpStream,
    mut bytes: Vec<u8>,
    over: &AtomicBool,
    count: &AtomicUsize,
) -> anyhow::Result<Received> {
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut received = Received::default();
    let mut buffer = vec![0; 1 << 16];
    let mut alive = Instant::now();
    while !over.load(Ordering::Relaxed) {
        if alive.elapsed() >= OWN_KEEPALIVE {
            alive = Instant::now();
            stream.write_all(&keepalive())?;
        }
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the daemon closed an honest session"),
            Ok(octets) => bytes.extend(&buffer[..octets]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("an honest session"),
        }
        let now = Instant::now();
        let mut read = 0;
        while let Some((message, length)) = wire::next_message(&bytes[read..])? {
            read += length;
            match message {
                Message::Keepalive => received.keepalives.push(now),
                Message::Update(body) => {
                    count.fetch_add(prefixes(body, now, &mut received), Ordering::Relaxed);
                }
                Message::Notification(code, subcode) => {
                    bail!("an honest session was ended with {code}/{subcode}")
                }
                Message::Open | Message::Refresh => {}
            }
        }
        bytes.drain(..read);
    }
    Ok(received)
}

/// Notes the timed ones; how many there are of all.
fn prefixes(body: &[u8], now: Instant, received: &mut Received) -> usize {
    let field = |at: usize| usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    let withdrawn = field(0);
    let attributes = field(2 + withdrawn);
    let mut rest = &body[4 + withdrawn + attributes..];
    let mut count = 0;
    while let [bits, tail @ ..] = rest {
        let octets = usize::from(bits.div_ceil(8));
        if let (32, [TIMED, a, b, c, ..]) = (*bits, tail) {
            let number = u32::from_be_bytes([0, *a, *b, *c]);
            received.routes.entry(number).or_insert(now);
        }
        count += 1;
        rest = &tail[octets..];
    }
    count
}

/// What an OPEN says of the Hold Time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenWith {
    /// More than the daemon does.
    HoldTime,
    /// None.
    NoHoldTime,
}

/// Reads and forgets, until the connection ends.
pub(super) fn drain(mut stream: TcpStream) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
    })
}

/// Connects until the daemon lets a session come up; what was read beyond that.
pub(super) fn establish(from: Ipv4Addr, open: OpenWith) -> anyhow::Result<(TcpStream, Vec<u8>)> {
    let deadline = Instant::now() + START_TIME;
    loop {
        match try_establish(from, open) {
            Ok(session) => return Ok(session),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Connects once.
pub(super) fn try_establish(
    from: Ipv4Addr,
    open: OpenWith,
) -> anyhow::Result<(TcpStream, Vec<u8>)> {
    let mut stream = connect(from)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut out = Vec::new();
    wire::write_open(&mut out, ASN, from, Family::V4);
    if open == OpenWith::NoHoldTime {
        // Behind the header, the version and the AS.
        out[wire::HEADER + 3..wire::HEADER + 5].fill(0);
    }
    out.extend(keepalive());
    stream.write_all(&out)?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let octets = stream.read(&mut buffer)?;
        ensure!(octets > 0, "the daemon closed the connection");
        bytes.extend(&buffer[..octets]);
        let mut read = 0;
        while let Some((message, length)) = wire::next_message(&bytes[read..])? {
            read += length;
            match message {
                Message::Keepalive => {
                    stream.set_read_timeout(None)?;
                    return Ok((stream, bytes.split_off(read)));
                }
                Message::Notification(code, subcode) => bail!("NOTIFICATION {code}/{subcode}"),
                Message::Open | Message::Update(_) | Message::Refresh => {}
            }
        }
        bytes.drain(..read);
    }
}

/// A connection from an address.
pub(super) fn connect(from: Ipv4Addr) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&SocketAddr::from((DAEMON, 179)).into())?;
    Ok(socket.into())
}

pub(super) fn keepalive() -> Vec<u8> {
    let mut out = Vec::new();
    wire::write_keepalive(&mut out);
    out
}

/// An UPDATE of prefixes with a next hop on the link, LOCAL_PREF 100, and more attributes.
pub(super) fn update(more: &[u8], prefixes: &[&[u8]]) -> Vec<u8> {
    let IpAddr::V4(next_hop) = IpAddr::V4(crate::world::World::next_hop(0)) else {
        unreachable!("an IPv4 address")
    };
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4];
    attributes.extend(next_hop.octets());
    attributes.extend([0x40, 5, 4, 0, 0, 0, 100]);
    attributes.extend(more);
    let octets: usize = prefixes.iter().map(|prefix| prefix.len()).sum();
    let length = wire::HEADER + 4 + attributes.len() + octets;
    let short = |length: usize| u16::try_from(length).expect("it fits").to_be_bytes();
    let mut out = vec![0xff; 16];
    out.extend(short(length));
    out.extend([2, 0, 0]);
    out.extend(short(attributes.len()));
    out.extend(attributes);
    prefixes.iter().for_each(|prefix| out.extend(*prefix));
    out
}

/// So many /24, ten of which have a set of attributes of their own.
fn table(routes: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for first in (0..routes).step_by(10) {
        let nets: Vec<[u8; 4]> = (first..routes.min(first + 10)).map(net).collect();
        let nets: Vec<&[u8]> = nets.iter().map(<[u8; 4]>::as_slice).collect();
        let med = [&[0x80, 4, 4][..], &first.to_be_bytes()].concat();
        out.extend(update(&med, &nets));
    }
    out
}

/// The n-th /24.
pub(super) fn net(n: u32) -> [u8; 4] {
    let [_, a, b, c] = (n + (11 << 16)).to_be_bytes();
    [24, a, b, c]
}
