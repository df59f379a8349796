//! Rules of `IPPool`.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{Fault, check_masked, check_selector};
use crate::pool::{AllowedUse, EncapMode, IPPool, IPPoolSpec};
use crate::selector::Selector;

pub(crate) fn check(pool: &IPPool, faults: &mut Vec<Fault>) {
    let pool = &pool.spec;
    check_masked("spec.cidr", pool.cidr, faults);
    if is_link_local(pool.cidr) {
        faults.push(Fault::new(
            "spec.cidr",
            &pool.cidr,
            "must hold no link-local addresses",
        ));
    }
    check_block_size(pool, faults);
    if pool.ipip_mode != EncapMode::Never && pool.vxlan_mode != EncapMode::Never {
        faults.push(Fault::new(
            "spec.vxlanMode",
            &pool.vxlan_mode,
            format!(
                "must be Never, because spec.ipipMode is {:?}: a pool has one kind of tunnel",
                pool.ipip_mode
            ),
        ));
    }
    if pool.ipip_mode != EncapMode::Never && matches!(pool.cidr, IpNet::V6(_)) {
        faults.push(Fault::new(
            "spec.ipipMode",
            &pool.ipip_mode,
            "must be Never in an IPv6 pool",
        ));
    }
    if let Some(selector) = &pool.node_selector {
        check_selector("spec.nodeSelector", selector, faults);
    }
    if let Some(selector) = pool.namespace_selector() {
        check_selector("spec.namespaceSelector", selector, faults);
    }
    check_assignment_mode(pool, faults);
    check_load_balancer(pool, faults);
}

fn check_assignment_mode(pool: &IPPoolSpec, faults: &mut Vec<Fault>) {
    let Some(mode) = pool
        .extra
        .get("assignmentMode")
        .filter(|mode| !mode.is_null())
    else {
        return;
    };
    if !["", "Automatic", "Manual"].iter().any(|word| mode == word) {
        faults.push(Fault::new(
            "spec.assignmentMode",
            mode,
            "must be one of Automatic, Manual",
        ));
    }
}

/// Prefix lengths a block may have in a range of this family.
fn block_lens(cidr: IpNet) -> RangeInclusive<u8> {
    match cidr {
        IpNet::V4(_) => 20..=32,
        IpNet::V6(_) => 116..=128,
    }
}

fn check_block_size(pool: &IPPoolSpec, faults: &mut Vec<Fault>) {
    let lens = block_lens(pool.cidr);
    let len = pool.block_len();
    if !lens.contains(&len) {
        faults.push(Fault::new(
            "spec.blockSize",
            &pool.block_size,
            format!("must be {} to {}", lens.start(), lens.end()),
        ));
    } else if len < pool.cidr.prefix_len() {
        let rule = format!(
            "must be {} to {}: a block cannot be larger than the pool {} (spec.blockSize is {len}{})",
            pool.cidr.prefix_len(),
            lens.end(),
            pool.cidr,
            if pool.block_size.is_none() {
                " by default"
            } else {
                ""
            }
        );
        faults.push(Fault::new("spec.blockSize", &len, rule));
    }
}

fn check_load_balancer(pool: &IPPoolSpec, faults: &mut Vec<Fault>) {
    let Some(uses) = &pool.allowed_uses else {
        return;
    };
    if !uses.contains(&AllowedUse::LoadBalancer) {
        return;
    }
    if uses.len() > 1 {
        faults.push(Fault::new(
            "spec.allowedUses",
            uses,
            "must hold LoadBalancer alone, or the others without it",
        ));
    }
    if pool.ipip_mode != EncapMode::Never || pool.vxlan_mode != EncapMode::Never {
        faults.push(Fault::new(
            "spec.allowedUses",
            uses,
            "must not hold LoadBalancer in a pool with IPIP or VXLAN",
        ));
    }
    if pool.disable_bgp_export {
        faults.push(Fault::new(
            "spec.disableBGPExport",
            &true,
            "must be false in a pool for load balancers",
        ));
    }
    let selector = pool.node_selector.as_deref().unwrap_or_default();
    if Selector::parse(selector).is_ok_and(|selector| !selector.is_all()) {
        faults.push(Fault::new(
            "spec.nodeSelector",
            &selector,
            "must be all() in a pool for load balancers",
        ));
    }
}

fn is_link_local(cidr: IpNet) -> bool {
    match cidr {
        IpNet::V4(cidr) => cidr.network().is_link_local(),
        IpNet::V6(cidr) => cidr.network().is_unicast_link_local(),
    }
}

/// Two pools that share addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "IPPool({name}): spec.cidr = {cidr}: must not overlap IPPool({other}), whose spec.cidr is {other_cidr}"
)]
pub struct Overlap {
    /// The pool that comes later by name.
    pub name: String,
    /// Its range.
    pub cidr: IpNet,
    /// The one that comes first.
    pub other: String,
    /// Its range.
    pub other_cidr: IpNet,
}

/// Every pair of pools (name, range) that share addresses, in the order of the names.
pub fn overlaps<'a>(pools: impl IntoIterator<Item = (&'a str, IpNet)>) -> Vec<Overlap> {
    let mut pools: Vec<_> = pools.into_iter().collect();
    pools.sort_unstable();
    let mut found = Vec::new();
    for (index, (name, cidr)) in pools.iter().enumerate() {
        for (other, other_cidr) in &pools[..index] {
            if cidr.contains(other_cidr) || other_cidr.contains(cidr) {
                found.push(Overlap {
                    name: (*name).to_owned(),
                    cidr: *cidr,
                    other: (*other).to_owned(),
                    other_cidr: *other_cidr,
                });
            }
        }
    }
    found
}
