//! A test's own program, started again for this one test in a place of its own.

use std::process::{Command, Output};

use crate::record::Skipped;
use crate::skip;

/// Set in the environment of an inner run: it leaves no record, the outer run does.
const VARIABLE: &str = "TORTIE_TEST_INNER";

/// The inner run of the test `name`, as `cargo test` prints it.
#[derive(Clone, Copy, Debug)]
pub struct Inner<'a> {
    name: &'a str,
}

impl<'a> Inner<'a> {
    /// Of this test.
    #[must_use]
    pub const fn of(name: &'a str) -> Self {
        Self { name }
    }

    /// Arguments with which the program runs this test only.
    #[must_use]
    pub const fn arguments(&self) -> [&'a str; 5] {
        [
            "--exact",
            self.name,
            "--test-threads=1",
            "--color=never",
            "--format=pretty",
        ]
    }

    /// The variable by which the program knows that it is an inner run.
    #[must_use]
    pub const fn variable() -> (&'static str, &'static str) {
        (VARIABLE, "1")
    }

    /// The program that runs now, with these arguments and that variable.
    ///
    /// # Panics
    /// When the machine does not say which program it is.
    #[must_use]
    pub fn command(&self) -> Command {
        let program = std::env::current_exe().expect("/proc/self/exe can be read");
        let (name, value) = Self::variable();
        let mut command = Command::new(program);
        command.args(self.arguments()).env(name, value);
        command
    }

    /// Takes over how the inner run ended.
    ///
    /// # Panics
    /// When it failed, with all it wrote, or when it has no test of this name. When it was skipped, so is this test.
    pub fn conclude(&self, output: &Output) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.conclude_as(
            output.status.success(),
            &output.status.to_string(),
            &text(&output.stdout),
            &text(&output.stderr),
        );
    }

    /// As [`Inner::conclude`], for a place that is no process of this machine.
    ///
    /// # Panics
    /// As [`Inner::conclude`].
    pub fn conclude_as(&self, succeeded: bool, ended: &str, said: &str, complained: &str) {
        let name = self.name;
        assert!(
            succeeded,
            "the inner run of {name} failed ({ended}):\n{said}\n{complained}"
        );
        assert!(
            said.lines().any(|line| line == "running 1 test"),
            "{name} is not the name of this test:\n{said}"
        );
        if let Some(skipped) = said.lines().find_map(Skipped::parse) {
            skip(&skipped.id, &skipped.reason);
        }
        assert!(
            said.contains("test result: ok. 1 passed; 0 failed;"),
            "{name} neither passed nor was skipped inside:\n{said}"
        );
    }
}

pub(crate) fn is_inner() -> bool {
    std::env::var_os(VARIABLE).is_some()
}
