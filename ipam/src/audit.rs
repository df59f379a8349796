//! What a cluster's addresses come to: how full pools and blocks are, who uses each address, and what does not fit
//! together. For `tortiectl ipam`; nothing is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::endpoint::WorkloadEndpoint;
use api::ipam::{AllocationAttribute, IPAMBlock, IPAMBlockSpec};
use api::node::Node;
use api::object::Object;
use api::pool::IPPool;
use datastore::store::KeyValue;
use ipnet::IpNet;

use crate::block;
use crate::check::{self, Fault};
use crate::collect::PLUGIN;
use crate::reserved::Reserved;

/// Handles whose addresses no object of the cluster names: kept back on nodes of another kind.
const RESERVED_HANDLES: [&str; 1] = ["windows-reserved-ipam-handle"];

/// An address that is given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Address.
    pub address: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// Whose the block is: `host:<node>`, `virtual:<name>`, nobody's.
    pub affinity: Option<String>,
    /// Who holds it.
    pub holder: AllocationAttribute,
    /// The block's number when it was given out.
    pub sequence_number: Option<u64>,
    /// Who uses it.
    pub usage: Usage,
}

/// Whether somebody uses an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// These: `Workload(default/web)`, `Node(n1)`.
    By(Vec<String>),
    /// Nobody any more, and nobody else yet: it cools down.
    Cooling,
    /// What would say so is not looked at: addresses of Services, of Windows nodes, of pods that other plugins connect.
    NotLookedAt,
    /// Nobody.
    Nobody,
}

/// How full a range is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Name of the pool; of a block, whose it is.
    pub name: String,
    /// Range.
    pub cidr: IpNet,
    /// Addresses in it.
    pub total: u128,
    /// Addresses given out.
    pub in_use: u128,
    /// Reserved ones; some of them may be given out.
    pub reserved: u128,
    /// Addresses that are neither.
    pub free: u128,
}

/// What is found in a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Pools in the order of their names, each with its blocks.
    pub pools: Vec<(Fill, Vec<Fill>)>,
    /// Blocks of no pool.
    pub other_blocks: Vec<Fill>,
    /// By address.
    pub allocations: Vec<Allocation>,
    /// Addresses within a pool that are used and not given out, and by whom.
    pub not_allocated: Vec<(IpAddr, String)>,
    /// Addresses that are used and in no pool, and by whom.
    pub outside: Vec<(IpAddr, String)>,
    /// Handles without an address, by id.
    pub leaked_handles: Vec<String>,
    /// Objects that cannot be read or contradict each other.
    pub faults: Vec<Fault>,
    /// What some writer left half done, and the next one puts right: no problems.
    pub leftovers: Vec<Fault>,
    /// Blocks, nodes, pods' interfaces that were looked at.
    pub looked_at: LookedAt,
}

/// How many objects were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookedAt {
    /// Blocks.
    pub blocks: usize,
    /// Handles.
    pub handles: usize,
    /// Nodes.
    pub nodes: usize,
    /// WorkloadEndpoints.
    pub endpoints: usize,
}

impl Audit {
    /// Of pools, blocks, affinities, handles, nodes and endpoints. What was listed earlier may have changed while the rest
    /// was: who acts on a finding compares sequence numbers, and looks twice.
    pub fn of(items: &[KeyValue]) -> Self {
        let mut pools: Vec<IPPool> = Vec::new();
        let mut reserved: Vec<IpNet> = Vec::new();
        let mut blocks: Vec<IPAMBlock> = Vec::new();
        let mut handles: BTreeMap<String, String> = BTreeMap::new();
        let mut users = Users::default();
        let mut looked_at = LookedAt::default();
        for item in items {
            match Object::decode(&item.key, &item.value) {
                Ok(Object::IPPool(pool)) => pools.push(pool),
                Ok(Object::IPReservation(found)) => reserved.extend(found.spec.ranges()),
                Ok(Object::IPAMBlock(found)) if !found.spec.deleted => {
                    looked_at.blocks += 1;
                    blocks.push(found);
                }
                Ok(Object::IPAMHandle(handle)) if !handle.spec.deleted => {
                    looked_at.handles += 1;
                    let id = handle.spec.handle_id;
                    handles.insert(id.to_lowercase(), id);
                }
                Ok(Object::Node(node)) => {
                    looked_at.nodes += 1;
                    users.add_node(&node);
                }
                Ok(Object::WorkloadEndpoint(endpoint)) => {
                    looked_at.endpoints += 1;
                    users.add_endpoint(&endpoint);
                }
                // What cannot be read is a fault, which the checks name.
                Ok(_) | Err(_) => {}
            }
        }
        blocks.sort_by_key(|found| block::first(found.spec.cidr));
        let check::Looked { faults, leftovers } = check::look(items);
        let mut all = Self {
            faults,
            leftovers,
            looked_at,
            ..Self::default()
        };
        for found in &blocks {
            all.allocations.extend(allocations(&found.spec, &users));
        }
        for allocation in &all.allocations {
            if let Some(handle) = &allocation.holder.handle_id
                && allocation.holder.released_at().is_none()
            {
                handles.remove(&handle.to_lowercase());
            }
        }
        all.leaked_handles = handles.into_values().collect();
        all.fill(&pools, &blocks, &Reserved::of(reserved));
        all.place(users, &pools);
        all
    }

    fn fill(&mut self, pools: &[IPPool], blocks: &[IPAMBlock], reserved: &Reserved) {
        let fill = |found: &IPAMBlock| fill_of(&found.spec, reserved);
        // Beside each the reserved addresses that are given out: neither free nor counted twice.
        let mut rest: Vec<(Fill, u128)> = blocks.iter().map(fill).collect();
        for pool in pools {
            let cidr = pool.spec.cidr;
            let own: Vec<(Fill, u128)>;
            (own, rest) = rest
                .into_iter()
                .partition(|(block, _)| cidr.contains(&block.cidr));
            let in_use: u128 = own.iter().map(|(block, _)| block.in_use).sum();
            let both: u128 = own.iter().map(|(_, both)| both).sum();
            let kept = reserved.count_in(cidr);
            let fill = Fill {
                name: pool.metadata.name.clone(),
                cidr,
                total: total(cidr),
                in_use,
                reserved: kept,
                free: total(cidr).saturating_sub(in_use + kept - both),
            };
            let own = own.into_iter().map(|(block, _)| block).collect();
            self.pools.push((fill, own));
        }
        self.pools.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        self.other_blocks = rest.into_iter().map(|(block, _)| block).collect();
    }

    /// Addresses that are used though no block says so.
    fn place(&mut self, users: Users, pools: &[IPPool]) {
        let allocated: BTreeSet<IpAddr> =
            self.allocations.iter().map(|found| found.address).collect();
        for (address, who) in users.0 {
            let who = who.join(", ");
            if !pools.iter().any(|pool| pool.spec.cidr.contains(&address)) {
                self.outside.push((address, who));
            } else if !allocated.contains(&address) {
                self.not_allocated.push((address, who));
            }
        }
    }

    /// Addresses that are given out and that nobody uses.
    pub fn leaked(&self) -> impl Iterator<Item = &Allocation> {
        let all = self.allocations.iter();
        all.filter(|found| found.usage == Usage::Nobody)
    }

    /// Addresses whose holder is on another node than that of the block: who holds it, and the block's node.
    pub fn borrowed(&self) -> impl Iterator<Item = (&Allocation, &str, &str)> {
        self.allocations.iter().filter_map(|found| {
            let owner = found.affinity.as_deref()?.strip_prefix("host:")?;
            let node = found.holder.secondary.get("node")?;
            (node != owner).then_some((found, node.as_str(), owner))
        })
    }

    /// How many problems there are.
    pub fn problems(&self) -> usize {
        self.leaked().count()
            + self.not_allocated.len()
            + self.outside.len()
            + self.leaked_handles.len()
            + self.faults.len()
    }
}

/// Who uses which address.
#[derive(Default)]
struct Users(BTreeMap<IpAddr, Vec<String>>);

impl Users {
    fn add(&mut self, address: IpAddr, who: String) {
        self.0.entry(address).or_default().push(who);
    }

    fn add_endpoint(&mut self, endpoint: &WorkloadEndpoint) {
        let of = match endpoint.spec.pod.as_str() {
            "" => &endpoint.spec.workload,
            pod => pod,
        };
        let who = format!("Workload({}/{of})", endpoint.metadata.namespace);
        for net in &endpoint.spec.ip_networks {
            self.add(net.addr(), who.clone());
        }
    }

    /// The addresses of its tunnels' devices; its own are no pool's.
    fn add_node(&mut self, node: &Node) {
        let bgp = node.spec.bgp.as_ref();
        let wireguard = node.spec.extra.get("wireguard");
        let of_wireguard = |field: &str| wireguard?.get(field)?.as_str()?.parse().ok();
        let tunnels: [(&str, Option<IpAddr>); 5] = [
            (
                "IPIP",
                bgp.and_then(|bgp| bgp.ipv4_ipip_tunnel_addr)
                    .map(IpAddr::V4),
            ),
            ("VXLAN", node.spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4)),
            ("VXLAN", node.spec.ipv6_vxlan_tunnel_addr.map(IpAddr::V6)),
            ("WireGuard", of_wireguard("interfaceIPv4Address")),
            ("WireGuard", of_wireguard("interfaceIPv6Address")),
        ];
        for (kind, address) in tunnels {
            if let Some(address) = address {
                self.add(
                    address,
                    format!("{kind} tunnel of Node({})", node.metadata.name),
                );
            }
        }
    }
}

fn allocations(found: &IPAMBlockSpec, users: &Users) -> Vec<Allocation> {
    let taken = block::held(found).filter_map(|(ordinal, holder)| {
        let address = block::address(found.cidr, ordinal)?.addr();
        Some(Allocation {
            address,
            block: found.cidr,
            affinity: found.affinity.clone(),
            usage: usage(found, holder, users.0.get(&address)),
            holder: holder.clone(),
            sequence_number: block::sequence_number(found, ordinal),
        })
    });
    taken.collect()
}

fn usage(
    found: &IPAMBlockSpec,
    holder: &AllocationAttribute,
    users: Option<&Vec<String>>,
) -> Usage {
    let is_reserved = |handle: &String| RESERVED_HANDLES.contains(&handle.as_str());
    match users {
        Some(users) => Usage::By(users.clone()),
        None if holder.released_at().is_some() => Usage::Cooling,
        None if found
            .affinity
            .as_deref()
            .is_some_and(|affinity| affinity.starts_with("virtual:"))
            || holder.handle_id.as_ref().is_some_and(is_reserved)
            || holder.secondary.contains_key(PLUGIN) =>
        {
            Usage::NotLookedAt
        }
        None => Usage::Nobody,
    }
}

/// How full a block is, and how many of its reserved addresses are given out.
fn fill_of(found: &IPAMBlockSpec, reserved: &Reserved) -> (Fill, u128) {
    let count = |number: usize| u128::try_from(number).unwrap_or_default();
    let in_use = count(found.allocations.iter().flatten().count());
    let kept = reserved.count_in(found.cidr);
    let both = match kept {
        0 => 0,
        _ => {
            let taken = found.allocations.iter().enumerate();
            let taken = taken.filter(|(_, slot)| slot.is_some());
            let addresses = taken.filter_map(|(at, _)| block::address(found.cidr, at));
            count(
                addresses
                    .filter(|net| reserved.contains(net.addr()))
                    .count(),
            )
        }
    };
    let fill = Fill {
        name: found.affinity.clone().unwrap_or_default(),
        cidr: found.cidr,
        total: total(found.cidr),
        in_use,
        reserved: kept,
        free: total(found.cidr).saturating_sub(in_use + kept - both),
    };
    (fill, both)
}

/// Addresses of a range; one less than there are of all IPv6.
fn total(cidr: IpNet) -> u128 {
    (block::last(cidr) - block::first(cidr)).saturating_add(1)
}
