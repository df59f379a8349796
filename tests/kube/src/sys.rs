//! The one system call that has no safe wrapper before an exec.
#![expect(
    unsafe_code,
    reason = "a call between fork and exec; one place, with its proof"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// Makes the kernel kill the command's process when the thread that spawns it ends.
pub(crate) fn die_with_this_thread(command: &mut Command) {
    let parent = getpid();
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed: two plain system calls on data
    // copied before, and an error without allocation.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() == Some(parent) {
                Ok(())
            } else {
                // It died before the line above took effect.
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
        });
    }
}
