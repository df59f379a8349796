//! ExaBGP: started with a configuration of the test's; what it hears it writes down as JSON, from which its table follows.

use std::fmt::{self, Write};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Child;

use bgp::types::AfiSafi;
use ipnet::IpNet;
use lab::NetNs;
use serde_json::Value;

use crate::daemon::{Daemon, Seen, Unseen};
use crate::eventually;
use crate::plan::{Announced, Graceful, Neighbour, Plan};
use crate::process::{self, Process};

/// A running ExaBGP. It is killed when dropped.
#[derive(Debug)]
pub struct ExaBgp {
    namespace: NetNs,
    directory: PathBuf,
    process: Process,
}

impl ExaBgp {
    /// Whether it is installed.
    #[must_use]
    pub fn is_there() -> bool {
        process::find(&["exabgp"]).is_some()
    }

    pub(crate) fn start_plan(namespace: &NetNs, plan: &Plan) -> io::Result<Self> {
        let directory = Process::directory("exabgp", "")?;
        let config = config(plan, &directory).expect("a String takes everything");
        fs::write(directory.join("conf"), config)?;
        // What it says goes to one file, what it is told comes from the other.
        let helper =
            "cd \"$(dirname \"$0\")\"\ntail -n +1 -F commands 2>/dev/null &\nexec cat >>said\n";
        fs::write(directory.join("helper"), helper)?;
        fs::write(directory.join("commands"), "")?;
        fs::write(directory.join("said"), "")?;
        let mut exabgp = Self {
            namespace: namespace.clone(),
            process: spawn(namespace, &directory)?,
            directory,
        };
        exabgp.wait_ready();
        Ok(exabgp)
    }

    fn wait_ready(&mut self) {
        eventually("ExaBGP is up", || {
            self.process.check()?;
            let log = self.process.log();
            match log.contains("loaded new configuration") {
                true => Ok(()),
                false => Err(log),
            }
        });
    }

    /// What it wrote down, whole lines only.
    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.join("said")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// What it wrote down of a session since that last came up or went down, with its state.
    fn session(&self, ours: IpAddr) -> (bool, Vec<Value>) {
        let mut up = false;
        let mut updates = Vec::new();
        for line in self.lines() {
            let neighbour = &line["neighbor"];
            if neighbour["address"]["peer"] != ours.to_string() {
                continue;
            }
            match neighbour["state"].as_str() {
                Some(state) => {
                    up = state == "up";
                    updates.clear();
                }
                None => updates.push(neighbour["message"]["update"].clone()),
            }
        }
        updates.retain(|update| !update.is_null());
        (up, updates)
    }

    fn peers(&self) -> Vec<IpAddr> {
        let lines = self.lines();
        let of_line = |line: &Value| line["neighbor"]["address"]["peer"].as_str()?.parse().ok();
        let mut all: Vec<IpAddr> = lines.iter().filter_map(of_line).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn tell(&self, command: &str) -> Result<(), String> {
        let append = || -> io::Result<()> {
            let mut file = fs::File::options()
                .append(true)
                .open(self.directory.join("commands"))?;
            io::Write::write_all(&mut file, format!("{command}\n").as_bytes())
        };
        append().map_err(|error| error.to_string())
    }
}

impl Daemon for ExaBgp {
    fn paths(&self, prefix: IpNet) -> Result<Vec<Seen>, Unseen> {
        let mut found = Err(Unseen::Absent(format!("{prefix} was not announced")));
        for update in self
            .peers()
            .into_iter()
            .flat_map(|peer| self.session(peer).1)
        {
            let has = |routes: &Value| {
                let routes = routes.as_array().cloned().unwrap_or_default();
                routes
                    .iter()
                    .any(|route| route["nlri"] == prefix.to_string())
            };
            let families = |what: &str| update[what].as_object().cloned().unwrap_or_default();
            for (_, next_hops) in families("announce") {
                let next_hops = next_hops.as_object().cloned().unwrap_or_default();
                for (next_hop, routes) in next_hops {
                    if has(&routes) {
                        found = Ok(from_attributes(&update["attribute"], &next_hop));
                    }
                }
            }
            if families("withdraw").values().any(has) {
                found = Err(Unseen::Absent(format!("{prefix} was withdrawn")));
            }
        }
        found.map(|seen| vec![seen])
    }

    fn established(&self, ours: IpAddr) -> Result<(), String> {
        match self.session(ours).0 {
            true => Ok(()),
            false => Err(self.said()),
        }
    }

    fn heard(&self, ours: IpAddr) -> Result<u64, String> {
        u64::try_from(self.session(ours).1.len()).map_err(|error| error.to_string())
    }

    fn ask_refresh(&self, ours: IpAddr) -> Result<(), String> {
        let family = if ours.is_ipv4() { "ipv4" } else { "ipv6" };
        self.tell(&format!(
            "neighbor {ours} announce route-refresh {family} unicast"
        ))
    }

    fn shut_down(&self, _: IpAddr, _: &str) -> Result<(), String> {
        Err("ExaBGP 4.2 sends no text of its operator's".to_owned())
    }

    fn reset(&self, ours: IpAddr) -> Result<(), String> {
        self.tell(&format!("neighbor {ours} teardown 4"))
    }

    fn child(&mut self) -> &mut Child {
        self.process.child()
    }

    fn restart(&mut self) -> io::Result<()> {
        fs::write(self.directory.join("said"), "")?;
        self.process = spawn(&self.namespace, &self.directory)?;
        self.wait_ready();
        Ok(())
    }

    fn said(&self) -> String {
        let said = fs::read_to_string(self.directory.join("said")).unwrap_or_default();
        format!("{said}\n{}", self.process.log())
    }
}

fn spawn(namespace: &NetNs, directory: &Path) -> io::Result<Process> {
    let program = process::find(&["exabgp"]).expect("the caller asked whether ExaBGP is there");
    let mut command = namespace.command(program);
    command
        .env("exabgp.daemon.user", "root")
        .env("exabgp.api.cli", "false")
        .env("exabgp.api.ack", "false")
        .env("exabgp.log.destination", "stderr")
        .env("exabgp.bgp.openwait", "10")
        .arg(directory.join("conf"));
    Process::spawn(command, directory.to_owned())
}

fn config(plan: &Plan, directory: &Path) -> Result<String, fmt::Error> {
    let mut text = format!(
        "process table {{ run /bin/sh {}/helper; encoder json; }}\n",
        directory.display()
    );
    for neighbour in &plan.neighbours {
        session(&mut text, plan, neighbour)?;
    }
    Ok(text)
}

fn session(text: &mut String, plan: &Plan, neighbour: &Neighbour) -> fmt::Result {
    let Neighbour {
        address,
        asn,
        local,
        hold_time,
        four_octet,
        ..
    } = neighbour;
    writeln!(
        text,
        "neighbor {address} {{\nrouter-id {};\nlocal-address {local};\nlocal-as {};\npeer-as {asn};\nhold-time {hold_time};",
        plan.router_id, plan.asn
    )?;
    if let Some(key) = neighbour.key {
        writeln!(text, "md5-password '{key}';")?;
    }
    if neighbour.ttl_security {
        text.push_str("outgoing-ttl 255;\nincoming-ttl 255;\n");
    }
    writeln!(
        text,
        "capability {{ route-refresh enable; asn4 {};",
        if *four_octet { "enable" } else { "disable" }
    )?;
    if neighbour.graceful != Graceful::Off {
        text.push_str("graceful-restart 60;");
    }
    text.push_str("}\nfamily {");
    for family in &neighbour.families {
        text.push_str(match family {
            AfiSafi::Ipv4Unicast => " ipv4 unicast;",
            AfiSafi::Ipv6Unicast => " ipv6 unicast;",
        });
    }
    text.push_str("}\nstatic {\n");
    for route in &plan.routes {
        static_route(text, route)?;
    }
    text.push_str("}\napi { processes [ table ]; neighbor-changes; receive { parsed; update; notification; } }\n}\n");
    Ok(())
}

fn static_route(text: &mut String, route: &Announced) -> fmt::Result {
    let next_hop = route
        .next_hop
        .map_or_else(|| "self".to_owned(), |address| address.to_string());
    write!(text, "route {} next-hop {next_hop}", route.prefix)?;
    if let Some(med) = route.med {
        write!(text, " med {med}")?;
    }
    let list = |all: Vec<String>| format!("[ {} ]", all.join(" "));
    if !route.communities.is_empty() {
        let all = route
            .communities
            .iter()
            .map(|(high, low)| format!("{high}:{low}"));
        write!(text, " community {}", list(all.collect()))?;
    }
    if !route.large.is_empty() {
        let all = route
            .large
            .iter()
            .map(|(global, one, two)| format!("{global}:{one}:{two}"));
        write!(text, " large-community {}", list(all.collect()))?;
    }
    if !route.targets.is_empty() {
        let all = route
            .targets
            .iter()
            .map(|(asn, value)| format!("target:{asn}:{value}"));
        write!(text, " extended-community {}", list(all.collect()))?;
    }
    if let Some(asn) = route.behind {
        write!(text, " as-path [ {asn} ]")?;
    }
    text.push_str(";\n");
    Ok(())
}

fn from_attributes(attributes: &Value, next_hop: &str) -> Seen {
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let list = |name: &str| attributes[name].as_array().cloned().unwrap_or_default();
    let joined = |parts: &Value| {
        let parts = parts.as_array().cloned().unwrap_or_default();
        let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
        parts.join(":")
    };
    let plain = list("community").into_iter().chain(list("large-community"));
    let extended = list("extended-community");
    let extended = extended
        .iter()
        .filter_map(|community| community["string"].as_str()?.strip_prefix("target:"))
        .map(|target| format!("rt:{target}"));
    Seen {
        next_hop: next_hop.parse().ok(),
        as_path: list("as-path").iter().filter_map(number).collect(),
        origin: attributes["origin"]
            .as_str()
            .unwrap_or_default()
            .to_uppercase(),
        med: number(&attributes["med"]),
        local_pref: number(&attributes["local-preference"]),
        communities: plain.map(|parts| joined(&parts)).chain(extended).collect(),
        originator: attributes["originator-id"]
            .as_str()
            .and_then(|id| id.parse().ok()),
        clusters: list("cluster-list")
            .iter()
            .filter_map(|id| id.as_str()?.parse().ok())
            .collect(),
        only_to_customers: None,
        stale: false,
    }
}
