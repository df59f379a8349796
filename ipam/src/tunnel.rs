//! A node's own tunnel addresses: each is an ordinary address under a handle of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::pool::{AllowedUse, EncapMode, IPPool};
use ipnet::IpNet;

use crate::block;
use crate::draft::Draft;
use crate::error::{Family, PoolRefused};
use crate::plan::{self, Halt, Stop};
use crate::pools::{self, Asker};
use crate::release;
use crate::request::{AssignRequest, ReleaseAddress, Wanted};
use crate::time::Timestamp;
use crate::view::{Extent, Known, handle_key};

/// What the address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TunnelKind {
    /// `tunl0`.
    Ipip,
    /// `vxlan.calico`.
    VxlanV4,
    /// `vxlan-v6.calico`.
    VxlanV6,
}

impl TunnelKind {
    /// The handle the address is held under.
    pub fn handle_id(self, node: &str) -> String {
        let prefix = match self {
            Self::Ipip => "ipip-tunnel-addr",
            Self::VxlanV4 => "vxlan-tunnel-addr",
            Self::VxlanV6 => "vxlan-v6-tunnel-addr",
        };
        format!("{prefix}-{node}")
    }

    /// The attribute `type` of the address.
    pub const fn attribute_type(self) -> &'static str {
        match self {
            Self::Ipip => "ipipTunnelAddress",
            Self::VxlanV4 => "vxlanTunnelAddress",
            Self::VxlanV6 => "vxlanV6TunnelAddress",
        }
    }

    /// Whether the pool's packets go through this tunnel.
    pub fn is_used_by(self, pool: &IPPool) -> bool {
        let family = pools::family(pool);
        match self {
            Self::Ipip => family == Family::V4 && pool.spec.ipip_mode != EncapMode::Never,
            Self::VxlanV4 => family == Family::V4 && pool.spec.vxlan_mode != EncapMode::Never,
            Self::VxlanV6 => family == Family::V6 && pool.spec.vxlan_mode != EncapMode::Never,
        }
    }
}

/// What a node's tunnel address should be.
///
/// It is wanted when a pool uses the tunnel, selects the node and allows the use `Tunnel`. The present one is kept while
/// it lies in such a pool and is held under the tunnel's handle. Otherwise a new one is assigned beside what is held; one
/// that nobody holds and that no handle names (as old versions left it) is taken again if it can be. Nothing is released:
/// other nodes send packets to the present one until the Node says something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRequest {
    /// What for.
    pub kind: TunnelKind,
    /// Labels of the node.
    pub node_labels: BTreeMap<String, String>,
    /// The address in the Node object.
    pub current: Option<IpAddr>,
    /// Now.
    pub now: Timestamp,
}

/// A node's tunnel address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelAddress {
    /// What the Node is to say; `None`: none.
    pub wanted: Option<IpAddr>,
    /// All that is held under the tunnel's handle, as it stands now: whatever the Node does not say is to be released, once
    /// it does not say it.
    pub held: Vec<ReleaseAddress>,
}

impl TunnelAddress {
    /// What is to be released when the Node says `address`.
    pub fn all_but(&self, address: Option<IpAddr>) -> Vec<ReleaseAddress> {
        let held = self.held.iter();
        held.filter(|held| Some(held.address) != address)
            .cloned()
            .collect()
    }
}

pub(crate) fn ensure(
    draft: &mut Draft<'_>,
    node: &str,
    request: &TunnelRequest,
) -> Result<TunnelAddress, Stop> {
    let wanted = choose(draft, node, request)?;
    let held = release::held(draft, &request.kind.handle_id(node))?;
    Ok(TunnelAddress { wanted, held })
}

fn choose(
    draft: &mut Draft<'_>,
    node: &str,
    request: &TunnelRequest,
) -> Result<Option<IpAddr>, Stop> {
    let handle_id = &request.kind.handle_id(node);
    if matches!(draft.handle(handle_id), Known::Unknown) {
        return Err(Stop::Halt(Halt::Read(handle_key(handle_id))));
    }
    let candidates = candidates(draft, request);
    let fits = |address: &IpAddr| candidates.iter().any(|(_, cidr)| cidr.contains(address));
    let held: Vec<IpAddr> = plan::held(draft, handle_id)?
        .iter()
        .map(IpNet::addr)
        .collect();
    if candidates.is_empty() {
        return Ok(None);
    }
    let present = request.current.filter(|address| held.contains(address));
    // An agent that died between assignment and Node write left one that the Node does not name.
    let kept = present
        .filter(fits)
        .or_else(|| held.iter().copied().find(fits));
    if let Some(kept) = kept {
        return Ok(Some(kept));
    }
    plan::need(draft, Extent::All)?;
    // One more than it has.
    let more = held.len() + 1;
    let (ipv4, ipv6) = match request.kind {
        TunnelKind::Ipip | TunnelKind::VxlanV4 => (more, 0),
        TunnelKind::VxlanV6 => (0, more),
    };
    let assign = |wanted| AssignRequest {
        node_labels: request.node_labels.clone(),
        namespace_labels: None,
        handle_id: handle_id.clone(),
        attributes: BTreeMap::from([("type".to_owned(), request.kind.attribute_type().to_owned())]),
        allowed_use: AllowedUse::Tunnel,
        wanted,
        now: request.now,
    };
    if let Some(old) = request
        .current
        .filter(fits)
        .filter(|old| free_old(draft, *old))
    {
        let again = plan::assign(draft, node, &assign(Wanted::Address(old)));
        if let Ok(assignment) = again {
            return Ok(assignment.addresses.first().map(IpNet::addr));
        }
    }
    let pools = candidates.iter().map(|(name, _)| name.clone()).collect();
    let assignment = plan::assign(draft, node, &assign(Wanted::Any { ipv4, ipv6, pools }))?;
    let mut addresses = assignment.addresses.iter().map(IpNet::addr);
    Ok(addresses.find(|address| !held.contains(address)))
}

/// Whether the address is nobody's, so that the node may keep the one its peers know. One that is allocated without
/// handle and attributes (as versions before tunnel handles left it) is freed first.
fn free_old(draft: &mut Draft<'_>, address: IpAddr) -> bool {
    let Ok(found) = draft.block_with(address) else {
        return false;
    };
    let Some((cidr, ordinal, holder)) = found.and_then(|(cidr, found)| {
        let ordinal = block::ordinal(cidr, address)?;
        Some((cidr, ordinal, block::holder(&found.spec, ordinal)?))
    }) else {
        return true;
    };
    if holder.handle_id.is_some() || !holder.secondary.is_empty() {
        return false;
    }
    if let Some(spec) = draft.edit_block(cidr) {
        block::free(spec, &[ordinal]);
    }
    true
}

fn candidates(draft: &Draft<'_>, request: &TunnelRequest) -> Vec<(String, IpNet)> {
    let asker = Asker {
        node_labels: &request.node_labels,
        namespace_labels: None,
        allowed_use: AllowedUse::Tunnel,
    };
    draft
        .view()
        .pools()
        .filter(|pool| candidate(pool, request.kind, asker).is_ok())
        .map(|pool| (pool.metadata.name.clone(), pool.spec.cidr))
        .collect()
}

/// Whether a tunnel address may come from the pool. Pools of mode Manual and those for namespaces count too: the node
/// sends their packets as well.
fn candidate(pool: &IPPool, kind: TunnelKind, asker: Asker<'_>) -> Result<(), PoolRefused> {
    if !kind.is_used_by(pool) {
        return Err(PoolRefused::Encapsulation);
    }
    pools::usable(pool, asker.allowed_use)?;
    pools::selects_node(pool, asker.node_labels)
}
