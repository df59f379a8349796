//! Nodes on which Calico ran are taken over one by one, under living pods.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use lab::{
    Lab, Mode, Options, Pod, RouteChange, RouteMonitor, SourceReporter, Stream, ask_source,
    find_bird, has_nft, wait_until,
};
use serde_json::Value;

use crate::former::{Former, Version};
use crate::{options, with_programs};

/// Numbered packets between each two pods of different nodes.
const PER_SECOND: u32 = 100;
/// One exchange between two pods.
const EXCHANGE: Duration = Duration::from_secs(2);

/// Leaves the test as skipped without the programs with which Calico's part is played.
fn needs_programs() {
    if find_bird().is_none() {
        harness::skip(
            "bird",
            "no program `bird` on PATH or in /usr/sbin (Debian: bird2)",
        );
    }
    if !has_nft() {
        harness::skip("nft", "no program `nft` (Debian: nftables)");
    }
    if std::process::Command::new("ip").arg("-V").output().is_err() {
        harness::skip("iproute2", "no program `ip` (Debian: iproute2)");
    }
}

/// Asks until the other pod answers, and looks whom it saw.
fn reaches(lab: &Lab, from: &Pod, to: &Pod) {
    let reporter = SourceReporter::open(&to.namespace, to.address).unwrap();
    let answer = wait_until(Instant::now() + lab.options.patience, || {
        ask_source(&from.namespace, reporter.address(), EXCHANGE).ok()
    });
    let seen = answer.unwrap_or_else(|| panic!("{} does not reach {}", from.label(), to.label()));
    assert_eq!(
        seen.source,
        from.address,
        "{} to {}",
        from.label(),
        to.label()
    );
}

/// Index and MAC of each device of pods and tunnels, by node and name.
fn devices(lab: &Lab) -> BTreeMap<(String, String), (u32, String)> {
    let mut all = BTreeMap::new();
    for site in &lab.topology.sites {
        for link in site.namespace.netlink().unwrap().links().unwrap() {
            if link.name.starts_with("cali") || link.name == "vxlan.calico" {
                all.insert((site.name.clone(), link.name), (link.index, link.mac));
            }
        }
    }
    all
}

/// Who has which address, by the blocks in the API server.
fn owners(lab: &mut Lab) -> BTreeMap<Ipv4Addr, String> {
    let asked = ["get", "ipamblocks.crd.projectcalico.org", "--output=json"];
    let blocks: Value = serde_json::from_str(&lab.kube().server.kubectl(&asked).unwrap()).unwrap();
    let mut owners = BTreeMap::new();
    for block in blocks["items"].as_array().unwrap() {
        let spec = &block["spec"];
        let base: ipnet::Ipv4Net = spec["cidr"].as_str().unwrap().parse().unwrap();
        for (slot, index) in spec["allocations"].as_array().unwrap().iter().enumerate() {
            if let Some(index) = index.as_u64() {
                let address = Ipv4Addr::from(u32::from(base.network()) + slot as u32);
                let handle = &spec["attributes"][index as usize]["handle_id"];
                let former = owners.insert(address, handle.as_str().unwrap().to_owned());
                assert_eq!(former, None, "{address} stands in two blocks");
            }
        }
    }
    owners
}

/// What may not change.
struct Before {
    devices: BTreeMap<(String, String), (u32, String)>,
    owners: BTreeMap<Ipv4Addr, String>,
}

impl Before {
    fn of(lab: &mut Lab) -> Self {
        Self {
            devices: devices(lab),
            owners: owners(lab),
        }
    }

    /// Devices that are not the ones they were, addresses that are no longer their owners', and more than `added` new ones.
    fn changes(&self, lab: &mut Lab, added: usize) -> Vec<String> {
        let now = Self::of(lab);
        let mut faults = Vec::new();
        for (device, identity) in &self.devices {
            if now.devices.get(device) != Some(identity) {
                faults.push(format!("{device:?} was {identity:?}"));
            }
        }
        for (address, owner) in &self.owners {
            if now.owners.get(address) != Some(owner) {
                faults.push(format!("{address} was of {owner}"));
            }
        }
        if now.owners.len() != self.owners.len() + added {
            faults.push(format!("addresses: {:?}", now.owners));
        }
        faults
    }
}

/// Numbered packets between pods, and what happens to the kernels' routes.
struct Watch {
    streams: Vec<Stream>,
    monitors: Vec<(String, RouteMonitor)>,
}

impl Watch {
    fn begin(lab: &Lab, pairs: &[(&Pod, &Pod)]) -> Self {
        let stream = |(from, to): &(&Pod, &Pod)| Stream::between(from, to, PER_SECOND).unwrap();
        let monitor = |site: &lab::Site| {
            let monitor = RouteMonitor::open(&site.namespace).unwrap();
            (site.name.clone(), monitor)
        };
        Self {
            streams: pairs.iter().map(stream).collect(),
            monitors: lab.topology.sites.iter().map(monitor).collect(),
        }
    }

    /// Lost packets, and the first route that was deleted on each node.
    fn end(self) -> Vec<String> {
        let mut faults = Vec::new();
        for stream in self.streams {
            let outcome = stream.finish().unwrap();
            println!("{outcome:?}");
            if outcome.sent == 0 || !outcome.lost.is_empty() {
                faults.push(format!("packets: {outcome:?}"));
            }
        }
        for (node, mut monitor) in self.monitors {
            let deleted = |event: &lab::RouteEvent| event.change == RouteChange::Deleted;
            if let Some(event) = monitor.wait_for(Instant::now(), deleted).unwrap() {
                faults.push(format!("deleted on {node}: {event:?}"));
            }
        }
        faults
    }
}

/// Pods of both nodes talk; `strike` does what it likes; n1 is taken over, then n2; both get a pod more. What was lost or changed.
fn taken_over(former: &mut Former, strike: impl FnOnce(&Former)) -> Vec<String> {
    let pods = former.lab.pods.clone();
    let pairs = [(0, 2), (2, 0), (1, 3), (3, 1)].map(|(from, to)| (&pods[from], &pods[to]));
    for (from, to) in pairs {
        reaches(&former.lab, from, to);
    }
    let before = Before::of(&mut former.lab);
    let tunnels = usize::from(former.lab.options.mode == Mode::Vxlan);
    assert_eq!(before.devices.len(), 2 * (2 + tunnels));
    let watch = Watch::begin(&former.lab, &pairs);
    strike(former);
    for node in [0, 1] {
        former.stop(node);
        let lab = &mut former.lab;
        lab.start_next_agent()
            .unwrap_or_else(|error| panic!("{error}"));
        let added = lab.add_pod(node).unwrap_or_else(|error| panic!("{error}"));
        let added = added.clone();
        // The other node may still be Calico's.
        let other = &pods[2 - 2 * node];
        reaches(lab, &added, other);
        reaches(lab, other, &added);
    }
    let lab = &mut former.lab;
    let converged = lab
        .wait_converged()
        .unwrap_or_else(|error| panic!("{error}"));
    let mut faults = lab.prove().faults;
    assert!(converged.is_some() && faults.is_empty(), "{faults:#?}");
    faults.extend(watch.end());
    faults.extend(before.changes(lab, 2));
    faults
}

/// Our plugin takes the former plugin's pods away, too.
fn all_goes(lab: &mut Lab) {
    lab.delete_pods()
        .unwrap_or_else(|errors| panic!("{errors:?}"));
    let tunnels = owners(lab);
    let expected = 2 * usize::from(lab.options.mode == Mode::Vxlan);
    assert_eq!(tunnels.len(), expected, "{tunnels:?}");
    let gone = wait_until(Instant::now() + lab.options.patience, || {
        let left = devices(lab);
        let only_tunnels = left.keys().all(|(_, name)| name == "vxlan.calico");
        only_tunnels.then_some(())
    });
    assert!(gone.is_some(), "{:?}", devices(lab));
}

fn nothing_is_lost(name: &str, mode: Mode, version: Version) {
    needs_programs();
    with_programs(name, |programs| {
        let mut former = Former::start(Options { mode, ..options() }, programs, version);
        let mut faults = taken_over(&mut former, |_| {});
        if version == Version::V3_31 {
            // Those of metric 0, once there are others.
            faults.retain(|fault| !fault.starts_with("deleted"));
        }
        assert!(faults.is_empty(), "{faults:#?}");
        all_goes(&mut former.lab);
    });
}

#[test]
fn plain_routes_by_bgp() {
    nothing_is_lost("takeover::plain_routes_by_bgp", Mode::Bgp, Version::V3_32);
}

#[test]
fn plain_routes_by_bgp_of_metric_0() {
    let name = "takeover::plain_routes_by_bgp_of_metric_0";
    nothing_is_lost(name, Mode::Bgp, Version::V3_31);
}

#[test]
fn vxlan() {
    nothing_is_lost("takeover::vxlan", Mode::Vxlan, Version::V3_32);
}

#[test]
fn vxlan_of_metric_0() {
    nothing_is_lost("takeover::vxlan_of_metric_0", Mode::Vxlan, Version::V3_31);
}

#[test]
fn a_route_that_was_lost_meanwhile_is_noticed_by_the_checks_and_made_again() {
    needs_programs();
    let name = "takeover::a_route_that_was_lost_meanwhile_is_noticed_by_the_checks_and_made_again";
    with_programs(name, |programs| {
        let mut former = Former::start(options(), programs, Version::V3_32);
        let faults = taken_over(&mut former, Former::lose_a_route);
        let named = |word: &str| faults.iter().any(|fault| fault.starts_with(word));
        assert!(named("packets") && named("deleted on n1"), "{faults:#?}");
    });
}
