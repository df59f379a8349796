//! One peer of the daemon.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

use crate::table::Table;
use crate::wire::{self, Message};

/// Receive buffers of the peers' sockets: large, so that what is measured is the daemon.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A peer: a sender, which reads and forgets, or a receiver, which has a table.
#[derive(Debug)]
pub struct Client {
    /// Its address, which is its BGP Identifier, too.
    pub address: Ipv4Addr,
    /// What it received; absent for a sender.
    pub table: Option<Table>,
    stream: Option<TcpStream>,
    state: State,
    received: Vec<u8>,
    sending: Vec<u8>,
    sent: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

/// What became of a client's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is well.
    Open,
    /// It is closed.
    Closed,
}

impl Client {
    /// A client that is not connected.
    #[must_use]
    pub const fn new(address: Ipv4Addr, table: Option<Table>) -> Self {
        Self {
            address,
            table,
            stream: None,
            state: State::Down,
            received: Vec::new(),
            sending: Vec::new(),
            sent: 0,
        }
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// When the system refuses a socket.
    pub fn connect(&mut self, daemon: SocketAddr) -> anyhow::Result<&TcpStream> {
        let socket = Socket::new(
            Domain::IPV4,
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddr::from((self.address, 0)).into())?;
        match socket.connect(&daemon.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
            Err(error) => return Err(error).context("connecting to the daemon"),
        }
        self.state = State::Connecting;
        self.received.clear();
        self.sending.clear();
        self.sent = 0;
        Ok(self.stream.insert(socket.into()))
    }

    /// Closes the connection, without a NOTIFICATION, and forgets what was received.
    pub fn disconnect(&mut self) {
        self.stream = None;
        self.state = State::Down;
        if let Some(table) = &mut self.table {
            table.clear();
        }
    }

    /// Whether the session stands.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.state == State::Established
    }

    /// Whether there is no connection, nor an attempt.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state == State::Down
    }

    /// Adds bytes to be sent and sends what the socket takes.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.sending.extend(bytes);
        self.on_writable()
    }

    /// The socket takes bytes.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn on_writable(&mut self) -> anyhow::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        if self.state == State::Connecting {
            self.state = State::OpenSent;
            wire::write_open(&mut self.sending, self.address);
        }
        while self.sent < self.sending.len() {
            match stream.write(&self.sending[self.sent..]) {
                Ok(octets) => self.sent += octets,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("writing to the daemon"),
            }
        }
        self.sending.clear();
        self.sent = 0;
        Ok(())
    }

    /// The socket has bytes: reads all there are. `buffer` is room to read into.
    ///
    /// # Errors
    /// When what comes is wrong, or the daemon sends a NOTIFICATION in a session that stands.
    pub fn on_readable(&mut self, buffer: &mut [u8]) -> anyhow::Result<Fate> {
        loop {
            let Some(stream) = &mut self.stream else {
                return Ok(Fate::Closed);
            };
            let octets = match stream.read(buffer) {
                Ok(octets) if octets > 0 => octets,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Fate::Open),
                // A daemon that is not ready refuses or resets; one whose session stands must not.
                Ok(_) | Err(_) if self.state != State::Established => return Ok(Fate::Closed),
                Ok(_) => anyhow::bail!("the daemon closed the session of {}", self.address),
                Err(error) => return Err(error).context("reading from the daemon"),
            };
            if self.take(&buffer[..octets])? == Fate::Closed {
                return Ok(Fate::Closed);
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> anyhow::Result<Fate> {
        if self.table.is_none() && self.state == State::Established {
            return Ok(Fate::Open);
        }
        let mut received = std::mem::take(&mut self.received);
        received.extend(bytes);
        let mut read = 0;
        while let Some((message, length)) = wire::next_message(&received[read..])? {
            read += length;
            if self.message(message)? == Fate::Closed {
                return Ok(Fate::Closed);
            }
        }
        received.drain(..read);
        self.received = received;
        Ok(Fate::Open)
    }

    fn message(&mut self, message: Message<'_>) -> anyhow::Result<Fate> {
        match message {
            Message::Open if self.state == State::OpenSent => {
                self.state = State::OpenConfirm;
                let mut keepalive = Vec::new();
                wire::write_keepalive(&mut keepalive);
                self.send(&keepalive)?;
            }
            Message::Keepalive if self.state == State::OpenConfirm => {
                self.state = State::Established;
            }
            Message::Update(body) => {
                if let Some(table) = &mut self.table {
                    let mut outcome = Ok(());
                    wire::read_update(body, |prefix, tag| {
                        if let Err(error) = table.set(prefix, tag) {
                            outcome = Err(error);
                        }
                    })?;
                    outcome?;
                }
            }
            Message::Notification(code, subcode) => {
                anyhow::ensure!(
                    self.state != State::Established,
                    "the daemon ended the session of {} with NOTIFICATION {code}/{subcode}",
                    self.address
                );
                return Ok(Fate::Closed);
            }
            Message::Open | Message::Keepalive | Message::Refresh => {}
        }
        Ok(Fate::Open)
    }
}

/// Linux' number for "the connection is on its way".
const EINPROGRESS: i32 = 115;
