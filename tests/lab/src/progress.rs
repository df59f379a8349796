//! One line per stage on standard error: rewritten in place on a terminal, plain lines otherwise.

use std::io::{IsTerminal, Write, stderr};
use std::time::Instant;

/// Prints stages.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    terminal: bool,
}

impl Progress {
    /// For standard error as it is.
    #[must_use]
    pub fn new() -> Self {
        Self {
            terminal: stderr().is_terminal(),
        }
    }

    /// Runs one stage and says how it went.
    ///
    /// # Errors
    /// What `work` returns.
    pub fn stage<T, E>(&self, name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let started = Instant::now();
        if self.terminal {
            self.print(&format!("\r\x1b[2K  … {name}"));
        }
        let outcome = work();
        let seconds = started.elapsed().as_secs_f64();
        let mark = if outcome.is_ok() { "ok" } else { "failed" };
        let start = if self.terminal { "\r\x1b[2K" } else { "" };
        self.print(&format!("{start}  {mark} {name} ({seconds:.2} s)\n"));
        outcome
    }

    fn print(&self, text: &str) {
        // Progress that nobody can read is no reason to stop.
        let _ = stderr()
            .write_all(text.as_bytes())
            .and_then(|()| stderr().flush());
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
