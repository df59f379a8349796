//! Waiting for another daemon's state, which sends no notification.

use std::time::{Duration, Instant};

/// Only a fault meets this deadline.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long to let the other daemon work before it is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `look` returns a value. `look` says what it saw instead, for the message.
///
/// # Panics
/// After 30 s, with `what` and what was seen last.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= deadline => {
                panic!("not within {DEADLINE:?}: {what}\nseen last: {seen}")
            }
            Err(_) => std::thread::park_timeout(PAUSE),
        }
    }
}
