//! All peers of the daemon, driven by one thread.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use crate::client::{Client, Fate};

/// Octets read from a socket at a time.
const READ_OCTETS: usize = 256 << 10;
/// Time between attempts to connect to a daemon that refuses.
const RETRY_TIME: Duration = Duration::from_millis(50);
/// Longest wait for events: conditions are looked at this often at least.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// The peers.
#[derive(Debug)]
pub struct Load {
    /// All of them; the order is the caller's.
    pub clients: Vec<Client>,
    daemon: SocketAddr,
    epoll: OwnedFd,
    buffer: Vec<u8>,
    retry: Option<Instant>,
}

impl Load {
    /// Peers that are not connected.
    ///
    /// # Errors
    /// When the system refuses an epoll instance.
    pub fn new(daemon: SocketAddr, clients: Vec<Client>) -> anyhow::Result<Self> {
        Ok(Self {
            clients,
            daemon,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            buffer: vec![0; READ_OCTETS],
            retry: None,
        })
    }

    /// Begins to connect those that are down, all at once.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn connect(&mut self) -> anyhow::Result<()> {
        for (number, client) in (0u64..).zip(&mut self.clients) {
            if client.is_down() {
                let stream = client.connect(self.daemon)?;
                epoll::add(
                    &self.epoll,
                    stream,
                    epoll::EventData::new_u64(number),
                    epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET,
                )?;
            }
        }
        Ok(())
    }

    /// Moves bytes until `done`; returns when that was.
    ///
    /// # Errors
    /// When `patience` ends first, or a peer got something wrong.
    pub fn run(
        &mut self,
        what: &str,
        patience: Duration,
        done: impl Fn(&[Client]) -> bool,
    ) -> anyhow::Result<Instant> {
        let start = Instant::now();
        let mut events = Vec::with_capacity(256);
        loop {
            let now = Instant::now();
            if done(&self.clients) {
                return Ok(now);
            }
            if now.duration_since(start) > patience {
                let wrong = self
                    .clients
                    .iter()
                    .filter_map(|client| client.table.as_ref());
                let wrong: Vec<usize> = wrong.map(|table| table.wrong()).collect();
                let up = self.clients.iter().filter(|c| c.is_established()).count();
                bail!(
                    "{what}: not within {patience:?}; {up} of {} sessions stand, prefixes wrong by receiver: {wrong:?}",
                    self.clients.len()
                );
            }
            if self.retry.is_some_and(|at| at <= now) {
                self.retry = None;
                self.connect()?;
            }
            self.turn(&mut events)
                .with_context(|| format!("during {what}"))?;
        }
    }

    /// Moves bytes for a time.
    ///
    /// # Errors
    /// When a peer got something wrong.
    pub fn idle(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        self.run("rest", time * 2 + LONGEST_WAIT, |_| Instant::now() >= end)
            .map(drop)
    }

    fn turn(&mut self, events: &mut Vec<epoll::Event>) -> anyhow::Result<()> {
        let wait = Timespec::try_from(LONGEST_WAIT)?;
        events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(events),
            Some(&wait),
        ) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for event in events {
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
                fate = client.on_readable(&mut self.buffer)?;
            }
            if fate == Fate::Closed && !client.is_down() {
                client.disconnect();
                self.retry = Some(Instant::now() + RETRY_TIME);
            }
        }
        Ok(())
    }
}
