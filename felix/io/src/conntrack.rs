//! Connections of pods that are gone: whoever gets an address next does not inherit them.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::netlink::conntrack;
use crate::netlink::socket::Requests;
use crate::netns;

/// Makes the kernel forget the tracked connections that one of these addresses began or answers; how many there were. On a thread
/// of its own in the caller's network namespace: the kernel's table may be large.
///
/// # Errors
/// The kernel refused.
pub async fn forget(addrs: BTreeSet<IpAddr>) -> io::Result<usize> {
    netns::on_thread("felix-conntrack", move || {
        let mut requests = Requests::open_netfilter()?;
        conntrack::forget(&mut requests, &addrs).map_err(|failure| {
            io::Error::other(format!("{} (errno {})", failure.text, failure.errno))
        })
    })
    .await?
}
