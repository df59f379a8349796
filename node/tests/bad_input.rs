//! The real program with settings it must refuse: exit code 1, variable, value and what is allowed, nothing written.

use std::process::{Command, Output};

/// Runs the agent with these variables only.
fn agent(variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tortie-node"))
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the program was built for this test")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refuses(variables: &[(&str, &str)], words: &[&str]) {
    // A store that is not there: whoever gets as far as asking it would say so.
    let directory = std::env::temp_dir().join("tortie-node-no-such-store");
    let store = format!("unix:{}", directory.join("store.sock").display());
    let nodename = directory.join("nodename").display().to_string();
    let mut all = vec![
        ("NODENAME", "n1"),
        ("TORTIE_STORE", store.as_str()),
        ("CALICO_NODENAME_FILE", nodename.as_str()),
    ];
    all.extend(variables);
    let output = agent(&all);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{variables:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{variables:?}: no {word:?} in: {said}");
    }
    assert!(!directory.exists(), "{variables:?}: something was written");
}

/// As [`refuses`], of what is found out when the lock of the host's agents is had. An ordinary user's agent ends at the lock.
fn refuses_with_the_lock(variables: &[(&str, &str)], words: &[&str]) {
    if rustix::process::geteuid().is_root() {
        refuses(variables, words);
    } else {
        refuses(variables, &["tortie-admin.lock", "Permission denied"]);
    }
}

#[test]
fn unparsable_pool_range_is_refused() {
    refuses(
        &[("CALICO_IPV4POOL_CIDR", "10.0.0.0/99")],
        &["CALICO_IPV4POOL_CIDR=\"10.0.0.0/99\"", "allowed:"],
    );
}

#[test]
fn block_size_out_of_range_is_refused() {
    for size in ["19", "33", "many"] {
        refuses(
            &[("CALICO_IPV4POOL_BLOCK_SIZE", size)],
            &["CALICO_IPV4POOL_BLOCK_SIZE", size, "20 to 32"],
        );
    }
}

#[test]
fn block_larger_than_its_pool_is_refused() {
    refuses(
        &[
            ("CALICO_IPV4POOL_CIDR", "10.0.0.0/28"),
            ("CALICO_IPV4POOL_BLOCK_SIZE", "26"),
        ],
        &["CALICO_IPV4POOL_BLOCK_SIZE", "10.0.0.0/28"],
    );
}

#[test]
fn unknown_encapsulation_is_refused() {
    refuses(
        &[("CALICO_IPV4POOL_VXLAN", "Sometimes")],
        &["CALICO_IPV4POOL_VXLAN=\"Sometimes\"", "CrossSubnet"],
    );
}

#[test]
fn both_encapsulations_are_refused() {
    refuses(
        &[
            ("CALICO_IPV4POOL_IPIP", "Always"),
            ("CALICO_IPV4POOL_VXLAN", "CrossSubnet"),
        ],
        &["CALICO_IPV4POOL_IPIP", "CALICO_IPV4POOL_VXLAN"],
    );
}

#[test]
fn all_errors_are_reported_together() {
    refuses(
        &[
            ("AS", "0"),
            ("IP", "somewhere"),
            ("CALICO_ROUTER_ID", "0.0.0.0"),
        ],
        &[
            "AS=\"0\"",
            "IP=\"somewhere\"",
            "CALICO_ROUTER_ID=\"0.0.0.0\"",
        ],
    );
}

#[test]
fn method_of_detection_with_a_bad_expression_is_refused() {
    refuses_with_the_lock(
        &[("IP_AUTODETECTION_METHOD", "interface=eth[")],
        &["IP_AUTODETECTION_METHOD", "eth["],
    );
}

#[test]
fn datastore_that_this_build_lacks_is_named() {
    let output = agent(&[("NODENAME", "n1"), ("DATASTORE_TYPE", "etcdv3")]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("etcdv3") && said.contains("not in this build"),
        "{said}"
    );
}

#[test]
fn an_api_server_that_nothing_names_is_asked_for() {
    let output = agent(&[("NODENAME", "n1"), ("DATASTORE_TYPE", "kubernetes")]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for named in ["DATASTORE_TYPE", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"] {
        assert!(said.contains(named), "{named}: {said}");
    }
}

#[test]
fn unreachable_store_is_named_when_it_is_not_waited_for() {
    refuses_with_the_lock(&[], &["store.sock", "WAIT_FOR_DATASTORE"]);
}

#[test]
fn health_without_an_agent_fails_and_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_tortie-node"))
        .env_clear()
        .env("FELIX_HEALTHENABLED", "true")
        // A port nobody can listen on.
        .env("FELIX_HEALTHHOST", "192.0.2.1.invalid")
        .args(["health", "-felix-live"])
        .output()
        .expect("the program was built for this test");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("felix-live") && said.contains("no answer"),
        "{said}"
    );
}

#[test]
fn help_lists_the_environment() {
    let output = Command::new(env!("CARGO_BIN_EXE_tortie-node"))
        .env_clear()
        .arg("--help")
        .output()
        .expect("the program was built for this test");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    for variable in [
        "NODENAME",
        "CALICO_IPV4POOL_CIDR",
        "FELIX_VXLANVNI",
        "TORTIE_STORE",
    ] {
        assert!(text.contains(variable), "{variable} is missing");
    }
}
