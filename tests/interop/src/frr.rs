//! FRR's bgpd, without zebra: started with a configuration of the test's, asked through `vtysh`.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Child;

use ipnet::IpNet;
use lab::NetNs;
use serde_json::Value;

use crate::daemon::{Daemon, Seen, Unseen, numbers};
use crate::eventually;
use crate::plan::Plan;
use crate::process::{self, Process};

mod config;

/// A running bgpd. It is killed when dropped.
#[derive(Debug)]
pub struct Frr {
    namespace: NetNs,
    directory: PathBuf,
    process: Process,
}

impl Frr {
    /// Whether bgpd and vtysh are installed.
    #[must_use]
    pub fn is_there() -> bool {
        bgpd().is_some() && process::find(&["vtysh"]).is_some()
    }

    /// Starts it in `namespace` and waits until it answers.
    ///
    /// # Errors
    /// When its files cannot be written or the program not be started.
    ///
    /// # Panics
    /// When it is not installed, or does not answer in time: with its log.
    pub fn start(namespace: &NetNs, config: &str) -> io::Result<Self> {
        let directory = Process::directory("frr", config)?;
        let mut frr = Self {
            namespace: namespace.clone(),
            process: spawn(namespace, &directory)?,
            directory,
        };
        frr.wait_ready();
        Ok(frr)
    }

    pub(crate) fn start_plan(namespace: &NetNs, plan: &Plan) -> io::Result<Self> {
        let config = config::of(plan).expect("a String takes everything");
        Self::start(namespace, &config)
    }

    fn wait_ready(&mut self) {
        eventually("bgpd answers", || {
            self.process.check()?;
            self.ask("show version").map(drop)
        });
    }

    /// What one command prints.
    ///
    /// # Errors
    /// vtysh's words.
    pub fn ask(&self, command: &str) -> Result<String, String> {
        self.ask_all(&[command])
    }

    /// What several commands print, one after the other.
    fn ask_all(&self, commands: &[&str]) -> Result<String, String> {
        let program = process::find(&["vtysh"]).ok_or("vtysh is not installed")?;
        process::output(
            self.namespace
                .command(program)
                .arg("--vty_socket")
                .arg(&self.directory)
                .args(["-d", "bgpd"])
                .args(commands.iter().flat_map(|command| ["-c", command])),
        )
    }

    /// What one command prints as JSON; null when it prints something else.
    ///
    /// # Errors
    /// vtysh's words.
    pub fn ask_json(&self, command: &str) -> Result<Value, String> {
        let text = self.ask(&format!("{command} json"))?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }
}

impl Daemon for Frr {
    fn paths(&self, prefix: IpNet) -> Result<Vec<Seen>, Unseen> {
        let family = if prefix.addr().is_ipv4() {
            "ipv4"
        } else {
            "ipv6"
        };
        let detail = self.ask_json(&format!("show bgp {family} unicast {prefix}"))?;
        if detail.is_null() {
            return Err(Unseen::Silent("bgpd printed no JSON".to_owned()));
        }
        let paths = detail["paths"].as_array().cloned().unwrap_or_default();
        let mut learned: Vec<Value> = paths
            .into_iter()
            .filter(|path| path["sourced"].is_null() && path["local"].is_null())
            .collect();
        learned.sort_by_key(|path| path["bestpath"]["overall"] != true);
        if learned.is_empty() {
            return Err(Unseen::Absent(format!("{detail:#}")));
        }
        Ok(learned.iter().map(from_path).collect())
    }

    fn established(&self, ours: IpAddr) -> Result<(), String> {
        let said = self.ask_json(&format!("show bgp neighbors {ours}"))?;
        match said[ours.to_string()]["bgpState"].as_str() {
            Some("Established") => Ok(()),
            _ => Err(format!("{said:#}")),
        }
    }

    fn heard(&self, ours: IpAddr) -> Result<u64, String> {
        let said = self.ask_json(&format!("show bgp neighbors {ours}"))?;
        let count = &said[ours.to_string()]["messageStats"]["updatesRecv"];
        count.as_u64().ok_or_else(|| format!("{said:#}"))
    }

    fn ask_refresh(&self, ours: IpAddr) -> Result<(), String> {
        self.ask(&format!("clear bgp {ours} soft in")).map(drop)
    }

    fn shut_down(&self, ours: IpAddr, text: &str) -> Result<(), String> {
        let running = self.ask("show running-config")?;
        let numbered = running.lines().find(|line| line.starts_with("router bgp "));
        self.ask_all(&[
            "configure terminal",
            numbered.ok_or_else(|| format!("no router in {running}"))?,
            &format!("neighbor {ours} shutdown message {text}"),
        ])
        .map(drop)
    }

    fn reset(&self, ours: IpAddr) -> Result<(), String> {
        self.ask(&format!("clear bgp {ours}")).map(drop)
    }

    fn child(&mut self) -> &mut Child {
        self.process.child()
    }

    fn restart(&mut self) -> io::Result<()> {
        self.process = spawn(&self.namespace, &self.directory)?;
        self.wait_ready();
        Ok(())
    }

    fn said(&self) -> String {
        let neighbours = self.ask("show bgp neighbors").unwrap_or_else(|error| error);
        format!("{neighbours}\n{}", self.process.log())
    }
}

fn from_path(path: &Value) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    // The strings have an end after some thousand characters, the lists do not.
    let members = |name: &str| -> Vec<String> {
        let list = path[name]["list"].as_array().cloned();
        let text = text(&path[name]["string"]).replace("RT:", "rt:");
        let of_text = || text.split_whitespace().map(str::to_owned).collect();
        list.map_or_else(of_text, |list| {
            let word = |member: &Value| member.as_str().map(str::to_owned);
            list.iter().filter_map(word).collect()
        })
    };
    let communities = ["community", "largeCommunity", "extendedCommunity"];
    let clusters = path["clusterList"]["list"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    Seen {
        next_hop: path["nexthops"][0]["ip"]
            .as_str()
            .and_then(|address| address.parse().ok()),
        as_path: numbers(&text(&path["aspath"]["string"])),
        origin: text(&path["origin"]),
        med: number(&path["metric"]),
        local_pref: number(&path["locPrf"]),
        communities: communities.into_iter().flat_map(members).collect(),
        originator: path["originatorId"].as_str().and_then(|id| id.parse().ok()),
        clusters: clusters
            .iter()
            .filter_map(|id| id.as_str()?.parse().ok())
            .collect(),
        only_to_customers: number(&path["otc"]),
        stale: path["stale"] == true,
    }
}

fn spawn(namespace: &NetNs, directory: &Path) -> io::Result<Process> {
    let program = bgpd().expect("the caller asked whether FRR is there");
    let mut command = namespace.command(program);
    // No zebra, no change of user: neither is there in a private world.
    command.args(["--no_zebra", "--skip_runas", "--vty_port", "0"]);
    for (flag, file) in [("-f", "conf"), ("-i", "pid"), ("-z", "zebra")] {
        command.arg(flag).arg(directory.join(file));
    }
    command.arg("--vty_socket").arg(directory);
    Process::spawn(command, directory.to_owned())
}

fn bgpd() -> Option<PathBuf> {
    // Debian keeps FRR's daemons out of PATH.
    Some(PathBuf::from("/usr/lib/frr/bgpd"))
        .filter(|program| program.is_file())
        .or_else(|| process::find(&["bgpd"]))
}
