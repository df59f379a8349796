//! Pods that come and go by the thousand: what the agent, the embedded store and its file have grown by meanwhile.

use std::fs;

use lab::{STORE_FILE, Store};

use super::cluster::Cluster;
use super::scenario::Measures;
use super::spent::{memory, resident};

/// Pods that come and go together, 8 at a time.
const PODS: usize = 100;
const TOGETHER: usize = 8;
/// Rounds from one account to the next.
const ROUNDS: usize = 10;
/// Accounts. Before the first as much is done, so that memory is what it is with blocks, threads and caches.
const ACCOUNTS: usize = 8;

pub(super) fn run(seed: u64) -> anyhow::Result<Measures> {
    let mut cluster = Cluster::start(Store::Local, 26, seed, |_| Ok(()))?;
    let mut pods = cluster.prepare(PODS)?;
    let mut measures = Measures::default();
    for _ in 0..=ACCOUNTS {
        for _ in 0..ROUNDS {
            cluster.call_all(&mut pods, "ADD", TOGETHER)?;
            cluster.call_all(&mut pods, "DEL", TOGETHER)?;
        }
        let mib = fs::metadata(STORE_FILE)?.len() as f64 / f64::from(1 << 20);
        measures.note("cycles agent MiB", memory()?.0);
        measures.note("cycles store MiB", resident("tortie-store")?.0);
        measures.note("cycles file MiB", mib);
    }
    Ok(measures)
}
