//! What Felix left in the packet filter.

use felix::desired::{Leftover, Row};
use felix::kernel::{KernelEvent, OpError};

use super::Worker;
use crate::netlink::socket::Failure;
use crate::netlink::{ipset, leftovers, link};
use crate::xtables;

impl Worker {
    /// None where the kernel has no packet filter.
    pub(super) fn dump_leftovers(&mut self) -> Result<Vec<KernelEvent>, Failure> {
        let mut all = xtables::leftovers()?;
        if let Ok(rules) = self.rules() {
            match leftovers::read(rules) {
                Ok(found) => all.extend(found),
                // As with the agent's own tables.
                Err(failure)
                    if matches!(
                        failure.errno,
                        libc::EINVAL | libc::EOPNOTSUPP | libc::EAFNOSUPPORT
                    ) => {}
                Err(failure) => return Err(failure),
            }
            all.extend(ipset::read(rules)?);
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
