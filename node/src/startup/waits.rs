//! What a start waits for, for those who ask meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

/// Shared by a start and whoever answers probes while it goes on.
#[derive(Clone, Debug, Default)]
pub struct Waits(Arc<Mutex<Option<String>>>);

impl Waits {
    /// The start waits, and why.
    pub(crate) fn on(&self, why: impl Into<String>) {
        self.set(Some(why.into()));
    }

    /// It goes on.
    pub(super) fn over(&self) {
        self.set(None);
    }

    fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// In words.
    pub(crate) fn told(&self) -> String {
        let why = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*why {
            Some(why) => format!("the node is starting: {why}"),
            None => "the node is starting".to_owned(),
        }
    }
}
