//! The real program against an embedded store served by the test, and against an agent played by the test.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use datastore::memory::MemoryStore;
use serde_json::Value;

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tortiectl-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A leftover in the temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Serves an empty store while `test` runs.
fn with_store(name: &str, test: impl FnOnce(&dyn Fn(&[&str], &str) -> Output)) {
    let directory = Directory::new(name);
    let socket = directory.file("store.sock");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let listener = runtime.block_on(datastore_local::bind(&socket)).unwrap();
    let serving = runtime.spawn(datastore_local::serve(
        Arc::new(MemoryStore::new()),
        listener,
        async move {
            // Either way the test is over.
            let _ = stopped.await;
        },
    ));
    test(&|arguments, stdin| run(&socket, arguments, stdin));
    stop.send(()).unwrap();
    runtime.block_on(serving).unwrap().unwrap();
}

fn run(store: &Path, arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .env_clear()
        .env("TORTIE_STORE", format!("unix:{}", store.display()))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end without having read it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const MANIFEST: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: first
spec:
  cidr: 10.48.0.0/16
  natOutgoing: true
  assignmentMode: Manual
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: tor
spec:
  peerIP: 192.0.2.1
  asNumber: 65000
";

#[test]
fn what_is_applied_is_shown_and_deleted() {
    with_store("round", |ctl| {
        let applied = ctl(&["apply", "-f", "-"], MANIFEST);
        assert!(applied.status.success(), "{}", err(&applied));
        assert_eq!(out(&applied), "Successfully applied 2 resource(s)\n");
        assert_eq!(
            err(&applied),
            "note: IPPool(first): spec.assignmentMode is kept and has no effect in this version\n"
        );

        let peers = out(&ctl(&["get", "bgpPeer"], ""));
        let lines: Vec<&str> = peers.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["NAME", "PEERIP", "NODE", "ASN"]
        );
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["tor", "192.0.2.1", "(global)", "65000"]
        );

        let pool: Value =
            serde_json::from_slice(&ctl(&["get", "pool", "first", "-o", "json"], "").stdout)
                .unwrap();
        assert_eq!(pool["spec"]["assignmentMode"], "Manual", "{pool}");
        assert!(pool["metadata"]["resourceVersion"].is_string(), "{pool}");

        // What `get` prints can be applied again.
        let yaml = out(&ctl(&["get", "pool", "first", "-o", "yaml"], ""));
        let again = ctl(&["apply", "-f", "-"], &yaml);
        assert_eq!(
            out(&again),
            "Successfully applied 1 'IPPool' resource(s)\n",
            "{}",
            err(&again)
        );
        assert_eq!(
            out(&ctl(&["get", "pools", "-o", "name"], "")),
            "ippool/first\n"
        );

        let deleted = ctl(&["delete", "bgppeer", "tor"], "");
        assert_eq!(
            out(&deleted),
            "Successfully deleted 1 'BGPPeer' resource(s)\n"
        );
        let gone = ctl(&["get", "bgppeer", "tor"], "");
        assert_eq!(gone.status.code(), Some(1));
        assert_eq!(err(&gone), "resource does not exist: BGPPeer(tor)\n");
    });
}

#[test]
fn nothing_is_written_when_one_object_of_a_manifest_is_wrong() {
    with_store("wrong", |ctl| {
        let wrong = format!(
            "{MANIFEST}\n---\nkind: IPPool\nmetadata: {{name: bad}}\nspec: {{cidr: 10.1.0.0/16, blockSize: 19}}\n"
        );
        let output = ctl(&["apply", "-f", "-"], &wrong);
        assert_eq!(output.status.code(), Some(1));
        let said = err(&output);
        for word in ["IPPool(bad)", "spec.blockSize", "19", "20 to 32"] {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
        assert_eq!(out(&ctl(&["get", "ippools", "-o", "name"], "")), "");
    });
}

#[test]
fn every_wrong_field_of_a_pool_is_named_with_its_value_and_rule() {
    with_store("fields", |ctl| {
        for (spec, words) in [
            ("cidr: 10.1.0.0/99", ["spec.cidr", "10.1.0.0/99"].as_slice()),
            (
                "cidr: 10.1.0.0/16, blocksize: 26, vxlan: true",
                &["spec.blocksize", "blockSize is", "spec.vxlan", "vxlanMode"],
            ),
            (
                "cidr: 10.1.0.0/16, blockSize: 33",
                &["spec.blockSize", "33", "20 to 32"],
            ),
            (
                "cidr: 10.1.0.0/16, vxlanMode: Sometimes",
                &["vxlanMode", "Sometimes", "Always", "CrossSubnet", "Never"],
            ),
            (
                "cidr: 10.1.0.0/16, ipipMode: Always, vxlanMode: CrossSubnet",
                &["ipipMode", "vxlanMode", "Always", "CrossSubnet", "Never"],
            ),
        ] {
            let pool = format!("kind: IPPool\nmetadata: {{name: bad}}\nspec: {{{spec}}}\n");
            let output = ctl(&["apply", "-f", "-"], &pool);
            let said = err(&output);
            assert_eq!(output.status.code(), Some(1), "{spec}: {said}");
            for word in words {
                assert!(said.contains(word), "{spec}: no {word:?} in: {said}");
            }
        }
        assert_eq!(out(&ctl(&["get", "ippools", "-o", "name"], "")), "");
    });
}

#[test]
fn overlapping_pool_is_refused_with_both_ranges() {
    with_store("overlap", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], MANIFEST).status.success());
        let second = "kind: IPPool\nmetadata: {name: second}\nspec: {cidr: 10.48.128.0/17}\n";
        let output = ctl(&["apply", "-f", "-"], second);
        assert_eq!(output.status.code(), Some(1));
        let said = err(&output);
        assert!(
            said.contains("10.48.128.0/17") && said.contains("10.48.0.0/16"),
            "{said}"
        );
        assert_eq!(
            out(&ctl(&["get", "ippools", "-o", "name"], "")),
            "ippool/first\n"
        );
    });
}

#[test]
fn range_and_block_size_of_a_pool_stay() {
    with_store("stay", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], MANIFEST).status.success());
        let other = MANIFEST.replace("10.48.0.0/16", "10.49.0.0/16");
        let output = ctl(&["apply", "-f", "-"], &other);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            err(&output).contains("must stay 10.48.0.0/16"),
            "{}",
            err(&output)
        );
    });
}

#[test]
fn create_refuses_what_exists_unless_it_is_told_to_skip() {
    with_store("create", |ctl| {
        assert!(ctl(&["create", "-f", "-"], MANIFEST).status.success());
        let again = ctl(&["create", "-f", "-"], MANIFEST);
        assert_eq!(again.status.code(), Some(1));
        assert!(
            err(&again).contains("resource already exists: IPPool(first)"),
            "{}",
            err(&again)
        );
        assert!(
            ctl(&["create", "--skip-exists", "-f", "-"], MANIFEST)
                .status
                .success()
        );
    });
}

#[test]
fn empty_manifest_and_unknown_kind_are_named() {
    with_store("empty", |ctl| {
        assert_eq!(
            err(&ctl(&["apply", "-f", "-"], "")),
            "No resources specified\n"
        );
        let unknown = ctl(&["get", "pods"], "");
        assert_eq!(unknown.status.code(), Some(1));
        assert!(err(&unknown).contains("\"pods\"") && err(&unknown).contains("IPPool"));
    });
}

#[test]
fn store_that_is_away_is_named() {
    let directory = Directory::new("away");
    let output = run(&directory.file("store.sock"), &["get", "nodes"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("store.sock"), "{}", err(&output));
}

#[test]
fn bgp_peers_are_those_the_agent_tells() {
    let directory = Directory::new("agent");
    let socket = directory.file("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let peers = r#"[{"name":"Mesh_10_0_0_2","address":"10.0.0.2","asn":64512,
        "peerType":"node-to-node mesh","state":"Established","since":"2026-11-21T12:00:00Z",
        "prefixes":{"ipv4 unicast":{"received":3,"accepted":2,"advertised":1}},"later":true}]"#;
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut octet = [0];
            stream.read_exact(&mut octet).unwrap();
            request.extend(octet);
        }
        write!(stream, "HTTP/1.0 200 OK\r\n\r\n{peers}").unwrap();
        String::from_utf8(request).unwrap()
    });
    let output = Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .env_clear()
        .args(["bgp", "peers", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    assert!(agent.join().unwrap().starts_with("GET /bgp/peers "));
    let text = out(&output);
    let row = text.lines().nth(1).unwrap_or_default();
    for cell in ["Mesh_10_0_0_2", "10.0.0.2", "Established", "3", "2", "1"] {
        assert!(
            row.split_whitespace().any(|word| word == cell),
            "no {cell} in {text}"
        );
    }
}

#[test]
fn agent_that_is_away_is_named() {
    let directory = Directory::new("noagent");
    let output = Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .env_clear()
        .args(["node", "status", "--socket"])
        .arg(directory.file("admin.sock"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("Calico process is not running"),
        "{}",
        err(&output)
    );
}
