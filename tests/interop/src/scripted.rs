//! A peer whose octets the test writes itself, right or wrong: over TCP, with none of our encoder.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use lab::NetNs;

use crate::eventually;

/// Only a fault meets this deadline.
const DEADLINE: Duration = Duration::from_secs(30);

/// Message types (RFC 4271 §4.1, RFC 2918 §3).
pub mod kind {
    /// OPEN.
    pub const OPEN: u8 = 1;
    /// UPDATE.
    pub const UPDATE: u8 = 2;
    /// NOTIFICATION.
    pub const NOTIFICATION: u8 = 3;
    /// KEEPALIVE.
    pub const KEEPALIVE: u8 = 4;
    /// ROUTE-REFRESH.
    pub const ROUTE_REFRESH: u8 = 5;
}

/// A TCP connection to our speaker.
#[derive(Debug)]
pub struct Scripted {
    stream: TcpStream,
}

/// A NOTIFICATION as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Data field.
    pub data: Vec<u8>,
}

impl Scripted {
    /// Connects from a namespace, as soon as somebody listens there.
    ///
    /// # Panics
    /// When nobody does in time.
    #[must_use]
    pub fn connect(from: &NetNs, to: Ipv4Addr) -> Self {
        let stream = eventually(&format!("{to} listens"), || {
            let address = SocketAddr::from((to, 179));
            from.run(|| TcpStream::connect_timeout(&address, DEADLINE))
                .map_err(|error| error.to_string())
        });
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("a duration above zero");
        Self { stream }
    }

    /// Sends octets as they are.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn say(&mut self, octets: &[u8]) {
        self.stream
            .write_all(octets)
            .expect("the connection stands");
    }

    /// The next message's type and body; `None` at the end of the stream.
    ///
    /// # Panics
    /// When none comes in time, or its header is wrong.
    pub fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 19];
        match self.stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("nothing is heard: {error}"),
        }
        assert_eq!(header[..16], [0xff; 16], "the marker");
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let mut body = vec![0; length - header.len()];
        self.stream.read_exact(&mut body).expect("a whole message");
        Some((header[18], body))
    }

    /// Says an OPEN and a KEEPALIVE, and hears theirs; the body of their OPEN.
    ///
    /// # Panics
    /// When something else comes.
    pub fn establish(&mut self, open: &[u8]) -> Vec<u8> {
        self.say(open);
        self.say(&message(kind::KEEPALIVE, &[]));
        let Some((kind::OPEN, body)) = self.hear() else {
            panic!("no OPEN");
        };
        assert_eq!(self.hear(), Some((kind::KEEPALIVE, Vec::new())));
        body
    }

    /// Hears until a NOTIFICATION, after which the stream must end.
    ///
    /// # Panics
    /// When the stream ends without one, or goes on after it.
    pub fn told(&mut self) -> Told {
        loop {
            let (kind, body) = self.hear().expect("a NOTIFICATION before the end");
            if kind == kind::NOTIFICATION {
                assert_eq!(self.hear(), None, "nothing comes after a NOTIFICATION");
                return Told {
                    code: body[0],
                    subcode: body[1],
                    data: body[2..].to_vec(),
                };
            }
        }
    }
}

/// A message with a right header.
///
/// # Panics
/// When it is longer than its length field can say.
#[must_use]
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).expect("at most 65535 octets");
    let mut octets = vec![0xff; 16];
    octets.extend(length.to_be_bytes());
    octets.push(kind);
    octets.extend(body);
    octets
}

/// An OPEN with one optional parameter that holds these capabilities.
///
/// # Panics
/// When they do not fit.
#[must_use]
pub fn open(asn: u16, hold_time: u16, identifier: Ipv4Addr, capabilities: &[u8]) -> Vec<u8> {
    let length = u8::try_from(capabilities.len()).expect("few capabilities");
    let mut body = vec![4];
    body.extend(asn.to_be_bytes());
    body.extend(hold_time.to_be_bytes());
    body.extend(identifier.octets());
    body.extend([length + 2, 2, length]);
    body.extend(capabilities);
    message(kind::OPEN, &body)
}

/// Capability 1 (RFC 4760 §8) for unicast of an address family.
#[must_use]
pub const fn multiprotocol(afi: u8) -> [u8; 6] {
    [1, 4, 0, afi, 0, 1]
}

/// A path attribute with a length of one octet.
///
/// # Panics
/// When the value is longer than 255 octets.
#[must_use]
pub fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("a short value");
    let mut octets = vec![flags, code, length];
    octets.extend(value);
    octets
}

/// An UPDATE of path attributes and IPv4 NLRI.
///
/// # Panics
/// When it is longer than a message can be.
#[must_use]
pub fn update(attributes: &[Vec<u8>], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = u16::try_from(attributes.len()).expect("few attributes");
    let mut body = vec![0, 0];
    body.extend(length.to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    message(kind::UPDATE, &body)
}
