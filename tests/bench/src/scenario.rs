//! One run of one scenario with one daemon.

use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::client::Client;
use crate::daemon::{Daemon, Kind};
use crate::load::Load;
use crate::plan::{Phase, Plan};
use crate::table::{Contents, Table};
use crate::usage::Processes;
use crate::wire;
use crate::world::World;

/// Longest phase. Nothing is measured by its end.
const PATIENCE: Duration = Duration::from_secs(180);
/// A daemon that spends less than this in a look's time is at rest.
const REST_CPU: Duration = Duration::from_millis(2);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Looks at most.
const LOOKS: usize = 50;
/// How often [`Phase::OneChange`] is done.
const CHANGES: u32 = 40;

/// What a phase took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Which.
    pub phase: Phase,
    /// Until the last receiver was right.
    pub wall: Duration,
    /// What the daemon spent until it was at rest.
    pub cpu: Duration,
    /// The daemon's peak of resident memory so far.
    pub peak_kib: u64,
}

/// Does the plan's phases with a fresh daemon.
///
/// # Errors
/// When the daemon cannot be started or does not deliver what it must.
pub fn run(
    plan: &Plan,
    kind: Kind,
    world: World,
    directory: &Path,
) -> anyhow::Result<Vec<Measured>> {
    let senders = (0..plan.senders).map(|number| world.sender(number));
    let receivers = (0..plan.receivers).map(|number| world.receiver(number));
    let addresses: Vec<Ipv4Addr> = senders.chain(receivers).collect();
    let daemon = Daemon::start(kind, world, &addresses, directory)?;
    let prefixes = plan.total() as usize;
    let clients = (0usize..).zip(&addresses).map(|(number, address)| {
        let table = (number >= usize::from(plan.senders)).then(|| Table::new(prefixes));
        Client::new(*address, table)
    });
    let run = Run {
        plan,
        load: Load::new(daemon.address, clients.collect())?,
        processes: daemon.processes(),
        version: 0,
        contents: Rc::new(vec![0; prefixes]),
    };
    run.all(kind)
        .with_context(|| format!("{}: {kind}: its log:\n{}", plan.name, daemon.log()))
}

struct Run<'a> {
    plan: &'a Plan,
    load: Load,
    processes: Processes,
    version: u32,
    contents: Contents,
}

impl Run<'_> {
    fn all(mut self, kind: Kind) -> anyhow::Result<Vec<Measured>> {
        // Whoever has opened its port may not have read about its neighbours yet.
        self.load.idle(Duration::from_secs(1))?;
        let mut measured = Vec::new();
        let establish = self.phase(Phase::Establish)?;
        self.load.idle(kind.rest())?;
        for phase in self.plan.phases {
            measured.push(match phase {
                Phase::Establish => establish,
                Phase::Announce
                | Phase::Readvertise
                | Phase::Refresh
                | Phase::Withdraw
                | Phase::Flap
                | Phase::OneChange => self.phase(*phase)?,
            });
        }
        Ok(measured)
    }

    fn phase(&mut self, phase: Phase) -> anyhow::Result<Measured> {
        let messages = self.prepare(phase);
        let before = self.processes.cpu()?;
        let wall = match phase {
            Phase::OneChange => self.changes()?,
            Phase::Establish
            | Phase::Announce
            | Phase::Readvertise
            | Phase::Refresh
            | Phase::Withdraw
            | Phase::Flap => self.until_right(phase, &messages)?,
        };
        Ok(Measured {
            phase,
            wall,
            cpu: self.cpu_at_rest()?.saturating_sub(before),
            peak_kib: self.processes.peak_kib()?,
        })
    }

    /// Sets what is expected, and makes what each sender is to send.
    fn prepare(&mut self, phase: Phase) -> Vec<Vec<u8>> {
        match phase {
            Phase::Announce | Phase::Readvertise => {
                self.version += 1;
                self.expect((0..self.plan.total()).map(|p| self.tag(p)).collect());
                (0..self.plan.senders)
                    .map(|sender| self.announcement(sender))
                    .collect()
            }
            Phase::Withdraw => {
                self.expect(vec![0; self.plan.total() as usize]);
                let mut messages = vec![Vec::new(); usize::from(self.plan.senders)];
                for (sender, out) in (0u8..).zip(&mut messages) {
                    wire::write_unreach(out, self.prefixes_of(sender));
                }
                messages
            }
            Phase::Establish | Phase::Refresh | Phase::Flap | Phase::OneChange => Vec::new(),
        }
    }

    fn until_right(&mut self, phase: Phase, messages: &[Vec<u8>]) -> anyhow::Result<Duration> {
        let start = Instant::now();
        for (client, bytes) in self.load.clients.iter_mut().zip(messages) {
            client.send(bytes)?;
        }
        match phase {
            Phase::Establish => self.load.connect()?,
            Phase::Refresh => self.refresh()?,
            Phase::Flap => {
                let receivers = usize::from(self.plan.senders);
                self.load.clients[receivers..]
                    .iter_mut()
                    .for_each(Client::disconnect);
                self.load.connect()?;
            }
            Phase::Announce | Phase::Readvertise | Phase::Withdraw | Phase::OneChange => {}
        }
        let end = self.load.run(phase.name(), PATIENCE, right)?;
        Ok(end.duration_since(start))
    }

    fn refresh(&mut self) -> anyhow::Result<()> {
        if let Some(client) = self.load.clients.last_mut() {
            if let Some(table) = &mut client.table {
                table.clear();
            }
            let mut request = Vec::new();
            wire::write_refresh(&mut request);
            client.send(&request)?;
        }
        Ok(())
    }

    /// The median time of one change.
    fn changes(&mut self) -> anyhow::Result<Duration> {
        let mut times = Vec::new();
        for change in 0..CHANGES {
            self.version += 1;
            let prefix = change % self.plan.prefixes;
            let mut contents = self.contents.to_vec();
            let tag = self.tag(prefix);
            contents[prefix as usize] = tag;
            self.expect(contents);
            let mut bytes = Vec::new();
            let set = self.plan.set_of(prefix);
            wire::write_reach(&mut bytes, World::next_hop(0), set, tag, [prefix]);
            let start = Instant::now();
            self.load.clients[0].send(&bytes)?;
            let end = self.load.run("one change", PATIENCE, right)?;
            times.push(end.duration_since(start));
            self.load.idle(Duration::from_millis(5))?;
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }

    fn expect(&mut self, contents: Vec<u32>) {
        self.contents = Rc::new(contents);
        for client in &mut self.load.clients {
            if let Some(table) = &mut client.table {
                table.expect(&self.contents);
            }
        }
    }

    fn announcement(&self, sender: u8) -> Vec<u8> {
        let mut out = Vec::new();
        let mut prefixes = self.prefixes_of(sender).peekable();
        while let Some(first) = prefixes.next() {
            let set = self.plan.set_of(first);
            let others =
                std::iter::from_fn(|| prefixes.next_if(|prefix| self.plan.set_of(*prefix) == set));
            let run = std::iter::once(first).chain(others);
            wire::write_reach(&mut out, World::next_hop(sender), set, self.tag(first), run);
        }
        out
    }

    fn prefixes_of(&self, sender: u8) -> std::ops::Range<u32> {
        let first = u32::from(sender) * self.plan.prefixes;
        first..first + self.plan.prefixes
    }

    /// Version, sender and attribute set in one number that is never 0.
    fn tag(&self, prefix: u32) -> u32 {
        let sender = prefix / self.plan.prefixes;
        self.version << 20 | sender << 14 | self.plan.set_of(prefix)
    }

    fn cpu_at_rest(&mut self) -> anyhow::Result<Duration> {
        let mut cpu = self.processes.cpu()?;
        for _ in 0..LOOKS {
            self.load.idle(LOOK)?;
            let now = self.processes.cpu()?;
            if now.saturating_sub(cpu) < REST_CPU {
                return Ok(now);
            }
            cpu = now;
        }
        Ok(cpu)
    }
}

fn right(clients: &[Client]) -> bool {
    clients.iter().all(|client| {
        client.is_established() && client.table.as_ref().is_none_or(|table| table.wrong() == 0)
    })
}
