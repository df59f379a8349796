//! Plugin and agent end (SIGKILL) at each system call of ADD and DEL, and the runtime's next call leaves nothing behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use cni_conformance::{Container, Network};
use lab::{Lab, Site, wait_until};
use serde_json::{Value, json};

use crate::{PLUGINS, network, one_node, stand_in, with_programs};

const STRACE: &str = "/usr/bin/strace";
/// How an agent sends: to the kernel, to the store, to the plugin, to its own threads.
const SENDING: [&str; 4] = ["write", "writev", "sendto", "sendmsg"];

fn needs_strace() {
    if !lab::is_inside() && !Path::new(STRACE).exists() {
        harness::skip("strace", "no /usr/bin/strace (Debian: strace)");
    }
}

fn ours(site: &Site) -> Network {
    let plugin = json!({"type": "calico", "ipam": {"type": "calico-ipam"}});
    let mut network = network(site, plugin);
    network.list["cniVersion"] = json!("1.1.0");
    network
}

/// What a runtime may do next about a container whose call did not end well.
fn repair(network: &Network, container: &Container, way: usize) -> anyhow::Result<()> {
    match way % 3 {
        0 => network.del(container, &Value::Null, None),
        1 => {
            network.add(container, &Value::Null)?;
            network.del(container, &Value::Null, None)
        }
        _ => network.collect(&[]),
    }
}

/// Devices of pods, objects of IPAM and endpoints of the node, all of which there should be none.
fn left(lab: &Lab) -> Vec<String> {
    let site = &lab.topology.sites[0];
    let links = site.namespace.netlink().unwrap().links().unwrap();
    let names = links.into_iter().map(|link| link.name);
    let mut left: Vec<String> = names.filter(|name| name.starts_with("cali")).collect();
    for kind in ["ipamhandles", "workloadendpoints"] {
        let output = site
            .namespace
            .command(lab.programs().ctl())
            .envs(lab.options.environment_of(site))
            .args(["get", kind, "-A", "-o", "name"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        left.extend(text.lines().map(|line| format!("{kind}: {line}")));
    }
    left
}

/// Repairs until nothing is left: what nobody waits for any more may still be at work at the first time.
fn is_repaired(lab: &Lab, network: &Network, container: &Container, way: usize, what: &str) {
    let deadline = Instant::now() + lab.options.patience;
    let clean = wait_until(deadline, || {
        repair(network, container, way).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        left(lab).is_empty().then_some(())
    });
    assert!(clean.is_some(), "{what}: {:?}", left(lab));
}

/// Every address of the pool can still be had.
fn nothing_leaked(lab: &Lab, network: &Network) {
    let site = &lab.topology.sites[0];
    let containers: Vec<Container> = (0..4)
        .map(|number| Container::new(site, &format!("last{number}")).unwrap())
        .collect();
    for container in &containers {
        let added = network.add(container, &Value::Null);
        added.unwrap_or_else(|error| panic!("an address has leaked: {error:#}"));
    }
}

/// A command of the plugin that a stand-in watches; whether it came to its end.
fn run_as(network: &Network, container: &Container, command: &str, kind: &str) -> bool {
    if !Path::new(PLUGINS).join(kind).exists() {
        stand_in(kind);
    }
    let mut object = network.configuration(0, &Value::Null);
    object.insert("type".to_owned(), json!(kind));
    network.run(command, &object, container).unwrap().success
}

/// The system calls of a command of the plugin, in order: name, and how many of the name there were so far.
fn system_calls(network: &Network, container: &Container, command: &str) -> Vec<(String, usize)> {
    assert!(run_as(network, container, command, "traced"));
    let read = || std::fs::read_to_string("/run/traced").unwrap();
    let text = network.site.namespace.run(read);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let names = text.lines().filter_map(|line| line.split_once('('));
    names
        .map(|(name, _)| {
            let count = counts.entry(name).or_default();
            *count += 1;
            (name.to_owned(), *count)
        })
        .collect()
}

#[test]
fn a_plugin_that_dies_at_any_system_call_leaves_what_the_next_call_repairs() {
    needs_strace();
    let name = "killed::a_plugin_that_dies_at_any_system_call_leaves_what_the_next_call_repairs";
    with_programs(name, |programs| {
        let lab = one_node(programs);
        let site = &lab.topology.sites[0];
        let network = ours(site);
        for command in ["ADD", "DEL"] {
            let prepare = |name: &str| {
                let container = Container::new(site, name).unwrap();
                if command == "DEL" {
                    network.add(&container, &Value::Null).unwrap();
                }
                container
            };
            let container = prepare(&format!("{command}-whole"));
            let calls = system_calls(&network, &container, command);
            is_repaired(&lab, &network, &container, 0, command);
            let mut killed = 0;
            for (way, (call, number)) in calls.iter().enumerate() {
                let what = format!("{command}, killed at {call}, number {number}");
                let container = prepare(&format!("{command}{way}"));
                let kind = format!("killed-{call}-{number}");
                killed += usize::from(!run_as(&network, &container, command, &kind));
                is_repaired(&lab, &network, &container, way, &what);
                container.unbind(site).unwrap();
            }
            println!(
                "{command}: killed at {killed} of {} system calls",
                calls.len()
            );
            // One run is not quite the other.
            assert!(killed > calls.len() / 2, "{calls:?}");
        }
        nothing_leaked(&lab, &network);
    });
}

#[test]
fn an_add_whose_plugin_died_before_it_was_begun_does_not_outlive_its_del() {
    let name = "killed::an_add_whose_plugin_died_before_it_was_begun_does_not_outlive_its_del";
    with_programs(name, |programs| {
        let lab = one_node(programs);
        let site = &lab.topology.sites[0];
        let network = ours(site);
        let object = network.configuration(0, &Value::Null);
        for round in 0..8 {
            let container = Container::new(site, &format!("round{round}")).unwrap();
            lab.freeze_agent(0).unwrap();
            std::thread::scope(|scope| {
                let mut plugin = start(&network, &container, &Value::Object(object.clone()));
                // Its request is on its way, or has arrived: it waits for the answer.
                let asleep = wait_until(Instant::now() + lab.options.patience, || {
                    let wchan = format!("/proc/{}/syscall", plugin.id());
                    let in_call = std::fs::read_to_string(wchan).unwrap_or_default();
                    in_call.starts_with(RECVMSG).then_some(())
                });
                plugin.kill().unwrap();
                plugin.wait().unwrap();
                let del = scope.spawn(|| network.del(&container, &Value::Null, None));
                lab.thaw_agent(0).unwrap();
                assert!(asleep.is_some(), "it never waited for its answer");
                del.join().unwrap().unwrap();
            });
            let deadline = Instant::now() + lab.options.patience;
            let clean = wait_until(deadline, || left(&lab).is_empty().then_some(()));
            assert!(clean.is_some(), "{:?}", left(&lab));
        }
        nothing_leaked(&lab, &network);
    });
}

/// Number of the system call recvmsg, as /proc/<pid>/syscall begins.
const RECVMSG: &str = if cfg!(target_arch = "x86_64") {
    "47 "
} else {
    "212 "
};

/// The plugin's ADD, started.
fn start(network: &Network, container: &Container, object: &Value) -> Child {
    use std::io::Write;
    let mut child = network
        .site
        .namespace
        .command(Path::new(PLUGINS).join("calico"))
        .env_clear()
        .env("CNI_COMMAND", "ADD")
        .env("CNI_PATH", PLUGINS)
        .envs(container.variables())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(object.to_string().as_bytes()).unwrap();
    child
}

/// The agent, which is killed once one of its threads has sent something for the n-th time.
struct Doomed(Child);

impl Doomed {
    /// Waits until it is watched.
    fn new(lab: &Lab, call: &str, number: usize) -> Self {
        let pid = agent();
        let mut child = Command::new(STRACE)
            .args(["--follow-forks", "--output=/dev/null"])
            .arg(format!("--trace={call}"))
            .arg(format!("--inject={call}:signal=KILL:when={number}"))
            .arg(format!("--attach={pid}"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says so once it has all threads.
        let deadline = Instant::now() + lab.options.patience;
        let traced = wait_until(deadline, || is_traced(pid).then_some(()));
        if traced.is_none() {
            let _ = child.kill();
            panic!("strace did not attach: {:?}", child.wait_with_output());
        }
        Self(child)
    }

    /// Lets go of it, if it lives.
    fn end(mut self) {
        // It may have ended with the agent.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// The one process of the agent's name.
fn agent() -> u32 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        (name.trim() == "tortie-node").then_some(pid)
    });
    found.next().expect("the agent runs")
}

/// Whether every thread has a tracer.
fn is_traced(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status"));
        status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    })
}

#[test]
fn an_agent_that_dies_at_any_message_of_an_add_or_del_leaves_what_the_next_call_repairs() {
    needs_strace();
    let name = "killed::an_agent_that_dies_at_any_message_of_an_add_or_del_leaves_what_the_next_call_repairs";
    with_programs(name, |programs| {
        let mut lab = one_node(programs);
        let site = lab.topology.sites[0].clone();
        let network = ours(&site);
        for command in ["ADD", "DEL"] {
            let mut died = 0;
            for call in SENDING {
                died += die_at_each(&mut lab, &network, command, call);
            }
            assert!(died > 4, "{command}: strace did not kill it");
        }
        nothing_leaked(&lab, &network);
    });
}

/// Kills the agent at its first, second, … system call of a name during a command of the plugin, until it outlives that. How often it
/// died before its answer.
fn die_at_each(lab: &mut Lab, network: &Network, command: &str, call: &str) -> usize {
    let site = network.site.clone();
    let (mut number, mut lived, mut died) = (1, 0, 0);
    // They are counted by thread: one that few threads make may be missed once.
    while lived < 2 {
        let what = format!("{command}, agent killed at {call}, number {number}");
        let container = Container::new(&site, &format!("{command}-{call}{number}")).unwrap();
        if command == "DEL" {
            network.add(&container, &Value::Null).unwrap();
        }
        let doomed = Doomed::new(lab, call, number);
        let object = network.configuration(0, &Value::Null);
        let said = network.run(command, &object, &container).unwrap();
        doomed.end();
        assert!(
            said.success || said.error().is_ok_and(|code| code == 11),
            "{what}: a runtime must be asked to try again: {said:?}"
        );
        lived += usize::from(said.success);
        died += usize::from(!said.success);
        // It may be dead already.
        let _ = lab.kill_agent(0);
        lab.restart_agent(0)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        is_repaired(lab, network, &container, number, &what);
        container.unbind(&site).unwrap();
        number += 1;
    }
    println!("{command}, {call}: {died} kills before the answer");
    died
}

#[test]
fn del_takes_the_pod_off_the_network_before_its_address_is_free() {
    let name = "killed::del_takes_the_pod_off_the_network_before_its_address_is_free";
    with_programs(name, |programs| {
        let mut lab = one_node(programs);
        let site = lab.topology.sites[0].clone();
        let network = ours(&site);
        let container = Container::new(&site, "pod").unwrap();
        let result = network.add(&container, &Value::Null).unwrap();
        let text = result["ips"][0]["address"].as_str().unwrap();
        let address: ipnet::IpNet = text.parse().unwrap();
        let routes = || site.namespace.netlink().unwrap().routes().unwrap();
        let is_routed = || routes().iter().any(|route| route.destination == address);
        assert!(is_routed(), "{address}: {:?}", routes());
        // The address cannot be given back now.
        lab.kill_store().unwrap();
        let object = network.configuration(0, &Value::Null);
        let said = network.run("DEL", &object, &container).unwrap();
        said.error_of(11).unwrap();
        assert!(!is_routed(), "{address}: {:?}", routes());
        lab.restart_store()
            .unwrap_or_else(|error| panic!("{error}"));
        is_repaired(&lab, &network, &container, 0, "DEL");
        nothing_leaked(&lab, &network);
    });
}
