//! Racks, router and machines, without the product.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::time::Duration;

use lab::{Families, Pinger, Topology};

fn main() -> std::process::ExitCode {
    harness::run()
}

#[test]
fn machines_reach_each_other_within_and_between_racks() {
    lab::in_namespaces("machines_reach_each_other_within_and_between_racks", || {
        let topology = Topology::build(4, 2, Families::V4).unwrap();
        for (index, from) in topology.sites.iter().enumerate() {
            let mut pinger = Pinger::open(&from.namespace, u16::try_from(index).unwrap()).unwrap();
            for to in topology.sites.iter().filter(|to| to.name != from.name) {
                let answer = pinger.ping(to.address, Duration::from_secs(3)).unwrap();
                assert!(answer.is_some(), "{} -> {}", from.name, to.name);
            }
        }
    });
}

#[test]
fn machines_have_directories_of_their_own_at_the_products_paths() {
    lab::in_namespaces(
        "machines_have_directories_of_their_own_at_the_products_paths",
        || {
            let topology = Topology::build(2, 1, Families::V4).unwrap();
            let paths = [
                "/var/lib/calico/nodename",
                "/var/run/calico/x",
                "/run/calico/y",
                "/etc/cni/net.d/10-calico.conflist",
            ];
            let [first, second] = topology.sites.as_slice() else {
                panic!("two sites")
            };
            first.namespace.run(|| {
                paths
                    .iter()
                    .for_each(|path| std::fs::write(path, "n1").unwrap())
            });
            for path in paths {
                assert!(
                    !second.namespace.run(|| std::path::Path::new(path).exists()),
                    "{path} of n1 is seen on n2"
                );
                assert!(
                    !std::path::Path::new(path).exists(),
                    "{path} of n1 is seen outside"
                );
            }
            let seen = first
                .namespace
                .command("cat")
                .arg("/var/lib/calico/nodename")
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&seen.stdout), "n1");
        },
    );
}

#[test]
fn a_machine_shows_its_own_links_in_sysfs() {
    lab::in_namespaces("a_machine_shows_its_own_links_in_sysfs", || {
        let topology = Topology::build(1, 1, Families::V4).unwrap();
        let site = &topology.sites[0];
        let output = site
            .namespace
            .command("ls")
            .arg("/sys/class/net")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("eth0") && !text.contains("uplink"), "{text}");
    });
}
