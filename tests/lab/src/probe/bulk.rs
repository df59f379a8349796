//! One TCP connection that is always sending: full segments, which a smaller MTU on the way hits first.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::netns::NetNs;
use crate::runtime::Pod;

/// Octets of one write: ten full segments of Ethernet. Divisible by 8.
const CHUNK: usize = 14_600;
/// Time between two writes.
const INTERVAL: Duration = Duration::from_millis(20);

/// A running transfer of counted 8-octet words.
#[derive(Debug)]
pub struct Bulk {
    name: String,
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<io::Result<u64>>,
    receiver: JoinHandle<io::Result<u64>>,
}

impl Bulk {
    /// Starts to send from one pod to each address of another; named after both. `patience` is how long either end waits for the other.
    pub fn of_families(from: &Pod, to: &Pod, patience: Duration) -> Vec<io::Result<Self>> {
        let start = |address: IpAddr| {
            let name = format!("TCP {} -> {} ({address})", from.label(), to.label());
            Self::start(&name, &from.namespace, &to.namespace, address, patience)
        };
        to.addresses().map(start).collect()
    }

    /// Starts to send from `from` to `address`, which lies in `to`.
    ///
    /// # Errors
    /// What the kernel answers to connecting.
    pub fn start(
        name: &str,
        from: &NetNs,
        to: &NetNs,
        address: impl Into<IpAddr>,
        patience: Duration,
    ) -> io::Result<Self> {
        let address = address.into();
        let listener = to.run(|| TcpListener::bind((address, 0)))?;
        let target = listener.local_addr()?;
        let outbound = from.run(|| TcpStream::connect_timeout(&target, patience))?;
        let (inbound, _) = listener.accept()?;
        outbound.set_write_timeout(Some(patience))?;
        inbound.set_read_timeout(Some(patience))?;
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let (stop_sending, counter) = (stop.clone(), arrived.clone());
        Ok(Self {
            name: name.to_owned(),
            stop,
            arrived,
            sender: std::thread::spawn(move || send(outbound, &stop_sending)),
            receiver: std::thread::spawn(move || receive(inbound, &counter)),
        })
    }

    /// Octets that have arrived.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Ends the connection and says what is wrong, if anything: an end that gave up, or octets that did not arrive.
    ///
    /// # Panics
    /// When one of its threads did.
    #[must_use]
    pub fn finish(self) -> Option<String> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender does not panic");
        let arrived = self.receiver.join().expect("the receiver does not panic");
        match (sent, arrived) {
            (Ok(sent), Ok(arrived)) if sent == arrived && sent > 0 => None,
            (Ok(sent), Ok(arrived)) => {
                Some(format!("{}: {arrived} of {sent} octets arrived", self.name))
            }
            (Err(error), _) => Some(format!("{}: the sender gave up: {error}", self.name)),
            (_, Err(error)) => Some(format!("{}: the receiver gave up: {error}", self.name)),
        }
    }
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<u64> {
    let mut word: u64 = 0;
    let mut chunk = Vec::with_capacity(CHUNK);
    while !stop.load(Ordering::Relaxed) {
        chunk.clear();
        while chunk.len() < CHUNK {
            chunk.extend_from_slice(&word.to_be_bytes());
            word += 1;
        }
        stream.write_all(&chunk)?;
        // Pacing is what this thread is for.
        std::thread::sleep(INTERVAL);
    }
    Ok(word * 8)
}

fn receive(mut stream: TcpStream, arrived: &AtomicU64) -> io::Result<u64> {
    let mut expected: u64 = 0;
    let mut rest = Vec::new();
    let mut buffer = vec![0; 65536];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(expected * 8 + rest.len() as u64);
        }
        arrived.fetch_add(read as u64, Ordering::Relaxed);
        rest.extend_from_slice(&buffer[..read]);
        let (words, tail) = rest.as_chunks::<8>();
        for word in words {
            if u64::from_be_bytes(*word) != expected {
                return Err(io::Error::other(format!("word {expected} is another")));
            }
            expected += 1;
        }
        rest = tail.to_vec();
    }
}
