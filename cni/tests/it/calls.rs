use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use cni::protocol::{Command, Pod, Reply};
use cni::spec::error::{CniError, Code};
use cni::spec::result::{AddResult, Interface, IpConfig, Route};
use cni::spec::version::Version;
use serde_json::{Value, json};

use crate::agent::{Call, OTHER_NAMESPACE, Scratch, Script, configuration, outcome, serve_one};

fn net<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("valid")
}

/// A dual-stack result as the agent makes it.
fn added() -> AddResult {
    AddResult {
        interfaces: vec![
            Interface {
                name: "cali12345678901".to_owned(),
                ..Interface::default()
            },
            Interface {
                name: "eth0".to_owned(),
                mac: "0a:58:0a:00:00:05".to_owned(),
                mtu: Some(1450),
                sandbox: OTHER_NAMESPACE.to_owned(),
            },
        ],
        ips: ["10.0.0.5/32", "fd00::5/128"]
            .map(|address| IpConfig {
                address: net(address),
                gateway: None,
                interface: Some(1),
            })
            .to_vec(),
        routes: vec![
            Route::new(net("0.0.0.0/0"), Some(net("169.254.1.1"))),
            Route::new(net("::/0"), None),
        ],
        ..AddResult::default()
    }
}

#[test]
fn add_hands_over_the_pod_and_prints_the_result() {
    let scratch = Scratch::new();
    let socket = scratch.path("agent.sock");
    let agent = serve_one(&socket, Script::reply(&Reply::Added(added())));
    let outcome = Call::new("ADD", &socket).run();
    let (request, _) = agent.join().expect("the agent saw a request");

    assert_eq!((outcome.exit_code, outcome.stderr.as_str()), (0, ""));
    assert_eq!(outcome.json(), added().to_json(Version::V1_0_0));
    assert_eq!(request.command, Command::Add);
    assert_eq!(request.attachment().handle_id(), "k8s-pod-network.4f1c0de");
    assert_eq!(request.orchestrator(), "k8s");
    assert_eq!(
        request.pod,
        Some(Pod {
            namespace: "default".to_owned(),
            name: "web-0".to_owned(),
            uid: Some("u1".to_owned()),
        })
    );
    assert_eq!(request.ifname, "eth0");
    assert_eq!(request.netns_path.as_deref(), Some(OTHER_NAMESPACE));
    assert_eq!(request.mtu_bytes, 1450);
    assert!(request.ipam.assign_ipv4 && !request.ipam.assign_ipv6);
}

#[test]
fn the_descriptor_refers_to_the_namespace_of_cni_netns() {
    let scratch = Scratch::new();
    for (command, reply) in [("ADD", Reply::Added(added())), ("DEL", Reply::Done)] {
        let socket = scratch.path(command);
        let agent = serve_one(&socket, Script::reply(&reply));
        Call::new(command, &socket).run();
        let (_, inode) = agent.join().expect("the agent saw a request");
        let expected = std::fs::metadata(OTHER_NAMESPACE).expect("it exists").ino();
        assert_eq!(inode, Some(expected), "{command}");
    }
}

#[test]
fn each_version_gets_its_own_shape_of_result() {
    let new = json!([
        {"name": "cali12345678901"},
        {"name": "eth0", "mac": "0a:58:0a:00:00:05", "sandbox": OTHER_NAMESPACE},
    ]);
    let mut with_mtu = new.clone();
    with_mtu[1]["mtu"] = json!(1450);
    let routes = json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0"}]);
    let numbered = json!([
        {"address": "10.0.0.5/32", "interface": 1, "version": "4"},
        {"address": "fd00::5/128", "interface": 1, "version": "6"},
    ]);
    let plain = json!([
        {"address": "10.0.0.5/32", "interface": 1},
        {"address": "fd00::5/128", "interface": 1},
    ]);
    let old = json!({
        "ip4": {"ip": "10.0.0.5/32", "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]},
        "ip6": {"ip": "fd00::5/128", "routes": [{"dst": "::/0"}]},
    });
    let middle = json!({"interfaces": new, "ips": numbered, "routes": routes});
    let cases = [
        ("0.1.0", old.clone()),
        ("0.2.0", old),
        ("0.3.0", middle.clone()),
        ("0.3.1", middle.clone()),
        ("0.4.0", middle),
        (
            "1.0.0",
            json!({"interfaces": new, "ips": plain, "routes": routes}),
        ),
        (
            "1.1.0",
            json!({"interfaces": with_mtu, "ips": plain, "routes": routes}),
        ),
    ];
    let scratch = Scratch::new();
    for (version, mut expected) in cases {
        let socket = scratch.path(version);
        let agent = serve_one(&socket, Script::reply(&Reply::Added(added())));
        let outcome = Call::new("ADD", &socket)
            .stdin(configuration(version, &socket))
            .run();
        agent.join().expect("the agent saw a request");
        expected["cniVersion"] = json!(version);
        expected["dns"] = json!({});
        assert_eq!(outcome.json(), expected);
        let version = Version::parse(version).expect("known");
        let mut kept = added();
        if version < Version::V1_1_0 {
            kept.interfaces[1].mtu = None;
        }
        if version < Version::V0_3_0 {
            kept.interfaces.clear();
            kept.ips.iter_mut().for_each(|ip| ip.interface = None);
        }
        assert_eq!(AddResult::from_json(&expected, version), Ok(kept));
    }
}

#[test]
fn check_hands_over_the_previous_result_and_says_nothing_on_success() {
    let scratch = Scratch::new();
    let socket = scratch.path("agent.sock");
    let agent = serve_one(&socket, Script::reply(&Reply::Done));
    let mut conf = configuration("1.1.0", &socket);
    conf["prevResult"] = added().to_json(Version::V1_1_0);
    let outcome = Call::new("CHECK", &socket).stdin(conf).run();
    let (request, inode) = agent.join().expect("the agent saw a request");
    assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (0, ""));
    assert_eq!(request.prev_result, Some(added()));
    assert!(inode.is_some());
}

#[test]
fn del_works_without_a_namespace_and_with_what_is_left_of_the_configuration() {
    let scratch = Scratch::new();
    let gone = scratch.path("gone-netns").display().to_string();
    let file = scratch.path("plain-file");
    std::fs::write(&file, "").expect("writable");
    let file = file.display().to_string();
    for (name, netns) in [
        ("none", None),
        ("empty", Some("")),
        ("gone", Some(&*gone)),
        ("file", Some(&*file)),
    ] {
        let socket = scratch.path(name);
        let agent = serve_one(&socket, Script::reply(&Reply::Done));
        let call = Call::new("DEL", &socket)
            .set("CNI_ARGS", "nonsense")
            .stdin(json!({"name": "n", "agent_socket": socket, "prevResult": "nonsense"}));
        let call = match netns {
            Some(path) => call.set("CNI_NETNS", path),
            None => call.unset("CNI_NETNS"),
        };
        let outcome = call.run();
        let (request, inode) = agent.join().expect("the agent saw a request");
        assert_eq!(
            (outcome.exit_code, outcome.stdout.as_str()),
            (0, ""),
            "{name}"
        );
        assert_eq!((request.command, inode), (Command::Del, None), "{name}");
        assert_eq!(request.container_id, "4f1c0de");
    }
}

#[test]
fn status_and_gc_need_no_container() {
    let scratch = Scratch::new();
    for command in ["STATUS", "GC"] {
        let socket = scratch.path(command);
        let agent = serve_one(&socket, Script::reply(&Reply::Done));
        let mut conf = configuration("1.1.0", &socket);
        conf["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
        let outcome = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"]
            .into_iter()
            .fold(Call::new(command, &socket), Call::unset)
            .stdin(conf)
            .run();
        let (request, inode) = agent.join().expect("the agent saw a request");
        assert_eq!(
            (outcome.exit_code, outcome.stdout.as_str(), inode),
            (0, "", None)
        );
        let kept: Vec<_> = request
            .valid_attachments
            .iter()
            .map(|a| a.container_id.as_str())
            .collect();
        let expected: &[&str] = if command == "GC" { &["a"] } else { &[] };
        assert_eq!(kept, expected);
    }
}

#[test]
fn the_agents_error_is_the_plugins_error() {
    let scratch = Scratch::new();
    let socket = scratch.path("agent.sock");
    let error = CniError::new(Code::NO_ADDRESS, "no pools").with_details("a: disabled");
    let agent = serve_one(&socket, Script::reply(&Reply::Failed(error)));
    let outcome = Call::new("ADD", &socket).run();
    agent.join().expect("the agent saw a request");
    assert_eq!(outcome.error(100), "no pools");
    let expected = json!({
        "cniVersion": "1.0.0", "code": 100, "msg": "no pools", "details": "a: disabled",
    });
    assert_eq!(outcome.json(), expected);
}

#[test]
fn version_is_answered_under_both_names_without_an_agent() {
    let scratch = Scratch::new();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_tortie-cni"));
    for name in ["calico", "calico-ipam"] {
        let link = scratch.path(name);
        symlink(&program, &link).expect("a link can be made");
        let call = Call::new("VERSION", &scratch.path("nobody"))
            .program(&link)
            .unset("CNI_PATH");
        for (stdin, version) in [("{\"cniVersion\":\"0.4.0\"}", "0.4.0"), ("", "1.1.0")] {
            let outcome = call.clone().stdin(stdin).run();
            assert_eq!(outcome.exit_code, 0, "{name}");
            let answer = outcome.json();
            assert_eq!(answer["cniVersion"], version);
            let supported: &Vec<Value> = answer["supportedVersions"].as_array().expect("a list");
            assert_eq!(supported.len(), 7);
        }
    }
}

/// A call of the plugin `calico-ipam` as the IPAM of a plugin of this type, which has these keys for it.
fn of_ipam(scratch: &Scratch, command: &str, (kind, version): (&str, &str), ipam: Value) -> Call {
    let link = scratch.path("calico-ipam");
    if !link.exists() {
        symlink(env!("CARGO_BIN_EXE_tortie-cni"), &link).expect("a link can be made");
    }
    let socket = scratch.path("agent.sock");
    // Whatever is left of an earlier call's.
    let _ = std::fs::remove_file(&socket);
    let mut conf = configuration(version, &socket);
    conf["type"] = json!(kind);
    // Keys of the other plugin, of which some are wrong as ours.
    conf["mtu"] = json!("1450");
    conf["device_type"] = json!("whatever");
    conf["ipam"] = ipam;
    conf["ipam"]["type"] = json!("calico-ipam");
    conf["prevResult"] = json!({"cniVersion": version, "ips": [{"address": "10.0.0.5/26"}]});
    Call::new(command, &socket)
        .program(&link)
        .set("CNI_NETNS", "/run/netns/of-another-plugin")
        .stdin(conf)
}

#[test]
fn called_as_calico_ipam_it_gives_takes_back_and_compares_addresses_and_connects_nothing() {
    let scratch = Scratch::new();
    let given = AddResult {
        ips: ["10.0.0.5/26", "fd00::5/122"]
            .map(|address| IpConfig {
                address: net(address),
                gateway: None,
                interface: None,
            })
            .to_vec(),
        ..AddResult::default()
    };
    let cases = [
        ("ADD", Command::Assign, Reply::Added(given.clone())),
        ("DEL", Command::Release, Reply::Done),
        ("CHECK", Command::Verify, Reply::Done),
    ];
    for (command, sent, reply) in cases {
        let call = of_ipam(&scratch, command, ("macvlan", "0.4.0"), json!({}));
        let agent = serve_one(&scratch.path("agent.sock"), Script::reply(&reply));
        let outcome = call.run();
        assert_eq!(outcome.exit_code, 0, "{command}: {}", outcome.stdout);
        let (request, descriptor) = agent.join().expect("the agent saw a request");
        assert_eq!((request.command, descriptor), (sent, None));
        assert_eq!(request.attachment().handle_id(), "k8s-pod-network.4f1c0de");
        if command == "ADD" {
            // As Calico's: addresses of their blocks' length, neither gateway nor routes.
            assert_eq!(outcome.json(), given.to_json(Version::V0_4_0));
            assert_eq!(request.plugin, "macvlan");
        } else {
            assert_eq!(outcome.stdout, "");
        }
    }
    for (command, reply) in [("STATUS", Reply::Done), ("GC", Reply::Done)] {
        let mut conf: Value = configuration("1.1.0", &scratch.path("agent.sock"));
        conf["type"] = json!("ptp");
        conf["cni.dev/valid-attachments"] = json!([]);
        let call = of_ipam(&scratch, command, ("ptp", "1.1.0"), json!({})).stdin(conf);
        let agent = serve_one(&scratch.path("agent.sock"), Script::reply(&reply));
        assert_eq!(call.run().exit_code, 0, "{command}");
        agent.join().expect("the agent saw a request");
    }
}

#[test]
fn as_calico_ipam_its_result_has_the_gateways_and_routes_that_the_configuration_asks_for() {
    let scratch = Scratch::new();
    let of = |kind: &str, ipam: Value| {
        let given = AddResult {
            ips: vec![IpConfig {
                address: net("10.0.0.5/26"),
                gateway: None,
                interface: None,
            }],
            ..AddResult::default()
        };
        let call = of_ipam(&scratch, "ADD", (kind, "1.0.0"), ipam);
        let reply = Script::reply(&Reply::Added(given));
        let agent = serve_one(&scratch.path("agent.sock"), reply);
        let json = call.run().json();
        agent.join().expect("the agent saw a request");
        (json["ips"][0]["gateway"].clone(), json["routes"].clone())
    };
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16", "gw": "10.0.0.9"}]);
    let asked = json!({"gateway": "10.0.0.1", "routes": routes});
    assert_eq!(
        of("bridge", asked.clone()),
        (json!("10.0.0.1"), routes.clone())
    );
    assert_eq!(of("ptp", asked), (json!("10.0.0.1"), routes));
    // It cannot do without. What is of the other family is left out.
    let ipv6 = json!({"gateway": ["fd00::1"], "routes": [{"dst": "::/0"}]});
    assert_eq!(of("ptp", ipv6), (json!("169.254.1.1"), Value::Null));

    let refused = [
        (
            json!({"gateway": "10.0.0.1/24"}),
            "ipam.gateway: \"10.0.0.1/24\"",
        ),
        (
            json!({"gateway": ["10.0.0.1", "10.0.0.2"]}),
            "ipam.gateway: [\"10.0.0.1\",\"10.0.0.2\"]",
        ),
        (json!({"routes": {}}), "ipam.routes: {}"),
        (
            json!({"routes": [{"dst": "all"}]}),
            "ipam.routes: {\"dst\":\"all\"}",
        ),
        (
            json!({"routes": [{"dst": "::/0", "gw": "10.0.0.1"}]}),
            "ipam.routes: {\"dst\":\"::/0\"",
        ),
        (json!({"ipv4_pools": "x"}), "ipam.ipv4_pools: \"x\""),
    ];
    for (ipam, text) in refused {
        let msg = of_ipam(&scratch, "ADD", ("ptp", "1.0.0"), ipam)
            .run()
            .error(7);
        assert!(msg.contains(text) && msg.contains("; allowed: "), "{msg}");
    }
}

#[test]
fn a_person_is_told_what_it_is() {
    let call = Call::new("ADD", &Scratch::new().path("nobody")).unset("CNI_COMMAND");
    let outcome = call.run();
    assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (0, ""));
    assert!(
        outcome.stderr.contains("CNI versions: 0.1.0"),
        "{}",
        outcome.stderr
    );
}

/// Whether the process sleeps for a while, as the kernel says: clock_nanosleep or nanosleep.
fn sleeps(pid: u32) -> bool {
    let asleep = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    asleep("wchan").is_ok_and(|text| text.contains("nanosleep"))
        || asleep("syscall").is_ok_and(|text| text.starts_with("230 ") || text.starts_with("35 "))
}

#[test]
fn a_pod_that_comes_before_the_agent_waits_for_it() {
    let scratch = Scratch::new();
    let socket = scratch.path("agent.sock");
    let mut plugin = Call::new("ADD", &socket).start();
    // It has looked for the agent once, and found none.
    while !sleeps(plugin.id()) {
        let ended = plugin.try_wait().expect("the kernel answers");
        assert!(ended.is_none(), "it did not wait");
        std::thread::yield_now();
    }
    let agent = serve_one(&socket, Script::reply(&Reply::Added(added())));
    let outcome = outcome(plugin);
    // As soon as it listens; a machine so busy that this takes five seconds is out of patience.
    assert_eq!(outcome.exit_code, 0, "{}", outcome.stdout);
    agent.join().expect("the agent saw a request");
}

#[test]
fn status_does_not_wait_for_an_agent() {
    let scratch = Scratch::new();
    let socket = scratch.path("agent.sock");
    let mut plugin = Call::new("STATUS", &socket)
        .stdin(configuration("1.1.0", &socket))
        .start();
    while plugin.try_wait().expect("the kernel answers").is_none() {
        assert!(!sleeps(plugin.id()), "it waits");
        std::thread::yield_now();
    }
    outcome(plugin).error(50);
}

#[test]
fn an_add_waits_for_its_gates_and_for_the_pods_status_file() {
    let gate = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", gate.local_addr().expect("bound"));
    let answers = std::thread::spawn(move || {
        for status in ["503 Service Unavailable", "200 OK"] {
            let (mut stream, _) = gate.accept().expect("asked");
            let mut room = [0; 512];
            std::io::Read::read(&mut stream, &mut room).expect("a request");
            std::io::Write::write_all(&mut stream, format!("HTTP/1.1 {status}\r\n\r\n").as_bytes())
                .expect("it waits");
        }
    });
    let scratch = Scratch::new();
    let socket = scratch.path("agent.sock");
    let mut conf = configuration("1.0.0", &socket);
    conf["readiness_gates"] = json!([url]);
    conf["policy_setup_timeout_seconds"] = json!(1);
    conf["endpoint_status_dir"] = json!(scratch.path(""));
    let agent = serve_one(&socket, Script::reply(&Reply::Added(added())));
    let outcome = Call::new("ADD", &socket).stdin(&conf).run();
    agent.join().expect("the agent saw a request");
    answers
        .join()
        .expect("the gate was asked until it was ready");
    // It succeeds all the same.
    assert_eq!(outcome.exit_code, 0, "{}", outcome.stdout);
    let file = "k8s default%2Fweb-0 eth0";
    assert!(
        outcome.stderr.contains(file) && outcome.stderr.contains("policy_setup_timeout_seconds"),
        "{}",
        outcome.stderr
    );

    std::fs::write(scratch.path(file), "{}").expect("our own folder");
    std::fs::remove_file(&socket).expect("the former agent's");
    conf["readiness_gates"] = json!([]);
    conf["policy_setup_timeout_seconds"] = json!(3600);
    let agent = serve_one(&socket, Script::reply(&Reply::Added(added())));
    let outcome = Call::new("ADD", &socket).stdin(&conf).run();
    agent.join().expect("the agent saw a request");
    assert_eq!((outcome.exit_code, outcome.stderr.as_str()), (0, ""));
}
