//! Leaving a test that cannot run here.

/// What a skipped test unwinds with.
pub(crate) struct Skip {
    pub(crate) id: String,
    pub(crate) reason: String,
}

/// Ends the running test as skipped. `id` names what is missing (`bird`, `namespaces`), the same in every test that misses it; `reason`
/// says in one line what was looked for and what to do.
///
/// Must be called on the thread of the test.
pub fn skip(id: &str, reason: &str) -> ! {
    // Not a panic: no hook speaks of it.
    std::panic::resume_unwind(Box::new(Skip {
        id: id.to_owned(),
        reason: reason.replace('\n', " "),
    }))
}
