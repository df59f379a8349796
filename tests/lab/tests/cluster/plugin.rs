//! What a runtime's calls do through the real plugin and agent: repeated, at once, failing half-way, interrupted.

use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::{Lab, NetNs, Options, Sandbox, Site, call_plugin, make_sandbox, wait_until};
use serde_json::{Value, json};

use crate::{ctl, options, with_programs};

/// A machine with an agent, and a pool of this range in blocks of 8 addresses.
pub(crate) fn one_node(programs: lab::Programs, pool: &str) -> Lab {
    let options = Options {
        nodes: 1,
        pool: pool.to_owned(),
        block_size: 29,
        // As the DaemonSet has it: pods reach their node.
        environment: vec![(
            "FELIX_DEFAULTENDPOINTTOHOSTACTION".to_owned(),
            "ACCEPT".to_owned(),
        )],
        ..options()
    };
    Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"))
}

/// The plugin's configuration, as libcni makes it from the conflist.
pub(crate) fn configuration() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "k8s-pod-network",
        "type": "calico",
        "ipam": { "type": "calico-ipam" },
    })
}

pub(crate) fn call(site: &Site, sandbox: &Sandbox, command: &str, configuration: &Value) -> Output {
    call_plugin(site, sandbox, command, Some(&configuration.to_string())).unwrap()
}

pub(crate) fn succeeds(
    site: &Site,
    sandbox: &Sandbox,
    command: &str,
    configuration: &Value,
) -> Value {
    let output = call(site, sandbox, command, configuration);
    assert!(output.status.success(), "{command}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Calls and expects an error object of this code that has all these words.
pub(crate) fn fails(
    site: &Site,
    sandbox: &Sandbox,
    command: &str,
    configuration: &Value,
    code: u64,
    words: &[&str],
) {
    let output = call(site, sandbox, command, configuration);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{command}: {said}");
    let error: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!(error["code"], code, "{command}: {said}");
    for word in words {
        assert!(said.contains(word), "no \"{word}\" in: {said}");
    }
}

fn add(site: &Site, sandbox: &Sandbox) -> String {
    let result = succeeds(site, sandbox, "ADD", &configuration());
    result["ips"][0]["address"]
        .as_str()
        .unwrap_or_else(|| panic!("no address in {result}"))
        .to_owned()
}

fn del(site: &Site, sandbox: &Sandbox) {
    succeeds(site, sandbox, "DEL", &configuration());
}

/// Names of pods' devices on a machine.
pub(crate) fn devices(site: &Site) -> Vec<String> {
    let links = site.namespace.netlink().unwrap().links().unwrap();
    let names = links.into_iter().map(|link| link.name);
    names.filter(|name| name.starts_with("cali")).collect()
}

/// Waits until a machine has this many pods' devices; how long it took.
pub(crate) fn devices_become(site: &Site, count: usize) -> Duration {
    let started = Instant::now();
    let became = wait_until(started + options().patience, || {
        (devices(site).len() == count).then_some(())
    });
    assert!(became.is_some(), "not {count}: {:?}", devices(site));
    started.elapsed()
}

/// Objects of a kind in the store.
pub(crate) fn stored(lab: &Lab, kind: &str) -> Vec<Value> {
    let output = ctl(lab, &["get", kind, "-A", "-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Handles, endpoints and devices must all be `count`.
pub(crate) fn holds(lab: &Lab, count: usize) {
    let handles = stored(lab, "ipamhandles");
    assert_eq!(handles.len(), count, "{handles:#?}");
    let endpoints = stored(lab, "workloadendpoints");
    assert_eq!(endpoints.len(), count, "{endpoints:#?}");
    devices_become(&lab.topology.sites[0], count);
}

pub(crate) fn sandboxes(site: &Site, count: usize) -> Vec<(Sandbox, NetNs)> {
    (0..count)
        .map(|index| make_sandbox(site, &format!("s{index}")).unwrap())
        .collect()
}

#[test]
fn a_device_goes_soon_after_del_even_if_the_agent_dies_in_between() {
    let name = "plugin::a_device_goes_soon_after_del_even_if_the_agent_dies_in_between";
    with_programs(name, |programs| {
        let mut lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        // Held open, so that no device goes with its pod's namespace.
        let pods = sandboxes(&site, 2);
        for (sandbox, _) in &pods {
            add(&site, sandbox);
        }
        del(&site, &pods[0].0);
        println!("gone {:?} after DEL", devices_become(&site, 1));
        del(&site, &pods[1].0);
        lab.kill_agent(0).unwrap();
        println!("left by the killed agent: {:?}", devices(&site));
        lab.restart_agent(0)
            .unwrap_or_else(|error| panic!("{error}"));
        devices_become(&site, 0);
    });
}

/// Connections to a socket of this path in a machine's namespace that nobody has accepted yet, and those accepted.
fn connections(site: &Site, path: &str) -> usize {
    let table = site
        .namespace
        .run(|| std::fs::read_to_string("/proc/thread-self/net/unix").unwrap());
    // The listener is one of them.
    table.lines().filter(|line| line.ends_with(path)).count() - 1
}

#[test]
fn adds_at_once_share_writes_and_a_repeated_add_gets_the_same_address() {
    let name = "plugin::adds_at_once_share_writes_and_a_repeated_add_gets_the_same_address";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        // The block is claimed before, and its handle is not among those counted.
        let (first, _held) = make_sandbox(&site, "first").unwrap();
        add(&site, &first);
        let pods = sandboxes(&site, 7);
        let revision = |kind: &str| -> u64 {
            let all = stored(&lab, kind);
            let newest = all.iter().map(|object| {
                let text = object["metadata"]["resourceVersion"].as_str();
                text.and_then(|text| text.parse().ok()).unwrap_or(0)
            });
            newest.max().unwrap_or(0)
        };
        let before = revision("workloadendpoints");
        lab.freeze_agent(0).unwrap();
        let addresses: Vec<String> = std::thread::scope(|scope| {
            let calls: Vec<_> = pods
                .iter()
                .map(|(sandbox, _)| scope.spawn(|| add(&site, sandbox)))
                .collect();
            let all_wait = wait_until(Instant::now() + options().patience, || {
                (connections(&site, "/tortie-cni.sock") == pods.len()).then_some(())
            });
            lab.thaw_agent(0).unwrap();
            assert!(
                all_wait.is_some(),
                "{}",
                connections(&site, "/tortie-cni.sock")
            );
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let mut different = addresses.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), pods.len(), "{addresses:?}");
        let writes = revision("workloadendpoints").max(revision("ipamblocks")) - before;
        println!("{writes} transactions for {} ADDs", pods.len());
        // How many wait together after the thaw is the scheduler's; that those share one transaction is exact in
        // `task::cni::addresses` of `node`.
        assert!(
            writes < 2 * pods.len() as u64,
            "{writes} transactions: one for each endpoint, one for each address"
        );
        holds(&lab, pods.len() + 1);
        for ((sandbox, namespace), address) in pods.iter().zip(&addresses) {
            assert_eq!(add(&site, sandbox), *address);
            // The answer means that the pod is connected, and its device is a new one.
            let mut pinger = lab::Pinger::open(namespace, 1).unwrap();
            let answer = pinger.ping(site.address, options().patience).unwrap();
            assert!(answer.is_some(), "{address} reaches its node");
        }
        holds(&lab, pods.len() + 1);
        for (sandbox, _) in pods.iter().chain([&(first, _held)]) {
            del(&site, sandbox);
            del(&site, sandbox);
        }
        holds(&lab, 0);
    });
}

#[test]
fn an_add_that_fails_half_way_leaves_nothing_and_says_why() {
    let name = "plugin::an_add_that_fails_half_way_leaves_nothing_and_says_why";
    with_programs(name, |programs| {
        let mut lab = one_node(programs, "192.168.0.0/29");
        let site = lab.topology.sites[0].clone();
        let (sandbox, namespace) = make_sandbox(&site, "bad").unwrap();
        let plain = configuration();

        // Error codes: cni/src/spec/error.rs.
        let mut elsewhere = plain.clone();
        elsewhere["nodename"] = "n9".into();
        fails(
            &site,
            &sandbox,
            "ADD",
            &elsewhere,
            7,
            &["nodename", "n9", "n1"],
        );
        for (path, words) in [
            ("/proc/self/ns/net", "own namespace"),
            ("/proc/self/ns/uts", "CNI_NETNS"),
        ] {
            let wrong = Sandbox {
                netns_path: path.into(),
                ..sandbox.clone()
            };
            fails(&site, &wrong, "ADD", &plain, 8, &[words]);
        }
        holds(&lab, 0);

        namespace
            .netlink()
            .unwrap()
            .add_plain_link("eth0", "bridge")
            .unwrap();
        fails(&site, &sandbox, "ADD", &plain, 101, &["eth0", "CNI_IFNAME"]);
        holds(&lab, 0);

        let mut unknown_pool = plain.clone();
        unknown_pool["ipam"]["ipv4_pools"] = json!(["no-such-pool"]);
        fails(
            &site,
            &sandbox,
            "ADD",
            &unknown_pool,
            100,
            &["no-such-pool"],
        );

        let (good, _good_namespace) = make_sandbox(&site, "good").unwrap();
        lab.kill_store().unwrap();
        fails(
            &site,
            &good,
            "ADD",
            &plain,
            11,
            &["/run/tortie-lab/store.sock"],
        );
        devices_become(&site, 0);
        lab.restart_store()
            .unwrap_or_else(|error| panic!("{error}"));
        holds(&lab, 0);

        // Every address of the pool can still be had, and no more.
        let pods = sandboxes(&site, 8);
        for (pod, _) in &pods {
            add(&site, pod);
        }
        fails(&site, &good, "ADD", &plain, 100, &["default-ipv4-ippool"]);
        holds(&lab, 8);
        del(&site, &pods[3].0);
        add(&site, &good);
        holds(&lab, 8);
    });
}

#[test]
fn check_status_and_gc_see_the_truth() {
    with_programs("plugin::check_status_and_gc_see_the_truth", |programs| {
        let mut lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let pods = sandboxes(&site, 3);
        let results: Vec<Value> = pods
            .iter()
            .map(|(pod, _)| succeeds(&site, pod, "ADD", &configuration()))
            .collect();
        let (pod, namespace) = &pods[0];
        succeeds(&site, pod, "STATUS", &configuration());

        let mut with_result = configuration();
        with_result["prevResult"] = results[0].clone();
        succeeds(&site, pod, "CHECK", &with_result);
        let mut with_other = configuration();
        with_other["prevResult"] = results[1].clone();
        let other = results[1]["ips"][0]["address"].as_str().unwrap();
        let other = other.trim_end_matches("/32");
        fails(&site, pod, "CHECK", &with_other, 103, &[other]);
        let default = ipnet::Ipv4Net::default();
        namespace.netlink().unwrap().delete_route(default).unwrap();
        fails(&site, pod, "CHECK", &with_result, 103, &["0.0.0.0/0"]);

        // The second pod is all that the runtime knows.
        let mut valid = configuration();
        valid["cni.dev/valid-attachments"] =
            json!([{ "containerID": pods[1].0.container_id, "ifname": "eth0" }]);
        succeeds(&site, pod, "GC", &valid);
        holds(&lab, 1);
        fails(&site, pod, "CHECK", &with_result, 103, &["does not exist"]);
        with_result["prevResult"] = results[1].clone();
        succeeds(&site, &pods[1].0, "CHECK", &with_result);

        lab.kill_store().unwrap();
        fails(&site, pod, "STATUS", &configuration(), 50, &["store.sock"]);
        lab.restart_store()
            .unwrap_or_else(|error| panic!("{error}"));
        succeeds(&site, pod, "STATUS", &configuration());
        lab.kill_agent(0).unwrap();
        fails(
            &site,
            pod,
            "STATUS",
            &configuration(),
            50,
            &["tortie-cni.sock"],
        );
    });
}

#[test]
fn an_agent_killed_among_adds_leaks_nothing_once_they_are_repeated_or_collected() {
    let name =
        "plugin::an_agent_killed_among_adds_leaks_nothing_once_they_are_repeated_or_collected";
    with_programs(name, |programs| {
        let mut lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let pods = sandboxes(&site, 12);
        // Killed when so many devices exist, or so many calls were answered: at different places of an ADD.
        for (devices_then, answered_then) in [(1, 0), (6, 0), (0, 1), (0, 6)] {
            let answered = AtomicUsize::new(0);
            let add_one = |pod: &Sandbox| {
                let output = call(&site, pod, "ADD", &configuration());
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(
                    output.status.success() || said.contains("\"code\":11"),
                    "a runtime must be asked to try again: {said}"
                );
                answered.fetch_add(usize::from(output.status.success()), Ordering::SeqCst);
            };
            std::thread::scope(|scope| {
                for (pod, _) in &pods {
                    scope.spawn(|| add_one(pod));
                }
                let moment = wait_until(Instant::now() + options().patience, || {
                    (devices(&site).len() >= devices_then
                        && answered.load(Ordering::SeqCst) >= answered_then)
                        .then_some(())
                });
                lab.kill_agent(0).unwrap();
                assert!(moment.is_some(), "no such moment came");
            });
            println!("{answered:?} of {} answered before the kill", pods.len());
            lab.restart_agent(0)
                .unwrap_or_else(|error| panic!("{error}"));
            // Half of the pods are tried again; the others are unknown to the runtime from now on.
            let (again, forgotten) = pods.split_at(pods.len() / 2);
            let mut valid = configuration();
            valid["cni.dev/valid-attachments"] = again
                .iter()
                .map(|(pod, _)| json!({ "containerID": pod.container_id, "ifname": "eth0" }))
                .collect();
            for (pod, _) in again {
                add(&site, pod);
            }
            succeeds(&site, &forgotten[0].0, "GC", &valid);
            holds(&lab, again.len());
            for (pod, _) in again {
                del(&site, pod);
            }
            holds(&lab, 0);
        }
    });
}
