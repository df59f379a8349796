//! What the programs of a world had spent at a moment.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context;
use lab::{Lab, Store};

use super::cluster::Cluster;
use crate::usage::Processes;

/// Of the clock in /proc/self/stat, which has been 100 Hz on every architecture for decades.
const TICKS_PER_SECOND: f64 = 100.0;
/// Resources that agents ask for; others are the API server's own.
const OURS: [&str; 13] = [
    "ip",
    "block",
    "pods",
    "nodes",
    "bgp",
    "felix",
    "cluster",
    "calico",
    "namespaces",
    "secrets",
    "host",
    "network",
    "global",
];

/// Program's name → seconds; and what went over the first node's network.
#[derive(Clone, Debug, Default)]
pub(super) struct Spent {
    /// Processor seconds so far by `agent`, `API server`, `etcd` and `plugin`.
    pub(super) cpu: BTreeMap<&'static str, f64>,
    /// Octets in both directions on the first node's network device.
    pub(super) bytes: u64,
    /// Answered requests, by verb and resource.
    pub(super) requests: BTreeMap<String, u64>,
}

impl Spent {
    /// So far, for [`Spent::since`]. The API server's counters are read only where requests are counted: that costs it more than
    /// some ADDs do.
    ///
    /// # Errors
    /// When /proc or the API server's counters cannot be read.
    pub(super) fn so_far(cluster: &mut Cluster, counted: Counted) -> anyhow::Result<Self> {
        // What reading them costs is not in between.
        let requests = requests(&mut cluster.lab, counted)?;
        Ok(Self {
            requests,
            ..Self::of_programs(&cluster.lab)?
        })
    }

    fn of_programs(lab: &Lab) -> anyhow::Result<Self> {
        let mut cpu = BTreeMap::from([("plugin", of_children()?)]);
        for (name, program) in [
            ("agent", "tortie-node"),
            ("API server", "kube-apiserver"),
            ("etcd", "etcd"),
        ] {
            if let Some(process) = process(program)? {
                cpu.insert(name, Processes::of(process).cpu()?.as_secs_f64());
            }
        }
        Ok(Self {
            cpu,
            bytes: octets(lab)?,
            requests: BTreeMap::new(),
        })
    }

    /// What was spent since then; of requests only those that there were.
    ///
    /// # Errors
    /// As [`Spent::so_far`].
    pub(super) fn since(self, cluster: &mut Cluster, counted: Counted) -> anyhow::Result<Self> {
        let mut spent = Self::of_programs(&cluster.lab)?;
        for (name, seconds) in &mut spent.cpu {
            *seconds -= self.cpu.get(name).copied().unwrap_or_default();
        }
        spent.bytes -= self.bytes;
        spent.requests = requests(&mut cluster.lab, counted)?;
        for (what, count) in &mut spent.requests {
            *count -= self.requests.get(what).copied().unwrap_or_default();
        }
        spent.requests.retain(|_, count| *count > 0);
        Ok(spent)
    }
}

/// Whether requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Yes,
    No,
}

/// Resident memory of the first node's agent, now and at most, in MiB.
///
/// # Errors
/// When there is no agent.
pub(super) fn memory() -> anyhow::Result<(f64, f64)> {
    resident("tortie-node")
}

/// The same of another program.
///
/// # Errors
/// When it does not run.
pub(super) fn resident(program: &str) -> anyhow::Result<(f64, f64)> {
    let agent = process(program)?.with_context(|| format!("no {program} runs"))?;
    let text = fs::read_to_string(format!("/proc/{agent}/status"))?;
    let mib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0)
            .with_context(|| format!("no {name} of process {agent}"))
    };
    Ok((mib("VmRSS:")?, mib("VmHWM:")?))
}

/// A program of this world; of two agents that of the first node.
fn process(name: &str) -> anyhow::Result<Option<u32>> {
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let told = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let node = environment
            .split(|octet| *octet == 0)
            .find_map(|entry| entry.strip_prefix(b"NODENAME="));
        if told.trim() == name && node.is_none_or(|node| node == b"n1") {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Processor seconds of children that have ended.
fn of_children() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").context("/proc/self/stat")?;
    // The name is the second field, cutime and cstime are the 16th and 17th.
    let ticks = fields.split(' ').skip(13).take(2);
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

fn octets(lab: &Lab) -> anyhow::Result<u64> {
    let read = || fs::read_to_string("/proc/thread-self/net/dev");
    let text = lab.topology.sites[0].namespace.run(read)?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"));
    let fields: Vec<u64> = line
        .context("the node has no eth0")?
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // Received octets are the first field, sent ones the ninth.
    Ok(fields.first().unwrap_or(&0) + fields.get(8).unwrap_or(&0))
}

fn requests(lab: &mut Lab, counted: Counted) -> anyhow::Result<BTreeMap<String, u64>> {
    if lab.options.store == Store::Local || counted == Counted::No {
        return Ok(BTreeMap::new());
    }
    let all = lab.kube().server.requests()?;
    let ours = all
        .into_iter()
        .filter(|((_, resource), _)| OURS.iter().any(|beginning| resource.starts_with(beginning)));
    Ok(ours
        .map(|((verb, resource), count)| (format!("{verb} {resource}"), count))
        .collect())
}
