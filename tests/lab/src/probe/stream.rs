//! Numbered UDP packets at a steady rate, and a count of those that never arrived.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::netns::NetNs;
use crate::runtime::Pod;

/// How long a receiver waits for stragglers after the last packet was sent.
const STRAGGLERS: Duration = Duration::from_secs(1);

/// A running stream of packets numbered from 0.
#[derive(Debug)]
pub struct Stream {
    name: String,
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<io::Result<Vec<Instant>>>,
    receiver: JoinHandle<Vec<u64>>,
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The stream's name.
    pub name: String,
    /// Packets sent.
    pub sent: u64,
    /// Numbers that never arrived.
    pub lost: Vec<u64>,
    /// When each of these was sent.
    pub lost_at: Vec<Instant>,
    /// Packets that arrived more than once.
    pub doubled: u64,
}

impl Stream {
    /// Starts to send `per_second` packets from one pod to another; named after both.
    ///
    /// # Errors
    /// As [`Stream::start`].
    pub fn between(from: &Pod, to: &Pod, per_second: u32) -> io::Result<Self> {
        let name = format!("{} -> {}", from.label(), to.label());
        let (sender, receiver) = (&from.namespace, &to.namespace);
        Self::start(&name, sender, receiver, to.address, per_second)
    }

    /// As [`Stream::between`], a stream to each address of the receiver.
    pub fn of_families(from: &Pod, to: &Pod, per_second: u32) -> Vec<io::Result<Self>> {
        let start = |address: IpAddr| {
            let name = format!("{} -> {} ({address})", from.label(), to.label());
            Self::start(&name, &from.namespace, &to.namespace, address, per_second)
        };
        to.addresses().map(start).collect()
    }

    /// Starts to send `per_second` packets from `from` to `address`, which lies in `to`.
    ///
    /// # Errors
    /// What the kernel answers to opening the sockets.
    pub fn start(
        name: &str,
        from: &NetNs,
        to: &NetNs,
        address: impl Into<IpAddr>,
        per_second: u32,
    ) -> io::Result<Self> {
        let address = address.into();
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let inbound = to.run(|| UdpSocket::bind((address, 0)))?;
        let target = inbound.local_addr()?;
        let outbound = from.run(|| -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(target)?;
            Ok(socket)
        })?;
        inbound.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_sending, stop_receiving) = (stop.clone(), stop.clone());
        let interval = Duration::from_secs(1) / per_second;
        let arrived = Arc::new(AtomicU64::new(0));
        let counter = arrived.clone();
        Ok(Self {
            name: name.to_owned(),
            stop,
            arrived,
            sender: std::thread::spawn(move || send(&outbound, interval, &stop_sending)),
            receiver: std::thread::spawn(move || receive(&inbound, &stop_receiving, &counter)),
        })
    }

    /// How many packets have arrived.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Stops sending; for several that are to wait for their stragglers at the same time.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Stops sending, waits for stragglers, and counts.
    ///
    /// # Errors
    /// What the kernel answered to a send.
    ///
    /// # Panics
    /// When one of its threads did.
    pub fn finish(self) -> io::Result<Outcome> {
        self.stop();
        let times = self.sender.join().expect("the sender does not panic")?;
        let mut arrived = self.receiver.join().expect("the receiver does not panic");
        arrived.sort_unstable();
        let total = arrived.len();
        arrived.dedup();
        let (lost, lost_at) = (0..)
            .zip(&times)
            .filter(|(number, _)| arrived.binary_search(number).is_err())
            .unzip();
        Ok(Outcome {
            name: self.name,
            sent: times.len() as u64,
            lost,
            lost_at,
            doubled: (total - arrived.len()) as u64,
        })
    }
}

/// When each packet was sent.
fn send(socket: &UdpSocket, interval: Duration, stop: &AtomicBool) -> io::Result<Vec<Instant>> {
    let started = Instant::now();
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        times.push(Instant::now());
        let packet = (times.len() as u64 - 1).to_be_bytes();
        if socket.send(&packet).is_err() {
            // Told instead of sending: the ICMP error of an earlier packet. One of this packet is a loss, and counted as such.
            let _ = socket.send(&packet);
        }
        let due = started + interval * u32::try_from(times.len()).unwrap_or(u32::MAX);
        // Pacing is what this thread is for.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(times)
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, counter: &AtomicU64) -> Vec<u64> {
    let mut arrived = Vec::new();
    let mut deadline: Option<Instant> = None;
    let mut buffer = [0; 64];
    loop {
        if let Ok(8) = socket.recv(&mut buffer) {
            counter.fetch_add(1, Ordering::Relaxed);
            arrived.push(u64::from_be_bytes(
                *buffer.first_chunk().expect("8 of 64 bytes"),
            ));
        }
        if stop.load(Ordering::Relaxed)
            && Instant::now() >= *deadline.get_or_insert_with(|| Instant::now() + STRAGGLERS)
        {
            return arrived;
        }
    }
}
