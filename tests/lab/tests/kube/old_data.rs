//! etcd is restored from an older copy, or emptied, while pods live that it does not know.

use lab::Lab;

use crate::traffic::{Watched, ctl, says};
use crate::{options, with_programs};

/// The operator has looked, and says so on every node.
fn accept(lab: &Lab) {
    for node in 0..lab.topology.sites.len() {
        says(lab, node, "datastore accept");
        let output = ctl(lab, node, &["datastore", "accept"]);
        assert!(output.status.success(), "{output:?}");
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

/// Every pod's address stands in a block in the API server again, and in one place only.
fn every_address_is_known(watched: &mut Watched) {
    let path = "--output=jsonpath={range .items[*]}{.spec.cidr} {.spec.allocations}{\"\\n\"}{end}";
    let kube = watched.lab.kube();
    let blocks = kube
        .server
        .kubectl(&["get", "ipamblocks.crd.projectcalico.org", path])
        .unwrap();
    for pod in &watched.lab.pods {
        let block = watched.lab.options.block_of(pod.address);
        let slot = u32::from(pod.address) - u32::from(block.network());
        let of_block = blocks.lines().filter_map(|line| line.split_once(' '));
        let allocations: Vec<&str> = of_block
            .filter(|(cidr, _)| *cidr == block.to_string())
            .map(|(_, allocations)| allocations)
            .collect();
        let [allocations] = allocations.as_slice() else {
            panic!("{} has no block: {blocks}", pod.label());
        };
        let allocations: Vec<serde_json::Value> = serde_json::from_str(allocations).unwrap();
        assert!(
            !allocations[slot as usize].is_null(),
            "{} is free: {blocks}",
            pod.label()
        );
    }
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
        every_address_is_known(&mut watched);
        watched.ends_well();
    });
}

#[test]
fn an_emptied_etcd_deletes_nothing_and_gives_no_address_twice() {
    let name = "old_data::an_emptied_etcd_deletes_nothing_and_gives_no_address_twice";
    with_programs(name, |programs| {
        let mut watched = Watched::start(options(), programs, 2);
        watched.watch();
        watched.lab.kube().server.empty().unwrap();
        // The operator applies the kinds and the pool again; kubelets register their nodes and their static pods by themselves.
        let sites = watched.lab.topology.sites.clone();
        watched.lab.kube().install().unwrap();
        apply_pool(&watched.lab);
        watched.lab.kube().register_nodes(&sites).unwrap();
        watched.place(2);
        accept(&watched.lab);
        watched.grow();
        every_address_is_known(&mut watched);
        watched.ends_well();
    });
}
