//! A TCP exchange in which the receiver tells the source address it saw, which shows any address translation on the way.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::netns::NetNs;

/// A listener in a namespace that answers each connection with the peer's address in text, and closes.
#[derive(Debug)]
pub struct SourceReporter {
    address: SocketAddr,
    namespace: NetNs,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SourceReporter {
    /// Listens on `address` inside `namespace`, on a port that the kernel picks.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(namespace: &NetNs, address: impl Into<IpAddr>) -> io::Result<Self> {
        let address = SocketAddr::new(address.into(), 0);
        let listener = namespace.run(|| -> io::Result<TcpListener> {
            let socket = socket_for(address)?;
            socket.bind(&address.into())?;
            socket.listen(1024)?;
            Ok(socket.into())
        })?;
        let address = listener.local_addr()?;
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
    pub fn address(&self) -> SocketAddr {
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
    pub source: IpAddr,
    /// Time from connect to the answer's end.
    pub took: Duration,
}

/// Connects from `namespace` to a [`SourceReporter`] and returns the address it saw.
///
/// # Errors
/// What the kernel answers; `TimedOut` when nothing came; `InvalidData` when the answer is no address.
pub fn ask_source(namespace: &NetNs, target: SocketAddr, timeout: Duration) -> io::Result<Seen> {
    let socket = namespace.run(|| socket_for(target))?;
    ask_source_over(socket, target, timeout)
}

/// As [`ask_source`], for a thread that is in the namespace already.
///
/// # Errors
/// As [`ask_source`].
pub fn ask_source_here(target: SocketAddr, timeout: Duration) -> io::Result<Seen> {
    ask_source_over(socket_for(target)?, target, timeout)
}

fn socket_for(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, None)
}

fn ask_source_over(mut socket: Socket, target: SocketAddr, timeout: Duration) -> io::Result<Seen> {
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
