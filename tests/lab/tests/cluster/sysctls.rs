//! Sysctls of a node and of pods' devices, as the kernel has them.

use std::time::Instant;

use lab::{Lab, Options, Site, wait_until};

use crate::{options, with_programs};

fn sysctl(site: &Site, key: &str) -> Option<String> {
    let path = format!("/proc/sys/{key}");
    let text = site.namespace.run(|| std::fs::read_to_string(path)).ok()?;
    Some(text.trim_end().to_owned())
}

/// The only pod's device on the host.
fn pods_device(site: &Site) -> String {
    let names: Vec<String> = site.namespace.run(|| {
        let entries = std::fs::read_dir("/proc/sys/net/ipv4/conf").unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("cali"))
            .collect()
    });
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].clone()
}

#[test]
fn what_pods_need_stands_and_comes_back_when_somebody_changes_it() {
    with_programs(
        "sysctls::what_pods_need_stands_and_comes_back_when_somebody_changes_it",
        |programs| {
            let some = Options {
                nodes: 2,
                ..options()
            };
            let mut lab = Lab::start(some, programs).unwrap_or_else(|error| panic!("{error}"));
            // What new devices get when the agent starts is what pods' devices are to have.
            for (node, value) in ["0", "2"].iter().enumerate() {
                let namespace = &lab.topology.sites[node].namespace;
                let key = "net/ipv4/conf/default/rp_filter";
                namespace.set_sysctl(key, value).unwrap();
                lab.kill_agent(node).unwrap();
                lab.restart_agent(node)
                    .unwrap_or_else(|error| panic!("{error}"));
                lab.add_pod(node).unwrap_or_else(|error| panic!("{error}"));
            }
            for (node, rp_filter) in ["0", "2"].iter().enumerate() {
                let site = &lab.topology.sites[node];
                let device = pods_device(site);
                let own = |name: &str| format!("net/ipv4/conf/{device}/{name}");
                let wanted = [
                    ("net/ipv4/ip_forward".to_owned(), "1", "0"),
                    (own("forwarding"), "1", "0"),
                    (own("proxy_arp"), "1", "0"),
                    (own("rp_filter"), *rp_filter, "1"),
                ];
                let is = |key: &str, value: &str| {
                    let deadline = Instant::now() + options().patience;
                    let stands = || (sysctl(site, key).as_deref() == Some(value)).then_some(());
                    assert!(
                        wait_until(deadline, stands).is_some(),
                        "{}: {key} is {:?} and should be {value}",
                        site.name,
                        sysctl(site, key)
                    );
                };
                for (key, value, _) in &wanted {
                    is(key, value);
                }
                is(&own("route_localnet"), "1");
                is(&format!("net/ipv4/neigh/{device}/proxy_delay"), "0");
                for (key, value, other) in &wanted {
                    site.namespace.set_sysctl(key, other).unwrap();
                    is(key, value);
                }
                // Forwarding has another name, and takes every device's along.
                let all = "net/ipv4/conf/all/forwarding";
                site.namespace.set_sysctl(all, "0").unwrap();
                is(all, "1");
                is(&own("forwarding"), "1");
            }
        },
    );
}

#[test]
fn ipv6_is_set_up_unless_its_setting_says_not_to() {
    let name = "sysctls::ipv6_is_set_up_unless_its_setting_says_not_to";
    with_programs(name, |programs| {
        if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
            harness::skip("ipv6", "the kernel has no IPv6");
        }
        let some = Options {
            nodes: 1,
            environment: vec![("FELIX_IPV6SUPPORT".to_owned(), "false".to_owned())],
            ..options()
        };
        let mut lab = Lab::start(some, programs).unwrap_or_else(|error| panic!("{error}"));
        // The pod has no IPv6 address.
        lab.add_pod(0).unwrap_or_else(|error| panic!("{error}"));
        let device = pods_device(&lab.topology.sites[0]);
        let of_pod = |name: &str| format!("net/ipv6/conf/{device}/{name}");
        for (support, wanted) in [("false", "0"), ("true", "1")] {
            let site = &lab.topology.sites[0];
            let host = "net/ipv6/conf/all/forwarding".to_owned();
            for (key, value) in [
                (host, wanted),
                (of_pod("forwarding"), wanted),
                (of_pod("proxy_ndp"), wanted),
                (of_pod("accept_ra"), "0"),
            ] {
                let deadline = Instant::now() + options().patience;
                let stands = || (sysctl(site, &key).as_deref() == Some(value)).then_some(());
                assert!(
                    wait_until(deadline, stands).is_some(),
                    "FELIX_IPV6SUPPORT={support}: {key} is {:?}",
                    sysctl(site, &key)
                );
            }
            lab.options.environment[0].1 = "true".to_owned();
            lab.kill_agent(0).unwrap();
            lab.restart_agent(0)
                .unwrap_or_else(|error| panic!("{error}"));
        }
    });
}
