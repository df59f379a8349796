//! Addresses of another IPAM plugin: a script stands for host-local.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cni::protocol::{Command, Reply};
use cni::spec::error::{CniError, Code};
use cni::spec::result::{AddResult, IpConfig};
use serde_json::{Value, json};

use crate::agent::{Call, Scratch, Script, configuration, serve_all};

/// An IPAM plugin that notes how it was called, and what it gives for ADD.
const PLUGIN: &str = r#"#!/bin/sh
read -r line
echo "$CNI_COMMAND ${CNI_CONTAINERID:-none} $line" >> "$(dirname "$0")/calls"
[ "$CNI_COMMAND" = ADD ] || [ "$CNI_COMMAND" = STATUS ] || exit 0
cat "$(dirname "$0")/answer"
grep -q '"code"' "$(dirname "$0")/answer" && exit 1
exit 0
"#;

/// A folder of plugins with one that answers this.
fn plugins(answer: &Value) -> Scratch {
    let scratch = Scratch::new();
    let program = scratch.path("host-local");
    fs::write(&program, PLUGIN).expect("writable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
    fs::write(scratch.path("answer"), answer.to_string()).expect("writable");
    scratch
}

/// What the IPAM plugin was asked: the command, and the configuration it was given.
fn calls(scratch: &Scratch) -> Vec<(String, Value)> {
    let text = fs::read_to_string(scratch.path("calls")).unwrap_or_default();
    let call = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let command = words.next().unwrap_or_default().to_owned();
        let container = match command.as_str() {
            "GC" | "STATUS" => "none",
            _ => "4f1c0de",
        };
        assert_eq!(words.next(), Some(container), "{line}");
        let json = words.next().unwrap_or_default();
        (command, serde_json::from_str(json).expect("JSON"))
    };
    text.lines().map(call).collect()
}

fn call(command: &str, scratch: &Scratch) -> Call {
    call_having(command, scratch, &json!({}))
}

/// As [`call`], with more keys.
fn call_having(command: &str, scratch: &Scratch, more: &Value) -> Call {
    let socket = scratch.path("agent.sock");
    let about_no_pod = matches!(command, "GC" | "STATUS");
    let version = if about_no_pod { "1.1.0" } else { "1.0.0" };
    let mut conf = configuration(version, &socket);
    conf["ipam"] = json!({
        "type": "host-local",
        "ranges": [[{"subnet": "usepodcidr"}], [{"subnet": "usePodCidrIPv6"}], [{"subnet": "10.9.0.0/24"}]],
    });
    if command == "CHECK" {
        conf["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.77.1.5/32"}]});
    }
    if command == "GC" {
        conf["cni.dev/valid-attachments"] = valid_attachments();
    }
    for (key, value) in more.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    let call = Call::new(command, &socket)
        .set("CNI_PATH", &scratch.path("").display().to_string())
        .stdin(conf);
    let of_pods = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];
    match about_no_pod {
        true => of_pods.into_iter().fold(call, Call::unset),
        false => call,
    }
}

fn valid_attachments() -> Value {
    json!([{"containerID": "4f1c0de", "ifname": "eth0"}])
}

fn given() -> Value {
    json!({"cniVersion": "1.0.0", "ips": [{"address": "10.77.1.5/24", "gateway": "10.77.1.1"}],
           "routes": [{"dst": "0.0.0.0/0"}], "dns": {}})
}

fn ranges() -> Script {
    let ranges = ["10.77.1.0/24", "fd77:1::/64"].map(|range| range.parse().expect("valid"));
    Script::reply(&Reply::PodCidrs(ranges.to_vec()))
}

fn added(address: &str) -> Script {
    Script::reply(&Reply::Added(AddResult {
        ips: vec![IpConfig {
            address: address.parse().expect("valid"),
            gateway: None,
            interface: None,
        }],
        ..AddResult::default()
    }))
}

fn subnets(configuration: &Value) -> Vec<&str> {
    let sets = configuration["ipam"]["ranges"].as_array().expect("a list");
    sets.iter()
        .map(|set| set[0]["subnet"].as_str().expect("text"))
        .collect()
}

#[test]
fn the_other_plugin_gives_an_address_from_the_nodes_ranges_and_the_agent_connects_with_it() {
    let scratch = plugins(&given());
    let agent = serve_all(
        &scratch.path("agent.sock"),
        vec![ranges(), added("10.77.1.5/32")],
    );
    let outcome = call("ADD", &scratch).run();
    assert_eq!(outcome.exit_code, 0, "{}", outcome.stdout);
    let seen = agent.join().expect("the agent saw both");
    assert_eq!(seen[0].0.command, Command::PodCidrs);
    let request = &seen[1].0;
    assert_eq!(request.command, Command::Add);
    let addresses: Vec<String> = request.given.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.77.1.5/32"]);
    assert!(request.ipam.assign_ipv4 && !request.ipam.assign_ipv6);
    let calls = calls(&scratch);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].0, "ADD");
    assert_eq!(
        subnets(&calls[0].1),
        ["10.77.1.0/24", "fd77:1::/64", "10.9.0.0/24"]
    );
    assert_eq!(calls[0].1["name"], "k8s-pod-network");
}

#[test]
fn del_disconnects_first_and_gives_back_without_asking_which_ranges_there_are() {
    let scratch = plugins(&given());
    let agent = serve_all(
        &scratch.path("agent.sock"),
        vec![Script::reply(&Reply::Done)],
    );
    let outcome = call("DEL", &scratch).run();
    assert_eq!(outcome.exit_code, 0, "{}", outcome.stdout);
    agent.join().expect("the agent saw it");
    let calls = calls(&scratch);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].0, "DEL");
    assert_eq!(subnets(&calls[0].1), ["0.0.0.0/0", "::/0", "10.9.0.0/24"]);
    // Not given back while the pod may still be connected.
    let busy = Reply::Failed(CniError::new(Code::TRY_AGAIN_LATER, "locked"));
    fs::remove_file(scratch.path("agent.sock")).expect("the former agent's");
    let agent = serve_all(&scratch.path("agent.sock"), vec![Script::reply(&busy)]);
    call("DEL", &scratch).run().error(11);
    agent.join().expect("the agent saw it");
    assert_eq!(self::calls(&scratch).len(), 1);
}

#[test]
fn what_the_agent_refuses_is_given_back_and_what_is_unknown_waits_for_del() {
    let refused = |code| Script::reply(&Reply::Failed(CniError::new(code, "no")));
    for (script, code, commands) in [
        (refused(Code::KERNEL), 101, &["ADD", "DEL"][..]),
        (added("10.77.1.6/32"), 104, &["ADD", "DEL"]),
        (refused(Code::TRY_AGAIN_LATER), 11, &["ADD"]),
    ] {
        let scratch = plugins(&given());
        let agent = serve_all(&scratch.path("agent.sock"), vec![ranges(), script]);
        call("ADD", &scratch).run().error(code);
        agent.join().expect("the agent saw both");
        let calls = calls(&scratch);
        let called: Vec<&str> = calls.iter().map(|(command, _)| command.as_str()).collect();
        assert_eq!(called, commands, "{code}");
    }
}

#[test]
fn the_other_plugins_error_is_the_plugins_error_and_bad_configurations_are_named() {
    let full = json!({"cniVersion": "1.0.0", "code": 999, "msg": "no IP addresses available"});
    let scratch = plugins(&full);
    let agent = serve_all(&scratch.path("agent.sock"), vec![ranges()]);
    let msg = call("ADD", &scratch).run().error(999);
    assert!(
        msg.contains("host-local") && msg.contains("no IP addresses available"),
        "{msg}"
    );
    agent.join().expect("the agent was asked for ranges");

    let scratch = plugins(&given());
    let none = Script::reply(&Reply::PodCidrs(Vec::new()));
    let agent = serve_all(&scratch.path("agent.sock"), vec![none]);
    let msg = call("ADD", &scratch).run().error(11);
    assert!(
        msg.contains("usePodCidr") && msg.contains("spec.podCIDRs"),
        "{msg}"
    );
    agent.join().expect("the agent was asked for ranges");

    fs::remove_file(scratch.path("agent.sock")).expect("the former agent's");
    fs::remove_file(scratch.path("host-local")).expect("there");
    let agent = serve_all(&scratch.path("agent.sock"), vec![ranges()]);
    let msg = call("ADD", &scratch).run().error(7);
    assert!(
        msg.contains("host-local") && msg.contains("CNI_PATH"),
        "{msg}"
    );
    agent.join().expect("the agent was asked for ranges");
}

#[test]
fn routes_of_the_other_plugin_stand_in_place_of_the_default_one_or_beside_it() {
    // One of a family that it gave no address of leads nowhere.
    let mut routed = given();
    routed["routes"] = json!([{"dst": "10.0.0.0/8", "gw": "10.77.1.1"}, {"dst": "fd00::/8"}]);
    for (beside, expected) in [
        (false, &["10.0.0.0/8"][..]),
        (true, &["0.0.0.0/0", "10.0.0.0/8"][..]),
    ] {
        let scratch = plugins(&routed);
        let socket = scratch.path("agent.sock");
        let agent = serve_all(&socket, vec![ranges(), added("10.77.1.5/32")]);
        let more = json!({"include_default_routes": beside});
        let outcome = call_having("ADD", &scratch, &more).run();
        assert_eq!(outcome.exit_code, 0, "{}", outcome.stdout);
        let seen = agent.join().expect("the agent saw both");
        let routes: Vec<String> = seen[1].0.routes.iter().map(ToString::to_string).collect();
        assert_eq!(routes, expected);
    }
}

#[test]
fn gc_and_status_reach_the_other_plugin_once_the_agent_has_done_its_part() {
    let scratch = plugins(&json!({}));
    let socket = scratch.path("agent.sock");
    let done = || Script::reply(&Reply::Done);
    let agent = serve_all(&socket, vec![done()]);
    let outcome = call("GC", &scratch).run();
    assert_eq!(outcome.exit_code, 0, "{}", outcome.stdout);
    let seen = agent.join().expect("the agent saw it");
    assert_eq!(seen[0].0.valid_attachments.len(), 1);
    fs::remove_file(&socket).expect("the former agent's");
    let agent = serve_all(&socket, vec![done(), ranges()]);
    let outcome = call("STATUS", &scratch).run();
    assert_eq!(outcome.exit_code, 0, "{}", outcome.stdout);
    agent.join().expect("the agent saw both");
    let called = calls(&scratch);
    let commands: Vec<&str> = called.iter().map(|(command, _)| command.as_str()).collect();
    assert_eq!(commands, ["GC", "STATUS"]);
    assert_eq!(
        called[0].1["cni.dev/valid-attachments"],
        valid_attachments()
    );
    assert_eq!(subnets(&called[0].1), ["0.0.0.0/0", "::/0", "10.9.0.0/24"]);
    assert_eq!(
        subnets(&called[1].1),
        ["10.77.1.0/24", "fd77:1::/64", "10.9.0.0/24"]
    );
}

#[test]
fn status_is_what_is_wrong_with_the_agent_its_ranges_or_the_other_plugin() {
    let full = json!({"cniVersion": "1.1.0", "code": 50, "msg": "no range has an address left"});
    let failed = |code| Script::reply(&Reply::Failed(CniError::new(code, "not now")));
    let done = || Script::reply(&Reply::Done);
    let none = || Script::reply(&Reply::PodCidrs(Vec::new()));
    for (command, script, code, word, asked) in [
        (
            "STATUS",
            vec![failed(Code::NOT_AVAILABLE)],
            50,
            "not now",
            0,
        ),
        ("STATUS", vec![done(), none()], 50, "usePodCidr", 0),
        (
            "STATUS",
            vec![done(), ranges()],
            50,
            "host-local: no range",
            1,
        ),
        // What the agent still has is not given back.
        ("GC", vec![failed(Code::TRY_AGAIN_LATER)], 11, "not now", 0),
    ] {
        let scratch = plugins(&full);
        let agent = serve_all(&scratch.path("agent.sock"), script);
        let msg = call(command, &scratch).run().error(code);
        assert!(msg.contains(word), "{msg}");
        agent.join().expect("the agent was asked");
        assert_eq!(calls(&scratch).len(), asked, "{word}");
    }
}
