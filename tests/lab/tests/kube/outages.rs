//! The API server and etcd stop answering, die, come back, forget history: what runs goes on, what is new waits.

use kube_lab::Part;
use lab::{Lab, call_plugin, make_sandbox};
use serde_json::Value;

use crate::traffic::Watched;
use crate::{options, with_programs};

/// A pod that was placed before the API server was lost cannot be served, and its kubelet is told to try again.
fn is_told_to_try_again(lab: &Lab, node: usize, pod: &str) {
    let site = &lab.topology.sites[node];
    let (sandbox, _namespace) = make_sandbox(site, pod).unwrap();
    let output = call_plugin(site, &sandbox, "ADD", None).unwrap();
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["code"], 11, "{error}");
}

/// Strikes, asks for pods in vain, relieves, and asks for more.
fn goes_unnoticed(
    watched: &mut Watched,
    name: &str,
    strike: impl FnOnce(&mut Lab),
    relieve: impl FnOnce(&mut Lab),
) {
    println!("{name}");
    let sites = watched.lab.topology.sites.clone();
    for site in &sites {
        let placed = format!("{name}-{}", site.name);
        watched.lab.kube().create_pod(site, &placed).unwrap();
    }
    strike(&mut watched.lab);
    for node in 0..sites.len() {
        is_told_to_try_again(&watched.lab, node, name);
    }
    relieve(&mut watched.lab);
    watched.grow();
}

#[test]
fn servers_that_die_or_fall_silent_and_come_back_cost_no_route_and_no_packet() {
    let name = "outages::servers_that_die_or_fall_silent_and_come_back_cost_no_route_and_no_packet";
    with_programs(name, |programs| {
        let mut watched = Watched::start(options(), programs, 1);
        watched.watch();
        for (name, part) in [("etcd-dies", Part::Etcd), ("server-dies", Part::ApiServer)] {
            goes_unnoticed(
                &mut watched,
                name,
                |lab| lab.kube().server.kill(part).unwrap(),
                |lab| lab.kube().server.start_part(part).unwrap(),
            );
        }
        for (name, part) in [
            ("etcd-silent", Part::Etcd),
            ("server-silent", Part::ApiServer),
        ] {
            goes_unnoticed(
                &mut watched,
                name,
                |lab| lab.kube().server.freeze(part).unwrap(),
                |lab| lab.kube().server.thaw(part).unwrap(),
            );
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
