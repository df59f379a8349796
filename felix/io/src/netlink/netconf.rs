//! Notifications of sysctls: of forwarding, `rp_filter`, `proxy_arp` and `proxy_ndp` only; the kernel has none for others.

use std::sync::Arc;

use felix::desired::{IfName, Row, SysctlKey};
use felix::kernel::KernelEvent;

use super::uapi::*;
use super::wire::{Attr, Attrs, Message};

/// The sysctls of one notification. `name` finds the device of an index.
pub(crate) fn events(
    message: &Message<'_>,
    name: impl FnOnce(u32) -> Option<IfName>,
    out: &mut Vec<KernelEvent>,
) {
    let (family, proxy) = match message.payload.first() {
        Some(&AF_INET) => ("ipv4", "proxy_arp"),
        Some(&AF_INET6) => ("ipv6", "proxy_ndp"),
        Some(_) | None => return,
    };
    let attrs = Attrs::after(message.payload, 4);
    let folder = match attrs.find(NETCONFA_IFINDEX).and_then(Attr::u32) {
        Some(NETCONFA_IFINDEX_ALL) => IfName::from("all"),
        Some(NETCONFA_IFINDEX_DEFAULT) | None => return,
        Some(ifindex) => match name(ifindex) {
            Some(name) => name,
            None => return,
        },
    };
    for (kind, file) in [
        (NETCONFA_FORWARDING, "forwarding"),
        (NETCONFA_RP_FILTER, "rp_filter"),
        (NETCONFA_PROXY_NEIGH, proxy),
    ] {
        let Some(value) = attrs.find(kind).and_then(Attr::u32) else {
            continue;
        };
        let path = match (family, &*folder.0, file) {
            // One value under two names.
            ("ipv4", "all", "forwarding") => "net/ipv4/ip_forward".to_owned(),
            _ => format!("net/{family}/conf/{folder}/{file}"),
        };
        let value = Arc::from(value.cast_signed().to_string());
        out.push(KernelEvent::RowSet(Row::Sysctl(
            SysctlKey(path.into()),
            value,
        )));
    }
}
