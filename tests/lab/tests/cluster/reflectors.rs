//! Route reflectors in the mesh's place.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use ipnet::Ipv4Net;
use lab::{Families, Lab, Options, Programs, Site};

use crate::{ctl, options, run, with_programs};

#[test]
fn two_reflectors_replace_the_mesh_and_one_may_die() {
    with_programs(
        "reflectors::two_reflectors_replace_the_mesh_and_one_may_die",
        |_| {
            let run = run(Options {
                reflectors: 2,
                families: Families::Both,
                ..options()
            });
            let report = run.report;
            assert!(report.faults.is_empty(), "{:#?}", report.faults);
            // Each node with both, and both with each other, both ends, over each family.
            assert_eq!(report.sessions.expected, (3 * 2 + 1) * 2 * 2);
            assert_eq!(report.sessions.established, report.sessions.expected);
            let packets = report.reflector_killed.unwrap();
            assert!(packets.sent > 1000, "{packets:?}");
            assert_eq!(packets.lost, 0);
        },
    );
}

#[test]
fn the_only_reflector_of_a_cluster_of_ipv6_alone_may_die_and_come_back() {
    with_programs(
        "reflectors::the_only_reflector_of_a_cluster_of_ipv6_alone_may_die_and_come_back",
        |_| {
            let run = run(Options {
                reflectors: 1,
                families: Families::V6,
                ..options()
            });
            // Among what was looked at: no node deleted a route.
            assert!(run.report.faults.is_empty(), "{:#?}", run.report.faults);
            assert_eq!(run.report.reflector_killed.unwrap().lost, 0);
        },
    );
}

/// Ends with the test, before the machine it runs on.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A reflector outside the cluster: its own files say who its clients are.
fn standalone(lab: &Lab, site: &Site, folder: &Path) -> Running {
    fs::create_dir_all(folder).unwrap();
    let resources = resources(lab, site.address);
    fs::write(folder.join("reflector.yaml"), resources).unwrap();
    let log = fs::File::create(folder.join("log")).unwrap();
    let child = site
        .namespace
        .command(lab.programs().reflector())
        .env_clear()
        .arg("--resources")
        .arg(folder)
        .arg("--admin-socket")
        .arg(folder.join("admin.sock"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Running(child)
}

/// A reflector at this address, and every node as its client.
fn resources(lab: &Lab, address: IpAddr) -> String {
    let mut resources = format!(
        "kind: Node
metadata: {{name: outside}}
spec: {{bgp: {{ipv4Address: {}/24, asNumber: 64512, routeReflectorClusterID: 2.0.0.1}}}}
---
kind: BGPConfiguration
metadata: {{name: default}}
spec: {{nodeToNodeMeshEnabled: false, asNumber: 64512}}
",
        address
    );
    for node in &lab.topology.sites {
        resources += &format!(
            "---\nkind: BGPPeer\nmetadata: {{name: {}}}\nspec: {{peerIP: {}, asNumber: 64512}}\n",
            node.name, node.address
        );
    }
    resources
}

/// Tells the cluster of a reflector at this address, and of no mesh.
fn use_reflector(lab: &Lab, folder: &Path, address: IpAddr) {
    let manifest = folder.join("cluster.yaml.txt");
    fs::write(
        &manifest,
        format!(
            "kind: BGPConfiguration\nmetadata: {{name: default}}\nspec: {{nodeToNodeMeshEnabled: false}}\n\
             ---\nkind: BGPPeer\nmetadata: {{name: outside}}\nspec: {{peerIP: {address}, asNumber: 64512}}\n"
        ),
    )
    .unwrap();
    let applied = ctl(lab, &["apply", "-f", manifest.to_str().unwrap()]);
    assert!(applied.status.success(), "{applied:?}");
}

#[test]
fn a_reflector_outside_the_cluster_serves_it_from_files() {
    let body = |programs: Programs| {
        let mut lab = Lab::start(options(), programs).unwrap_or_else(|error| panic!("{error}"));
        let outside = lab.topology.attach("outside", 9, 1).unwrap();
        let folder = Path::new(lab::BASE).join("outside");
        let _running = standalone(&lab, &outside, &folder);
        use_reflector(&lab, &folder, outside.address);
        lab.fill_pods(1)
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        // The lab expects a mesh, whose sessions are gone: all else must hold.
        let faults = |lab: &Lab| {
            let mut faults = lab.prove().faults;
            faults.retain(|fault| !fault.starts_with("session "));
            faults
        };
        let wait_for = |address: IpAddr| {
            let deadline = Instant::now() + lab.options.patience;
            let whole = lab::wait_until(deadline, || {
                let sessions = lab::established_peers(&outside.namespace).unwrap().len();
                let only_it =
                    lab::established_peers(&lab.topology.sites[0].namespace).unwrap() == [address];
                (sessions == 3 && only_it && faults(&lab).is_empty()).then_some(())
            });
            let log = fs::read_to_string(folder.join("log")).unwrap();
            assert!(whole.is_some(), "{address}: {:#?}\n{log}", faults(&lab));
        };
        wait_for(outside.address);

        // Its Node gets another address: it listens there, and tells it, without a restart.
        let moved = IpAddr::from(Ipv4Addr::new(10, 10, 1, 10));
        let mut netlink = outside.namespace.netlink().unwrap();
        netlink
            .add_address(
                "eth0",
                Ipv4Net::new_assert(Ipv4Addr::new(10, 10, 1, 10), 24),
            )
            .unwrap();
        let fresh = folder.join(".reflector.yaml");
        fs::write(&fresh, resources(&lab, moved)).unwrap();
        fs::rename(fresh, folder.join("reflector.yaml")).unwrap();
        use_reflector(&lab, &folder, moved);
        wait_for(moved);
    };
    with_programs(
        "reflectors::a_reflector_outside_the_cluster_serves_it_from_files",
        body,
    );
}
