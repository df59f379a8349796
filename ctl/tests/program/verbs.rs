//! calicoctl's verbs and ways to print.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use api::key::{Key, Kind};
use flate2::read::GzDecoder;
use serde_json::Value;

use crate::support::{Directory, MANIFEST, err, out, run, run_unread, serve, with_store};

const NODES: &str = "
kind: Node
metadata: {name: n1, labels: {rack: r1, row: '1'}}
spec: {bgp: {ipv4Address: 10.0.0.1/24}}
---
kind: Node
metadata: {name: n2, labels: {rack: r2}}
spec: {bgp: {ipv4Address: 10.0.0.2/24, asNumber: 65001}}
---
kind: WorkloadEndpoint
metadata: {name: n1-k8s-web-eth0, namespace: shop}
spec: {node: n1, orchestrator: k8s, endpoint: eth0, pod: web, interfaceName: cali1, ipNetworks: [10.48.0.1/32]}
";

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn pods_of_all_namespaces_are_shown_with_theirs() {
    with_store("namespaces", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], NODES).status.success());
        let text = out(&ctl(&["get", "wep", "-A"], ""));
        let lines: Vec<&str> = text.lines().collect();
        let headings = ["NAMESPACE", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE"];
        assert_eq!(words(lines[0]), headings);
        assert_eq!(
            words(lines[1]),
            ["shop", "web", "n1", "10.48.0.1/32", "cali1"]
        );
        let text = out(&ctl(&["get", "wep", "-n", "shop"], ""));
        assert_eq!(words(text.lines().next().unwrap()), headings[1..]);
    });
}

#[test]
fn what_is_missing_is_an_error_and_no_table() {
    with_store("missing", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], NODES).status.success());
        for output in ["ps", "wide", "json", "yaml"] {
            let missing = ctl(&["get", "node", "n9", "-o", output], "");
            assert_eq!(missing.status.code(), Some(1));
            assert_eq!(out(&missing), "", "{output}");
            assert_eq!(err(&missing), "resource does not exist: Node(n9)\n");
        }
        let one = ctl(&["get", "node", "n1", "n9"], "");
        assert_eq!(one.status.code(), Some(1));
        assert!(out(&one).contains("n1"), "{}", out(&one));
    });
}

#[test]
fn a_patch_changes_fields_and_must_leave_a_valid_object() {
    with_store("patch", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], MANIFEST).status.success());
        let spec = || -> Value {
            let pool = ctl(&["get", "pool", "first", "-o", "json"], "");
            serde_json::from_slice::<Value>(&pool.stdout).unwrap()["spec"].clone()
        };
        let patched = ctl(
            &[
                "patch",
                "ippool",
                "first",
                "-p",
                "{\"spec\": {\"natOutgoing\": false}}",
            ],
            "",
        );
        assert_eq!(
            out(&patched),
            "Successfully patched 1 'IPPool' resource(s)\n",
            "{}",
            err(&patched)
        );
        assert_eq!(spec()["natOutgoing"], false);
        assert_eq!(spec()["cidr"], "10.48.0.0/16");
        assert_eq!(
            spec()["assignmentMode"],
            "Manual",
            "a field without effect is kept"
        );

        // `null` removes (RFC 7396); YAML is read, too.
        let removed = ctl(
            &[
                "patch",
                "ippool",
                "first",
                "-t",
                "merge",
                "-p",
                "spec: {assignmentMode: null}",
            ],
            "",
        );
        assert!(removed.status.success(), "{}", err(&removed));
        assert!(spec().get("assignmentMode").is_none());

        let operations = r#"[{"op": "test", "path": "/spec/natOutgoing", "value": false},
            {"op": "add", "path": "/spec/disabled", "value": true}]"#;
        let json = ctl(
            &["patch", "ippool", "first", "-t", "json", "-p", operations],
            "",
        );
        assert!(json.status.success(), "{}", err(&json));
        assert_eq!(spec()["disabled"], true);

        for (patch, kind, named) in [
            ("{\"spec\": {\"blockSize\": 19}}", "merge", "20 to 32"),
            (
                "{\"spec\": {\"cidr\": \"10.49.0.0/16\"}}",
                "merge",
                "must stay 10.48.0.0/16",
            ),
            (
                "{\"spec\": {\"natoutgoing\": true}}",
                "merge",
                "natOutgoing is",
            ),
            (
                "{\"metadata\": {\"name\": \"other\"}}",
                "merge",
                "metadata.name",
            ),
            ("{\"spec\": {}}", "json", "must be a list"),
            ("[]", "merge", "must be an object"),
            ("{", "merge", "neither JSON nor YAML"),
            (
                r#"[{"op": "remove", "path": "/spec/x"}]"#,
                "json",
                "does not fit",
            ),
        ] {
            let before = spec();
            let refused = ctl(&["patch", "ippool", "first", "-t", kind, "-p", patch], "");
            assert_eq!(refused.status.code(), Some(1), "{patch}");
            assert!(err(&refused).contains(named), "{patch}: {}", err(&refused));
            assert_eq!(spec(), before, "{patch}");
        }
        let missing = ctl(&["patch", "ippool", "other", "-p", "{}"], "");
        assert_eq!(err(&missing), "resource does not exist: IPPool(other)\n");
    });
}

#[test]
fn a_label_is_set_replaced_only_when_asked_and_removed() {
    with_store("label", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], NODES).status.success());
        for (arguments, said) in [
            (&["zone=a"][..], "Successfully set label zone on Node(n1)\n"),
            (&["zone=a"], "Successfully updated label zone on Node(n1)\n"),
            (
                &["zone=b", "--overwrite"],
                "Successfully updated label zone on Node(n1)\n",
            ),
            (
                &["row", "--remove"],
                "Successfully removed label row from Node(n1)\n",
            ),
        ] {
            let done = ctl(&[&["label", "node", "n1"], arguments].concat(), "");
            assert_eq!(out(&done), said, "{}", err(&done));
        }
        let labels = ctl(&["get", "node", "n1", "-o", "json"], "");
        let labels: Value = serde_json::from_slice(&labels.stdout).unwrap();
        assert_eq!(
            labels["metadata"]["labels"],
            serde_json::json!({"rack": "r1", "zone": "b"})
        );
        for (arguments, named) in [
            (["label", "node", "n1", "zone=c"], "--overwrite"),
            (["label", "node", "n1", "row-"], "row is not set"),
            (["label", "node", "n1", "a b=c"], "label key"),
            (
                ["label", "node", "n9", "a=b"],
                "resource does not exist: Node(n9)",
            ),
        ] {
            let refused = ctl(&arguments, "");
            assert_eq!(refused.status.code(), Some(1));
            assert!(err(&refused).contains(named), "{}", err(&refused));
        }
    });
}

#[test]
fn replace_wants_the_object_to_exist() {
    with_store("replace", |ctl| {
        let refused = ctl(&["replace", "-f", "-"], MANIFEST);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            err(&refused).contains("resource does not exist: IPPool(first)"),
            "{}",
            err(&refused)
        );
        assert_eq!(out(&ctl(&["get", "ippools", "-o", "name"], "")), "");
        assert!(ctl(&["create", "-f", "-"], MANIFEST).status.success());
        let replaced = ctl(&["replace", "-f", "-"], MANIFEST);
        assert_eq!(
            out(&replaced),
            "Successfully replaced 3 resource(s)\n",
            "{}",
            err(&replaced)
        );
    });
}

#[test]
fn labels_select_in_both_languages() {
    with_store("select", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], NODES).status.success());
        for (selector, found) in [
            ("rack=r1", "node/n1\n"),
            ("rack in {'r1', 'r2'} && !has(row)", "node/n2\n"),
            ("rack,!row", "node/n2\n"),
            ("rack=r3", ""),
        ] {
            let shown = ctl(&["get", "nodes", "-l", selector, "-o", "name"], "");
            assert_eq!(out(&shown), found, "{selector}: {}", err(&shown));
        }
        let wrong = ctl(&["get", "nodes", "-l", "rack r1"], "");
        assert_eq!(wrong.status.code(), Some(1));
        assert!(err(&wrong).contains("rack r1"), "{}", err(&wrong));
    });
}

#[test]
fn columns_and_templates_are_chosen() {
    with_store("columns", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], NODES).status.success());
        let by_heading = ctl(&["get", "nodes", "-o", "custom-columns=name,asn"], "");
        assert_eq!(
            out(&by_heading),
            "NAME    ASN\nn1      (64512)\nn2      65001\n\n",
            "{}",
            err(&by_heading)
        );
        let by_path = "custom-columns=NODE:.metadata.name,RACK:.metadata.labels.rack,ROW:.metadata.labels.row";
        let by_path = out(&ctl(&["get", "nodes", "-o", by_path], ""));
        let lines: Vec<Vec<&str>> = by_path.trim().lines().map(words).collect();
        assert_eq!(
            lines,
            [
                ["NODE", "RACK", "ROW"],
                ["n1", "r1", "1"],
                ["n2", "r2", "<none>"]
            ]
        );
        let template =
            "go-template={{range .items}}{{.metadata.name}}={{.spec.bgp.ipv4Address}};{{end}}";
        assert_eq!(
            out(&ctl(&["get", "nodes", "-o", template], "")),
            "n1=10.0.0.1/24;n2=10.0.0.2/24;"
        );
        for (output, named) in [
            ("custom-columns=COLOUR", "ASN"),
            ("go-template={{range", "{{range"),
            ("xml", "custom-columns"),
        ] {
            let refused = ctl(&["get", "nodes", "-o", output], "");
            assert!(!refused.status.success(), "{output}");
            assert!(err(&refused).contains(named), "{}", err(&refused));
        }
    });
}

#[test]
fn everything_is_shown_and_can_be_carried_to_another_datastore() {
    let directory = Directory::new("export");
    let file = directory.file("all.yaml");
    with_store("all", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], MANIFEST).status.success());
        assert!(ctl(&["apply", "-f", "-"], NODES).status.success());
        let table = out(&ctl(&["get", "all", "-A"], ""));
        for row in ["IPPool", "Node", "BGPPeer", "WorkloadEndpoint"] {
            assert!(
                table.lines().any(|line| words(line).first() == Some(&row)),
                "{table}"
            );
        }
        let exported = out(&ctl(&["get", "all", "-A", "--export", "-o", "yaml"], ""));
        assert!(!exported.contains("resourceVersion"), "{exported}");
        std::fs::write(&file, exported).unwrap();
    });
    with_store("imported", |ctl| {
        let imported = ctl(&["apply", "-f", file.to_str().unwrap()], "");
        assert_eq!(
            out(&imported),
            "Successfully applied 6 resource(s)\n",
            "{}",
            err(&imported)
        );
        assert!(out(&ctl(&["get", "wep", "-n", "shop"], "")).contains("web"));
    });
}

#[test]
fn an_object_that_cannot_be_read_hides_no_other_and_can_be_written_over() {
    let directory = Directory::new("unreadable");
    let socket = directory.file("store.sock");
    let served = serve(&socket);
    assert!(run(&socket, &["apply", "-f", "-"], NODES).status.success());
    let key = Key::new(Kind::Node, "bad");
    served.put(key, r#"{"metadata": {"name": "bad"}, "spec": {"bgp": 7}}"#);
    for kind in ["nodes", "all"] {
        let shown = run(&socket, &["get", kind, "-A", "-o", "name"], "");
        assert_eq!(shown.status.code(), Some(1));
        assert!(
            out(&shown).contains("node/n1\nnode/n2\n"),
            "{}",
            out(&shown)
        );
        assert!(
            err(&shown).contains("Node(bad): spec.bgp = 7"),
            "{}",
            err(&shown)
        );
    }
    let repaired = "kind: Node\nmetadata: {name: bad}\nspec: {bgp: {ipv4Address: 10.0.0.9/24}}\n";
    let applied = run(&socket, &["apply", "-f", "-"], repaired);
    assert!(applied.status.success(), "{}", err(&applied));
    let shown = run(&socket, &["get", "nodes", "-o", "name"], "");
    assert_eq!(out(&shown), "node/bad\nnode/n1\nnode/n2\n");
    served.stop();
}

#[test]
fn a_watch_shows_what_there_is_and_what_changes() {
    let directory = Directory::new("watch");
    let socket = directory.file("store.sock");
    let served = serve(&socket);
    let first = run(&socket, &["apply", "-f", "-"], NODES);
    assert!(first.status.success(), "{}", err(&first));
    let mut watching = Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .args(["get", "nodes", "--watch", "-l", "rack", "--store"])
        .arg(format!("unix:{}", socket.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(next(), ["EVENT", "NAME"]);
    assert_eq!(next(), ["ADDED", "n1"]);
    assert_eq!(next(), ["ADDED", "n2"]);
    for (arguments, shown) in [
        (&["label", "node", "n1", "zone=a"][..], ["MODIFIED", "n1"]),
        (&["label", "node", "n1", "rack-"], ["DELETED", "n1"]),
        (&["delete", "node", "n2"], ["DELETED", "n2"]),
    ] {
        let done = run(&socket, arguments, "");
        assert!(done.status.success(), "{}", err(&done));
        assert_eq!(next(), shown);
    }
    served.stop();
    assert_eq!(
        watching.wait().unwrap().code(),
        Some(1),
        "the store is gone"
    );
}

#[test]
fn the_datastore_is_locked_and_unlocked_and_the_version_is_the_clusters() {
    with_store("lock", |ctl| {
        let info = "
kind: ClusterInformation
metadata: {name: default}
spec: {clusterGUID: ab, calicoVersion: v9, clusterType: 'kdd,x'}
";
        let unknown = out(&ctl(&["version"], ""));
        assert!(unknown.contains("Cluster Version:   unknown"), "{unknown}");
        assert!(ctl(&["apply", "-f", "-"], info).status.success());
        let version = out(&ctl(&["version"], ""));
        let own = env!("CARGO_PKG_VERSION");
        assert_eq!(
            version,
            format!("Client Version:    {own}\nCluster Version:   v9\nCluster Type:      kdd,x\n")
        );
        for (verb, said, ready) in [
            ("lock", "Datastore locked.\n", "false"),
            ("unlock", "Datastore unlocked.\n", "true"),
        ] {
            assert_eq!(out(&ctl(&["datastore", "migrate", verb], "")), said);
            let row = out(&ctl(&["get", "clusterinfo"], ""));
            let row = words(row.lines().nth(1).unwrap());
            assert_eq!(row, ["default", "ab", "kdd,x", "v9", ready]);
        }
    });
    let directory = Directory::new("noversion");
    let alone = run(&directory.file("store.sock"), &["version"], "");
    assert_eq!(alone.status.code(), Some(1));
    assert!(out(&alone).starts_with("Client Version:"));
    assert!(err(&alone).contains("store.sock"), "{}", err(&alone));
}

#[test]
fn what_is_not_here_names_what_to_use() {
    let directory = Directory::new("substitutes");
    for (arguments, named) in [
        (&["datastore", "migrate", "export"][..], "get all"),
        (&["datastore", "migrate", "import", "-f", "x"], "apply -f"),
        (&["node", "run", "--ip=10.0.0.1"], "tortie-node"),
        (&["cluster", "diags"], "node diags"),
        (&["convert", "-f", "x"], "projectcalico.org/v3"),
    ] {
        let refused = run(&directory.file("store.sock"), arguments, "");
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        assert!(err(&refused).contains(named), "{}", err(&refused));
    }
}

#[test]
fn diags_are_an_archive_with_what_could_be_had() {
    let directory = Directory::new("diags");
    std::fs::write(directory.file("felix.log"), "a line\n").unwrap();
    let log_dir = directory.file("");
    let output = Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .args(["node", "diags", "--socket", "/nonexistent", "--output-dir"])
        .arg(&log_dir)
        .arg("--log-dir")
        .arg(&log_dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", err(&output));
    let said = out(&output);
    let path = said.trim().rsplit(' ').next().unwrap();
    let file = std::fs::File::open(path).unwrap();
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let mut found = std::collections::BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        let (_, name) = name.split_once('/').unwrap();
        found.insert(name.to_owned(), text);
    }
    assert!(found["agent/status.json"].contains("no answer"));
    assert!(found["files/proc/version"].starts_with("Linux version"));
    let log = found.iter().find(|(name, _)| name.ends_with("felix.log"));
    assert_eq!(log.unwrap().1, "a line\n");
    assert!(found.contains_key("commands/ip_rule"), "{:?}", found.keys());
}

#[test]
fn a_kernel_without_veth_is_refused() {
    let directory = Directory::new("kernel");
    let config = directory.file("config");
    std::fs::write(&config, "CONFIG_NET_NS=y\n# CONFIG_VETH is not set\n").unwrap();
    let check = || {
        Command::new(env!("CARGO_BIN_EXE_tortiectl"))
            .args(["node", "checksystem", "-f"])
            .arg(&config)
            .output()
            .unwrap()
    };
    // Where the running kernel has the module loaded, what the file says of it does not count.
    if !std::path::Path::new("/sys/module/veth").exists() {
        let refused = check();
        assert_eq!(refused.status.code(), Some(1));
        assert!(err(&refused).contains("CONFIG_VETH"), "{}", err(&refused));
    }
    std::fs::write(&config, "CONFIG_NET_NS=y\nCONFIG_VETH=m\n").unwrap();
    let fits = check();
    assert!(fits.status.success(), "{}", err(&fits));
    assert!(
        out(&fits).contains("FAIL: no BGP passwords"),
        "{}",
        out(&fits)
    );
}

#[test]
fn a_reader_that_closes_the_pipe_ends_the_program_without_a_word() {
    let directory = Directory::new("pipe");
    let socket = directory.file("store.sock");
    let served = serve(&socket);
    assert!(
        run(&socket, &["apply", "-f", "-"], MANIFEST)
            .status
            .success()
    );
    let cases: [&[&str]; 3] = [
        &["get", "ippools"],
        &["get", "ippools", "-o", "yaml"],
        &["version"],
    ];
    for arguments in cases {
        let ended = run_unread(&socket, arguments);
        assert!(ended.status.success(), "{arguments:?}: {ended:?}");
        assert_eq!(err(&ended), "", "{arguments:?}");
    }
    served.stop();
}

#[test]
fn a_node_is_drained_in_two_steps_and_taken_back_and_keeps_its_other_annotations() {
    with_store("drain", |ctl| {
        let annotated = NODES.replacen(
            "name: n1, ",
            "name: n1, annotations: {owner: rack team}, ",
            1,
        );
        assert!(ctl(&["apply", "-f", "-"], &annotated).status.success());
        let annotations = || -> Value {
            let node = ctl(&["get", "node", "n1", "-o", "json"], "");
            let node = serde_json::from_slice::<Value>(&node.stdout).unwrap();
            node["metadata"]["annotations"].clone()
        };
        let drain = |arguments: &[&str]| ctl(&[&["node", "drain"], arguments].concat(), "");
        for (arguments, drained) in [
            (&["n1", "--last-resort-only"][..], Some("last-resort")),
            (&["n1", "--after", "0s"], Some("withdrawn")),
            (&["n1", "--undo"], None),
        ] {
            let output = drain(arguments);
            assert!(output.status.success(), "{}", err(&output));
            let mut expected = serde_json::json!({"owner": "rack team"});
            if let Some(word) = drained {
                expected["networking.tortie.dev/drain"] = word.into();
            }
            assert_eq!(annotations(), expected, "{arguments:?}");
        }
        let missing = drain(&["n9", "--undo"]);
        assert_eq!(err(&missing), "resource does not exist: Node(n9)\n");
        let wrong = drain(&["n1", "--after", "soon"]);
        assert!(err(&wrong).contains("must be a time such as 60s"));
    });
}
