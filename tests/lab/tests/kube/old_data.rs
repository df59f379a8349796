//! etcd is restored from an older copy, or emptied, while pods live that it does not know.

use lab::Lab;

use crate::traffic::{Watched, ctl};
use crate::{options, told, with_programs};

/// The operator has looked, and says so on every node.
fn accept(lab: &Lab) {
    for node in 0..lab.topology.sites.len() {
        told::unknown(lab, node);
        let output = ctl(lab, node, &["datastore", "accept"]);
        assert!(output.status.success(), "{output:?}");
    }
    for node in 0..lab.topology.sites.len() {
        told::all_well(lab, node);
    }
}

/// As the first agent had made it.
fn apply_pool(lab: &Lab) {
    let manifest = format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: default-ipv4-ippool}}\n\
         spec: {{cidr: {}, blockSize: {}, vxlanMode: Always, ipipMode: Never, natOutgoing: true}}\n",
        lab.options.pool, lab.options.block_size
    );
    let path = std::path::Path::new(lab::BASE).join("pool.yaml");
    std::fs::write(&path, manifest).unwrap();
    let output = ctl(lab, 0, &["apply", "-f", &path.display().to_string()]);
    assert!(output.status.success(), "{output:?}");
}

/// etcd loses everything. The operator applies the kinds and the pool again; kubelets register their nodes and their static
/// pods by themselves.
fn empty(watched: &mut Watched) {
    watched.lab.kube().server.empty().unwrap();
    let sites = watched.lab.topology.sites.clone();
    watched.lab.kube().install().unwrap();
    apply_pool(&watched.lab);
    watched.lab.kube().register_nodes(&sites).unwrap();
    watched.place(2);
}

#[test]
fn an_older_copy_of_etcd_deletes_nothing_and_gives_no_address_twice() {
    let name = "old_data::an_older_copy_of_etcd_deletes_nothing_and_gives_no_address_twice";
    with_programs(name, |programs| {
        let mut watched = Watched::start(options(), programs, 1);
        // Pods that the copy knows, as placed and not yet run: what they get it does not.
        watched.place(3);
        let copy = watched.lab.kube().server.copy_data().unwrap();
        watched.grow();
        watched.watch();
        watched.lab.kube().server.restore(&copy).unwrap();
        accept(&watched.lab);
        watched.grow();
        watched.ends_well();
    });
}

#[test]
fn an_emptied_etcd_deletes_nothing_and_gives_no_address_twice() {
    let name = "old_data::an_emptied_etcd_deletes_nothing_and_gives_no_address_twice";
    with_programs(name, |programs| {
        let mut watched = Watched::start(options(), programs, 2);
        watched.watch();
        empty(&mut watched);
        accept(&watched.lab);
        watched.grow();
        watched.ends_well();
    });
}

#[test]
fn an_etcd_that_was_emptied_while_no_agent_ran_deletes_nothing_and_gives_no_address_twice() {
    let name = "old_data::an_etcd_that_was_emptied_while_no_agent_ran_deletes_nothing_and_gives_no_address_twice";
    with_programs(name, |programs| {
        let mut watched = Watched::start(options(), programs, 2);
        watched.watch();
        // One is told to end, the other dies.
        let status = watched.lab.terminate_agent(0).unwrap();
        assert!(status.success(), "{status}");
        watched.lab.kill_agent(1).unwrap();
        empty(&mut watched);
        for node in 0..2 {
            watched.lab.start_agent(node).unwrap();
            waits(&watched.lab, node);
        }
        // The second node's blocks are unknown while the first gives addresses out.
        let taken: Vec<_> = watched.lab.pods.iter().map(|pod| pod.address).collect();
        accept_at_start(&mut watched.lab, 0);
        watched.add_pod(0);
        watched.add_pod(0);
        for pod in &watched.lab.pods[taken.len()..] {
            assert!(
                !taken.contains(&pod.address),
                "{} was given twice",
                pod.address
            );
        }
        accept_at_start(&mut watched.lab, 1);
        watched.grow();
        watched.ends_with_pods_that_the_store_does_not_know();
    });
}

/// Waits until the agent of a node says in its log that it waits for the operator.
fn waits(lab: &Lab, node: usize) {
    let name = lab.topology.sites[node].name.clone();
    let said = lab::wait_until(std::time::Instant::now() + lab.options.patience, || {
        lab::log_end(&name)
            .contains("until `tortiectl datastore accept`")
            .then_some(())
    });
    assert!(said.is_some(), "{}", lab::log_end(&name));
}

/// The operator has looked, and says so on a node whose agent starts.
fn accept_at_start(lab: &mut Lab, node: usize) {
    let output = ctl(lab, node, &["datastore", "accept"]);
    assert!(output.status.success(), "{output:?}");
    lab.wait_ready(node)
        .unwrap_or_else(|error| panic!("{error}"));
}
