//! What must hold of a running cluster, read from the kernel and from what receivers saw. Every fault is a sentence that names its cell.

pub(crate) mod claim;
pub(crate) mod fib;
pub(crate) mod matrix;
pub(crate) mod outlived;
pub(crate) mod sessions;
pub(crate) mod tables;

use std::time::{Duration, Instant};

use crate::cluster::{Lab, LabError};
use crate::netlink::{NeighbourTable, Netlink};
use crate::proof::claim::describe;
use crate::wait;

/// Everything that one look at the cluster showed.
#[derive(Debug)]
pub struct Proof {
    /// The ends of the mesh's sessions.
    pub sessions: Vec<sessions::SessionEnd>,
    /// The FIB's rows that matter.
    pub fib: Vec<fib::FibRow>,
    /// Pings and exchanges.
    pub matrix: Vec<matrix::Cell>,
    /// What did not hold, in words; empty when all did.
    pub faults: Vec<String>,
}

impl Lab {
    /// Waits until every session of the mesh is established, as the kernel sees it. Reaching the deadline is no error here: a proof
    /// names what is missing.
    ///
    /// # Errors
    /// When a program of the cluster ends meanwhile.
    pub fn wait_sessions(&mut self) -> Result<bool, LabError> {
        let mut first = 0;
        self.wait_until(|lab| sessions::all_established(lab, &mut first))
    }

    /// Waits until every session is established and every FIB complete. Returns the time since the first agent started, or `None` at
    /// the deadline.
    ///
    /// # Errors
    /// When a program of the cluster ends meanwhile.
    pub fn wait_converged(&mut self) -> Result<Option<Duration>, LabError> {
        let (mut first_of_sessions, mut first_of_fibs) = (0, 0);
        let complete = self.wait_until(|lab| {
            sessions::all_established(lab, &mut first_of_sessions)
                && fib::all_complete(lab, &mut first_of_fibs)
        })?;
        Ok(complete.then(|| self.started.elapsed()))
    }

    /// The same, for who goes on only then.
    ///
    /// # Errors
    /// A program of the cluster ended meanwhile; or all that is wrong at the deadline.
    pub fn converge(&mut self) -> Result<(), String> {
        match self.wait_converged().map_err(|error| describe(&error))? {
            Some(_) => Ok(()),
            None => Err(format!("{:#?}", self.prove().faults)),
        }
    }

    fn wait_until(&mut self, mut holds: impl FnMut(&Self) -> bool) -> Result<bool, LabError> {
        let deadline = Instant::now() + self.options.patience;
        let outcome = wait::until(deadline, || match self.check_programs() {
            Err(error) => Some(Err(error)),
            Ok(()) => holds(self).then_some(Ok(())),
        });
        outcome.transpose().map(|held| held.is_some())
    }

    /// Looks at sessions and FIBs, pings from everywhere to everywhere, and makes one TCP exchange per pair.
    #[must_use]
    pub fn prove(&self) -> Proof {
        let sessions = sessions::read(self);
        let fib = fib::read(self);
        let before = neighbour_table();
        let matrix = matrix::measure(self);
        let after = neighbour_table();
        let mut faults: Vec<String> = sessions
            .iter()
            .filter_map(sessions::SessionEnd::fault)
            .collect();
        faults.extend(fib.iter().filter_map(|row| row.fault.clone()));
        let lost: Vec<String> = matrix.iter().flat_map(matrix::Cell::faults).collect();
        if !lost.is_empty() {
            faults.extend(overflow(before, after));
        }
        faults.extend(lost);
        Proof {
            sessions,
            fib,
            matrix,
            faults,
        }
    }
}

/// The machine's, seen from any namespace; `None` when the kernel does not tell.
fn neighbour_table() -> Option<NeighbourTable> {
    Netlink::open().ok()?.neighbour_table().ok()
}

/// Why packets were lost, when the machine had no room for more neighbours: nothing that the product could help.
fn overflow(before: Option<NeighbourTable>, after: Option<NeighbourTable>) -> Option<String> {
    let (before, after) = (before?, after?);
    let refused = after.refused.saturating_sub(before.refused);
    (refused > 0).then(|| {
        format!(
            "the machine's table of neighbours, one for all namespaces, was full {refused} times meanwhile: raise \
             net.ipv4.neigh.default.gc_thresh3, which is {}",
            after.entries_max
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_neighbours_that_was_full_meanwhile_is_named_with_its_limit() {
        let table = |refused| {
            Some(NeighbourTable {
                entries_max: 1024,
                refused,
            })
        };
        let fault = overflow(table(3), table(10)).expect("it was full");
        assert!(fault.contains("full 7 times") && fault.contains("gc_thresh3, which is 1024"));
        assert_eq!(overflow(table(3), table(3)), None);
        assert_eq!(overflow(None, table(3)), None);
        let here = neighbour_table().expect("the kernel tells everybody");
        assert!(here.entries_max > 0);
    }
}
