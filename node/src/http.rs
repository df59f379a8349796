//! A GET over a Unix or TCP socket: all that probes need of an HTTP client.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// GET over a Unix socket.
pub fn get_unix(socket: &Path, path: &str, patience: Duration) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    get(stream, path)
}

/// GET over TCP; `host` is `name:port`.
pub fn get_tcp(host: &str, path: &str, patience: Duration) -> io::Result<Answer> {
    let stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    get(stream, path)
}

fn get(mut stream: impl Read + Write, path: &str) -> io::Result<Answer> {
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    // In one write: a server may answer and close as soon as it has read the first line.
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_split_into_status_and_body() {
        let answer =
            parse(b"HTTP/1.0 503 Service Unavailable\r\nx: y\r\n\r\nno\r\n\r\nno").unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.body, "no\r\n\r\nno");
        assert_eq!(parse(b"SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(parse(b""), None);
    }
}
