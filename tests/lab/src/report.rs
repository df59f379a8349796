//! What a run found, as one JSON object and as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cluster::Lab;
use crate::proof::Proof;

/// Above this many rows or columns a table shows one line per node instead.
const DETAIL_MAX: usize = 12;

/// The object that `--json` prints. Fields are added, never changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The mode's name.
    pub mode: String,
    /// Which datastore.
    pub store: String,
    /// The nodes.
    pub nodes: Vec<NodeReport>,
    /// BGP sessions, each end counted.
    pub sessions: SessionCounts,
    /// Pings between pods, and from nodes to remote pods.
    pub pings: PingCounts,
    /// Every receiver saw the sender's own address.
    pub source_address_kept: bool,
    /// From the start of a CNI ADD that claims a new block to the route on the farthest node.
    pub add_to_fib_ms: Quantiles,
    /// From the start of the first agent until all sessions were established and all FIBs complete; absent when that never came.
    pub converged_ms: Option<f64>,
    /// Numbered packets between pods while a reflector was killed; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reflector_killed: Option<PacketCounts>,
    /// Numbered packets between pods while a top-of-rack router was killed and cut off; absent without two of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tor_killed: Option<PacketCounts>,
    /// What was still there after the lab's end.
    pub left_behind: Vec<String>,
    /// Everything that did not hold, in words.
    pub faults: Vec<String>,
}

/// A node in a [`Report`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Number of its rack.
    pub rack: u8,
    /// Its address.
    pub address: String,
    /// That of IPv6, where it has both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<String>,
    /// Blocks that its pods live in.
    pub blocks: Vec<String>,
    /// Addresses of its pods, those of one beside each other.
    pub pods: Vec<String>,
}

/// Ends of sessions.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SessionCounts {
    /// Ends of a full mesh.
    pub expected: usize,
    /// Ends that are established.
    pub established: usize,
}

/// Pings.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct PingCounts {
    /// Sent.
    pub sent: usize,
    /// Without an answer.
    pub lost: usize,
}

/// Numbered packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketCounts {
    /// Sent.
    pub sent: u64,
    /// Never arrived.
    pub lost: u64,
}

/// Quantiles of a few durations.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median, in ms.
    pub p50: Option<f64>,
    /// 99th percentile, in ms.
    pub p99: Option<f64>,
    /// How many were measured.
    pub n: usize,
}

impl Quantiles {
    /// Of durations in any order, by nearest rank.
    #[must_use]
    pub fn of(durations: &[Duration]) -> Self {
        let mut sorted = durations.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
            sorted.get(index).map(|duration| milliseconds(*duration))
        };
        Self {
            p50: rank(50),
            p99: rank(99),
            n: sorted.len(),
        }
    }
}

/// Milliseconds with three decimals.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Report {
    /// Counts what a proof showed.
    #[must_use]
    pub fn new(lab: &Lab, proof: &Proof) -> Self {
        let cells = &proof.matrix;
        Self {
            mode: lab.options.mode.name().to_owned(),
            store: lab.options.store.name().to_owned(),
            nodes: node_reports(lab),
            sessions: SessionCounts {
                expected: proof.sessions.len(),
                established: proof.sessions.iter().filter(|end| end.established).count(),
            },
            pings: PingCounts {
                sent: cells.len(),
                lost: cells.iter().filter(|cell| cell.ping.is_err()).count(),
            },
            source_address_kept: cells
                .iter()
                .all(|cell| cell.source.is_ok() && cell.translated.is_none()),
            faults: proof.faults.clone(),
            ..Self::default()
        }
    }

    /// Whether all of it held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.faults.is_empty() && self.left_behind.is_empty()
    }
}

fn node_reports(lab: &Lab) -> Vec<NodeReport> {
    let blocks = lab.blocks();
    let sites = lab.topology.sites.iter();
    sites
        .map(|site| NodeReport {
            name: site.name.clone(),
            rack: site.rack,
            address: site.address.to_string(),
            address6: site.addresses().nth(1).map(|address| address.to_string()),
            blocks: blocks
                .iter()
                .filter(|(_, owner)| owner.name == site.name)
                .map(|(block, _)| block.to_string())
                .collect(),
            pods: lab
                .pods
                .iter()
                .filter(|pod| pod.node == site.name)
                .flat_map(|pod| pod.addresses().map(|address| address.to_string()))
                .collect(),
        })
        .collect()
}

/// All tables of a run.
#[must_use]
pub(crate) fn tables(lab: &Lab, proof: &Proof, report: &Report) -> String {
    let mut text = String::new();
    let mut section = |title: &str, table: Table| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{title}\n{table}");
    };
    section("Nodes", nodes_table(report));
    section(
        "BGP sessions (as the nodes tell it)",
        sessions_table(lab, proof),
    );
    section("FIB (as the kernels tell it)", fib_table(proof));
    let (ping, source) = matrix_tables(lab, proof);
    section(
        "Ping, round trip in ms (row: sender, column: receiver)",
        ping,
    );
    section("TCP: source address that the receiver saw", source);
    text
}

fn table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn nodes_table(report: &Report) -> Table {
    let mut table = table(words(&["node", "rack", "address", "blocks", "pods"]));
    for node in &report.nodes {
        let pods = if node.pods.len() > DETAIL_MAX {
            node.pods.len().to_string()
        } else {
            node.pods.join("\n")
        };
        table.add_row(vec![
            node.name.clone(),
            node.rack.to_string(),
            [Some(node.address.as_str()), node.address6.as_deref()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("\n"),
            node.blocks.join("\n"),
            pods,
        ]);
    }
    table
}

/// What the agents say, for the reader; what counts is the last column, read from the kernel.
fn sessions_table(lab: &Lab, proof: &Proof) -> Table {
    let mut table = table(words(&[
        "node",
        "peer",
        "address",
        "state",
        "since",
        "prefixes in",
        "out",
        "TCP 179 in the kernel",
    ]));
    let mut told: BTreeMap<(&str, String), Value> = BTreeMap::new();
    let reflectors = lab.reflectors.iter().map(|reflector| &reflector.site);
    for site in lab.topology.sites.iter().chain(reflectors) {
        for peer in ask_peers(lab, site) {
            told.insert(
                (
                    &site.name,
                    peer["address"].as_str().unwrap_or_default().to_owned(),
                ),
                peer,
            );
        }
    }
    for end in &proof.sessions {
        let peer = told
            .get(&(end.node.as_str(), end.peer_address.to_string()))
            .unwrap_or(&Value::Null);
        let text = |key: &str| peer[key].as_str().unwrap_or("?").to_owned();
        let count = |key: &str| {
            let families = peer["prefixes"].as_object();
            families.map_or("?".to_owned(), |families| {
                families
                    .values()
                    .filter_map(|counts| counts[key].as_u64())
                    .sum::<u64>()
                    .to_string()
            })
        };
        let kernel = if end.established {
            "established"
        } else {
            "NOT established"
        };
        table.add_row(vec![
            end.node.clone(),
            end.peer.clone(),
            end.peer_address.to_string(),
            text("state"),
            text("since"),
            count("received"),
            count("advertised"),
            kernel.to_owned(),
        ]);
    }
    table
}

/// `tortiectl bgp peers -o json` on a node; empty when it has nothing to say.
fn ask_peers(lab: &Lab, site: &crate::Site) -> Vec<Value> {
    let output = site
        .namespace
        .command(lab.programs().ctl())
        .env("NODENAME", &site.name)
        .args(["bgp", "peers", "-o", "json"])
        .stdin(std::process::Stdio::null())
        .output();
    output
        .ok()
        .and_then(|output| serde_json::from_slice(&output.stdout).ok())
        .unwrap_or_default()
}

fn fib_table(proof: &Proof) -> Table {
    let nodes: std::collections::BTreeSet<&str> =
        proof.fib.iter().map(|row| row.node.as_str()).collect();
    if proof.fib.len() <= DETAIL_MAX * 4 {
        let mut table = table(words(&["node", "destination", "belongs to", "route", ""]));
        for row in &proof.fib {
            table.add_row(vec![
                row.node.clone(),
                row.destination.to_string(),
                row.owner.clone(),
                row.found.clone(),
                if row.fault.is_some() { "WRONG" } else { "ok" }.to_owned(),
            ]);
        }
        return table;
    }
    let mut table = table(words(&[
        "node",
        "routes of pods",
        "routes of blocks",
        "wrong",
    ]));
    for node in nodes {
        let count = |wanted: &dyn Fn(&&crate::FibRow) -> bool| {
            proof
                .fib
                .iter()
                .filter(|row| row.node == node)
                .filter(|row| wanted(row))
                .count()
                .to_string()
        };
        table.add_row(vec![
            node.to_owned(),
            count(&|row| row.destination.prefix_len() == row.destination.max_prefix_len()),
            count(&|row| row.destination.prefix_len() < row.destination.max_prefix_len()),
            count(&|row| row.fault.is_some()),
        ]);
    }
    table
}

/// Two tables with senders as rows: by pod when few, else by node.
fn matrix_tables(lab: &Lab, proof: &Proof) -> (Table, Table) {
    let detailed = lab.pods.len() <= DETAIL_MAX;
    let group = |label: &str| {
        if detailed {
            label.to_owned()
        } else {
            label.split('/').next().unwrap_or(label).to_owned()
        }
    };
    let mut rows: Vec<String> = Vec::new();
    let mut columns: Vec<String> = Vec::new();
    let mut cells: BTreeMap<(String, String), Vec<&crate::Cell>> = BTreeMap::new();
    for cell in &proof.matrix {
        let key = (group(&cell.from), group(&cell.to));
        if !rows.contains(&key.0) {
            rows.push(key.0.clone());
        }
        if !columns.contains(&key.1) {
            columns.push(key.1.clone());
        }
        cells.entry(key).or_default().push(cell);
    }
    columns.sort_by_key(|label| order(label));
    rows.sort_by_key(|label| (!label.contains('/'), order(label)));
    let header = || {
        std::iter::once(String::new())
            .chain(columns.iter().cloned())
            .collect()
    };
    let (mut ping, mut source) = (table(header()), table(header()));
    for row in rows {
        let of = |column: &String| {
            cells
                .get(&(row.clone(), column.clone()))
                .map_or(&[][..], Vec::as_slice)
        };
        ping.add_row(
            std::iter::once(row.clone()).chain(columns.iter().map(|column| ping_text(of(column)))),
        );
        source.add_row(
            std::iter::once(row.clone())
                .chain(columns.iter().map(|column| source_text(of(column)))),
        );
    }
    (ping, source)
}

/// Labels such as `n10/p2` by their numbers.
fn order(label: &str) -> Vec<u32> {
    label
        .split('/')
        .map(|part| part[1..].parse().unwrap_or(u32::MAX))
        .collect()
}

fn ping_text(cells: &[&crate::Cell]) -> String {
    let times: Vec<Duration> = cells
        .iter()
        .filter_map(|cell| cell.ping.as_ref().ok().copied())
        .collect();
    match (cells.len(), cells.len() - times.len()) {
        (0, _) => String::new(),
        (1, 0) => format!("{:.2}", milliseconds(times[0])),
        (1, _) => "LOST".to_owned(),
        (all, 0) => format!("{all} ok"),
        (all, lost) => format!("{lost} of {all} LOST"),
    }
}

fn source_text(cells: &[&crate::Cell]) -> String {
    let wrong = cells
        .iter()
        .filter(|cell| cell.source.is_err() || cell.translated.is_some())
        .count();
    match cells {
        [] => String::new(),
        [cell] => match (&cell.source, &cell.translated) {
            (Ok(_), None) => "own".to_owned(),
            (Ok(seen), Some(_)) => format!("NOT OWN: {seen}"),
            (Err(_), _) => "NONE".to_owned(),
        },
        _ if wrong == 0 => format!("{} own", cells.len()),
        _ => format!("{wrong} of {} WRONG", cells.len()),
    }
}
