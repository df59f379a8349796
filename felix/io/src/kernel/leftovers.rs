//! What Felix left in the packet filter.

use felix::desired::{Leftover, Row};
use felix::kernel::{KernelEvent, OpError};

use super::Worker;
use super::rules::has_nothing_for_us;
use crate::netlink::socket::Failure;
use crate::netlink::{ipset, leftovers, link};
use crate::xtables;

impl Worker {
    /// None where the kernel has no packet filter.
    pub(super) fn dump_leftovers(&mut self) -> Result<Vec<KernelEvent>, Failure> {
        let mut all = or_none(xtables::leftovers())?;
        if let Ok(rules) = self.rules() {
            all.extend(or_none(leftovers::read(rules))?);
            all.extend(or_none(ipset::read(rules))?);
        }
        let rows = all.into_iter().map(Row::Leftover);
        Ok(rows.map(KernelEvent::RowSet).collect())
    }

    /// As [`Kernel::dropping`](super::Kernel::dropping); what cannot be read is not named.
    pub(super) fn dropping(&mut self) -> Vec<String> {
        let mut found = xtables::dropping().unwrap_or_default();
        if let Ok(rules) = self.rules() {
            found.extend(leftovers::dropping(rules).unwrap_or_default());
        }
        found
    }

    pub(super) fn remove_leftover(&mut self, leftover: &Leftover) -> Result<(), OpError> {
        let removed = match leftover {
            Leftover::ArpTable => leftovers::remove_arp_table(self.rules()?),
            Leftover::Chains(family, table) => {
                leftovers::remove_chains(self.rules()?, *family, table)
            }
            Leftover::Legacy(family, table) => xtables::remove(*family, table),
            Leftover::IpSet(name) => ipset::destroy(self.rules()?, name),
        };
        removed.map_err(link::other)
    }
}

/// Nothing, where this process could not remove it anyway.
fn or_none(read: Result<Vec<Leftover>, Failure>) -> Result<Vec<Leftover>, Failure> {
    match read {
        Err(failure) if has_nothing_for_us(&failure) => Ok(Vec::new()),
        read => read,
    }
}
