use serde_json::json;

use super::*;

fn check(command: Command, value: &Value) -> Result<NetConf, CniError> {
    let (object, version) = read_object(value.to_string().as_bytes())?;
    NetConf::check(&object, version, command)
}

/// A configuration as Calico's installer writes it, for one plugin of the list.
fn calico() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "k8s-pod-network",
        "type": "calico",
        "log_level": "info",
        "log_file_path": "/var/log/calico/cni/cni.log",
        "datastore_type": "kubernetes",
        "nodename": "n1",
        "mtu": 0,
        "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "ipv4_pools": ["10.0.0.0/16", "web"]},
        "policy": {"type": "k8s"},
        "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}
    })
}

fn with(changes: Value) -> Value {
    let mut conf = calico();
    for (key, value) in changes.as_object().expect("an object") {
        conf[key] = value.clone();
    }
    conf
}

#[test]
fn what_calico_writes_is_understood() {
    let conf = check(Command::Add, &calico()).expect("valid");
    assert_eq!(conf.cni_version, Version::V1_0_0);
    assert_eq!(conf.name, "k8s-pod-network");
    assert_eq!(conf.nodename.as_deref(), Some("n1"));
    assert_eq!(conf.agent_socket, PathBuf::from(SOCKET_PATH));
    assert_eq!(conf.nodename_file, PathBuf::from(NODENAME_FILE));
    assert_eq!(conf.ipam.ipv4_pools, ["10.0.0.0/16", "web"]);
    assert!(conf.ipam.assign_ipv4 && !conf.ipam.assign_ipv6);
}

#[test]
fn addresses_of_the_runtime_go_before_those_of_args() {
    let args = json!({"args": {"cni": {"ips": ["fd00::5/64", "10.0.0.5"]}, "other": [1]}});
    let conf = check(Command::Add, &with(args.clone())).expect("valid");
    let asked: Vec<String> = conf.ips.iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["10.0.0.5", "fd00::5"]);
    let mut both = with(args);
    both["runtimeConfig"] = json!({"ips": ["10.0.0.6/24"]});
    let conf = check(Command::Add, &both).expect("valid");
    let asked: Vec<String> = conf.ips.iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["10.0.0.6"]);
}

#[test]
fn keys_that_nobody_knows_are_named_where_debug_is_asked_for() {
    let more = json!({"num_queues": 4, "cni.dev/x": 1, "colour": "grey"});
    let quiet = check(Command::Add, &with(more.clone())).expect("valid");
    assert_eq!(quiet.unknown_keys, [""; 0]);
    assert_eq!(quiet.queues, 4);
    let mut debug = with(more);
    debug["log_level"] = json!("debug");
    let debug = check(Command::Add, &debug).expect("valid");
    assert_eq!(debug.unknown_keys, ["colour"]);
}

#[test]
fn each_wrong_key_is_named_with_its_value_and_what_is_allowed() {
    let cases = [
        (
            json!({"readiness_gates": ["http://localhost:9099/readiness", "https://localhost"]}),
            7,
            "readiness_gates: \"https://localhost\"",
            "http URLs",
        ),
        (
            json!({"policy_setup_timeout_seconds": -1}),
            7,
            "policy_setup_timeout_seconds: -1",
            "0 to 3600",
        ),
        (
            json!({"num_queues": "2"}),
            7,
            "num_queues: \"2\"",
            "1 to 4096",
        ),
        (
            json!({"runtimeConfig": {"ips": ["10.0.0.1", "10.0.0.2"]}}),
            7,
            "runtimeConfig.ips: ",
            "one IPv4",
        ),
        (
            json!({"args": {"cni": {"ips": "10.0.0.1"}}}),
            7,
            "args.cni.ips: \"10.0.0.1\"",
            "one IPv4",
        ),
        (
            json!({"runtimeConfig": {"mac": "ff:ff:ff:ff:ff:ff"}}),
            7,
            "runtimeConfig.mac: \"ff:",
            "one station",
        ),
        (
            json!({"feature_control": {"floating_ips": 1}}),
            7,
            "feature_control.floating_ips: 1",
            "true, false",
        ),
        (
            json!({"name": "a b"}),
            7,
            "name: \"a b\"",
            "letter or digit",
        ),
        (
            json!({"name": null}),
            7,
            "name: required",
            "letter or digit",
        ),
        (json!({"name": 7}), 7, "name: 7", "text"),
        (json!({"mtu": "1500"}), 7, "mtu: \"1500\"", "68 to 65535"),
        (json!({"mtu": -1}), 7, "mtu: -1", "68 to 65535"),
        (json!({"mtu": 67}), 7, "mtu: 67", "68 to 65535"),
        (
            json!({"ipam": null}),
            7,
            "ipam.type: required",
            "calico-ipam",
        ),
        (json!({"ipam": {}}), 7, "ipam.type: required", "calico-ipam"),
        (json!({"ipam": "x"}), 7, "ipam: \"x\"", "an object"),
        (
            json!({"ipam": {"type": "../host-local"}}),
            2,
            "ipam.type: \"../host-local\"",
            "calico-ipam",
        ),
        (
            json!({"ipam": {"type": "calico-ipam", "assign_ipv4": "yes"}}),
            7,
            "ipam.assign_ipv4: \"yes\"",
            "true, false",
        ),
        (
            json!({"ipam": {"type": "calico-ipam", "assign_ipv4": "false"}}),
            7,
            "both false",
            "at least one",
        ),
        (
            json!({"ipam": {"type": "calico-ipam", "ipv4_pools": ["fd00::/64"]}}),
            7,
            "ipam.ipv4_pools: \"fd00::/64\"",
            "of this family",
        ),
        (
            json!({"ipam": {"type": "calico-ipam", "ipv4_pools": "10.0.0.0/8"}}),
            7,
            "ipam.ipv4_pools: \"10.0.0.0/8\"",
            "names of IPPools",
        ),
        (
            json!({"policy": {"type": "x"}}),
            2,
            "policy.type: \"x\"",
            "k8s",
        ),
        (
            json!({"device_type": "netkit"}),
            2,
            "device_type: \"netkit\"",
            "veth",
        ),
        (
            json!({"dataplane_options": {"type": "grpc"}}),
            2,
            "dataplane_options.type",
            "none",
        ),
        (
            json!({"agent_socket": "x.sock"}),
            7,
            "agent_socket: \"x.sock\"",
            "absolute path",
        ),
        (json!({"plugins": []}), 7, "plugins: ", "list"),
        (
            json!({"cniVersion": "9.9.9"}),
            1,
            "cniVersion: \"9.9.9\"",
            "1.1.0",
        ),
        (json!({"cniVersion": 1}), 6, "cniVersion: 1", "text"),
    ];
    for (change, code, what, allowed) in cases {
        let error = check(Command::Add, &with(change.clone())).expect_err("wrong");
        assert_eq!(error.code, Code(code), "{change}: {}", error.msg);
        assert!(error.msg.contains(what), "{change}: {}", error.msg);
        assert!(error.msg.contains(allowed), "{change}: {}", error.msg);
    }
    for text in ["", "{", "[]", "7"] {
        let error = read_object(text.as_bytes()).expect_err("no object");
        assert_eq!(error.code, Code::DECODE, "{}", error.msg);
    }
}

#[test]
fn del_and_gc_work_with_what_is_left_of_a_configuration() {
    let del = json!({"cniVersion": "1.0.0", "name": "n", "mtu": "x", "prevResult": 7});
    let conf = check(Command::Del, &del).expect("a name is enough");
    assert_eq!(conf.prev_result, None);
    let gc = json!({
        "cniVersion": "1.1.0",
        "name": "n",
        "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
    });
    let conf = check(Command::Gc, &gc).expect("valid");
    assert_eq!(conf.valid_attachments[0].container_id, "c1");
    let error =
        check(Command::Gc, &json!({"cniVersion": "1.1.0", "name": "n"})).expect_err("no list");
    assert!(
        error.msg.contains("valid-attachments: required"),
        "{}",
        error.msg
    );
}

#[test]
fn commands_need_the_version_that_brought_them() {
    let cases = [
        (Command::Check, "0.3.1", "0.4.0"),
        (Command::Status, "1.0.0", "1.1.0"),
        (Command::Gc, "1.0.0", "1.1.0"),
    ];
    for (command, version, first) in cases {
        let error = check(command, &with(json!({"cniVersion": version}))).expect_err("too old");
        assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
        assert!(
            error.msg.contains(version) && error.msg.contains(first),
            "{}",
            error.msg
        );
    }
    let error = check(Command::Check, &calico()).expect_err("no result");
    assert_eq!(error.msg, "prevResult: required for CHECK");
}
