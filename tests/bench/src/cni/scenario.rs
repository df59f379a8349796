//! The scenarios, each inside its world.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ipnet::IpNet;
use lab::{RouteChange, RouteMonitor, Store};
use serde::{Deserialize, Serialize};

use super::Scenario;
use super::beside;
use super::cluster::{Cluster, Container};
use super::cycles;
use super::floor;
use super::large;
use super::many;
use super::outside::Arguments;
use super::spent::{Counted, Spent, memory};

/// Addresses of a block of the usual size.
const BLOCK: usize = 64;
/// Pods that come and go in a round: the block is half full in its middle.
const ROUND: usize = 20;
/// Timed rounds of one run, after the one in which requests are counted.
const ROUNDS: usize = 5;
/// Calls at a time.
const TOGETHER: usize = 8;
/// Pods of one parallel round.
const PARALLEL: usize = 96;
/// Timed rounds of one run; the blocks were claimed in the one before, in which requests are counted.
const PARALLEL_ROUNDS: usize = 3;
/// Prefix length of the blocks that are claimed one after the other.
const SMALL_BLOCK: u8 = 30;
/// Blocks that one node may own.
const CLAIMS: usize = 20;
/// How long a route may take.
const ROUTE_PATIENCE: Duration = Duration::from_secs(30);

/// What a world measured: samples by the name of what they are of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Milliseconds, MiB, octets or counts, by the name's last word.
    pub samples: BTreeMap<String, Vec<f64>>,
    /// Requests by what caused them: `ADD` → `POST ipamhandles` → how many each.
    pub requests: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Measures {
    pub(super) fn note(&mut self, name: impl Into<String>, value: f64) {
        self.samples.entry(name.into()).or_default().push(value);
    }

    pub(super) fn note_times(&mut self, name: &str, times: &[Duration]) {
        for time in times {
            self.note(name, milliseconds(*time));
        }
    }

    /// Adds what another world, or part of one, measured.
    pub(super) fn take(&mut self, other: Self) {
        for (name, samples) in other.samples {
            self.samples.entry(name).or_default().extend(samples);
        }
        self.requests.extend(other.requests);
    }

    /// What `count` calls of a command cost the programs.
    pub(super) fn note_cpu(&mut self, command: &str, spent: &Spent, count: usize) {
        for (program, seconds) in &spent.cpu {
            let each = seconds * 1e3 / count as f64;
            self.note(format!("{command} {program} CPU ms"), each);
        }
    }

    /// What `count` calls of a command asked of the API server.
    pub(super) fn note_requests(&mut self, command: &str, spent: &Spent, count: usize) {
        if spent.requests.is_empty() {
            return;
        }
        let count = count as f64;
        self.note(format!("{command} octets"), spent.bytes as f64 / count);
        let each = self.requests.entry(command.to_owned()).or_default();
        for (what, asked) in &spent.requests {
            each.insert(what.clone(), *asked as f64 / count);
        }
        let asked: u64 = spent.requests.values().sum();
        self.note(format!("{command} requests"), asked as f64 / count);
    }
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Runs a scenario in the world that this process is the first of.
///
/// # Errors
/// When a program does not come up, or the plugin fails.
pub fn inside(
    store: Store,
    scenario: Scenario,
    seed: u64,
    arguments: &Arguments,
) -> anyhow::Result<Measures> {
    lab::prepare()?;
    match scenario {
        Scenario::Pods => pods(store, seed),
        Scenario::Parallel => parallel(store, seed),
        Scenario::Claims => claims(store, seed),
        Scenario::Many => many::run(seed),
        Scenario::Beside => beside::run(arguments.rounds, &arguments.plugins),
        Scenario::Large => large::run(seed),
        Scenario::Cycles => cycles::run(seed),
    }
}

fn pods(store: Store, seed: u64) -> anyhow::Result<Measures> {
    let mut cluster = Cluster::start(store, 26, seed, |_| Ok(()))?;
    let mut measures = Measures::default();
    let mut living = cluster.prepare(BLOCK / 2 - ROUND / 2)?;
    cluster.call_all(&mut living, "ADD", 1)?;
    cluster.say_running(&living)?;
    for round in 0..=ROUNDS {
        let mut new = cluster.prepare(ROUND)?;
        timed(
            &mut cluster,
            &mut measures,
            round,
            ("ADD", "ADD", 1),
            &mut new,
        )?;
        cluster.say_running(&new)?;
        living.extend(new);
        ensure_distinct(&living)?;
        let mut leaving: Vec<Container> = (0..ROUND)
            .map(|_| living.swap_remove(cluster.below(living.len())))
            .collect();
        cluster.ask_to_end(&leaving)?;
        timed(
            &mut cluster,
            &mut measures,
            round,
            ("DEL", "DEL", 1),
            &mut leaving,
        )?;
        cluster.forget(&leaving)?;
    }
    let (resident, peak) = memory()?;
    measures.note("agent MiB", resident);
    measures.note("agent peak MiB", peak);
    if store == Store::Kube {
        floor::run(&mut cluster, &mut measures)?;
    }
    Ok(measures)
}

fn parallel(store: Store, seed: u64) -> anyhow::Result<Measures> {
    let mut cluster = Cluster::start(store, 26, seed, |_| Ok(()))?;
    let mut measures = Measures::default();
    for round in 0..=PARALLEL_ROUNDS {
        let mut pods = cluster.prepare(PARALLEL)?;
        let add = ("ADD", "8 ADD", TOGETHER);
        timed(&mut cluster, &mut measures, round, add, &mut pods)?;
        ensure_distinct(&pods)?;
        cluster.say_running(&pods)?;
        cluster.ask_to_end(&pods)?;
        let del = ("DEL", "8 DEL", TOGETHER);
        timed(&mut cluster, &mut measures, round, del, &mut pods)?;
        cluster.forget(&pods)?;
    }
    Ok(measures)
}

/// Calls the plugin for all. In the first round requests are counted, in the others time is.
fn timed(
    cluster: &mut Cluster,
    measures: &mut Measures,
    round: usize,
    (command, name, together): (&str, &str, usize),
    pods: &mut [Container],
) -> anyhow::Result<()> {
    let counted = if round == 0 {
        Counted::Yes
    } else {
        Counted::No
    };
    let before = Spent::so_far(cluster, counted)?;
    let (took, times) = cluster.call_all(pods, command, together)?;
    let spent = before.since(cluster, counted)?;
    if counted == Counted::Yes {
        measures.note_requests(name, &spent, pods.len());
        return Ok(());
    }
    measures.note_times(&format!("{name} ms"), &times);
    let rate = pods.len() as f64 / took.as_secs_f64();
    measures.note(format!("{name} each second"), rate);
    measures.note_cpu(name, &spent, pods.len());
    Ok(())
}

fn claims(store: Store, seed: u64) -> anyhow::Result<Measures> {
    let mut cluster = Cluster::start(store, SMALL_BLOCK, seed, |_| Ok(()))?;
    ensure!(cluster.lab.wait_sessions()?, "no BGP session");
    let mut measures = Measures::default();
    let mut pods = cluster.prepare(CLAIMS << (32 - SMALL_BLOCK))?;
    let mut known: Vec<IpNet> = Vec::new();
    let mut monitor = RouteMonitor::open(&cluster.lab.topology.sites[1].namespace)?;
    for pod in &mut pods {
        let started = Instant::now();
        let took = cluster.add(pod)?;
        let block = cluster.lab.options.block_of(pod.address.into());
        if known.contains(&block) {
            continue;
        }
        known.push(block);
        let at = wait_for(&mut monitor, block)?;
        measures.note("claim ADD ms", milliseconds(took));
        measures.note(
            "claim to remote FIB ms",
            milliseconds(at.saturating_duration_since(started)),
        );
    }
    ensure_distinct(&pods)?;
    Ok(measures)
}

fn wait_for(monitor: &mut RouteMonitor, block: IpNet) -> anyhow::Result<Instant> {
    let deadline = Instant::now() + ROUTE_PATIENCE;
    while Instant::now() < deadline {
        let events = monitor.wait(Duration::from_millis(100))?;
        let added = events
            .into_iter()
            .find(|event| event.change == RouteChange::Added && event.route.destination == block);
        if let Some(event) = added {
            return Ok(event.at);
        }
    }
    None.with_context(|| format!("no route to {block} on the other node"))
}

/// What is fast and wrong is not measured.
pub(super) fn ensure_distinct(pods: &[Container]) -> anyhow::Result<()> {
    let mut addresses: Vec<_> = pods.iter().map(|pod| pod.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    ensure!(addresses.len() == pods.len(), "an address was given twice");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_two_pods_have_ends_the_measurement() {
        let pods = |last: [u8; 2]| last.map(|octet| Container::with_address([10, 0, 0, octet]));
        assert!(ensure_distinct(&pods([1, 2])).is_ok());
        assert!(ensure_distinct(&pods([1, 1])).is_err());
    }

    #[test]
    fn what_was_spent_is_that_of_one_call() {
        let spent = Spent {
            cpu: BTreeMap::from([("agent", 0.5)]),
            bytes: 1000,
            requests: BTreeMap::from([("PUT ipamblocks".to_owned(), 100)]),
        };
        let mut measures = Measures::default();
        measures.note_cpu("ADD", &spent, 100);
        measures.note_requests("ADD", &spent, 100);
        assert_eq!(measures.samples["ADD agent CPU ms"], [5.0]);
        assert_eq!(measures.samples["ADD octets"], [10.0]);
        assert_eq!(measures.requests["ADD"]["PUT ipamblocks"], 1.0);
    }
}
