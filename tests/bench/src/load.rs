//! All peers of the daemon, driven by one thread.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use crate::client::{Client, Ending, Fate};

/// Octets read from a socket at a time.
const READ_OCTETS: usize = 256 << 10;
/// Time between attempts to connect to a daemon that refuses.
const RETRY_TIME: Duration = Duration::from_millis(50);
/// Longest wait for events: the end of a limit is looked for this often at least.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// Attempts at a time where connecting is not what is measured: fewer than the shortest backlog, OpenBGPD's 5.
pub const PACE: usize = 4;

/// Time between KEEPALIVEs that RFC 4271 suggests (section 10). FRR needs one to go on: what it has read while its queue of 10,000 messages
/// was full it looks at again only when the next octets come.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);

/// The peers.
pub struct Load {
    /// All of them; the order is the caller's.
    pub clients: Vec<Client>,
    /// Connections attempted at a time.
    pub pace: usize,
    /// Time between two KEEPALIVEs of a session.
    pub keepalive_time: Duration,
    kept_alive: Instant,
    daemon: SocketAddr,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    /// Some clients are to connect, but not before this.
    connect_at: Option<Instant>,
    /// Clients before this one were right when they were last looked at.
    right: usize,
}

/// How moving bytes ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Every client was right at this time: right after the last byte that was missing was read.
    Right(Instant),
    /// The limit came first: who is not right, and why.
    Late(String),
}

impl Load {
    /// Peers that are not connected.
    ///
    /// # Errors
    /// When the system refuses an epoll instance.
    pub fn new(daemon: SocketAddr, clients: Vec<Client>) -> anyhow::Result<Self> {
        Ok(Self {
            clients,
            pace: PACE,
            keepalive_time: KEEPALIVE_TIME,
            kept_alive: Instant::now(),
            daemon,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(256),
            buffer: vec![0; READ_OCTETS],
            connect_at: None,
            right: 0,
        })
    }

    /// Begins to connect wanted clients that are down, as many at a time as the pace allows.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn connect(&mut self) -> anyhow::Result<()> {
        self.connect_at = None;
        let is_trying = |client: &&Client| !client.is_down() && !client.is_established();
        let mut room = self
            .pace
            .saturating_sub(self.clients.iter().filter(is_trying).count());
        for (number, client) in (0u64..).zip(&mut self.clients) {
            if !client.wanted || !client.is_down() {
                continue;
            }
            if room == 0 {
                // Looked at again after the next events.
                self.connect_at = Some(Instant::now());
                break;
            }
            room -= 1;
            let stream = client.connect(self.daemon)?;
            epoll::add(
                &self.epoll,
                stream,
                epoll::EventData::new_u64(number),
                epoll::EventFlags::IN
                    | epoll::EventFlags::RDHUP
                    | epoll::EventFlags::OUT
                    | epoll::EventFlags::ET,
            )?;
        }
        Ok(())
    }

    /// Moves bytes until every client is right, or `limit` has passed.
    ///
    /// # Errors
    /// When a peer got something wrong.
    pub fn until_right(&mut self, limit: Duration) -> anyhow::Result<End> {
        let start = Instant::now();
        self.right = 0;
        loop {
            let now = Instant::now();
            if self.all_right() {
                return Ok(End::Right(now));
            }
            if now.duration_since(start) > limit {
                return Ok(End::Late(self.complaints()));
            }
            self.turn(now)?;
        }
    }

    /// Moves bytes for a time.
    ///
    /// # Errors
    /// When a peer got something wrong.
    pub fn idle(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            self.turn(now)?;
        }
    }

    /// Looks at as few clients as it can: those before the first that is not right are looked at again only at the end.
    fn all_right(&mut self) -> bool {
        let count = |clients: &[Client]| {
            clients
                .iter()
                .take_while(|client| client.is_right())
                .count()
        };
        self.right += count(&self.clients[self.right..]);
        if self.right < self.clients.len() {
            return false;
        }
        self.right = count(&self.clients);
        self.right == self.clients.len()
    }

    fn complaints(&self) -> String {
        let wrong: Vec<&Client> = self
            .clients
            .iter()
            .filter(|client| !client.is_right())
            .collect();
        let first: Vec<String> = wrong
            .iter()
            .take(3)
            .map(|client| client.complaint())
            .collect();
        format!(
            "{} of {} peers are not right: {}",
            wrong.len(),
            self.clients.len(),
            first.join("; ")
        )
    }

    fn turn(&mut self, now: Instant) -> anyhow::Result<()> {
        if self.connect_at.is_some_and(|at| at <= now) {
            self.connect()?;
        }
        if now.duration_since(self.kept_alive) >= self.keepalive_time {
            self.kept_alive = now;
            self.clients.iter_mut().try_for_each(Client::keep_alive)?;
        }
        let wait = Timespec::try_from(LONGEST_WAIT)?;
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            Some(&wait),
        ) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
            let Some(client) = usize::try_from(event.data.u64())
                .ok()
                .and_then(|number| self.clients.get_mut(number))
            else {
                continue;
            };
            let trouble = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::OUT) && !flags.intersects(trouble) {
                client.on_writable()?;
            }
            let mut fate = Fate::Open;
            if flags.contains(epoll::EventFlags::IN) || flags.intersects(trouble) {
                let ending = if flags.intersects(trouble | epoll::EventFlags::RDHUP) {
                    Ending::Closed
                } else {
                    Ending::Open
                };
                fate = client
                    .on_readable(&mut self.buffer, ending)
                    .with_context(|| format!("the peer {}", client.peer.address))?;
            }
            if fate == Fate::Closed && !client.is_down() {
                client.disconnect();
                self.connect_at = Some(Instant::now() + RETRY_TIME);
            }
        }
        Ok(())
    }
}
