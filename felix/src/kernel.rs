//! What crosses the border between the reconciler and the kernel's side: operations, their results, notifications.

use std::sync::Arc;

use ipnet::IpNet;

use crate::desired::{IfName, Mac, Row, RowKey};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create or replace.
    Set(Row),
    /// Delete this row, and no other that the kernel would take for it: its value is named as far as the kernel compares it.
    Remove(Row),
}

impl Op {
    /// Key of the row it writes.
    pub fn key(&self) -> RowKey {
        match self {
            Self::Set(row) | Self::Remove(row) => row.key(),
        }
    }
}

/// Why the kernel did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The device does not exist (yet).
    #[error("there is no device {0}")]
    NoDevice(IfName),
    /// A gateway is not reachable (yet).
    #[error("the next hop is not reachable")]
    Unreachable,
    /// The kernel lacks a feature; says the module and what to do.
    #[error("{0}")]
    Unsupported(Arc<str>),
    /// What was written does not stay.
    #[error("it was written, and the kernel shows another value: somebody else changes it back")]
    Undone,
    /// Anything else, with the kernel's own words.
    #[error("the kernel refused it: {text} (errno {errno})")]
    Kernel {
        /// errno, positive.
        errno: i32,
        /// Text, from the extended acknowledgement where there is one.
        text: Arc<str>,
    },
}

impl OpError {
    /// Whether what was to be removed is not there.
    pub(crate) fn says_absent(&self) -> bool {
        match self {
            Self::NoDevice(_) => true,
            Self::Kernel { errno, .. } => says_absent(*errno),
            Self::Unreachable | Self::Undone | Self::Unsupported(_) => false,
        }
    }
}

/// Whether an error number of the kernel says that what was to be removed is not there, or went with its device.
pub const fn says_absent(errno: i32) -> bool {
    // ENOENT, ESRCH, ENXIO, ENODEV, EADDRNOTAVAIL of errno(3)
    matches!(errno, 2 | 3 | 6 | 19 | 99)
}

/// A device as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Name.
    pub ifname: IfName,
    /// Index; never kept without the name.
    pub ifindex: u32,
    /// IFF_UP and operationally up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu_bytes: u32,
    /// MAC, for Ethernet-like devices.
    pub mac: Option<Mac>,
    /// Kind (`vxlan`, `veth`, `ipip`), absent for hardware.
    pub kind: Option<Arc<str>>,
}

/// What the kernel notifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A device appeared or changed.
    Link(LinkState),
    /// A device is gone.
    LinkGone(IfName),
    /// A row of a kind the reconciler owns was written by anyone.
    RowSet(Row),
    /// A row was deleted by anyone (or by the kernel with its device).
    RowGone(RowKey),
    /// An address of the host appeared.
    HostAddr {
        /// Device.
        ifname: IfName,
        /// Address and prefix length, host bits kept.
        addr: IpNet,
    },
    /// An address of the host is gone.
    HostAddrGone {
        /// Device.
        ifname: IfName,
        /// Address and prefix length, host bits kept: the same address may stay with another length.
        addr: IpNet,
    },
    /// Somebody, perhaps this agent itself, wrote the agent's nftables tables: read them again.
    RulesChanged,
    /// Routes changed, and the kernel does not notify each: read them again.
    RoutesChanged,
    /// Notifications were lost: read everything again.
    Overrun,
}
