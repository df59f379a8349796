//! One run of one scenario with one daemon.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::daemon::{Daemon, Kind};
use crate::load::{End, Load, PACE};
use crate::place::Pinned;
use crate::plan::{Hearing, Peers, Phase, Plan};
use crate::routes::{Relay, Routes};
use crate::table::{Contents, Table};
use crate::usage::{Processes, own_cpu};
use crate::wire;
use crate::world::World;

/// A daemon that spends less than this in a look's time is at rest.
const REST_CPU: Duration = Duration::from_millis(1);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Looks at most.
const LOOKS: usize = 100;
/// How often [`Phase::OneChange`] is done.
const CHANGES: u32 = 40;
/// Longest time until all sessions stand where that is not what is measured.
const ESTABLISH_LIMIT: Duration = Duration::from_secs(60);
/// Time in which a daemon that has opened its port reads about its neighbours.
const START: Duration = Duration::from_millis(300);

/// What a phase took, in one run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Until the last receiver was right; absent when that was not within the limit.
    pub wall_seconds: Option<f64>,
    /// What the daemon spent until it was at rest.
    pub cpu_seconds: f64,
    /// What the peers spent until the last receiver was right: as long as that is well below the wall time, it is the daemon that was
    /// waited for.
    pub peers_cpu_seconds: f64,
    /// The daemon's peak of resident memory so far.
    pub peak_mib: f64,
    /// The limit, when it was reached.
    pub limit_seconds: Option<f64>,
}

/// What one run found out.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Phases in order; those after one that cannot be gone on from are missing.
    pub phases: Vec<(Phase, Measured)>,
    /// Phases that reached the limit, and why.
    pub late: Vec<(Phase, String)>,
}

/// Does the plan's phases with a fresh daemon, each for at most `limit`, without those to `skip`. `seed` decides about routes.
///
/// # Errors
/// When the daemon cannot be started or sends what is wrong.
pub fn run(
    plan: &Plan,
    kind: Kind,
    world: World,
    directory: &Path,
    limit: Duration,
    skip: &[Phase],
    seed: u64,
) -> anyhow::Result<Outcome> {
    let peers = world.peers(plan);
    let relay = match (plan.peers, kind) {
        (Peers::Reflected, _) | (Peers::External, Kind::Floor) => Relay::Unchanged,
        (Peers::External, _) => Relay::NextAs {
            next_hop: world.daemon(plan.family),
        },
    };
    let routes = Rc::new(Routes::new(plan, relay, seed));
    let daemon = Daemon::start(kind, plan, world, &peers, directory)?;
    let _pinned = Pinned::to_last();
    let total = routes.total();
    let clients = (0u16..).zip(&peers).map(|(number, peer)| {
        let table = if number >= plan.senders {
            Some(Table::new(total))
        } else {
            (plan.hearing == Hearing::All).then(|| Table::new(total).without(routes.own(number)))
        };
        Client::new(*peer, plan.family, Rc::clone(&routes), table)
    });
    let run = Run {
        plan,
        load: Load::new(daemon.address, clients.collect())?,
        processes: daemon.processes(),
        version: 0,
        contents: Rc::new(vec![0; total]),
        routes,
        limit,
    };
    run.all(skip).with_context(|| {
        format!(
            "{}: {kind}: its log ends with:\n{}",
            plan.name,
            daemon.log()
        )
    })
}

struct Run<'a> {
    plan: &'a Plan,
    load: Load,
    processes: Processes,
    version: u8,
    contents: Contents,
    routes: Rc<Routes>,
    limit: Duration,
}

/// How a phase ended, and what it took.
struct Ended {
    measured: Measured,
    late: Option<String>,
}

impl Run<'_> {
    fn all(mut self, skip: &[Phase]) -> anyhow::Result<Outcome> {
        self.load.idle(START)?;
        let mut outcome = Outcome::default();
        if !self.plan.phases.contains(&Phase::Establish) || skip.contains(&Phase::Establish) {
            self.establish()?;
        }
        for phase in self.plan.phases {
            if skip.contains(phase) {
                if phase.leaves_routes() {
                    continue;
                }
                // What comes after begins with what it leaves.
                break;
            }
            let ended = self
                .phase(*phase)
                .with_context(|| format!("during {}", phase.name()))?;
            outcome.phases.push((*phase, ended.measured));
            if let Some(late) = ended.late {
                outcome.late.push((*phase, late));
                if !phase.leaves_routes() || *phase == Phase::Refresh {
                    break;
                }
                // Connecting a few at a time is something else, and what comes next can be measured then.
                self.establish()?;
            }
        }
        Ok(outcome)
    }

    /// All sessions stand, and the daemon has nothing to do.
    fn establish(&mut self) -> anyhow::Result<()> {
        // Those that the daemon had no room for may wait long for an answer.
        let clients = self.load.clients.iter_mut();
        clients
            .filter(|client| !client.is_established())
            .for_each(Client::disconnect);
        self.load.pace = PACE;
        self.load.connect()?;
        if let End::Late(late) = self.load.until_right(ESTABLISH_LIMIT)? {
            bail!("not within {ESTABLISH_LIMIT:?}: {late}");
        }
        self.cpu_at_rest().map(drop)
    }

    fn phase(&mut self, phase: Phase) -> anyhow::Result<Ended> {
        let before = self.processes.cpu()?;
        let (end, wall, peers_cpu) = match phase {
            Phase::OneChange => self.changes()?,
            Phase::Establish
            | Phase::Announce
            | Phase::Readvertise
            | Phase::Refresh
            | Phase::Withdraw
            | Phase::Flap
            | Phase::FlapSender
            | Phase::Return => {
                let messages = self.prepare(phase)?;
                let own_before = own_cpu();
                let start = Instant::now();
                self.begin(phase, &messages)?;
                let end = self.load.until_right(self.limit)?;
                let wall = Instant::now();
                let wall = match &end {
                    End::Right(at) => at.duration_since(start),
                    End::Late(_) => wall.duration_since(start),
                };
                (end, wall, own_cpu().saturating_sub(own_before))
            }
        };
        let late = match end {
            End::Right(_) => None,
            End::Late(late) => Some(late),
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "memory in KiB is far below 2^52"
        )]
        let peak_mib = self.processes.peak_kib()? as f64 / 1024.0;
        let cpu = match late {
            // It is not at rest, and need not become so.
            Some(_) => self.processes.cpu()?,
            None => self.cpu_at_rest()?,
        };
        Ok(Ended {
            measured: Measured {
                wall_seconds: late.is_none().then_some(wall.as_secs_f64()),
                cpu_seconds: cpu.saturating_sub(before).as_secs_f64(),
                peers_cpu_seconds: peers_cpu.as_secs_f64(),
                peak_mib,
                limit_seconds: late.is_some().then_some(self.limit.as_secs_f64()),
            },
            late,
        })
    }

    /// Sets what is expected, and makes what each sender is to send and the sockets that are needed.
    fn prepare(&mut self, phase: Phase) -> anyhow::Result<Vec<Vec<u8>>> {
        let senders = 0..self.plan.senders;
        let clients = &mut self.load.clients;
        let mut messages = Vec::new();
        match phase {
            Phase::Announce | Phase::Readvertise => {
                self.version += 1;
                messages = senders
                    .clone()
                    .map(|sender| self.routes.announcement(self.version, sender))
                    .collect();
                self.expect(self.routes.contents(self.version, senders));
            }
            Phase::Withdraw => {
                messages = senders
                    .map(|sender| self.routes.withdrawal(sender))
                    .collect();
                self.expect(vec![0; self.routes.total()]);
            }
            Phase::FlapSender => self.expect(self.routes.contents(self.version, 1..senders.end)),
            Phase::Return => {
                clients[0].prepare()?;
                clients[0].greeting = self.routes.announcement(self.version, 0);
                self.expect(self.routes.contents(self.version, senders));
            }
            Phase::Establish => clients.iter_mut().try_for_each(Client::prepare)?,
            Phase::Flap => {
                let receivers = &mut clients[usize::from(senders.end)..];
                receivers.iter_mut().try_for_each(Client::prepare)?;
            }
            Phase::Refresh | Phase::OneChange => {}
        }
        Ok(messages)
    }

    /// Does what the daemon has to react to.
    fn begin(&mut self, phase: Phase, messages: &[Vec<u8>]) -> anyhow::Result<()> {
        let senders = usize::from(self.plan.senders);
        for (client, bytes) in self.load.clients.iter_mut().zip(messages) {
            client.send(bytes)?;
        }
        match phase {
            Phase::Announce | Phase::Readvertise | Phase::Withdraw | Phase::OneChange => {}
            Phase::Refresh => self.refresh()?,
            Phase::FlapSender => {
                self.load.clients[0].wanted = false;
                self.load.clients[0].disconnect();
            }
            Phase::Establish | Phase::Flap | Phase::Return => {
                if phase == Phase::Flap {
                    let receivers = &mut self.load.clients[senders..];
                    receivers.iter_mut().for_each(Client::disconnect);
                }
                self.load.clients[0].wanted = true;
                self.load.pace = usize::MAX;
                self.load.connect()?;
            }
        }
        Ok(())
    }

    fn refresh(&mut self) -> anyhow::Result<()> {
        if let Some(client) = self.load.clients.last_mut() {
            if let Some(table) = &mut client.table {
                table.clear();
            }
            let mut request = Vec::new();
            wire::write_refresh(&mut request, self.plan.family);
            client.send(&request)?;
        }
        Ok(())
    }

    /// The median time of one change, and what the peers spent on all.
    fn changes(&mut self) -> anyhow::Result<(End, Duration, Duration)> {
        let mut times = Vec::new();
        let mut peers_cpu = Duration::ZERO;
        let mut end = End::Right(Instant::now());
        for change in 0..CHANGES {
            self.version += 1;
            let prefix = change % self.plan.prefixes;
            let (bytes, tag) = self.routes.change(self.version, prefix);
            let mut contents = self.contents.to_vec();
            contents[prefix as usize] = tag;
            self.expect(contents);
            let own_before = own_cpu();
            let start = Instant::now();
            self.load.clients[0].send(&bytes)?;
            end = self.load.until_right(self.limit)?;
            let End::Right(at) = end else {
                break;
            };
            times.push(at.duration_since(start));
            peers_cpu += own_cpu().saturating_sub(own_before);
            self.load.idle(Duration::from_millis(5))?;
        }
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or(self.limit);
        Ok((end, median, peers_cpu))
    }

    fn expect(&mut self, contents: Vec<u32>) {
        self.contents = Rc::new(contents);
        for client in &mut self.load.clients {
            if let Some(table) = &mut client.table {
                table.expect(&self.contents);
            }
        }
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
