use serde_json::json;

use crate::agent::{Call, Scratch, Script, configuration, serve_one};

/// No agent listens: a bad call must be refused before one is looked for.
fn refused(
    scratch: &Scratch,
    command: &str,
    change: impl FnOnce(Call) -> Call,
    code: u32,
) -> String {
    let socket = scratch.path("nobody");
    change(Call::new(command, &socket)).run().error(code)
}

#[track_caller]
fn assert_names(msg: &str, parts: &[&str]) {
    for part in parts {
        assert!(msg.contains(part), "{part:?} is not in {msg:?}");
    }
}

#[test]
fn malformed_configurations_are_refused_by_field() {
    let scratch = Scratch::new();
    let conf = |key: &str, value| {
        let mut conf = configuration("1.0.0", &scratch.path("nobody"));
        conf[key] = value;
        conf.to_string()
    };
    let cases = [
        ("{\"name\":".to_owned(), 6, ["no JSON", ""]),
        ("[1]".to_owned(), 6, ["no JSON object", ""]),
        (String::new(), 6, ["no JSON", ""]),
        (
            conf("cniVersion", json!("2.0.0")),
            1,
            ["cniVersion: \"2.0.0\"", "1.1.0"],
        ),
        (conf("name", json!("")), 7, ["name: \"\"", "allowed"]),
        (
            conf("mtu", json!("big")),
            7,
            ["mtu: \"big\"", "68 to 65535"],
        ),
        (
            conf("ipam", json!({"type": "a/b"})),
            2,
            ["\"a/b\"", "calico-ipam"],
        ),
        (
            conf("ipam", json!(null)),
            7,
            ["ipam.type: required", "calico-ipam"],
        ),
        (
            conf("plugins", json!([{"type": "calico"}])),
            7,
            ["plugins", "configuration list"],
        ),
    ];
    for (stdin, code, parts) in cases {
        let msg = refused(&scratch, "ADD", |call| call.stdin(&stdin), code);
        assert_names(&msg, &parts);
    }
}

#[test]
fn an_error_is_printed_in_the_version_of_the_configuration() {
    let socket = Scratch::new().path("nobody");
    let outcome = Call::new("ADD", &socket)
        .stdin(json!({"cniVersion": "0.3.1", "name": ""}))
        .run();
    outcome.error(7);
    assert_eq!(outcome.json()["cniVersion"], "0.3.1");
}

#[test]
fn a_bad_environment_is_refused_by_variable() {
    let scratch = Scratch::new();
    let msg = refused(
        &scratch,
        "ADD",
        |call| call.unset("CNI_NETNS").unset("CNI_IFNAME"),
        4,
    );
    assert_names(&msg, &["CNI_NETNS", "CNI_IFNAME", "missing"]);
    let msg = refused(&scratch, "ADD", |call| call.set("CNI_NETNS", ""), 4);
    assert_names(&msg, &["CNI_NETNS", "missing"]);
    let msg = refused(&scratch, "FETCH", |call| call, 4);
    assert_names(&msg, &["CNI_COMMAND: \"FETCH\"", "ADD, CHECK"]);
    let msg = refused(
        &scratch,
        "ADD",
        |call| call.set("CNI_ARGS", "K8S_POD_NAME"),
        4,
    );
    assert_names(&msg, &["CNI_ARGS: \"K8S_POD_NAME\"", "KEY=VALUE"]);
    let msg = refused(
        &scratch,
        "ADD",
        |call| call.set("CNI_ARGS", "IP=300.0.0.1"),
        4,
    );
    assert_names(&msg, &["IP=\"300.0.0.1\"", "IPv4"]);
    let msg = refused(
        &scratch,
        "DEL",
        |call| call.set("CNI_CONTAINERID", "../x"),
        4,
    );
    assert_names(&msg, &["CNI_CONTAINERID: \"../x\"", "letter or digit"]);
    let msg = refused(&scratch, "DEL", |call| call.set("CNI_IFNAME", "a/b"), 4);
    assert_names(&msg, &["CNI_IFNAME: \"a/b\"", "1 to 15"]);
}

#[test]
fn a_missing_or_wrong_namespace_is_refused_by_path() {
    let scratch = Scratch::new();
    let gone = scratch.path("gone").display().to_string();
    let msg = refused(&scratch, "ADD", |call| call.set("CNI_NETNS", &gone), 8);
    assert_names(
        &msg,
        &["CNI_NETNS", &gone, "cannot be opened", "No such file"],
    );
    let file = scratch.path("file");
    std::fs::write(&file, "").expect("writable");
    let file = file.display().to_string();
    let msg = refused(&scratch, "ADD", |call| call.set("CNI_NETNS", &file), 8);
    assert_names(&msg, &[&file, "is no namespace"]);
    for command in ["ADD", "DEL"] {
        let own = "/proc/self/ns/net";
        let msg = refused(&scratch, command, |call| call.set("CNI_NETNS", own), 8);
        assert_names(&msg, &[own, "plugin's own namespace"]);
    }
    let mut conf = configuration("1.1.0", &scratch.path("nobody"));
    conf["prevResult"] = json!({"ips": []});
    let check = |call: Call| call.set("CNI_NETNS", &gone).stdin(&conf);
    let msg = refused(&scratch, "CHECK", check, 3);
    assert_names(&msg, &[&gone]);
}

#[test]
fn without_an_agent_the_runtime_is_asked_to_try_again_and_learns_where_to_look() {
    let scratch = Scratch::new();
    let socket = scratch.path("nobody");
    for command in ["ADD", "DEL"] {
        let outcome = Call::new(command, &socket).run();
        let msg = outcome.error(11);
        let path = socket.display().to_string();
        assert_names(&msg, &[&path, "No such file", "tortie-node", "try again"]);
        assert_names(
            outcome.json()["details"].as_str().unwrap_or(""),
            &["nodename does not exist"],
        );
    }
    std::fs::write(scratch.path("nodename"), "n1").expect("writable");
    assert_eq!(Call::new("ADD", &socket).run().json().get("details"), None);
    let outcome = Call::new("STATUS", &socket)
        .stdin(configuration("1.1.0", &socket))
        .run();
    outcome.error(50);
}

#[test]
fn an_agent_that_dies_is_not_taken_for_success() {
    let scratch = Scratch::new();
    for command in ["ADD", "DEL"] {
        let socket = scratch.path(command);
        let agent = serve_one(&socket, Script::HangUp);
        let msg = Call::new(command, &socket).run().error(11);
        agent.join().expect("the agent saw a request");
        assert_names(&msg, &["closed the connection", "try again"]);
    }
}

#[test]
fn an_agent_that_talks_nonsense_is_an_error_of_its_own() {
    let scratch = Scratch::new();
    let nonsense: [&[u8]; 4] = [
        b"\0\0\0\x02{}",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x04null",
        // Done, to an ADD.
        b"\0\0\0\x06\"done\"",
    ];
    for (index, octets) in nonsense.into_iter().enumerate() {
        let socket = scratch.path(&index.to_string());
        let agent = serve_one(&socket, Script::Answer(octets.to_vec()));
        let outcome = Call::new("ADD", &socket).run();
        agent.join().expect("the agent saw a request");
        outcome.error(104);
    }
}
