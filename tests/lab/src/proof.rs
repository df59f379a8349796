//! What must hold of a running cluster, read from the kernel and from what receivers saw. Every fault is a sentence that names its cell.

pub(crate) mod claim;
pub(crate) mod fib;
pub(crate) mod matrix;
pub(crate) mod outlived;
pub(crate) mod sessions;
pub(crate) mod tables;

use std::time::{Duration, Instant};

use crate::cluster::{Lab, LabError};
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
        let matrix = matrix::measure(self);
        let mut faults: Vec<String> = sessions
            .iter()
            .filter_map(sessions::SessionEnd::fault)
            .collect();
        faults.extend(fib.iter().filter_map(|row| row.fault.clone()));
        faults.extend(matrix.iter().flat_map(matrix::Cell::faults));
        Proof {
            sessions,
            fib,
            matrix,
            faults,
        }
    }
}
