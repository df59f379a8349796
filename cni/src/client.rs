//! The plugin's side of the socket: one blocking call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::protocol::{FrameError, FrameReader, Reply, Request, encode_frame};
use crate::socket;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens. The request was not sent. Retryable.
    #[error("cannot connect to the agent's socket {}", path.display())]
    Connect {
        /// Socket.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The agent ended or stayed silent. Whether it did what was asked is unknown. Retryable: DEL undoes it.
    #[error("no answer on the agent's socket {}", path.display())]
    NoAnswer {
        /// Socket.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The request or the reply makes no frame.
    #[error("on the agent's socket {}", path.display())]
    Frame {
        /// Socket.
        path: PathBuf,
        /// Cause.
        #[source]
        source: FrameError,
    },
}

/// How long is waited.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For somebody to listen: an agent that starts, or is replaced.
    pub connect: Duration,
    /// For each piece of the reply.
    pub reply: Duration,
}

/// How often it is tried to connect.
const CONNECT_EVERY: Duration = Duration::from_millis(50);

/// Sends `request`, with the namespace's descriptor if there is one, and waits for the reply.
pub fn call(
    path: &Path,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    patience: Patience,
) -> Result<Reply, CallError> {
    let frame = encode_frame(request).map_err(|source| CallError::Frame {
        path: path.to_owned(),
        source,
    })?;
    let connected = connect(path, patience.connect);
    let stream = connected.map_err(|source| CallError::Connect {
        path: path.to_owned(),
        source,
    })?;
    let no_answer = |source| CallError::NoAnswer {
        path: path.to_owned(),
        source,
    };
    let reply = Some(patience.reply);
    stream.set_read_timeout(reply).map_err(no_answer)?;
    stream.set_write_timeout(reply).map_err(no_answer)?;
    send_all(&stream, &frame, netns).map_err(no_answer)?;

    let mut reader = FrameReader::default();
    let mut room = [0; 8192];
    loop {
        let (count, _) = again(|| socket::receive(stream.as_fd(), &mut room)).map_err(no_answer)?;
        if count == 0 {
            let closed = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the agent closed the connection before it answered",
            );
            return Err(no_answer(closed));
        }
        reader.push(&room[..count]);
        if let Some(reply) = reader.message().map_err(|source| CallError::Frame {
            path: path.to_owned(),
            source,
        })? {
            return Ok(reply);
        }
    }
}

/// Connects as soon as somebody listens. What is wrong for another reason is not waited out.
fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + patience;
    loop {
        match UnixStream::connect(path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) && Instant::now() < deadline =>
            {
                std::thread::sleep(CONNECT_EVERY);
            }
            other => return other,
        }
    }
}

fn send_all(
    stream: &UnixStream,
    mut octets: &[u8],
    mut netns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    while !octets.is_empty() {
        let sent = again(|| socket::send(stream.as_fd(), octets, netns))?;
        // The descriptor must arrive once: it went with the first octets.
        netns = None;
        octets = octets.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Repeats a call that a signal cut short.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
