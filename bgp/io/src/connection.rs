//! The task of one connection: moves bytes between the socket and the driver, in both directions at once.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use bgp::types::ConnId;
use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use crate::driver::FromTask;

/// Chunks that the driver gives a connection ahead of the socket.
pub(crate) const CHUNKS_AHEAD: usize = 1;
/// Octets read at a time: at first, which is enough for a session's own messages, and from a peer that sends much.
const READ_OCTETS_FIRST: usize = 4 << 10;
const READ_OCTETS: usize = 64 << 10;
/// How long the far end has to read our last words and to close.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// What the driver gives a connection to write.
pub(crate) enum Write {
    /// Answered by [`FromTask::Written`].
    Chunk(Vec<u8>),
    /// The last bytes; then the connection ends.
    Last(Vec<u8>),
}

/// Where a connection's task puts what it reads.
#[derive(Clone)]
pub(crate) struct Inbox {
    pub(crate) messages: mpsc::Sender<FromTask>,
    /// Room for octets, of all connections together.
    pub(crate) octets: Arc<Semaphore>,
}

impl Inbox {
    /// Waits for room for octets that were read; false when the driver is gone.
    async fn put(&self, conn: ConnId, bytes: Bytes) -> bool {
        // The semaphore lasts as long as the inbox, and no read is longer than it.
        let octets = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.octets).acquire_many_owned(octets).await else {
            return false;
        };
        let message = FromTask::Bytes { conn, bytes, room };
        self.messages.send(message).await.is_ok()
    }
}

/// The channel for [`Write`]: it has room for all chunks ahead and the end, so the driver never waits.
pub(crate) fn channel() -> (mpsc::Sender<Write>, mpsc::Receiver<Write>) {
    mpsc::channel(CHUNKS_AHEAD + 1)
}

/// Runs a connection until it ends, which is told with [`FromTask::Closed`].
pub(crate) async fn run(
    conn: ConnId,
    stream: Arc<TcpStream>,
    writes: mpsc::Receiver<Write>,
    inbox: Inbox,
    closing: tokio::sync::oneshot::Receiver<()>,
) {
    let write = write(conn, &stream, writes, inbox.messages.clone());
    let ended = async {
        tokio::select! {
            // The end of what is read, or a failure either way, ends the connection. After `Last` the far end has time
            // to close first: to close with bytes unread would reset the connection and could destroy our last words.
            result = read(conn, &stream, &inbox) => result,
            result = write => match result {
                Ok(never) => match never {},
                Err(error) => Err(error),
            },
        }
    };
    let result = tokio::select! {
        result = ended => result,
        () = given_up(closing) => Ok(()),
    };
    let reason = result.err().map(|error| error.to_string());
    // The driver may be gone: then nobody asks.
    let _ = inbox.messages.send(FromTask::Closed { conn, reason }).await;
}

async fn given_up(closing: tokio::sync::oneshot::Receiver<()>) {
    // Otherwise the driver forgot the connection.
    if let Ok(()) = closing.await {
        tokio::time::sleep(CLOSE_TIME).await;
    }
}

async fn read(conn: ConnId, stream: &TcpStream, inbox: &Inbox) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut room = READ_OCTETS_FIRST;
    loop {
        stream.readable().await?;
        buffer.reserve(room);
        let octets = match stream.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(octets) => octets,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let bytes = if octets < READ_OCTETS_FIRST && room > READ_OCTETS_FIRST {
            // What a peer that sent much has left is not kept for a KEEPALIVE.
            room = READ_OCTETS_FIRST;
            std::mem::take(&mut buffer)
        } else {
            if octets >= room {
                room = READ_OCTETS;
            }
            buffer.split()
        };
        // Full: the socket's own window holds the far end back.
        if !inbox.put(conn, bytes.freeze()).await {
            return Ok(());
        }
    }
}

async fn write(
    conn: ConnId,
    stream: &TcpStream,
    mut writes: mpsc::Receiver<Write>,
    driver: mpsc::Sender<FromTask>,
) -> io::Result<std::convert::Infallible> {
    while let Some(write) = writes.recv().await {
        match write {
            Write::Chunk(bytes) => {
                write_all(stream, &bytes).await?;
                if driver.send(FromTask::Written { conn }).await.is_err() {
                    break;
                }
            }
            Write::Last(bytes) => {
                write_all(stream, &bytes).await?;
                SockRef::from(stream).shutdown(Shutdown::Write)?;
                break;
            }
        }
    }
    // Reading goes on until the far end closes or its time is over.
    std::future::pending().await
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        bytes = &bytes[write_now(stream, bytes)?..];
    }
    Ok(())
}

/// Writes what the socket takes at once, and returns how much that was.
pub(crate) fn write_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
