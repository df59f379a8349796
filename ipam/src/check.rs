//! Whether stored addresses make sense together. For tests, simulation and `tortiectl`.

use std::collections::BTreeMap;

use api::key::{Key, Kind};
use api::object::Object;
use datastore::store::KeyValue;
use ipnet::IpNet;

use crate::block::{self, first, last};

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The object it was found in.
    pub key: Key,
    /// What is wrong.
    pub what: String,
}

/// Looks for contradictions among blocks, affinities and handles of one listing.
///
/// Not faults, because a crash of any writer leaves them: an affinity without a block that is not confirmed, a handle
/// with a higher count than addresses. Faults: a block that contradicts itself or overlaps another, two confirmed claims
/// on one block, a confirmed claim on somebody else's block, an address whose handle does not count it.
pub fn faults(items: &[KeyValue]) -> Vec<Fault> {
    let mut found = Vec::new();
    let mut blocks = BTreeMap::new();
    let mut affinities = Vec::new();
    let mut handles = BTreeMap::new();
    for item in items {
        match Object::decode(&item.key, &item.value) {
            Ok(Object::IPAMBlock(block)) if !block.spec.deleted => {
                blocks.insert(block.spec.cidr, block.spec);
            }
            Ok(Object::BlockAffinity(affinity)) if affinity.spec.deleted != "true" => {
                affinities.push((item.key.clone(), affinity.spec));
            }
            Ok(Object::IPAMHandle(handle)) if !handle.spec.deleted => {
                handles.insert(handle.spec.handle_id.to_lowercase(), handle.spec.block);
            }
            Ok(_) => {}
            Err(error) => found.push(Fault {
                key: item.key.clone(),
                what: error.message,
            }),
        }
    }
    let at = |cidr: IpNet| Key::new(Kind::IPAMBlock, api::ipam::block_name(cidr));
    let mut before: Option<IpNet> = None;
    for (cidr, spec) in &blocks {
        if let Some(what) = block::fault(spec) {
            found.push(Fault {
                key: at(*cidr),
                what,
            });
            continue;
        }
        if let Some(before) = before
            && before.addr().is_ipv4() == cidr.addr().is_ipv4()
            && last(before) >= first(*cidr)
        {
            let what = format!("overlaps {before}");
            found.push(Fault {
                key: at(*cidr),
                what,
            });
        }
        before = Some(*cidr);
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for ordinal in 0..spec.allocations.len() {
            let holder = block::holder(spec, ordinal).and_then(|by| by.handle_id.as_deref());
            if let Some(handle) = holder {
                *counts.entry(handle.to_lowercase()).or_default() += 1;
            }
        }
        for (handle, count) in counts {
            let known = handles
                .get(&handle)
                .and_then(|blocks| blocks.get(&cidr.to_string()))
                .copied()
                .unwrap_or(0);
            if known < count {
                let what = format!("{count} addresses of handle {handle}, which counts {known}");
                found.push(Fault {
                    key: at(*cidr),
                    what,
                });
            }
        }
    }
    let mut owners: BTreeMap<IpNet, Key> = BTreeMap::new();
    for (key, affinity) in affinities {
        if affinity.state != api::ipam::AffinityState::Confirmed {
            continue;
        }
        if let Some(other) = owners.insert(affinity.cidr, key.clone()) {
            let what = format!("claims {}, as {other} does", affinity.cidr);
            found.push(Fault {
                key: key.clone(),
                what,
            });
        }
        let owner = format!("{}:{}", affinity.affinity_type, affinity.node);
        if let Some(spec) = blocks.get(&affinity.cidr)
            && spec.affinity.as_deref() != Some(&owner)
        {
            let holder = spec.affinity.as_deref().unwrap_or("nobody");
            let what = format!("claims {}, which is {holder}'s", affinity.cidr);
            found.push(Fault { key, what });
        }
    }
    found
}
