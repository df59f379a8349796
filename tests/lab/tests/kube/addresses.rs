//! What the API server says of addresses, against the pods that live.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use lab::Lab;
use serde_json::Value;

/// Whom the blocks in the API server name for each address: handles.
fn holders(lab: &mut Lab) -> BTreeMap<IpAddr, Vec<String>> {
    let blocks = ["get", "ipamblocks.crd.projectcalico.org", "--output=json"];
    let blocks = lab.kube().server.kubectl(&blocks).unwrap();
    let blocks: Value = serde_json::from_str(&blocks).unwrap();
    let mut holders: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for block in blocks["items"].as_array().unwrap() {
        let spec = &block["spec"];
        let (first, _) = spec["cidr"].as_str().unwrap().split_once('/').unwrap();
        let first: u32 = first.parse::<Ipv4Addr>().unwrap().into();
        for (slot, attribute) in spec["allocations"].as_array().unwrap().iter().enumerate() {
            let Some(attribute) = attribute.as_u64() else {
                continue;
            };
            let attribute = &spec["attributes"][usize::try_from(attribute).unwrap()];
            let address = first + u32::try_from(slot).unwrap();
            let handle = attribute["handle_id"].as_str().unwrap_or_default();
            holders
                .entry(Ipv4Addr::from(address).into())
                .or_default()
                .push(handle.to_owned());
        }
    }
    holders
}

/// Addresses of living pods that no block names, that two do, and addresses that blocks keep for nobody.
pub(crate) fn faults(lab: &mut Lab) -> Vec<String> {
    let mut holders = holders(lab);
    let mut faults = Vec::new();
    for pod in &lab.pods {
        let (label, address) = (pod.label(), pod.address);
        match holders.remove(&address).unwrap_or_default().as_slice() {
            [_] => {}
            [] => faults.push(format!("{label}: {address} is free in the API server")),
            several => faults.push(format!(
                "{label}: {address} has several holders: {several:?}"
            )),
        }
    }
    // A node's own, for its tunnel.
    holders.retain(|_, handles| !handles.iter().all(|handle| handle.contains("tunnel-addr")));
    let kept = holders.into_iter();
    faults.extend(
        kept.map(|(address, handles)| format!("{address} is kept for nobody: {handles:?}")),
    );
    faults
}
