//! The same pods connected by this project's plugin and by the reference plugins, in one world: a machine for each, of the same shape.
//!
//! ```text
//! n1: tortie-cni ─► tortie-node ─► tortie-store      n2: ptp ─► host-local      n3: bridge ─► host-local
//! ```
//! They take turns round by round, so that what else the machine does falls on all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
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

/// A plugin on its machine.
struct Contender<'a> {
    name: &'static str,
    site: &'a Site,
    plugin: Plugin,
}

/// Measures all that are there, in this many rounds after one that is not timed.
pub(super) fn run(rounds: usize) -> anyhow::Result<Measures> {
    let options = Options {
        nodes: 3,
        store: Store::Local,
        patience: PATIENCE,
        ..Options::default()
    };
    let mut lab = Lab::without_agents(options, Programs::find()?)?;
    lab.start_next_agent()?;
    let mut contenders = vec![Contender {
        name: "tortie",
        site: &lab.topology.sites[0],
        plugin: Plugin::ours(&lab.topology.sites[0])?,
    }];
    for (name, site) in ["ptp", "bridge"].into_iter().zip(&lab.topology.sites[1..]) {
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
        let mut sandboxes = Vec::with_capacity(count);
        for number in 0..count {
            let name = format!("b{round}-{together}-{number}");
            sandboxes.push(make_sandbox(self.site, &name)?.0);
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
