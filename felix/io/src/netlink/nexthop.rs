//! Next-hop objects (`ip nexthop`), which routes may refer to by number instead of naming their next hops.
//!
//! With `net.ipv4.nexthop_compat_mode` at 1 the kernel names the next hops of such routes all the same, and with 0 it does
//! not. Either way it notifies a change of an object, and not of each route that it changes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use felix::desired::{IfName, Leads, NextHop, NextHopId, NextHopSpec};

use super::socket::{Failure, Requests};
use super::uapi::*;
use super::wire::{Attr, Attrs, Message, u32_at};

/// One next hop; its device by index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hop {
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) ifindex: Option<u32>,
    pub(crate) onlink: bool,
}

impl Hop {
    /// A number that follows from it, the same for few others.
    pub(crate) fn number(&self) -> usize {
        let gateway = match self.gateway {
            None => 0,
            Some(IpAddr::V4(addr)) => u32::from(addr),
            // Hosts of a network differ at the end.
            Some(IpAddr::V6(addr)) => u128::from(addr) as u32,
        };
        let ifindex = self.ifindex.unwrap_or_default();
        // The upper bits of a product depend on all bits.
        let mixed =
            u64::from(gateway ^ ifindex.rotate_left(16)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        usize::from((mixed >> 48) as u16)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Hop(Hop),
    Group(Vec<u32>),
}

/// All objects of a namespace.
#[derive(Debug, Default)]
pub(crate) struct NextHops(BTreeMap<u32, Object>);

impl NextHops {
    /// Those there are; none on a kernel without them (before 5.3).
    pub(crate) fn read(requests: &mut Requests) -> Result<Self, Failure> {
        let read = requests.dump(
            RTM_GETNEXTHOP,
            |writer| writer.next_hop_object(AF_UNSPEC, 0, 0),
            |message, objects| objects.extend(object(&message)),
        );
        match read {
            Err(failure) if failure.errno == libc::EOPNOTSUPP => Ok(Self::default()),
            objects => Ok(Self(objects?.into_iter().collect())),
        }
    }

    /// Takes in a notification; whether it may have changed routes that name their next hops.
    pub(crate) fn notified(&mut self, message: &Message<'_>) -> bool {
        let Some((id, object)) = object(message).filter(|(id, _)| !NextHopId(*id).is_own()) else {
            return false;
        };
        let before = if message.kind == RTM_DELNEXTHOP {
            self.0.remove(&id)
        } else {
            self.0.insert(id, object.clone())
        };
        before.is_some_and(|before| message.kind == RTM_DELNEXTHOP || before != object)
    }

    /// The next hops that an object comes to; `None` for one that is not known.
    pub(crate) fn hops(&self, id: u32) -> Option<Vec<Hop>> {
        match self.0.get(&id)? {
            Object::Hop(hop) => Some(vec![hop.clone()]),
            // A group has no groups in it.
            Object::Group(members) => members
                .iter()
                .map(|member| match self.0.get(member)? {
                    Object::Hop(hop) => Some(hop.clone()),
                    Object::Group(_) => None,
                })
                .collect(),
        }
    }
}

/// An object's row, if it has one of the agent's own numbers. A group's weights are not looked at.
pub(crate) fn row(
    message: &Message<'_>,
    name: &mut dyn FnMut(u32) -> Option<IfName>,
) -> Option<(NextHopId, NextHopSpec)> {
    let (id, object) = object(message)?;
    let id = NextHopId(id);
    let protocol = *message.payload.get(2)?;
    let leads = match object {
        Object::Hop(hop) => Leads::To(NextHop {
            gateway: hop.gateway,
            ifname: hop.ifindex.and_then(name),
            onlink: hop.onlink,
        }),
        Object::Group(members) => Leads::Over(members.into_iter().map(NextHopId).collect()),
    };
    id.is_own().then_some((id, NextHopSpec { protocol, leads }))
}

/// Number and content. `struct nhmsg`: family, scope, protocol, reserved (1 each), flags (4), attributes.
fn object(message: &Message<'_>) -> Option<(u32, Object)> {
    let flags = u32_at(message.payload, 4)?;
    let attrs = Attrs::after(message.payload, 8);
    let id = attrs.find(NHA_ID).and_then(Attr::u32)?;
    let object = match attrs.find(NHA_GROUP) {
        // `struct nexthop_grp`: number (4), weight and reserved (4).
        Some(group) => Object::Group(
            group
                .payload
                .chunks_exact(8)
                .filter_map(|member| u32_at(member, 0))
                .collect(),
        ),
        None => Object::Hop(Hop {
            gateway: attrs.find(NHA_GATEWAY).and_then(Attr::ip),
            ifindex: attrs.find(NHA_OIF).and_then(Attr::u32),
            onlink: flags & u32::from(RTNH_F_ONLINK) != 0,
        }),
    };
    Some((id, object))
}
