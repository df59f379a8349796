//! When this node's object names the address of a tunnel device. Other nodes send through the tunnel as soon as it does: so
//! only once the device takes packets. And some hear late that they no longer should: so for a while after the last pool
//! stopped using the tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipam::tunnel::TunnelKind;
use tokio::time::Instant;

/// Devices that take packets, each with its address.
pub type Accepting = BTreeSet<(&'static str, IpAddr)>;

/// How long a tunnel that no pool uses any more takes packets.
pub const GRACE: Duration = Duration::from_secs(60);

/// What is known about the tunnels besides the objects. One that is new knows of no device that takes packets, and lets no
/// address go.
#[derive(Debug, Default)]
pub struct Announcement {
    accepting: Accepting,
    /// Every device takes packets, whatever its address.
    #[cfg(test)]
    all_accept: bool,
    /// Device → address that it is to have, and that is named as soon as it does and takes packets.
    to_come: BTreeMap<&'static str, IpAddr>,
    unused_since: BTreeMap<TunnelKind, Instant>,
}

impl Announcement {
    /// All devices take packets, and what no pool asks for may go.
    #[cfg(test)]
    pub(super) fn at_once() -> Self {
        use TunnelKind::{Ipip, VxlanV4, VxlanV6};
        let long_ago = Instant::now() - GRACE;
        Self {
            all_accept: true,
            unused_since: BTreeMap::from([Ipip, VxlanV4, VxlanV6].map(|kind| (kind, long_ago))),
            ..Self::default()
        }
    }

    /// These devices take packets, and no others. Whether that is news.
    pub fn accept(&mut self, devices: Accepting) -> bool {
        let is_news = self.accepting != devices;
        self.accepting = devices;
        is_news
    }

    /// What the Node is to say now that it says `before`, and pools ask for `wanted`.
    pub(super) fn settle(
        &mut self,
        (kind, device): (TunnelKind, &'static str),
        before: Option<IpAddr>,
        wanted: Option<IpAddr>,
        now: Instant,
    ) -> Option<IpAddr> {
        match wanted.filter(|_| before.is_none()) {
            Some(wanted) => self.to_come.insert(device, wanted),
            None => self.to_come.remove(device),
        };
        if before.is_some() && wanted.is_none() {
            let since = *self.unused_since.entry(kind).or_insert(now);
            return before.filter(|_| now < since + GRACE);
        }
        self.in_use(kind);
        wanted.filter(|wanted| before.is_some() || self.accepts(device, *wanted))
    }

    fn accepts(&self, device: &'static str, address: IpAddr) -> bool {
        #[cfg(test)]
        if self.all_accept {
            return true;
        }
        self.accepting.contains(&(device, address))
    }

    /// The address that a device is to have although the Node does not name it.
    pub fn to_come(&self, device: &'static str) -> Option<IpAddr> {
        self.to_come.get(device).copied()
    }

    /// The tunnel is used.
    pub(super) fn in_use(&mut self, kind: TunnelKind) {
        self.unused_since.remove(&kind);
    }

    /// When an address may go next.
    pub fn due(&self) -> Option<Instant> {
        self.unused_since.values().min().map(|since| *since + GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VXLAN: (TunnelKind, &str) = (TunnelKind::VxlanV4, "vxlan.calico");
    const ADDRESS: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 0)));
    const OTHER: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 9)));

    #[test]
    fn an_address_is_named_once_its_device_takes_packets() {
        let now = Instant::now();
        let mut said = Announcement::default();
        assert_eq!(said.settle(VXLAN, None, ADDRESS, now), None);
        assert_eq!(said.to_come("vxlan.calico"), ADDRESS);
        let accepting =
            |device, address: Option<IpAddr>| Accepting::from([(device, address.unwrap())]);
        assert!(said.accept(accepting("tunl0", ADDRESS)));
        assert!(!said.accept(accepting("tunl0", ADDRESS)));
        assert_eq!(said.settle(VXLAN, None, ADDRESS, now), None);
        said.accept(accepting("vxlan.calico", OTHER));
        assert_eq!(
            said.settle(VXLAN, None, ADDRESS, now),
            None,
            "a former address"
        );
        said.accept(accepting("vxlan.calico", ADDRESS));
        assert_eq!(said.settle(VXLAN, None, ADDRESS, now), ADDRESS);
        // What is named already may change at any time.
        said.accept(BTreeSet::new());
        assert_eq!(said.settle(VXLAN, ADDRESS, OTHER, now), OTHER);
        assert_eq!(said.to_come("vxlan.calico"), None, "the Node names one");
        // A pool that is no longer there has no address to come.
        said.settle(VXLAN, None, ADDRESS, now);
        said.settle(VXLAN, None, None, now);
        assert_eq!(said.to_come("vxlan.calico"), None);
        assert_eq!(said.due(), None);
    }

    #[test]
    fn an_address_that_no_pool_asks_for_is_named_a_minute_longer() {
        let now = Instant::now();
        let mut said = Announcement::default();
        assert_eq!(said.settle(VXLAN, ADDRESS, None, now), ADDRESS);
        let late = now + GRACE / 2;
        assert_eq!(said.settle(VXLAN, ADDRESS, None, late), ADDRESS);
        assert_eq!(said.due(), Some(now + GRACE));
        // A pool asks for it again, and then none: the minute is another one.
        assert_eq!(said.settle(VXLAN, ADDRESS, ADDRESS, late), ADDRESS);
        assert_eq!(said.due(), None);
        assert_eq!(said.settle(VXLAN, ADDRESS, None, late), ADDRESS);
        assert_eq!(said.settle(VXLAN, ADDRESS, None, now + GRACE), ADDRESS);
        assert_eq!(said.settle(VXLAN, ADDRESS, None, late + GRACE), None);
    }
}
