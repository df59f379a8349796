//! The processor that the peers run on.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// While it lives, this thread stays on one processor. Otherwise the kernel likes to run a receiver where its sender runs, and the
/// daemon waits for the processor that its peers are on while another is idle.
///
/// Processes started meanwhile inherit the place, so a daemon is started before.
#[derive(Debug)]
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Stays on the last processor that may be used; `None` when there is only one, or the system refuses.
    #[must_use]
    pub fn to_last() -> Option<Self> {
        let before = sched_getaffinity(None).ok()?;
        let last = (0..CpuSet::MAX_CPU).rfind(|cpu| before.is_set(*cpu))?;
        let mut only = CpuSet::new();
        only.set(last);
        if only == before {
            return None;
        }
        sched_setaffinity(None, &only).ok()?;
        Some(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was allowed before.
        let _ = sched_setaffinity(None, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_in_its_place_and_is_free_afterwards() {
        let before = sched_getaffinity(None).unwrap();
        let pinned = Pinned::to_last();
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        drop(pinned);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
