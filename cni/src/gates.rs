//! What an ADD waits for besides the agent: readiness gates before it, the pod's status file after it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::spec::error::{CniError, Code};

/// How long gates may take in all, as in Calico.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How often a gate or a file is looked at again.
const EVERY: Duration = Duration::from_millis(100);

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A URL that must answer before pods are added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// As it is configured.
    pub url: String,
    /// Host and port.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl Gate {
    /// `None` for what is no `http` URL with a host.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (host, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let sane = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || host.contains('@') || !sane(host) || !sane(path) {
            return None;
        }
        // An IPv6 address has its colons in brackets.
        let has_port = match host.rsplit_once(':') {
            Some((_, port)) => !port.ends_with(']'),
            None => false,
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(Self {
            url: url.to_owned(),
            authority: match has_port {
                true => host.to_owned(),
                false => format!("{host}:80"),
            },
            path: format!("{slash}{path}"),
        })
    }

    /// The status that it answers with.
    fn ask(&self) -> io::Result<u16> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, ANSWER) {
                Ok(stream) => return self.ask_over(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn ask_over(&self, mut stream: TcpStream) -> io::Result<u16> {
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: tortie-cni\r\nConnection: close\r\n\r\n",
            self.path, self.authority
        );
        stream.write_all(request.as_bytes())?;
        let mut said = Vec::new();
        let mut room = [0; 256];
        while !said.contains(&b'\n') && said.len() < 1024 {
            match stream.read(&mut room)? {
                0 => break,
                count => said.extend_from_slice(room.get(..count).unwrap_or_default()),
            }
        }
        let line = String::from_utf8_lossy(&said);
        let status = line.split_ascii_whitespace().nth(1);
        let status = status.filter(|_| line.starts_with("HTTP/1."));
        let status = status.and_then(|status| status.parse().ok());
        status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP"))
    }
}

/// Waits until every gate has answered with a status from 200 to 399.
pub(crate) fn pass(gates: &[Gate], patience: Duration) -> Result<(), CniError> {
    let deadline = Instant::now() + patience;
    for gate in gates {
        loop {
            let why = match gate.ask() {
                Ok(200..=399) => break,
                Ok(status) => format!("it answers with status {status}"),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                let url = &gate.url;
                let text = format!(
                    "readiness_gates: \"{url}\" is not ready after {} s: {why}; allowed: a status from 200 to 399; the runtime will \
                     try again",
                    patience.as_secs()
                );
                return Err(CniError::new(Code::TRY_AGAIN_LATER, text));
            }
            std::thread::sleep(EVERY);
        }
    }
    Ok(())
}

/// Waits until a file is there; whether it came.
pub(crate) fn comes(file: &Path, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !file.exists() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(EVERY);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_gate_is_a_url_with_host_port_and_path() {
        let cases = [
            (
                "http://localhost:9099/readiness",
                Some(("localhost:9099", "/readiness")),
            ),
            ("http://node", Some(("node:80", "/"))),
            ("http://node?a=b", Some(("node:80", "/?a=b"))),
            ("http://[::1]:9099/x?y", Some(("[::1]:9099", "/x?y"))),
            ("http://[::1]/", Some(("[::1]:80", "/"))),
            ("https://localhost/", None),
            ("localhost:9099", None),
            ("http:///x", None),
            ("http://a b/", None),
            ("http://a/\r\nX: y", None),
        ];
        for (url, parts) in cases {
            let gate = Gate::parse(url);
            let found = gate.as_ref().map(|gate| (&*gate.authority, &*gate.path));
            assert_eq!(found, parts, "{url}");
        }
    }

    /// Answers each connection with the next of these.
    fn server(answers: &'static [&'static str]) -> (String, std::thread::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/ready", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let mut served = 0;
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut room = [0; 512];
                let count = stream.read(&mut room).unwrap();
                assert!(room[..count].starts_with(b"GET /ready HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
                served += 1;
            }
            served
        });
        (url, served)
    }

    #[test]
    fn a_gate_is_asked_until_it_is_ready() {
        let (url, served) = server(&[
            "HTTP/1.1 503 Service Unavailable\r\n\r\nno",
            "nonsense\n",
            "HTTP/1.1 302 Found\r\n\r\n",
        ]);
        let gate = Gate::parse(&url).unwrap();
        assert_eq!(pass(&[gate], PATIENCE), Ok(()));
        assert_eq!(served.join().unwrap(), 3);
    }

    #[test]
    fn a_gate_that_stays_shut_is_named_with_its_last_answer() {
        let (url, served) = server(&["HTTP/1.1 503 Service Unavailable\r\n\r\nno"]);
        let gate = Gate::parse(&url).unwrap();
        let error = pass(&[gate], Duration::ZERO).unwrap_err();
        assert_eq!(error.code, Code::TRY_AGAIN_LATER);
        assert!(
            error.msg.contains(&url) && error.msg.contains("503"),
            "{}",
            error.msg
        );
        served.join().unwrap();
    }
}
