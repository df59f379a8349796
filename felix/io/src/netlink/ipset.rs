//! Sets of ipset(8) that Felix made: `cali40…`, `cali60…` and the like.

use std::path::Path;
use std::sync::Arc;

use felix::desired::Leftover;

use super::socket::{Failure, Requests};
use super::uapi::nftables::*;
use super::wire::{Attr, Attrs};

/// Bytes of `struct nfgenmsg`.
const HEAD_BYTES: usize = 4;

const fn message(kind: u16) -> u16 {
    (NFNL_SUBSYS_IPSET << 8) | kind
}

/// The sets whose names are Felix's. Without the module there are none, and asking would load it.
pub(crate) fn read(requests: &mut Requests) -> Result<Vec<Leftover>, Failure> {
    if !Path::new("/sys/module/ip_set").exists() {
        return Ok(Vec::new());
    }
    requests.dump(
        message(IPSET_CMD_LIST),
        |writer| {
            writer.nfgen(AF_UNSPEC_NF, 0);
            writer.attr(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL]);
            writer.attr_be32(IPSET_ATTR_FLAGS, IPSET_FLAG_LIST_SETNAME);
        },
        |message, out| {
            let name = Attrs::after(message.payload, HEAD_BYTES).find(IPSET_ATTR_SETNAME);
            let name = name.and_then(Attr::text).filter(|name| {
                ["cali4", "cali6"]
                    .iter()
                    .any(|start| name.starts_with(start))
            });
            out.extend(name.map(|name| Leftover::IpSet(Arc::from(name))));
        },
    )
}

pub(crate) fn destroy(requests: &mut Requests, name: &str) -> Result<(), Failure> {
    requests.request(message(IPSET_CMD_DESTROY), 0, |writer| {
        writer.nfgen(AF_UNSPEC_NF, 0);
        writer.attr(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL]);
        writer.attr_str(IPSET_ATTR_SETNAME, name);
    })
}
