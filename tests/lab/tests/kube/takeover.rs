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

/// Every device is the one it was, and every address its owner's; `added` have come.
fn nothing_changed(lab: &mut Lab, before: &Before, added: usize) {
    let devices_after = devices(lab);
    for (device, identity) in &before.devices {
        assert_eq!(devices_after.get(device), Some(identity), "{device:?}");
    }
    let owners_after = owners(lab);
    for (address, owner) in &before.owners {
        assert_eq!(owners_after.get(address), Some(owner), "{address}");
    }
    assert_eq!(owners_after.len(), before.owners.len() + added);
}

/// Our plugin takes the former plugin's pods away, too.
fn all_goes(lab: &mut Lab) {
    lab.delete_pods()
        .unwrap_or_else(|errors| panic!("{errors:?}"));
    let tunnels = owners(lab);
    assert_eq!(
        tunnels.len(),
        if lab.options.mode == Mode::Vxlan {
            2
        } else {
            0
        },
        "{tunnels:?}"
    );
    let gone = wait_until(Instant::now() + lab.options.patience, || {
        let left = devices(lab);
        left.keys()
            .all(|(_, name)| name == "vxlan.calico")
            .then_some(())
    });
    assert!(gone.is_some(), "{:?}", devices(lab));
}

/// Pods of both nodes talk; n1 is taken over, then n2; both get a pod more; at last all pods go, by our plugin.
fn nothing_is_lost(name: &str, mode: Mode, version: Version) {
    needs_programs();
    with_programs(name, |programs| {
        let mut former = Former::start(Options { mode, ..options() }, programs, version);
        let pods = former.lab.pods.clone();
        let pairs = [(0, 2), (2, 0), (1, 3), (3, 1)];
        for (from, to) in pairs {
            reaches(&former.lab, &pods[from], &pods[to]);
        }
        let before = Before {
            devices: devices(&former.lab),
            owners: owners(&mut former.lab),
        };
        assert_eq!(
            before.devices.len(),
            if mode == Mode::Vxlan { 6 } else { 4 }
        );
        let sites = former.lab.topology.sites.clone();
        let mut monitors: Vec<RouteMonitor> = sites
            .iter()
            .map(|site| RouteMonitor::open(&site.namespace).unwrap())
            .collect();
        let streams: Vec<Stream> = pairs
            .iter()
            .map(|(from, to)| Stream::between(&pods[*from], &pods[*to], PER_SECOND).unwrap())
            .collect();

        for node in [0, 1] {
            former.stop(node);
            former
                .lab
                .start_next_agent()
                .unwrap_or_else(|error| panic!("{error}"));
            former
                .lab
                .add_pod(node)
                .unwrap_or_else(|error| panic!("{error}"));
            let added = former.lab.pods.last().unwrap();
            // The other node may still be Calico's.
            reaches(&former.lab, added, &pods[2 - 2 * node]);
            reaches(&former.lab, &pods[2 - 2 * node], added);
        }
        let converged = former
            .lab
            .wait_converged()
            .unwrap_or_else(|error| panic!("{error}"));
        let faults = former.lab.prove().faults;
        assert!(converged.is_some() && faults.is_empty(), "{faults:#?}");

        for stream in streams {
            let outcome = stream.finish().unwrap();
            println!("{outcome:?}");
            assert!(outcome.sent > 0 && outcome.lost.is_empty(), "{outcome:?}");
        }
        if version == Version::V3_32 {
            for (site, monitor) in sites.iter().zip(&mut monitors) {
                let deleted = |event: &lab::RouteEvent| event.change == RouteChange::Deleted;
                let deleted = monitor.wait_for(Instant::now(), deleted).unwrap();
                assert!(deleted.is_none(), "{}: {deleted:?}", site.name);
            }
        }
        let added = 2;
        nothing_changed(&mut former.lab, &before, added);
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
