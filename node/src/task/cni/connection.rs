//! One connection of the plugin: a request with a descriptor in, a reply out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use cni::protocol::{FrameReader, Reply, Request, encode_frame};
use cni::spec::error::{CniError, Code};
use rustix::net::RecvFlags;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// How long a plugin may take to send its request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Reading failed, the far end closed half-way, or it was too slow.
    #[error("reading the request")]
    Io(#[from] io::Error),
    /// Octets that make no request: worth an answer.
    #[error(transparent)]
    Frame(#[from] cni::protocol::FrameError),
}

/// Reads the request and the namespace's descriptor. `None`: closed before it sent
/// anything, as a prober does.
pub async fn read_request(
    stream: &UnixStream,
) -> Result<Option<(Request, Option<OwnedFd>)>, RequestError> {
    tokio::time::timeout(REQUEST_PATIENCE, read(stream))
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

async fn read(stream: &UnixStream) -> Result<Option<(Request, Option<OwnedFd>)>, RequestError> {
    let mut reader = FrameReader::default();
    let mut netns = None;
    let mut room = [0_u8; 4096];
    loop {
        let (count, descriptor) = stream
            .async_io(Interest::READABLE, || {
                cni::socket::receive(stream.as_fd(), &mut room)
            })
            .await?;
        if count == 0 {
            return if reader.is_empty() {
                Ok(None)
            } else {
                Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
            };
        }
        if let Some(descriptor) = descriptor {
            netns.get_or_insert(descriptor);
        }
        reader.push(&room[..count]);
        if let Some(request) = reader.message::<Request>()? {
            return Ok(Some((request, netns)));
        }
    }
}

/// Whether the plugin still waits for its answer: it closes nothing before that.
pub fn caller_waits(stream: &UnixStream) -> bool {
    let mut room = [0_u8; 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let seen = rustix::net::recv(stream, &mut room[..], flags);
    // Nothing to be read yet is an error here.
    !matches!(seen, Ok((_, 0)))
}

/// Answers and closes.
pub async fn write_reply(mut stream: UnixStream, reply: &Reply) -> io::Result<()> {
    let frame = encode_frame(reply).or_else(|error| {
        encode_frame(&Reply::Failed(CniError::new(
            Code::PROTOCOL,
            format!("the agent's answer makes no frame: {error}"),
        )))
    });
    stream.write_all(&frame.map_err(io::Error::other)?).await?;
    stream.shutdown().await
}
