//! Five hundred pods on one node, and then none: nothing of them is left, in the kernel, in the store or in files.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use lab::{Lab, Options, Sandbox, Site, make_sandbox, remove_sandbox, wait_until};
use serde_json::Value;

use crate::plugin::{configuration, stored, succeeds};
use crate::{options, with_programs};

const PODS: usize = 500;
/// Calls of the plugin at a time.
const TOGETHER: usize = 8;

/// What an agent writes by itself when it starts, be there pods or not.
const OF_THE_AGENT: [&str; 4] = [
    "/var/lib/calico/mtu",
    "/var/lib/calico/tortie-datastore",
    "/var/lib/calico/tortie-own",
    "/var/run/calico/endpoint-status",
];

/// What pods can leave in a node's kernel, each entry as one line. Blocks stay the node's, with a route each that drops what is for
/// nobody.
fn kernel(site: &Site) -> BTreeSet<String> {
    let mut netlink = site.namespace.netlink().unwrap();
    let links = netlink.links().unwrap().into_iter();
    let mut seen: BTreeSet<String> = links.map(|link| format!("link {}", link.name)).collect();
    for route in netlink.routes().unwrap() {
        if route.destination.prefix_len() == 32 {
            seen.insert(format!("route {} {}", route.destination, route.table));
        }
    }
    for neighbour in netlink.neighbours(libc::AF_INET).unwrap() {
        seen.insert(format!("neighbour {:?}", neighbour.address));
    }
    let sysctls = site.namespace.run(|| {
        let names = fs::read_dir("/proc/sys/net/ipv4/conf").unwrap().flatten();
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        names.map(name).collect::<Vec<String>>()
    });
    seen.extend(sysctls.iter().map(|name| format!("sysctls {name}")));
    if lab::has_nft() {
        let mut nft = site.namespace.command("nft");
        let rules = nft.args(["list", "ruleset"]).output().unwrap();
        let text = String::from_utf8_lossy(&rules.stdout).into_owned();
        let words = text.split([' ', ',', '"', '\n', '\t']);
        let devices = words.filter(|word| word.starts_with("cali") && word.len() == 15);
        seen.extend(devices.map(|name| format!("rules {name}")));
    }
    seen
}

/// What the agent keeps in files.
fn files(site: &Site) -> BTreeSet<String> {
    site.namespace.run(|| {
        let mut seen = BTreeSet::new();
        let mut folders = ["/var/lib/calico", "/var/run/calico"]
            .map(PathBuf::from)
            .to_vec();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
                seen.insert(entry.path().display().to_string());
            }
        }
        seen
    })
}

/// Allocations and attributes of all blocks, handles and endpoints.
fn store(lab: &Lab) -> Vec<String> {
    let mut seen = Vec::new();
    for block in stored(lab, "ipamblocks") {
        let spec = &block["spec"];
        let list = |name: &str| spec[name].as_array().cloned().unwrap_or_default();
        for (ordinal, given) in list("allocations").iter().enumerate() {
            if !given.is_null() {
                seen.push(format!("{} allocation {ordinal}", spec["cidr"]));
            }
        }
        let held = list("attributes").into_iter();
        seen.extend(held.map(|held| format!("{} {held}", spec["cidr"])));
    }
    for kind in ["ipamhandles", "workloadendpoints"] {
        let objects = stored(lab, kind).into_iter();
        seen.extend(objects.map(|object| format!("{kind} {}", object["metadata"]["name"])));
    }
    seen
}

/// Calls the plugin for all, some at a time.
fn for_all(site: &Site, pods: &[Sandbox], command: &str) -> Vec<Value> {
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(|| {
                while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answer = succeeds(site, pod, command, &configuration());
                    answers.lock().unwrap().push(answer);
                }
            });
        }
    });
    answers.into_inner().unwrap()
}

/// Waits until nothing is there that was not before; else what is.
fn left(site: &Site, lab: &Lab, before: &[BTreeSet<String>; 2]) -> Vec<String> {
    let look = || {
        let now = [kernel(site), files(site)];
        let more = now.iter().zip(before);
        let more = more.flat_map(|(now, before)| now.difference(before));
        more.cloned().chain(store(lab)).collect::<Vec<String>>()
    };
    let deadline = Instant::now() + options().patience;
    match wait_until(deadline, || look().is_empty().then_some(())) {
        Some(()) => Vec::new(),
        None => look(),
    }
}

#[test]
fn of_five_hundred_pods_on_a_node_nothing_is_left_when_all_are_deleted() {
    let name = "gone::of_five_hundred_pods_on_a_node_nothing_is_left_when_all_are_deleted";
    with_programs(name, |programs| {
        // 500 addresses are eight blocks of 64.
        let options = Options {
            nodes: 1,
            ..options()
        };
        let patience = options.patience;
        let lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
        let site = lab.topology.sites[0].clone();
        // A cluster of one node has no neighbour to be pinged, so that the agent may still be starting.
        let started = wait_until(Instant::now() + patience, || {
            let there = files(&site);
            let all = OF_THE_AGENT.iter().all(|name| there.contains(*name));
            all.then_some(there)
        });
        let written = started.expect("an agent that has started writes its files");
        let before = [kernel(&site), written];
        let pods: Vec<Sandbox> = (0..PODS)
            .map(|number| make_sandbox(&site, &format!("s{number}")).unwrap().0)
            .collect();
        let answers = for_all(&site, &pods, "ADD");
        let addresses: BTreeSet<String> = answers
            .iter()
            .map(|answer| answer["ips"][0]["address"].to_string())
            .collect();
        assert_eq!(addresses.len(), PODS, "one address each");
        // What is to be missed later is seen now.
        let full = kernel(&site);
        for kind in ["link cali", "route ", "neighbour ", "sysctls cali"] {
            let count = full.iter().filter(|line| line.starts_with(kind)).count();
            assert!(count >= PODS, "{kind}: {count}");
        }
        // Allocation, attributes, handle and endpoint.
        assert_eq!(store(&lab).len(), 4 * PODS);
        for_all(&site, &pods, "DEL");
        assert_eq!(left(&site, &lab, &before), Vec::<String>::new());
        for pod in &pods {
            remove_sandbox(&site, pod).unwrap();
        }
    });
}
