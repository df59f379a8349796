//! The task of one connection: moves bytes between the socket and the driver, in both directions at once.

use std::io;
use std::time::Duration;

use bgp::types::ConnId;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::driver::FromTask;

/// Chunks that the driver gives a connection ahead of the socket.
pub(crate) const CHUNKS_AHEAD: usize = 2;
/// Octets read at a time.
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

/// The channel for [`Write`]: it has room for all chunks ahead and the end, so the driver never waits.
pub(crate) fn channel() -> (mpsc::Sender<Write>, mpsc::Receiver<Write>) {
    mpsc::channel(CHUNKS_AHEAD + 1)
}

/// Runs a connection until it ends, which is told with [`FromTask::Closed`].
pub(crate) async fn run(
    conn: ConnId,
    stream: TcpStream,
    writes: mpsc::Receiver<Write>,
    driver: mpsc::Sender<FromTask>,
    closing: tokio::sync::oneshot::Receiver<()>,
) {
    let (reading, writing) = stream.into_split();
    let write = write(conn, writing, writes, driver.clone());
    let ended = async {
        tokio::select! {
            // The end of what is read, or a failure either way, ends the connection. After `Last` the far end has time
            // to close first: to close with bytes unread would reset the connection and could destroy our last words.
            result = read(conn, reading, driver.clone()) => result,
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
    let _ = driver.send(FromTask::Closed { conn, reason }).await;
}

async fn given_up(closing: tokio::sync::oneshot::Receiver<()>) {
    // Otherwise the driver forgot the connection.
    if let Ok(()) = closing.await {
        tokio::time::sleep(CLOSE_TIME).await;
    }
}

async fn read(
    conn: ConnId,
    mut stream: OwnedReadHalf,
    driver: mpsc::Sender<FromTask>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_OCTETS);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let bytes = buffer.split().freeze();
        // Full: the socket's own window holds the far end back.
        if driver.send(FromTask::Bytes { conn, bytes }).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(
    conn: ConnId,
    mut stream: OwnedWriteHalf,
    mut writes: mpsc::Receiver<Write>,
    driver: mpsc::Sender<FromTask>,
) -> io::Result<std::convert::Infallible> {
    while let Some(write) = writes.recv().await {
        match write {
            Write::Chunk(bytes) => {
                stream.write_all(&bytes).await?;
                if driver.send(FromTask::Written { conn }).await.is_err() {
                    break;
                }
            }
            Write::Last(bytes) => {
                stream.write_all(&bytes).await?;
                stream.shutdown().await?;
                break;
            }
        }
    }
    // Reading goes on until the far end closes or its time is over.
    std::future::pending().await
}
