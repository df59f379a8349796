//! One peer of the daemon.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use anyhow::Context;
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::plan::Family;
use crate::routes::Routes;
use crate::table::Table;
use crate::wire::{self, Message};
use crate::world::Peer;

/// A peer: a sender, which reads and forgets, or a receiver, which has a table.
#[derive(Debug)]
pub struct Client {
    /// Who it is.
    pub peer: Peer,
    /// What it received; absent for a sender.
    pub table: Option<Table>,
    /// Whether it is to have a session.
    pub wanted: bool,
    /// What it sends as soon as its session stands.
    pub greeting: Vec<u8>,
    routes: Rc<Routes>,
    family: Family,
    /// Made and bound, so that connecting is all that is left.
    prepared: Option<Socket>,
    stream: Option<TcpStream>,
    state: State,
    /// The beginning of a message whose end has not come.
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

/// Whether the daemon may have closed its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It has not.
    Open,
    /// It has, or the connection failed.
    Closed,
}

impl Client {
    /// A client that is not connected.
    #[must_use]
    pub const fn new(peer: Peer, family: Family, routes: Rc<Routes>, table: Option<Table>) -> Self {
        Self {
            peer,
            table,
            wanted: true,
            greeting: Vec::new(),
            routes,
            family,
            prepared: None,
            stream: None,
            state: State::Down,
            received: Vec::new(),
            sending: Vec::new(),
            sent: 0,
        }
    }

    /// Makes the socket of the next connection, unless there is one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn prepare(&mut self) -> anyhow::Result<()> {
        if self.prepared.is_none() {
            let local = SocketAddr::from((self.peer.address, 0));
            let socket = Socket::new(
                Domain::for_address(local),
                Type::STREAM.nonblocking(),
                Some(Protocol::TCP),
            )?;
            socket.set_tcp_nodelay(true)?;
            socket
                .bind(&local.into())
                .with_context(|| format!("binding {}", self.peer.address))?;
            self.prepared = Some(socket);
        }
        Ok(())
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// When the system refuses a socket.
    pub fn connect(&mut self, daemon: SocketAddr) -> anyhow::Result<&TcpStream> {
        self.prepare()?;
        let socket = self.prepared.take().context("prepared above")?;
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

    /// Whether it is as it is to be: its session stands, and it holds exactly what it must.
    #[must_use]
    pub fn is_right(&self) -> bool {
        !self.wanted
            || self.is_established() && self.table.as_ref().is_none_or(|table| table.wrong() == 0)
    }

    /// What is not right, in words.
    #[must_use]
    pub fn complaint(&self) -> String {
        let address = self.peer.address;
        if !self.is_established() {
            return format!("{address} has no session ({:?})", self.state);
        }
        let Some(table) = &self.table else {
            return format!("{address} is right");
        };
        let first = table
            .first_wrong()
            .map_or_else(String::new, |(number, held, expected)| {
                let prefix = self.routes.prefixes.encode(number);
                format!(
                    ", the first {:02x?}: {held:#x} in place of {expected:#x}",
                    prefix.as_ref()
                )
            });
        format!("{address} has {} prefixes wrong{first}", table.wrong())
    }

    /// Adds bytes to be sent and sends what the socket takes.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.sending.extend(bytes);
        self.on_writable()
    }

    /// Sends a KEEPALIVE when the session stands.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn keep_alive(&mut self) -> anyhow::Result<()> {
        if !self.is_established() {
            return Ok(());
        }
        let mut keepalive = Vec::new();
        wire::write_keepalive(&mut keepalive);
        self.send(&keepalive)
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
            wire::write_open(
                &mut self.sending,
                self.peer.asn,
                self.peer.router_id,
                self.family,
            );
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

    /// The socket has bytes: reads all there are. `buffer` is room to read into. After the last byte comes `ending`, perhaps.
    ///
    /// # Errors
    /// When what comes is wrong, or the daemon sends a NOTIFICATION in a session that stands.
    pub fn on_readable(&mut self, buffer: &mut [u8], ending: Ending) -> anyhow::Result<Fate> {
        loop {
            let Some(stream) = &mut self.stream else {
                return Ok(Fate::Closed);
            };
            let discards = self.table.is_none() && self.state == State::Established;
            let outcome = if discards {
                // Thrown away by the kernel, without a copy (tcp(7)).
                let outcome = rustix::net::recv(&*stream, &mut *buffer, RecvFlags::TRUNC);
                outcome.map(|(_, octets)| octets).map_err(Into::into)
            } else {
                stream.read(buffer)
            };
            let octets = match outcome {
                Ok(octets) if octets > 0 => octets,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Fate::Open),
                // A daemon that is not ready refuses or resets; one whose session stands must not.
                Ok(_) | Err(_) if self.state != State::Established => return Ok(Fate::Closed),
                Ok(_) => anyhow::bail!("the daemon closed the session of {}", self.peer.address),
                Err(error) => return Err(error).context("reading from the daemon"),
            };
            if !discards && self.take(&buffer[..octets])? == Fate::Closed {
                return Ok(Fate::Closed);
            }
            if octets < buffer.len() && ending == Ending::Open {
                // Nothing is left; what comes later is told by another event.
                return Ok(Fate::Open);
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> anyhow::Result<Fate> {
        if self.received.is_empty() {
            // The common case: messages are read where they lie, and only the last one's beginning is kept.
            let (fate, read) = self.messages(bytes)?;
            self.received.extend(&bytes[read..]);
            return Ok(fate);
        }
        let mut received = std::mem::take(&mut self.received);
        received.extend(bytes);
        let (fate, read) = self.messages(&received)?;
        received.drain(..read);
        self.received = received;
        Ok(fate)
    }

    /// Takes the whole messages; returns how many octets that were.
    fn messages(&mut self, bytes: &[u8]) -> anyhow::Result<(Fate, usize)> {
        let mut read = 0;
        while let Some((message, length)) = wire::next_message(&bytes[read..])? {
            read += length;
            if self.message(message)? == Fate::Closed {
                return Ok((Fate::Closed, read));
            }
        }
        Ok((Fate::Open, read))
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
                let greeting = std::mem::take(&mut self.greeting);
                self.send(&greeting)?;
            }
            Message::Update(body) => {
                if let Some(table) = &mut self.table {
                    let mut outcome = Ok(());
                    let prefixes = &self.routes.prefixes;
                    let reach = wire::read_update(body, self.family, prefixes, |prefix, tag| {
                        if let Err(error) = table.set(prefix, tag) {
                            outcome = Err(error);
                        }
                    })?;
                    outcome?;
                    if let Some(reach) = reach {
                        self.routes.check(&reach)?;
                    }
                }
            }
            Message::Notification(code, subcode) => {
                anyhow::ensure!(
                    self.state != State::Established,
                    "the daemon ended the session of {} with NOTIFICATION {code}/{subcode}",
                    self.peer.address
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
