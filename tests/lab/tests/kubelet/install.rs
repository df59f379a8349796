//! The commands of docs/install.md, as they stand there.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Stdio;

use lab::kubelet::KubeletCluster;
use lab::{BASE, Families, NetNs, Stream};

use crate::with_product;

/// The repository, where the page's commands are given.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Numbered packets a second each way between the two pods.
const PER_SECOND: u32 = 100;

/// What a reader does at once.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// On the operator's machine.
    Here(String),
    /// As root on each node: a block that begins with these words.
    OnEachNode(String),
}

const ON_EACH_NODE: &str = "# On each node:";

/// The steps of a section: every line after a prompt, and every block of shell.
fn steps(page: &str, section: &str) -> Vec<Step> {
    let heading = format!("\n## {section}\n");
    let (_, rest) = page
        .split_once(&heading)
        .unwrap_or_else(|| panic!("docs/install.md has no section {section}"));
    let text = rest.split("\n## ").next().unwrap_or_default();
    let mut steps = Vec::new();
    for block in text.split("\n```").skip(1).step_by(2) {
        match block.split_once('\n') {
            // What follows `#` there makes the cluster, which is here already.
            Some(("console", lines)) => {
                let commands = lines.lines().filter_map(|line| line.strip_prefix("$ "));
                steps.extend(commands.map(|command| Step::Here(command.to_owned())));
            }
            Some(("sh", script)) if script.starts_with(ON_EACH_NODE) => {
                steps.push(Step::OnEachNode(script.to_owned()));
            }
            Some(("sh", script)) => steps.push(Step::Here(script.to_owned())),
            other => panic!("{section}: no test knows what to do with {other:?}"),
        }
    }
    assert!(!steps.is_empty(), "{section} has no commands");
    steps
}

/// What stands for the reader's own names, and the image that this machine has.
fn filled_in(script: &str) -> String {
    script
        // The sections after the first are about BGP.
        .replace("overlays/vxlan", "overlays/bgp")
        // A mount of the lab, whose own place cannot go.
        .replace("rm -rf /var/lib/calico", "rm -rf /var/lib/calico/*")
        .replace("NODE1", "n1")
        .replace("NODE2", "n2")
        .replace("SECRET", "geheim")
        .replace("calico-before.yaml", &format!("{BASE}/calico-before.yaml"))
        .replace(
            "--image=busybox",
            "--image=busybox:lab --image-pull-policy=Never",
        )
}

/// Runs a script as a reader's shell does, but ends with the first command that fails. What it printed.
fn shell(cluster: &KubeletCluster, place: &NetNs, script: &str) -> String {
    let programs = cluster.server.programs().folder().display();
    // Entering a machine's mounts leads to their root.
    let script_there = format!("cd {ROOT}\n{}", filled_in(script));
    let mut command = place.command("bash");
    command
        .args(["-e", "-u", "-c", &script_there])
        .env("PATH", format!("/usr/sbin:/usr/bin:/sbin:/bin:{programs}"))
        .env("KUBECONFIG", cluster.server.kubeconfig())
        .env("KUBECACHEDIR", format!("{BASE}/kubectl"))
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("$ {script}\n{said}");
    assert!(
        output.status.success(),
        "{script}\n{said}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        cluster.state()
    );
    said
}

/// Follows a section; what its commands printed.
fn follow(cluster: &KubeletCluster, page: &str, section: &str) -> String {
    println!("## {section}");
    let mut said = String::new();
    for step in steps(page, section) {
        match step {
            Step::Here(script) => said += &shell(cluster, &cluster.servers.namespace, &script),
            Step::OnEachNode(script) => {
                for machine in &cluster.machines {
                    said += &shell(cluster, &machine.site.namespace, &script);
                }
            }
        }
    }
    said
}

/// Packets both ways between the pods that the page has made.
fn streams(cluster: &KubeletCluster) -> [Stream; 2] {
    let address = |pod: &str| -> Ipv4Addr {
        let words = ["get", "pod", pod, "--output=jsonpath={.status.podIP}"];
        cluster.server.kubectl(&words).unwrap().parse().unwrap()
    };
    [("a", "b"), ("b", "a")].map(|(from, to)| {
        let namespaces = [from, to].map(|pod| cluster.pod_namespace(pod).unwrap());
        let name = format!("{from} -> {to}");
        Stream::start(
            &name,
            &namespaces[0],
            &namespaces[1],
            address(to),
            PER_SECOND,
        )
        .unwrap()
    })
}

fn nothing_was_lost(streams: [Stream; 2], cluster: &KubeletCluster) {
    for stream in streams {
        let outcome = stream.finish().unwrap();
        println!("{outcome:?}");
        assert!(
            outcome.sent > 100 && outcome.lost.is_empty(),
            "{outcome:?}\n{}",
            cluster.state()
        );
    }
}

#[test]
fn who_follows_the_page_has_pods_that_reach_each_other_and_keep_doing_so() {
    let name = "install::who_follows_the_page_has_pods_that_reach_each_other_and_keep_doing_so";
    with_product(name, Families::V4, |mut cluster| {
        let page = fs::read_to_string(format!("{ROOT}/docs/install.md")).unwrap();
        let said = follow(&cluster, &page, "An empty cluster");
        assert!(said.contains(" 0% packet loss"), "{said}");
        assert!(said.contains("Calico process is running"), "{said}");

        cluster.wait_bgp().unwrap_or_else(|error| panic!("{error}"));
        follow(&cluster, &page, "Route reflectors");
        cluster.wait_bgp().unwrap_or_else(|error| panic!("{error}"));
        let said = follow(&cluster, &page, "Top-of-rack routers");
        assert!(said.contains("patched"), "{said}");

        let running = streams(&cluster);
        // The DaemonSet is our own here; that of Calico has the same name.
        follow(&cluster, &page, "From Calico");
        follow(&cluster, &page, "Upgrade");
        follow(&cluster, &page, "Removal");
        nothing_was_lost(running, &cluster);
        let left =
            cluster
                .server
                .kubectl(&["get", "all,configmap,role,clusterrole", "-A", "-o", "name"]);
        let left = left.unwrap();
        assert!(
            !left.contains("calico-node") && !left.contains("tortie"),
            "{left}"
        );
        for machine in &cluster.machines {
            let files = machine.site.namespace.run(|| {
                let of = |path: &str| fs::read_dir(path).into_iter().flatten().flatten();
                let files = of("/opt/cni/bin").chain(of("/etc/cni/net.d"));
                files
                    .map(|file| file.file_name().to_string_lossy().into_owned())
                    .collect::<Vec<_>>()
            });
            assert!(
                files
                    .iter()
                    .all(|file| !file.contains("calico") && !file.contains("tortie")),
                "{files:?}"
            );
        }
    });
}
