//! Tracked connections (linux/netfilter/nfnetlink_conntrack.h): found by address and forgotten.

use std::collections::BTreeSet;
use std::net::IpAddr;

use felix::kernel::says_absent;

use super::encode::family;
use super::socket::{BATCH_MESSAGES, Failure, Requests};
use super::uapi::{AF_INET, AF_INET6};
use super::wire::{Attr, Attrs, Batch, Message, NESTED};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
/// `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 1;
const DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
/// Bytes of `struct nfgenmsg`.
const HEAD_BYTES: usize = 4;

/// What the kernel knows a connection by: its first packet's tuple and its zone, as they were read.
struct Connection {
    family: u8,
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
}

const fn message(kind: u16) -> u16 {
    (SUBSYSTEM << 8) | kind
}

/// Forgets the connections that one of these addresses began or answers; how many there were.
pub(crate) fn forget(requests: &mut Requests, addrs: &BTreeSet<IpAddr>) -> Result<usize, Failure> {
    let mut forgotten = 0;
    for number in [AF_INET, AF_INET6] {
        if !addrs.iter().any(|addr| family(*addr) == number) {
            continue;
        }
        let found = requests.dump(
            message(GET),
            |writer| writer.nfgen(number, 0),
            |message, out| out.extend(connection(message, number, addrs)),
        );
        let found = match found {
            // A kernel without connection tracking.
            Err(failure) if matches!(failure.errno, libc::EINVAL | libc::EOPNOTSUPP) => continue,
            found => found?,
        };
        for some in found.chunks(BATCH_MESSAGES) {
            forgotten += delete(requests, some)?;
        }
    }
    Ok(forgotten)
}

fn connection(message: Message<'_>, family: u8, addrs: &BTreeSet<IpAddr>) -> Option<Connection> {
    let attrs = Attrs::after(message.payload, HEAD_BYTES);
    let source = |tuple: u16| {
        let ip = attrs.find(tuple)?.nested().find(CTA_TUPLE_IP)?.nested();
        let source = ip.find(CTA_IP_V4_SRC).or_else(|| ip.find(CTA_IP_V6_SRC));
        source.and_then(Attr::ip)
    };
    [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY]
        .into_iter()
        .filter_map(source)
        .any(|source| addrs.contains(&source))
        .then_some(())?;
    Some(Connection {
        family,
        original: attrs.find(CTA_TUPLE_ORIG)?.payload.to_vec(),
        zone: attrs.find(CTA_ZONE).map(|zone| zone.payload.to_vec()),
    })
}

fn delete(requests: &mut Requests, connections: &[Connection]) -> Result<usize, Failure> {
    let mut batch = Batch::default();
    for connection in connections {
        batch.request(message(DELETE), 0, |writer| {
            writer.nfgen(connection.family, 0);
            writer.attr(CTA_TUPLE_ORIG | NESTED, &connection.original);
            if let Some(zone) = &connection.zone {
                writer.attr(CTA_ZONE, zone);
            }
        });
    }
    let mut deleted = 0;
    for result in requests.exchange(&batch) {
        match result {
            Ok(()) => deleted += 1,
            // It ended meanwhile.
            Err(failure) if says_absent(failure.errno) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(deleted)
}
