//! The same pods connected by this project's plugin and by the reference plugins, in one world: a machine for each, of the same shape.
//!
//! ```text
//! n1: tortie-cni ─► tortie-node ─► tortie-store      n2: ptp ─► host-local      n3: bridge ─► host-local
//! ```
//! They take turns round by round, so that what else the machine does falls on all of them.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use felix::desired::Mac;
use felix_io::workload::{Attachment, Families, HOST_MAC, OldPair, PairSpec, PodNetwork, Threads};
use lab::{Lab, Options, Programs, Sandbox, Site, Store, make_sandbox, remove_sandbox};
use serde_json::{Value, json};

use super::call::{Plugin, call_all};
use super::cluster::PATIENCE;
use super::scenario::Measures;

/// Where the reference plugins lie: Debian's package containernetworking-plugins, or what a runtime's own package brings.
const FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// Calls at a time, in the rounds of several.
const TOGETHER: usize = 8;

/// Pods of a round, one at a time.
const ALONE: usize = 25;
/// Pods of a round, [`TOGETHER`] at a time.
const PARALLEL: usize = 96;

/// Pairs of a round that are made without an agent.
const PAIRS: usize = 10;

/// A plugin on its machine.
struct Contender<'a> {
    name: &'static str,
    site: &'a Site,
    plugin: Plugin,
}

/// Measures those that are there, of all or of these names, in this many rounds after one that is not timed.
pub(super) fn run(rounds: usize, names: &[String]) -> anyhow::Result<Measures> {
    let options = Options {
        nodes: 3,
        store: Store::Local,
        patience: PATIENCE,
        ..Options::default()
    };
    let mut lab = Lab::without_agents(options, Programs::find()?)?;
    lab.start_next_agent()?;
    let asked = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
    let mut contenders = Vec::new();
    if asked("tortie") {
        contenders.push(Contender {
            name: "tortie",
            site: &lab.topology.sites[0],
            plugin: Plugin::ours(&lab.topology.sites[0])?,
        });
    }
    let others = ["ptp", "bridge"].into_iter().zip(&lab.topology.sites[1..]);
    for (name, site) in others.filter(|(name, _)| asked(name)) {
        match folder_with(&[name, "host-local"]) {
            Some(folder) => contenders.push(Contender {
                name,
                site,
                plugin: reference(name, site, &folder)?,
            }),
            None => eprintln!("{name} or host-local is not installed: left out"),
        }
    }
    let mut measures = Measures::default();
    for round in 0..=rounds {
        for contender in &contenders {
            let mut noted = Measures::default();
            contender.round(round, ALONE, 1, &mut noted)?;
            contender.round(round, PARALLEL, TOGETHER, &mut noted)?;
            // The first claims blocks, makes the bridge, and brings the programs into memory.
            if round > 0 {
                measures.take(noted);
            }
        }
    }
    Ok(measures)
}

fn folder_with(programs: &[&str]) -> Option<PathBuf> {
    let mut folders = FOLDERS.iter().map(PathBuf::from);
    folders.find(|folder| programs.iter().all(|name| folder.join(name).exists()))
}

fn reference(name: &str, site: &Site, folder: &Path) -> anyhow::Result<Plugin> {
    // As the agent's store: in memory, where every write has reached the kernel when it returns.
    let data = format!("/run/tortie-lab/host-local-{}", site.name);
    fs::create_dir_all(&data)?;
    let mut configuration = json!({
        "cniVersion": "1.0.0", "name": "bench", "type": name,
        "ipam": {
            "type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.200.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    if name == "bridge" {
        configuration["bridge"] = "cni0".into();
        configuration["isGateway"] = true.into();
    }
    Ok(Plugin {
        program: folder.join(name),
        path: folder.to_owned(),
        configuration: configuration.to_string(),
    })
}

impl Contender<'_> {
    fn round(
        &self,
        round: usize,
        count: usize,
        together: usize,
        measures: &mut Measures,
    ) -> anyhow::Result<()> {
        let sandboxes = make_all(self.site, &format!("b{round}-{together}"), count)?;
        if together == 1 && self.name == "tortie" {
            let (_, started) = call_all(self.site, &self.plugin, &sandboxes, "VERSION", 1)?;
            let times: Vec<Duration> = started.iter().map(|(time, _)| *time).collect();
            measures.note_times("start ms", &times);
            let alone = make_all(self.site, &format!("b{round}-pair"), PAIRS)?;
            measures.note_times("pair ms", &pairs(self.site, &alone)?);
            remove_all(self.site, &alone)?;
        }
        for command in ["ADD", "DEL"] {
            let what = format!("{} {command}", self.name);
            let called = call_all(self.site, &self.plugin, &sandboxes, command, together);
            let (took, answers) = called.with_context(|| what.clone())?;
            if command == "ADD" {
                ensure_distinct(&answers).context(what.clone())?;
            }
            if together == 1 {
                let times: Vec<Duration> = answers.iter().map(|(time, _)| *time).collect();
                measures.note_times(&format!("{what} ms"), &times);
            } else {
                let rate = count as f64 / took.as_secs_f64();
                measures.note(format!("{what} each second, {together} at a time"), rate);
            }
        }
        remove_all(self.site, &sandboxes)
    }
}

/// How long the agent's code takes for a pair each, with nothing around it.
fn pairs(site: &Site, sandboxes: &[Sandbox]) -> anyhow::Result<Vec<Duration>> {
    let work = || -> anyhow::Result<Vec<Duration>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let threads = Threads::open()?;
        let mut times = Vec::with_capacity(sandboxes.len());
        for (number, sandbox) in (1_u8..).zip(sandboxes) {
            let netns = fs::File::open(&sandbox.netns_path)?;
            let spec = PairSpec {
                host_ifname: format!("floor{number}").as_str().into(),
                alias: String::new(),
                old_pair: OldPair::Keep,
                pod_ifname: "eth0".into(),
                mtu_bytes: Some(1500),
                host_mac: HOST_MAC,
                pod_mac: Some(Mac([2, 0, 0, 0, 1, number])),
                queues: 1,
                families: Families::V4,
            };
            let network = PodNetwork::new(vec![IpAddr::from([10, 250, 0, number])]);
            let started = Instant::now();
            runtime.block_on(async {
                let begun = Attachment::begin(&threads, netns.into(), spec).await?;
                begun.finish(network).await
            })?;
            times.push(started.elapsed());
        }
        Ok(times)
    };
    site.namespace.run(work)
}

fn make_all(site: &Site, name: &str, count: usize) -> anyhow::Result<Vec<Sandbox>> {
    let mut sandboxes = Vec::with_capacity(count);
    for number in 0..count {
        sandboxes.push(make_sandbox(site, &format!("{name}-{number}"))?.0);
    }
    Ok(sandboxes)
}

fn remove_all(site: &Site, sandboxes: &[Sandbox]) -> anyhow::Result<()> {
    for sandbox in sandboxes {
        remove_sandbox(site, sandbox)?;
    }
    Ok(())
}

/// What is fast and wrong is not measured.
fn ensure_distinct(answers: &[(Duration, Vec<u8>)]) -> anyhow::Result<()> {
    let mut addresses = Vec::with_capacity(answers.len());
    for (_, answer) in answers {
        let answer: Value = serde_json::from_slice(answer)?;
        let address = answer["ips"][0]["address"].as_str();
        addresses.push(
            address
                .with_context(|| format!("no address: {answer}"))?
                .to_owned(),
        );
    }
    addresses.sort_unstable();
    addresses.dedup();
    ensure!(
        addresses.len() == answers.len(),
        "an address was given twice"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_two_pods_have_or_none_ends_the_measurement() {
        let answers = |addresses: [&str; 2]| {
            addresses.map(|address| {
                let answer = json!({"ips": [{"address": address}]});
                (Duration::ZERO, answer.to_string().into_bytes())
            })
        };
        assert!(ensure_distinct(&answers(["10.0.0.1/32", "10.0.0.2/32"])).is_ok());
        assert!(ensure_distinct(&answers(["10.0.0.1/32", "10.0.0.1/32"])).is_err());
        assert!(ensure_distinct(&[(Duration::ZERO, b"{}".to_vec())]).is_err());
    }
}
