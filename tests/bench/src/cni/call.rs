//! Calls of a CNI plugin, each timed from before its start until it has ended.
//!
//! Who calls is a thread within the machine's namespaces, as a container runtime is: so starting a program costs no more than
//! `vfork` and `exec`. A process that enters the namespaces first is a copy of this one, which takes as long as some plugins run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use lab::{Sandbox, Site, as_plugin_call, plugin_configuration};

/// A plugin as a runtime knows it.
#[derive(Clone, Debug)]
pub(super) struct Plugin {
    /// The program.
    pub(super) program: PathBuf,
    /// CNI_PATH.
    pub(super) path: PathBuf,
    /// Its standard input.
    pub(super) configuration: String,
}

impl Plugin {
    /// This project's, as it is installed on a machine of the lab.
    ///
    /// # Errors
    /// When the machine's configuration cannot be read.
    pub(super) fn ours(site: &Site) -> anyhow::Result<Self> {
        let path = Path::new(lab::PLUGIN_DIRECTORY);
        Ok(Self {
            program: path.join("calico"),
            path: path.to_owned(),
            configuration: plugin_configuration(site)?,
        })
    }

    /// One call, on a thread within the machine's namespaces.
    fn call(&self, sandbox: &Sandbox, command: &str) -> anyhow::Result<(Duration, Vec<u8>)> {
        let mut program = Command::new(&self.program);
        as_plugin_call(&mut program, command, sandbox, &self.path);
        let started = Instant::now();
        let mut child = program.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.configuration.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let took = started.elapsed();
        ensure!(
            output.status.success(),
            "{command} of {}: {} {}",
            sandbox.container_id,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok((took, output.stdout))
    }
}

/// How long all calls took together; and each one's time and answer, in the order of the sandboxes.
pub(super) type Called = (Duration, Vec<(Duration, Vec<u8>)>);

/// Calls a plugin on a machine for all sandboxes, some at a time.
///
/// # Errors
/// The plugin's words.
pub(super) fn call_all(
    site: &Site,
    plugin: &Plugin,
    sandboxes: &[Sandbox],
    command: &str,
    together: usize,
) -> anyhow::Result<Called> {
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(vec![None; sandboxes.len()]);
    let work = || -> anyhow::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(sandbox) = sandboxes.get(number) else {
                return Ok(());
            };
            let answer = plugin.call(sandbox, command)?;
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers[number] = Some(answer);
        }
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..together)
            .map(|_| scope.spawn(|| site.namespace.run(work)))
            .collect();
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(ended) => ended,
            Err(_) => bail!("a thread panicked"),
        });
        ended.collect::<anyhow::Result<()>>()
    })?;
    let took = started.elapsed();
    let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((took, answers.into_iter().flatten().collect()))
}
