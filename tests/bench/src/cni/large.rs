//! The embedded store of a large cluster: what ADD, claim, borrowing and DEL take before other nodes' objects are there, and beside them.
//!
//! Others have 10,000 blocks of the pool, with ten pods' handles for each, and all blocks of a small pool, each with room to borrow.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::plan::Plan;
use datastore::store::{Expect, Op, Store as _};
use datastore_local::RelayStore;
use lab::{STORE_SOCKET, Store};
use serde_json::{Value, json};

use super::cluster::{Cluster, Container};
use super::scenario::{Measures, ensure_distinct, milliseconds};
use super::spent::memory;

/// Blocks of others in the pool, and handles.
const BLOCKS: u32 = 10_000;
const HANDLES: u32 = 100_000;
/// Nodes that have them.
const NODES: u32 = 500;
/// Addresses of a block.
const BLOCK: u32 = 4;
/// Objects in one transaction.
const AT_ONCE: usize = 500;
/// Blocks that the node claims before the others' objects are there, and as many beside them: it may own 20.
const CLAIMS: usize = 9;
/// Addresses that are borrowed, each time.
const BORROWED: usize = 12;
/// The lab's pool has this and the addresses before it, as many as a /16 has.
const LAST: Ipv4Addr = Ipv4Addr::new(192, 168, 255, 255);
/// Name of the pool that is others' as a whole, and its first address; it has 64 blocks.
const TAKEN: (&str, Ipv4Addr) = ("taken", Ipv4Addr::new(10, 77, 0, 0));

pub(super) fn run(seed: u64) -> anyhow::Result<Measures> {
    let mut cluster = Cluster::start(Store::Local, 30, seed, |_| Ok(()))?;
    ensure!(cluster.lab.wait_sessions()?, "no BGP session");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(fill(taken_pool()))?;
    let mut measures = Measures::default();
    let mut pods = round(&mut cluster, "small", &mut measures)?;
    runtime.block_on(fill(objects_of_others()))?;
    pods.extend(round(&mut cluster, "large", &mut measures)?);
    ensure_distinct(&pods)?;
    let (resident, peak) = memory()?;
    measures.note("large agent MiB", resident);
    measures.note("large agent peak MiB", peak);
    Ok(measures)
}

/// ADDs into own blocks and into such as they claim; borrowed ones; and DELs of the borrowed ones and of as many others.
fn round(
    cluster: &mut Cluster,
    name: &str,
    measures: &mut Measures,
) -> anyhow::Result<Vec<Container>> {
    let count = CLAIMS * BLOCK as usize;
    let mut pods = cluster.prepare(count)?;
    for (number, pod) in pods.iter_mut().enumerate() {
        let what = match number % BLOCK as usize {
            0 => "claim ADD",
            _ => "ADD",
        };
        measures.note(format!("{name} {what} ms"), milliseconds(cluster.add(pod)?));
    }
    let mut borrowed = cluster.prepare(BORROWED)?;
    for pod in &mut borrowed {
        let took = cluster.add_from(pod, TAKEN.0)?;
        measures.note(format!("{name} borrowed ADD ms"), milliseconds(took));
    }
    let (_, times) = cluster.call_all(&mut borrowed, "DEL", 1)?;
    measures.note_times(&format!("{name} DEL ms"), &times);
    cluster.forget(&borrowed)?;
    Ok(pods)
}

/// A pool that gives addresses only to who names it, and whose blocks others have, with one pod in each.
fn taken_pool() -> impl Iterator<Item = (Kind, String, Value)> {
    let (name, first) = TAKEN;
    let pool = json!({
        "cidr": format!("{first}/24"), "blockSize": 30, "nodeSelector": "!all()", "ipipMode": "Never", "vxlanMode": "Never",
    });
    let blocks = (0..256 / BLOCK)
        .flat_map(move |number| block_of_other(u32::from(first) + number * BLOCK, number, 1));
    std::iter::once((Kind::IPPool, name.to_owned(), pool)).chain(blocks)
}

fn objects_of_others() -> impl Iterator<Item = (Kind, String, Value)> {
    let end = u32::from(LAST) + 1;
    let blocks = (0..BLOCKS)
        .flat_map(move |number| block_of_other(end - (number + 1) * BLOCK, 1000 + number, BLOCK));
    let handles = (0..HANDLES).map(|number| {
        let id = format!("k8s-pod-network.{number:064x}");
        let handle = json!({"handleID": id, "block": {"192.168.1.0/30": 1}, "deleted": false});
        (Kind::IPAMHandle, id, handle)
    });
    blocks.chain(handles)
}

/// A block with `taken` pods in it, and the claim on it.
fn block_of_other(first: u32, number: u32, taken: u32) -> [(Kind, String, Value); 2] {
    let cidr = format!("{}/30", Ipv4Addr::from(first));
    let name = cidr.replace(['.', '/'], "-");
    let node = format!("other{}", number % NODES);
    let attributes = (0..taken).map(|pod| {
        json!({
            "handle_id": format!("k8s-pod-network.{number:032x}{pod:032x}"),
            "secondary": {"node": node, "namespace": "default", "pod": format!("pod-{number}-{pod}")},
        })
    });
    let allocations = (0..BLOCK).map(|ordinal| (ordinal < taken).then_some(ordinal));
    let numbers = (0..taken).map(|ordinal| (ordinal.to_string(), json!(ordinal)));
    let numbers: serde_json::Map<String, Value> = numbers.collect();
    let block = json!({
        "cidr": cidr, "affinity": format!("host:{node}"), "strictAffinity": false, "deleted": false,
        "allocations": allocations.collect::<Vec<_>>(), "unallocated": (taken..BLOCK).collect::<Vec<_>>(),
        "attributes": attributes.collect::<Vec<_>>(),
        "sequenceNumber": taken, "sequenceNumberForAllocation": numbers,
    });
    let claim = json!({"cidr": cidr, "node": node, "state": "confirmed", "deleted": "false", "type": "host"});
    [
        (Kind::IPAMBlock, name.clone(), block),
        (Kind::BlockAffinity, format!("{node}-{name}"), claim),
    ]
}

/// Writes objects as other agents and users would have.
async fn fill(objects: impl Iterator<Item = (Kind, String, Value)>) -> anyhow::Result<()> {
    let store = RelayStore::new(STORE_SOCKET).with_deadline(Duration::from_secs(60));
    let mut ops = Vec::with_capacity(AT_ONCE);
    let mut objects = objects.peekable();
    while let Some((kind, name, spec)) = objects.next() {
        let value = json!({
            "apiVersion": "projectcalico.org/v3", "kind": kind.name(), "metadata": {"name": name}, "spec": spec,
        });
        ops.push(Op::Put {
            key: Key::new(kind, name),
            value: Bytes::from(value.to_string()),
            expect: Expect::Absent,
        });
        if ops.len() == AT_ONCE || objects.peek().is_none() {
            let plan = Plan::at_once(std::mem::take(&mut ops));
            let written = store.commit(plan).await;
            written
                .map_err(|failed| failed.error)
                .context("filling the store")?;
        }
    }
    Ok(())
}
