//! What a start waits for, for those who ask meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by a start and whoever answers probes while it goes on.
#[derive(Clone, Debug, Default)]
pub struct Waits(Arc<Mutex<Option<(What, String)>>>);

/// What has to come before a start goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// An answer of the datastore.
    Answer,
    /// The operator's word that a datastore counts that lacks what was read from it.
    Acceptance,
    /// Something else.
    Else,
}

impl Waits {
    /// The start waits, and why.
    pub(crate) fn on(&self, what: What, why: impl Into<String>) {
        *self.known() = Some((what, why.into()));
    }

    /// It goes on.
    pub(super) fn over(&self) {
        *self.known() = None;
    }

    fn known(&self) -> MutexGuard<'_, Option<(What, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that is what it waits for now.
    pub(crate) fn are_on(&self, what: What) -> bool {
        self.known().as_ref().is_some_and(|(on, _)| *on == what)
    }

    /// In words.
    pub(crate) fn told(&self) -> String {
        match &*self.known() {
            Some((_, why)) => format!("the node is starting: {why}"),
            None => "the node is starting".to_owned(),
        }
    }
}
