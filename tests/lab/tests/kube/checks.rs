//! The checks that end every test of faults here, each made to fail: a check that cannot fail proves nothing.

use std::net::IpAddr;

use lab::{Lab, Sabotage};
use serde_json::{Value, json};

use crate::traffic::Watched;
use crate::{options, with_programs};

fn has(faults: &[String], parts: &[&str]) {
    let found = |fault: &String| parts.iter().all(|part| fault.contains(part));
    assert!(faults.iter().any(found), "{parts:?} is not in {faults:#?}");
}

/// Writes a block without its version, as a writer whose compare-and-set was dropped and who had read it before a pod came.
fn forget_address(lab: &mut Lab, pod: usize) {
    let address = lab.pods[pod].address;
    let (IpAddr::V4(address), ipnet::IpNet::V4(block)) = (address, lab.options.block_of(address))
    else {
        panic!("an IPv4 address has an IPv4 block");
    };
    let (kind, server) = ("ipamblocks.crd.projectcalico.org", &lab.kube().server);
    let blocks = server.kubectl(&["get", kind, "--output=json"]).unwrap();
    let blocks: Value = serde_json::from_str(&blocks).unwrap();
    let of_pod = |item: &&Value| item["spec"]["cidr"] == block.to_string();
    let found = blocks["items"].as_array().unwrap().iter().find(of_pod);
    let found = found.unwrap();
    let slot = usize::try_from(u32::from(address) - u32::from(block.network())).unwrap();
    let mut allocations = found["spec"]["allocations"].clone();
    allocations[slot] = Value::Null;
    let patch = json!({"spec": {"allocations": allocations}});
    let name = found["metadata"]["name"].as_str().unwrap();
    let patch = format!("--patch={patch}");
    server
        .kubectl(&["patch", kind, name, "--type=merge", &patch])
        .unwrap();
}

#[test]
fn each_fault_is_found_and_its_place_is_named() {
    let name = "checks::each_fault_is_found_and_its_place_is_named";
    with_programs(name, |programs| {
        let mut watched = Watched::start(options(), programs, 1);
        if lab::has_nft() {
            let first = watched.lab.topology.sites[0].namespace.clone();
            watched.lab.sabotage(Sabotage::Masquerade).unwrap();
            let faults = watched.lab.prove().faults;
            has(
                &faults,
                &["source address n1/p0 -> n2/p0: receiver saw ", "(n1's)"],
            );
            let undone = first
                .command("nft")
                .arg("delete table ip sabotage")
                .status();
            assert!(undone.unwrap().success());
        }
        watched.watch();
        watched.lab.sabotage(Sabotage::Route).unwrap();
        forget_address(&mut watched.lab, 0);
        let (first, second) = (watched.lab.pods[0].address, watched.lab.pods[1].address);
        watched.lab.pods[1].address = first;
        let faults = watched.faults();
        has(&faults, &["n1 lost a route"]);
        has(&faults, &["n1/p0 -> n2/p0", "packets lost"]);
        has(&faults, &["n1/p0", "is free in the API server"]);
        has(
            &faults,
            &[&format!("{first} was given twice: to n1/p0 and n2/p0")],
        );
        has(&faults, &[&format!("{second} is kept for nobody")]);
        watched.lab.thaw_agent(0).unwrap();
    });
}
