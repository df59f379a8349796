//! What is fed to the decoder of kernel notifications, and what must hold then: shared by the fuzz target and by the replay of the corpus in
//! `felix/io/tests/corpus.rs`.

use felix::desired::{IfName, Row, RowKey};
use felix::kernel::KernelEvent;
use ipnet::IpNet;

/// Octets the kernel is said to have sent.
///
/// Nothing panics; a destination has no bits below its prefix length; a device that is named has a name of at most 15 octets.
pub(crate) fn notifications(data: &[u8]) {
    for event in felix_io::decode(data) {
        match event {
            KernelEvent::Link(link) => {
                assert_ne!(link.ifindex, 0);
                name(&link.ifname);
            }
            KernelEvent::LinkGone(ifname) => name(&ifname),
            KernelEvent::HostAddr { ifname, .. } | KernelEvent::HostAddrGone { ifname, .. } => {
                name(&ifname);
            }
            KernelEvent::RowSet(row) => {
                if let Row::Route(_, spec) = &row {
                    for hop in spec.next_hops.iter() {
                        hop.ifname.iter().for_each(name);
                    }
                }
                key(&row.key());
            }
            KernelEvent::RowGone(gone) => key(&gone),
            _ => {}
        }
    }
}

fn key(row: &RowKey) {
    if let RowKey::Route(route) = row {
        let canonical: IpNet = route.dst.trunc();
        assert_eq!(route.dst, canonical);
    }
}

fn name(ifname: &IfName) {
    assert!((1..=15).contains(&ifname.0.len()), "{ifname:?}");
}
