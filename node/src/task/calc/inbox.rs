//! The calculation's mailbox: what is known of the world, one pending value per fact.

use std::net::IpAddr;
use std::sync::Arc;

use api::key::{Key, Kind};
use api::object::Object;
use bgp::route::RouteChange;
use datastore::version::{Cursor, Order, Version};
use felix::calc::{Secret, SecretRef};
use felix::desired::{IfName, RowKey};
use felix::kernel::KernelEvent;
use ipnet::IpNet;

use crate::mailbox;

/// Which fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InputKey {
    /// An object, as the watch saw it.
    Object(Key),
    /// An object, as this process wrote it: the watch will say the same later.
    Echo(Key),
    /// All objects of a kind were passed on.
    InSync(Kind),
    /// Objects of a kind may not be listed.
    Refused(Kind),
    /// The best BGP route of a prefix.
    BgpRoute(IpNet),
    /// A next hop of BGP routes.
    NextHop(IpAddr),
    /// Each BGP peer has sent its routes, or had its time.
    PeersReported,
    /// A password that objects name.
    Password(SecretRef),
    /// What address a tunnel device is to have before this node's object names it.
    TunnelAddr(&'static str),
    /// A device of the kernel.
    Link(IfName),
    /// An address of the host, with its prefix length.
    HostAddr(IfName, IpNet),
    /// A row of the kernel.
    Row(RowKey),
    /// The whole kernel.
    Kernel,
}

/// The fact.
#[derive(Clone, Debug)]
pub enum Input {
    /// For [`InputKey::Object`] and [`InputKey::Echo`].
    Object(Seen),
    /// For [`InputKey::PeersReported`]: the key says it.
    Marker,
    /// For [`InputKey::InSync`]: where it was so.
    InSync(Cursor),
    /// For [`InputKey::Refused`]: the datastore's words; `None` when they may again.
    Refused(Option<Arc<str>>),
    /// For [`InputKey::BgpRoute`].
    BgpRoute(RouteChange),
    /// For [`InputKey::NextHop`]: whether routes use it.
    NextHop(bool),
    /// For [`InputKey::Password`]: what is known of it; `None` when nobody asks any more.
    Password(Option<Secret>),
    /// For [`InputKey::TunnelAddr`].
    TunnelAddr(Option<IpAddr>),
    /// For a device, an address or a row of the kernel.
    KernelEvent(KernelEvent),
    /// For [`InputKey::Kernel`].
    Kernel(Vec<KernelEvent>),
}

/// What makes an object what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// This write.
    Write(Version),
    /// A listing that was read here: it lacks the object.
    Listing(Cursor),
}

impl Since {
    /// How `self` stands to a write of the same object.
    pub fn order(&self, write: &Version) -> Order {
        match self {
            Self::Write(version) => version.order(write),
            Self::Listing(cursor) => match write.order_at(cursor) {
                Order::Newer => Order::Older,
                Order::Older | Order::Same => Order::Newer,
                Order::Unknown => Order::Unknown,
            },
        }
    }
}

/// An object at a moment.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What made it so.
    pub since: Since,
    /// What stands there.
    pub state: State,
}

/// What stands under a key.
#[derive(Clone, Debug)]
pub enum State {
    /// A valid object.
    Present(Box<Object>),
    /// Nothing.
    Absent,
    /// Something that cannot be used: counts as nothing, for this reason.
    Invalid(Arc<str>),
}

/// The writing side. Cheap to clone.
#[derive(Clone)]
pub struct Inbox(mailbox::Sender<InputKey, Input>);

impl Inbox {
    /// A mailbox and its reading side.
    pub fn new() -> (Self, mailbox::Receiver<InputKey, Input>) {
        let (sender, receiver) = mailbox::mailbox();
        (Self(sender), receiver)
    }

    /// The watch saw an object change.
    pub fn object(&self, key: Key, seen: Seen) {
        self.0.put(InputKey::Object(key), Input::Object(seen));
    }

    /// This process wrote an object.
    pub fn echo(&self, key: Key, version: Version, state: State) {
        let since = Since::Write(version);
        self.0
            .put(InputKey::Echo(key), Input::Object(Seen { since, state }));
    }

    /// Every object of a kind that the datastore held was passed on.
    pub fn in_sync(&self, kind: Kind, cursor: Cursor) {
        self.0.put(InputKey::InSync(kind), Input::InSync(cursor));
    }

    /// The datastore refuses to list a kind, in its words; `None` when it does no longer.
    pub fn refused(&self, kind: Kind, why: Option<Arc<str>>) {
        self.0.put(InputKey::Refused(kind), Input::Refused(why));
    }

    /// The best BGP route of a prefix changed.
    pub fn bgp_route(&self, change: RouteChange) {
        self.0
            .put(InputKey::BgpRoute(change.prefix), Input::BgpRoute(change));
    }

    /// BGP routes began (`true`) or ceased to use a next hop.
    pub fn next_hop(&self, next_hop: IpAddr, used: bool) {
        self.0
            .put(InputKey::NextHop(next_hop), Input::NextHop(used));
    }

    /// Each BGP peer has sent its routes, or had its time.
    pub fn peers_reported(&self) {
        self.0.put(InputKey::PeersReported, Input::Marker);
    }

    /// What is known of a password that objects name; `None` when they do not any more.
    pub fn password(&self, secret: SecretRef, known: Option<Secret>) {
        self.0
            .put(InputKey::Password(secret), Input::Password(known));
    }

    /// The address that a tunnel device is to have before this node's object names it.
    pub fn tunnel_addr(&self, device: &'static str, addr: Option<IpAddr>) {
        self.0
            .put(InputKey::TunnelAddr(device), Input::TunnelAddr(addr));
    }

    /// The kernel changed. An overrun, and routes that changed unnamed, are no facts about the kernel and must be handled by
    /// who reads it.
    pub fn kernel(&self, event: KernelEvent) {
        let key = match &event {
            KernelEvent::Link(link) => InputKey::Link(link.ifname.clone()),
            KernelEvent::LinkGone(ifname) => InputKey::Link(ifname.clone()),
            KernelEvent::HostAddr { ifname, addr } | KernelEvent::HostAddrGone { ifname, addr } => {
                InputKey::HostAddr(ifname.clone(), *addr)
            }
            KernelEvent::RowSet(row) => InputKey::Row(row.key()),
            KernelEvent::RowGone(key) => InputKey::Row(key.clone()),
            KernelEvent::RulesChanged | KernelEvent::RoutesChanged | KernelEvent::Overrun => {
                return;
            }
        };
        self.0.put(key, Input::KernelEvent(event));
    }

    /// The kernel was read as a whole: what it does not have is gone.
    pub fn whole_kernel(&self, events: Vec<KernelEvent>) {
        self.0
            .put_instead(InputKey::Kernel, Input::Kernel(events), |key| {
                matches!(
                    key,
                    InputKey::Link(_) | InputKey::HostAddr(..) | InputKey::Row(_)
                )
            });
    }
}
