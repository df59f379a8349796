//! rtnetlink: bytes, sockets, and the two directions between messages and `felix`'s rows.
//!
//! Own codec and request engine: the crates' engine loses acknowledgements of large batches, and their
//! message types cost more to build than these files.

pub(crate) mod conntrack;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod ipset;
pub(crate) mod leftovers;
pub(crate) mod link;
pub(crate) mod monitor;
pub(crate) mod netconf;
pub(crate) mod nexthop;
pub(crate) mod nftables;
pub(crate) mod socket;
pub(crate) mod uapi;
pub(crate) mod wire;
