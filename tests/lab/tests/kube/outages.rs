//! The API server and etcd stop answering, die, come back, forget history: what runs goes on, what is new waits.

use std::time::{Duration, Instant};

use kube_lab::Part;
use lab::{Lab, Sandbox, call_plugin, make_sandbox, wait_until};
use serde_json::Value;

use crate::traffic::Watched;
use crate::{options, told, with_programs};

/// What a fault of minutes lasts, at least.
const MINUTES: Duration = Duration::from_secs(130);
/// Lines of log that an agent may write in a minute of an outage, besides one for each request that it refuses.
const LINES_A_MINUTE: usize = 10;

/// A fault of the datastore, and what an operator reads of it.
pub(crate) struct Fault {
    /// Pods that are asked for meanwhile have it in their names.
    pub(crate) name: &'static str,
    /// One of these words stands in the status, and in what the runtime is told.
    pub(crate) words: &'static [&'static str],
    /// Whether the server ends the agents' watches, or they notice by themselves: then they say that the datastore is lost.
    pub(crate) ends_watches: bool,
}

/// A pod that was placed before the API server was lost cannot be served: its kubelet is told to try again, and why.
fn is_told_to_try_again(lab: &Lab, node: usize, fault: &Fault) -> Sandbox {
    let site = &lab.topology.sites[node];
    let (sandbox, _namespace) = make_sandbox(site, fault.name).unwrap();
    let output = call_plugin(site, &sandbox, "ADD", None).unwrap();
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{}: {}", site.name, error["msg"]);
    assert_eq!(error["code"], 11, "{error}");
    let said = error["msg"].as_str().unwrap_or_default();
    let named = fault.words.iter().any(|word| said.contains(word));
    assert!(named, "{:?} are not in {said:?}", fault.words);
    sandbox
}

/// What the runtime does with a pod that did not start.
fn is_taken_back(lab: &Lab, node: usize, sandbox: &Sandbox) {
    let site = &lab.topology.sites[node];
    let mut last = String::new();
    let deleted = wait_until(Instant::now() + lab.options.patience, || {
        let output = call_plugin(site, sandbox, "DEL", None).unwrap();
        last = format!("{output:?}");
        output.status.success().then_some(())
    });
    assert!(deleted.is_some(), "{last}");
}

/// Strikes, asks for pods in vain, relieves, and asks for more.
pub(crate) fn goes_unnoticed(
    watched: &mut Watched,
    fault: &Fault,
    strike: impl FnOnce(&mut Lab),
    relieve: impl FnOnce(&mut Lab),
) {
    println!("{}", fault.name);
    let sites = watched.lab.topology.sites.clone();
    for site in &sites {
        let placed = format!("{}-{}", fault.name, site.name);
        watched.lab.kube().create_pod(site, &placed).unwrap();
    }
    strike(&mut watched.lab);
    let mut sandboxes = Vec::new();
    for node in 0..sites.len() {
        if fault.ends_watches {
            told::lost(&watched.lab, node, fault.words);
        }
        sandboxes.push(is_told_to_try_again(&watched.lab, node, fault));
    }
    relieve(&mut watched.lab);
    for (node, sandbox) in sandboxes.iter().enumerate() {
        told::all_well(&watched.lab, node);
        is_taken_back(&watched.lab, node, sandbox);
    }
    for node in 0..sites.len() {
        watched.add_pod(node);
    }
    watched.converges();
}

/// A dead server refuses connections, or cuts them.
pub(crate) const DEAD: &[&str] = &[
    "onnection refused",
    "onnection reset",
    "onnection closed",
    "etcd",
    "timed out",
];
/// A silent one lets requests wait.
const SILENT: &[&str] = &[
    "no answer",
    "timed out",
    "keep-alive",
    "time out",
    "Timeout",
];

/// Without etcd a server answers late or not at all, and its watches stand.
const WITHOUT_ETCD: &[&str] = &["etcd", "no answer", "timed out", "time out", "Timeout"];

#[test]
fn servers_that_die_or_fall_silent_and_come_back_cost_no_route_and_no_packet() {
    let name = "outages::servers_that_die_or_fall_silent_and_come_back_cost_no_route_and_no_packet";
    with_programs(name, |programs| {
        let mut watched = Watched::start(options(), programs, 1);
        watched.watch();
        for (name, part, words) in [
            ("etcd-dies", Part::Etcd, WITHOUT_ETCD),
            ("server-dies", Part::ApiServer, DEAD),
        ] {
            let fault = Fault {
                name,
                words,
                ends_watches: part == Part::ApiServer,
            };
            goes_unnoticed(
                &mut watched,
                &fault,
                |lab| lab.kube().server.kill(part).unwrap(),
                |lab| lab.kube().server.start_part(part).unwrap(),
            );
        }
        for (name, part, words) in [
            ("etcd-silent", Part::Etcd, WITHOUT_ETCD),
            ("server-silent", Part::ApiServer, SILENT),
        ] {
            let fault = Fault {
                name,
                words,
                ends_watches: part == Part::ApiServer,
            };
            goes_unnoticed(
                &mut watched,
                &fault,
                |lab| lab.kube().server.freeze(part).unwrap(),
                |lab| lab.kube().server.thaw(part).unwrap(),
            );
        }
        watched.ends_well();
    });
}

#[test]
fn an_api_server_that_is_away_for_minutes_costs_nothing_and_floods_no_log() {
    let name = "outages::an_api_server_that_is_away_for_minutes_costs_nothing_and_floods_no_log";
    with_programs(name, |programs| {
        let mut watched = Watched::start(options(), programs, 1);
        watched.watch();
        let fault = Fault {
            name: "minutes",
            words: DEAD,
            ends_watches: true,
        };
        let lines = |node: &str| std::fs::read_to_string(lab::log_path(node)).unwrap();
        let before = ["n1", "n2"].map(|node| lines(node).lines().count());
        let mut took = Duration::ZERO;
        goes_unnoticed(
            &mut watched,
            &fault,
            |lab| {
                let struck = Instant::now();
                lab.kube().server.kill(Part::ApiServer).unwrap();
                // Not less: waits between attempts have grown to their longest.
                wait_until::<()>(struck + MINUTES, || None);
                took = struck.elapsed();
            },
            |lab| lab.kube().server.start_part(Part::ApiServer).unwrap(),
        );
        for (node, before) in ["n1", "n2"].into_iter().zip(before) {
            let log = lines(node);
            let news: Vec<&str> = log.lines().skip(before).collect();
            println!("{node}:\n{}", news.join("\n"));
            let allowed = LINES_A_MINUTE * usize::try_from(took.as_secs().div_ceil(60)).unwrap();
            assert!(news.len() <= allowed, "{}: {news:#?}", news.len());
            let told = |words: &str| news.iter().filter(|line| line.contains(words)).count();
            assert_eq!(told("datastore lost"), 1, "{news:#?}");
            assert_eq!(told("datastore is back"), 1, "{news:#?}");
        }
        watched.ends_well();
    });
}

#[test]
fn history_that_was_compacted_away_meanwhile_is_listed_anew() {
    let name = "outages::history_that_was_compacted_away_meanwhile_is_listed_anew";
    with_programs(name, |programs| {
        let mut watched = Watched::start(options(), programs, 1);
        watched.watch();
        // What changes while one agent stands still, it can only list.
        watched.lab.freeze_agent(1).unwrap();
        watched.add_pod(0);
        watched.add_pod(0);
        watched.lab.kube().server.compact().unwrap();
        watched.lab.thaw_agent(1).unwrap();
        watched.grow();
        watched.ends_well();
    });
}
