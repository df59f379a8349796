//! What a process and its children spent, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context;

/// Processes of one daemon.
#[derive(Debug)]
pub struct Processes {
    first: u32,
}

impl Processes {
    /// The process with this id and all below it.
    #[must_use]
    pub const fn of(first: u32) -> Self {
        Self { first }
    }

    /// Processor time of all threads, in user and kernel mode.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        for pid in self.ids()? {
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                // First field: time on a processor. A thread may have ended in between.
                let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
                let field = text.split(' ').next().and_then(|field| field.parse().ok());
                nanoseconds += field.unwrap_or(0u64);
            }
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Most memory that was resident, in KiB (VmHWM), summed over processes.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn peak_kib(&self) -> anyhow::Result<u64> {
        self.memory_kib("VmHWM:")
    }

    /// Memory that is resident, in KiB (VmRSS), summed over processes.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn resident_kib(&self) -> anyhow::Result<u64> {
        self.memory_kib("VmRSS:")
    }

    fn memory_kib(&self, name: &str) -> anyhow::Result<u64> {
        let mut sum = 0;
        for pid in self.ids()? {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let field = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
            sum += field.unwrap_or(0u64);
        }
        Ok(sum)
    }

    /// Their ids, the first first.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn ids(&self) -> anyhow::Result<Vec<u32>> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in fs::read_dir("/proc").context("reading /proc")? {
            let Some(pid) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            if let Some(parent) = parent(pid) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut all = vec![self.first];
        let mut next = 0;
        while let Some(pid) = all.get(next) {
            all.extend(children.remove(pid).unwrap_or_default());
            next += 1;
        }
        Ok(all)
    }
}

/// Processor time of this process.
#[must_use]
pub fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // pid (name) state ppid; the name may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_has_time_and_memory() {
        let own = Processes::of(std::process::id());
        assert!(own.cpu().unwrap() > Duration::ZERO);
        assert!(own.peak_kib().unwrap() > 100);
        assert!(own.resident_kib().unwrap() > 100);
    }
}
