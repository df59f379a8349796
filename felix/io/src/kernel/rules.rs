//! The agent's nftables tables.

use felix::desired::{ElementKey, Row};
use felix::kernel::{KernelEvent, OpError, says_absent};
use felix::rules::{Family, Rules, Ruleset};

use super::{Run, Worker};
use crate::netlink::link;
use crate::netlink::nftables::{self, Change};
use crate::netlink::socket::{Failure, Requests};

impl Worker {
    pub(super) fn replace(
        &mut self,
        family: Family,
        ruleset: Option<&Ruleset>,
        elements: &[ElementKey],
    ) -> Result<(), OpError> {
        let rules = self.rules()?;
        nftables::replace(rules, family, ruleset, elements).map_err(refused)
    }

    /// Changes the elements that wait for it, in one transaction; where the kernel refuses one of them, each by itself.
    pub(super) fn change_elements(&mut self, run: &mut Run) {
        let (places, changes): (Vec<usize>, Vec<_>) =
            std::mem::take(&mut run.elements).into_iter().unzip();
        if changes.is_empty() || self.try_change(&changes).is_ok() {
            return;
        }
        for (place, change) in places.into_iter().zip(changes) {
            run.results[place].1 = self.try_change(std::slice::from_ref(&change));
        }
    }

    fn try_change(&mut self, changes: &[(ElementKey, Change)]) -> Result<(), OpError> {
        let removes = matches!(changes, [(_, Change::Remove)]);
        match nftables::change_elements(self.rules()?, changes) {
            Err(failure) if removes && says_absent(failure.errno) => Ok(()),
            answer => answer.map_err(link::other),
        }
    }

    pub(super) fn rules(&mut self) -> Result<&mut Requests, OpError> {
        if self.rules.is_none() {
            let opened = Requests::open_netfilter();
            self.rules = Some(opened.map_err(|error| {
                OpError::Unsupported(
                    format!("the kernel has no nftables: load nf_tables ({error})").into(),
                )
            })?);
        }
        Ok(self.rules.as_mut().expect("opened a moment ago"))
    }

    /// The agent's nftables tables; none where the kernel has no nftables.
    pub(super) fn dump_rules(&mut self) -> Result<Vec<KernelEvent>, Failure> {
        let mut events = Vec::new();
        let Ok(rules) = self.rules() else {
            return Ok(events);
        };
        for family in Family::ALL {
            let read = match nftables::read(rules, family) {
                Err(failure) if has_nothing_for_us(&failure) => None,
                read => read?,
            };
            let Some(table) = read else {
                continue;
            };
            let rules = Rules {
                shown: table.shown,
                ruleset: None,
                elements: Vec::new(),
            };
            let elements = table.elements.into_iter().map(Row::Element);
            let rows = [Row::Rules(family, rules)].into_iter().chain(elements);
            events.extend(rows.map(KernelEvent::RowSet));
        }
        Ok(events)
    }
}

/// Whether a refusal to be read says that there is nothing that this process could write: a kernel that has nfnetlink without nf_tables, or
/// without the family; a process that lacks CAP_NET_ADMIN, which the packet filter's tables cannot even be read without. What is to be
/// written all the same is refused, and that is told with the right.
pub(super) fn has_nothing_for_us(failure: &Failure) -> bool {
    matches!(
        failure.errno,
        libc::EINVAL | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPERM | libc::EACCES
    )
}

/// A refusal of a table in the reconciler's terms.
fn refused(failure: Failure) -> OpError {
    match failure.errno {
        libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT => OpError::Unsupported(
            format!(
                "the kernel lacks what the rules need, as nf_tables, nft_masq, nft_fib or nft_nat: load these modules, or set \
                 natOutgoing of the pools to false ({})",
                failure.text
            )
            .into(),
        ),
        _ => link::other(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_nf_tables_is_told_with_the_modules_and_another_refusal_as_it_is() {
        let said = |errno| refused(Failure::from_errno(errno)).to_string();
        // nfnetlink's answer where nf_tables is missing, and nf_tables' where an expression is.
        for errno in [libc::EOPNOTSUPP, libc::ENOENT] {
            assert!(
                said(errno).contains("load these modules"),
                "{}",
                said(errno)
            );
        }
        assert!(said(libc::EPERM).contains("needs CAP_NET_ADMIN"));
        assert!(!said(libc::EINVAL).contains("modules"));
    }
}
