//! The cluster itself, with a network that is not ours.

use std::time::Instant;

use serde_json::json;

use lab::Families;

use crate::with_cluster;

/// Addresses of pods on each node: nothing routes them to the other one.
fn bridge(node: usize) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "bridge",
        "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("192.168.{node}.0/24")}]],
                     "routes": [{"dst": "0.0.0.0/0"}]},
        }],
    })
}

#[test]
fn nodes_are_ready_and_run_pods_with_another_projects_plugin() {
    with_cluster(
        "skeleton::nodes_are_ready_and_run_pods_with_another_projects_plugin",
        Families::V4,
        &[],
        |mut cluster| {
            let started = Instant::now();
            cluster.write_network("10-bridge.conflist", bridge).unwrap();
            for machine in &cluster.machines {
                machine.site.namespace.run(|| {
                    for plugin in ["bridge", "host-local"] {
                        let to = format!("/opt/cni/bin/{plugin}");
                        std::os::unix::fs::symlink(format!("/usr/lib/cni/{plugin}"), to).unwrap();
                    }
                });
            }
            cluster
                .wait_nodes_ready()
                .unwrap_or_else(|error| panic!("{error}"));
            println!("nodes ready after {:?}", started.elapsed());
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                    "name": "main", "image": "busybox:lab", "imagePullPolicy": "Never",
                    "command": ["/bin/sh", "-c", "echo here; sleep 100000"],
                }]},
            });
            cluster.server.apply(&pod.to_string()).unwrap();
            cluster
                .wait("the pod's log", |cluster| {
                    let said = cluster.server.kubectl(&["logs", "a"])?;
                    Ok((said == "here\n").then_some(()))
                })
                .unwrap_or_else(|error| panic!("{error}"));
            println!("pod runs after {:?}", started.elapsed());
            let said = cluster
                .server
                .kubectl(&["exec", "a", "--", "/bin/hostname"])
                .unwrap();
            assert_eq!(said, "a\n");
        },
    );
}
