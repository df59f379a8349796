//! A TCP exchange in which the receiver tells the source address it saw, which shows any address translation on the way.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::netns::NetNs;

/// A listener in a namespace that answers each connection with the peer's address in text, and closes.
#[derive(Debug)]
pub struct SourceReporter {
    address: SocketAddrV4,
    namespace: NetNs,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SourceReporter {
    /// Listens on `address` inside `namespace`, on a port that the kernel picks.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(namespace: &NetNs, address: Ipv4Addr) -> io::Result<Self> {
        let listener = namespace.run(|| -> io::Result<TcpListener> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddrV4::new(address, 0).into())?;
            socket.listen(1024)?;
            Ok(socket.into())
        })?;
        let SocketAddr::V4(address) = listener.local_addr()? else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || serve(&listener, &stopped));
        Ok(Self {
            address,
            namespace: namespace.clone(),
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    while let Ok((mut stream, peer)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // A peer that is gone already sees no answer and reports that itself.
        let _ = write!(stream, "{}", peer.ip());
    }
}

impl Drop for SourceReporter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A connection from its own namespace ends the accept.
        let woken = self
            .namespace
            .run(|| std::net::TcpStream::connect(self.address));
        if woken.is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

/// What one exchange showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The source address as the receiver saw it.
    pub source: Ipv4Addr,
    /// Time from connect to the answer's end.
    pub took: Duration,
}

/// Connects from `namespace` to a [`SourceReporter`] and returns the address it saw.
///
/// # Errors
/// What the kernel answers; `TimedOut` when nothing came; `InvalidData` when the answer is no address.
pub fn ask_source(namespace: &NetNs, target: SocketAddrV4, timeout: Duration) -> io::Result<Seen> {
    let socket = namespace.run(|| Socket::new(Domain::IPV4, Type::STREAM, None))?;
    ask_source_over(socket, target, timeout)
}

/// As [`ask_source`], for a thread that is in the namespace already.
///
/// # Errors
/// As [`ask_source`].
pub fn ask_source_here(target: SocketAddrV4, timeout: Duration) -> io::Result<Seen> {
    ask_source_over(
        Socket::new(Domain::IPV4, Type::STREAM, None)?,
        target,
        timeout,
    )
}

fn ask_source_over(
    mut socket: Socket,
    target: SocketAddrV4,
    timeout: Duration,
) -> io::Result<Seen> {
    let started = Instant::now();
    socket.connect_timeout(&target.into(), timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    let mut answer = String::new();
    socket
        .read_to_string(&mut answer)
        .map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })?;
    let source = answer
        .parse()
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Seen {
        source,
        took: started.elapsed(),
    })
}
