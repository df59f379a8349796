//! `tortiectl ipam`, over a store in which an agent's allocator gave out addresses.

use std::collections::BTreeMap;

use api::key::{Key, Kind};
use api::pool::AllowedUse;
use ipam::{AssignRequest, Ipam, Timestamp, Wanted};
use serde_json::{Value, json};

use crate::support::{Directory, Served, err, out, run, serve};

const POOL: &str = "
kind: IPPool
metadata: {name: first, labels: {zone: a}}
spec: {cidr: 10.48.0.0/24, blockSize: 26, vxlanMode: Always}
---
kind: IPPool
metadata: {name: six}
spec: {cidr: 'fd00:48::/64', blockSize: 122}
---
kind: ClusterInformation
metadata: {name: default}
spec: {clusterGUID: ab12, clusterType: 'k8s,kubeadm'}
";

/// What each test begins with: two pods of n1, of which one has an endpoint, and one of n2 that borrows of n1.
struct Place {
    directory: Directory,
    served: Served,
    /// The pods' addresses: used, used by nobody, borrowed.
    addresses: [String; 3],
}

impl Place {
    fn new(name: &str) -> Self {
        let directory = Directory::new(name);
        let served = serve(&directory.file("store.sock"));
        let mut place = Self {
            directory,
            served,
            addresses: Default::default(),
        };
        place.ok(&["apply", "-f", "-"], POOL);
        let used = place.give("n1", "web", Wanted::one_ipv4());
        let unused = place.give("n1", "gone", Wanted::one_ipv4());
        // Of n1's block.
        let (start, last) = used.rsplit_once('.').unwrap();
        let last: u8 = last.parse().unwrap();
        let third = format!("{start}.{}", last + 10);
        let borrowed = place.give("n2", "far", Wanted::Address(third.parse().unwrap()));
        let endpoint = |node: &str, pod: &str, address: &str| {
            format!(
                "---\nkind: WorkloadEndpoint\nmetadata: {{name: {node}-k8s-{pod}-eth0, namespace: shop}}\nspec: {{node: {node}, \
                 orchestrator: k8s, endpoint: eth0, pod: {pod}, interfaceName: cali{pod}, ipNetworks: [{address}/32]}}\n"
            )
        };
        let endpoints = endpoint("n1", "web", &used) + &endpoint("n2", "far", &borrowed);
        place.ok(&["apply", "-f", "-"], &endpoints);
        place.addresses = [used, unused, borrowed];
        place
    }

    fn give(&self, node: &str, pod: &str, wanted: Wanted) -> String {
        let ipam = Ipam::new(self.served.store(), node);
        let text = |text: &str| text.to_owned();
        let request = AssignRequest {
            node_labels: BTreeMap::new(),
            namespace_labels: None,
            handle_id: format!("k8s-pod-network.{pod}"),
            attributes: BTreeMap::from([
                (text("node"), text(node)),
                (text("pod"), text(pod)),
                (text("namespace"), text("shop")),
            ]),
            allowed_use: AllowedUse::Workload,
            wanted,
            now: Timestamp::default(),
        };
        let given = self.served.block_on(ipam.assign(request)).unwrap();
        given.outcome.addresses[0].addr().to_string()
    }

    fn ctl(&self, arguments: &[&str], stdin: &str) -> std::process::Output {
        run(&self.directory.file("store.sock"), arguments, stdin)
    }

    /// What it prints when it succeeds.
    #[track_caller]
    fn ok(&self, arguments: &[&str], stdin: &str) -> String {
        let output = self.ctl(arguments, stdin);
        assert!(output.status.success(), "{arguments:?}: {}", err(&output));
        out(&output)
    }

    /// What it says when it fails.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments, "");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        err(&output)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments, "")).unwrap()
    }

    /// Writes a report, of which the file is answered.
    fn report(&self, name: &str) -> String {
        let file = self.directory.file(name).display().to_string();
        self.ok(&["ipam", "check", "-o", &file], "");
        file
    }

    /// What the store says of an address, read without this program.
    fn is_taken(&self, address: &str) -> bool {
        let blocks = self.served.objects(Kind::IPAMBlock);
        blocks.iter().any(|found| {
            let block: api::ipam::IPAMBlockSpec =
                serde_json::from_value(found["spec"].clone()).unwrap();
            ipam::block::ordinal(block.cidr, address.parse().unwrap())
                .is_some_and(|ordinal| block.allocations[ordinal].is_some())
        })
    }

    fn handles(&self) -> Vec<String> {
        let handles = self.served.objects(Kind::IPAMHandle);
        let name = |handle: &Value| handle["metadata"]["name"].as_str().unwrap().to_owned();
        handles.iter().map(name).collect()
    }

    fn end(self) {
        self.served.stop();
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn show_says_how_full_pools_and_blocks_are_and_who_has_an_address() {
    let place = Place::new("ipam-show");
    let [used, unused, borrowed] = &place.addresses;
    let kept = format!(
        "kind: IPReservation\nmetadata: {{name: kept}}\nspec: {{reservedCIDRs: [{used}, 10.48.0.255/32]}}\n"
    );
    place.ok(&["apply", "-f", "-"], &kept);
    let text = place.ok(&["ipam", "show"], "");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0]
            .split("  ")
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>(),
        [
            "GROUPING",
            "CIDR",
            "IPS TOTAL",
            "IPS IN USE",
            "IPS RESERVED",
            "IPS FREE",
            "UTILISATION",
            "NAME"
        ]
    );
    let first = [
        "IP",
        "Pool",
        "10.48.0.0/24",
        "256",
        "3",
        "(1%)",
        // Of the two one is given out.
        "2",
        "(1%)",
        "252",
        "(98%)",
    ];
    assert_eq!(words(lines[1])[..10], first, "{text}");
    assert!(lines[1].contains("[#..................."), "{text}");
    let six = ["IP", "Pool", "fd00:48::/64", "1.8447e19", "0", "(0%)"];
    assert_eq!(words(lines[2])[..6], six, "{text}");
    assert_eq!(lines.len(), 3, "{text}");

    let text = place.ok(&["ipam", "show", "--show-blocks"], "");
    let block = text.lines().find(|line| line.starts_with("Block")).unwrap();
    assert_eq!(words(block)[2..5], ["64", "3", "(5%)"], "{text}");
    assert!(block.ends_with("host:n1"), "{text}");
    let data = place.json(&["ipam", "show", "-o", "json"]);
    assert_eq!(data["pools"][0]["inUse"], "3", "{data}");
    assert_eq!(
        data["pools"][0]["blocks"][0]["affinity"], "host:n1",
        "{data}"
    );

    let text = place.ok(&["ipam", "show", "--ip", used], "");
    for line in [
        format!("IP {used} is in use"),
        "Handle ID: k8s-pod-network.web".to_owned(),
        "  pod: web".to_owned(),
        "Used by: Workload(shop/web)".to_owned(),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in {text}"
        );
    }
    let text = place.ok(&["ipam", "show", "--ip", unused], "");
    assert!(text.contains("Used by: nobody\n"), "{text}");
    let text = place.ok(&["ipam", "show", "--ip=10.48.0.255"], "");
    assert_eq!(text, "IP 10.48.0.255 is not assigned\n");

    let text = place.ok(&["ipam", "show", "--show-borrowed"], "");
    let row = words(text.lines().nth(1).unwrap());
    assert_eq!((row[0], row[1]), (borrowed.as_str(), "n2"), "{text}");
    assert_eq!(row[3..], ["n1", "wep", "shop/far"], "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    place.end();
}

#[test]
fn check_names_each_address_and_handle_that_fits_nothing() {
    let place = Place::new("ipam-check");
    let [_, unused, _] = &place.addresses;
    let text = place.ok(&["ipam", "check"], "");
    assert!(
        text.ends_with("Check complete; found 1 problems.\n"),
        "{text}"
    );
    assert!(!text.contains(unused), "{text}");

    place.served.put(
        Key::new(Kind::IPAMHandle, "h.left"),
        r#"{"kind":"IPAMHandle","metadata":{"name":"h.left"},"spec":{"handleID":"h.Left","block":{"10.48.0.0/26":1}}}"#,
    );
    let others = "
kind: WorkloadEndpoint
metadata: {name: n1-k8s-other-eth0, namespace: shop}
spec: {node: n1, orchestrator: k8s, endpoint: eth0, pod: other, interfaceName: calix, ipNetworks: [10.48.0.250/32, 192.0.2.7/32]}
---
kind: Node
metadata: {name: n1}
spec: {bgp: {ipv4Address: 172.16.0.1/24}, ipv4VXLANTunnelAddr: 10.48.0.251}
";
    place.ok(&["apply", "-f", "-"], others);
    place
        .served
        .put(Key::new(Kind::IPAMBlock, "10-9-0-0-26"), "{}");
    let text = place.ok(&["ipam", "check", "--show-problem-ips"], "");
    for line in [
        &format!("  {unused} (k8s-pod-network.gone, of pod shop/gone)"),
        "  10.48.0.250 (Workload(shop/other))",
        "  10.48.0.251 (VXLAN tunnel of Node(n1))",
        "  192.0.2.7 (Workload(shop/other))",
        "  h.Left",
        "Found 2 addresses are used and not given out.",
        "  IPAMHandle(h.left): counts 1 addresses in block 10.48.0.0/26, which has 0",
        "Check complete; found 6 problems.",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in {text}"
        );
    }
    assert!(text.contains("  IPAMBlock(10-9-0-0-26): "), "{text}");
    place.end();
}

#[test]
fn release_by_reports_frees_what_all_of_them_call_unused_and_nobody_was_given_since() {
    let place = Place::new("ipam-release");
    let [used, unused, _] = place.addresses.clone();
    let early = place.report("early.json");
    let by = |files: &[&str]| {
        let mut arguments = vec!["ipam".to_owned(), "release".to_owned()];
        arguments.extend(files.iter().map(|file| format!("--from-report={file}")));
        arguments
    };
    let call = |files: &[&str]| {
        let arguments = by(files);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        place.ctl(&arguments, "")
    };
    let said = err(&call(&[&early]));
    assert!(said.contains("tortiectl datastore migrate lock"), "{said}");
    place.ok(&["datastore", "migrate", "lock"], "");
    let said = err(&call(&[&early]));
    assert!(said.contains("tortiectl ipam check -o"), "{said}");
    assert!(place.is_taken(&unused));

    // One that calls the address used keeps it.
    let now = place.report("now.json");
    let mut other: Value = serde_json::from_slice(&std::fs::read(&now).unwrap()).unwrap();
    other["allocations"][&unused][0]["inUse"] = json!(true);
    let third = place.directory.file("third.json");
    std::fs::write(&third, other.to_string()).unwrap();
    let third = third.display().to_string();
    let done = call(&[&early, &now, &third]);
    assert_eq!(
        out(&done),
        "Released 0 IPs successfully\nReleased 0 handles successfully\n",
        "{done:?}"
    );
    assert!(place.is_taken(&unused));

    // Another cluster's.
    other["clusterGUID"] = json!("cd34");
    std::fs::write(&third, other.to_string()).unwrap();
    let said = err(&call(&[&now, &third]));
    assert!(said.contains("cd34") && said.contains("ab12"), "{said}");

    let done = call(&[&early, &now]);
    assert!(
        out(&done).starts_with("Released 1 IPs successfully\n"),
        "{done:?}"
    );
    assert!(!place.is_taken(&unused) && place.is_taken(&used));
    assert_eq!(
        place.handles(),
        ["k8s-pod-network.far", "k8s-pod-network.web"]
    );

    // Given out again since: the report is of another holder.
    place.ok(&["ipam", "check"], "");
    let again = place.give("n1", "new", Wanted::Address(unused.parse().unwrap()));
    assert_eq!(again, unused);
    let done = call(&[&early, &now]);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        err(&done).contains(&format!("{unused} is left alone")),
        "{done:?}"
    );
    assert!(place.is_taken(&unused));
    place.end();
}

#[test]
fn release_by_address_frees_it_and_its_handle() {
    let place = Place::new("ipam-release-ip");
    let [_, unused, _] = &place.addresses;
    let text = place.ok(&["ipam", "release", "--ip", unused], "");
    assert_eq!(text, format!("Successfully released IP address {unused}\n"));
    assert!(!place.is_taken(unused));
    assert_eq!(
        place.handles(),
        ["k8s-pod-network.far", "k8s-pod-network.web"]
    );
    let said = place.refused(&["ipam", "release", "--ip", unused]);
    assert_eq!(said, format!("IP address {unused} is not assigned\n"));
    place.end();
}

#[test]
fn configure_sets_one_rule_and_keeps_the_others() {
    let place = Place::new("ipam-configure");
    let text = place.ok(&["ipam", "configure", "--strictaffinity=true"], "");
    assert_eq!(text, "Successfully set StrictAffinity to: true\n");
    place.ok(&["ipam", "configure", "--max-blocks-per-host=7"], "");
    let said = place.refused(&["ipam", "configure", "--ip-cooldown-seconds=1201"]);
    assert!(
        said.contains("spec.ipCooldownSeconds = 1201: must be 0 to 1200"),
        "{said}"
    );
    let text = place.ok(&["ipam", "configure", "--ip-cooldown-seconds=30"], "");
    assert_eq!(text, "Successfully set IPCooldownSeconds to: 30\n");
    let config = &place.served.objects(Kind::IPAMConfig)[0]["spec"];
    assert_eq!(config["ipCooldownSeconds"], 30, "{config}");
    assert_eq!(config["strictAffinity"], true, "{config}");
    assert_eq!(config["maxBlocksPerHost"], 7, "{config}");
    assert_eq!(config["autoAllocateBlocks"], true, "{config}");
    let text = place.ok(&["ipam", "show", "--show-configuration"], "");
    let rows: Vec<Vec<&str>> = text.lines().map(words).collect();
    assert_eq!(rows[0], ["PROPERTY", "VALUE"]);
    assert!(rows.contains(&vec!["MaxBlocksPerHost", "7"]), "{text}");
    assert!(rows.contains(&vec!["IPCooldownSeconds", "30"]), "{text}");
    place.end();
}

#[test]
fn a_split_pool_leaves_its_blocks_and_settings_to_its_parts() {
    let place = Place::new("ipam-split");
    let said = place.refused(&["ipam", "split", "2", "--name=first"]);
    assert!(said.contains("tortiectl datastore migrate lock"), "{said}");
    place.ok(&["datastore", "migrate", "lock"], "");
    for (parts, word) in [
        ("3", "a power of two, from 2 to 4"),
        ("8", "from 2 to 4"),
        ("1", "from 2"),
    ] {
        let said = place.refused(&["ipam", "split", parts, "--cidr=10.48.0.0/24"]);
        assert!(said.contains(word), "{said}");
    }
    let said = place.refused(&["ipam", "split", "2", "--name=none"]);
    assert!(said.contains("there is no pool none"), "{said}");

    place.ok(&["ipam", "split", "2", "--cidr=10.48.0.0/24"], "");
    let pools = place.served.objects(Kind::IPPool);
    let found: Vec<(&str, &str)> = pools
        .iter()
        .map(|pool| {
            (
                pool["metadata"]["name"].as_str().unwrap(),
                pool["spec"]["cidr"].as_str().unwrap(),
            )
        })
        .collect();
    let wanted = [
        ("six", "fd00:48::/64"),
        ("split-first-0", "10.48.0.0/25"),
        ("split-first-1", "10.48.0.128/25"),
    ];
    assert_eq!(found, wanted);
    assert_eq!(pools[1]["spec"]["vxlanMode"], "Always", "{}", pools[1]);
    assert_eq!(pools[1]["metadata"]["labels"]["zone"], "a", "{}", pools[1]);
    let text = place.ok(&["ipam", "check"], "");
    assert!(
        text.ends_with("Check complete; found 1 problems.\n"),
        "{text}"
    );
    place.end();
}
