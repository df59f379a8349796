//! A pool's mode switched under living pods, the nodes seconds apart, and packets that must not notice.

use std::io;
use std::time::{Duration, Instant};

use crate::cluster::Lab;
use crate::options::Mode;
use crate::probe::bulk::Bulk;
use crate::probe::stream::Stream;
use crate::wait;

/// Numbered packets each way between two pods.
const PER_SECOND: u32 = 100;
/// How long after the others the last node hears of the switch.
const LATE_BY: Duration = Duration::from_millis(1500);

/// Numbered packets between the first pods of each two nodes, both ways, and full TCP segments from the first pod to the last.
#[derive(Debug)]
pub struct Traffic {
    streams: Vec<Stream>,
    bulk: Bulk,
}

impl Traffic {
    /// Starts all of it.
    ///
    /// # Errors
    /// What the kernel answers.
    ///
    /// # Panics
    /// Without pods.
    pub fn start(lab: &Lab) -> io::Result<Self> {
        let pods: Vec<_> = lab.pods.iter().filter(|pod| pod.name == "p0").collect();
        let mut streams = Vec::new();
        for from in &pods {
            for to in pods.iter().filter(|to| to.node != from.node) {
                streams.push(Stream::between(from, to, PER_SECOND)?);
            }
        }
        let (first, last) = (pods.first(), pods.last());
        let ends = first.zip(last).expect("a pod on each node");
        let bulk = Bulk::between(ends.0, ends.1, lab.options.patience)?;
        Ok(Self { streams, bulk })
    }

    /// Waits until more octets have come through the TCP connection than now. Whether they did within the patience.
    pub fn flows(&self, patience: Duration) -> bool {
        let before = self.bulk.arrived();
        let more = || (self.bulk.arrived() > before).then_some(());
        wait::until(Instant::now() + patience, more).is_some()
    }

    /// Ends all of it; what was lost, by whom.
    ///
    /// # Errors
    /// What the kernel answers to a sender.
    pub fn finish(self) -> io::Result<Vec<String>> {
        let mut faults: Vec<String> = self.bulk.finish().into_iter().collect();
        for stream in self.streams {
            let outcome = stream.finish()?;
            if outcome.sent == 0 || !outcome.lost.is_empty() {
                let (sent, lost) = (outcome.sent, outcome.lost.len());
                let (first, last) = (outcome.lost.first(), outcome.lost.last());
                let name = outcome.name;
                faults.push(format!(
                    "{name}: {lost} of {sent} packets lost, {first:?} to {last:?}"
                ));
            }
        }
        Ok(faults)
    }
}

impl Lab {
    /// Switches the IPv4 pool to a mode, and waits until every kernel has it. The node `late` hears of it last.
    ///
    /// # Errors
    /// In words: what failed, or how kernels differ from what the mode asks for.
    pub fn switch_mode(&mut self, mode: Mode, late: usize) -> Result<(), String> {
        let what = |error: &dyn std::error::Error| error.to_string();
        self.freeze_agent(late).map_err(|error| what(&error))?;
        let site = &self.topology.sites[0];
        let (ipip, vxlan) = (mode.ipip(), mode.vxlan());
        let patch = format!(r#"{{"spec":{{"ipipMode":"{ipip}","vxlanMode":"{vxlan}"}}}}"#);
        let output = (site.namespace.command(self.programs().ctl()))
            .envs(self.options.environment_of(site))
            .args(["patch", "ippool", "default-ipv4-ippool", "-p", &patch])
            .output()
            .map_err(|error| what(&error))?;
        if !output.status.success() {
            return Err(format!("{output:?}"));
        }
        self.options.pods_mode.get_or_insert(self.options.mode);
        self.options.mode = mode;
        // Nothing tells that a node has not yet done something: this is how long it is away.
        std::thread::sleep(LATE_BY);
        self.thaw_agent(late).map_err(|error| what(&error))?;
        match self.wait_converged().map_err(|error| what(&error))? {
            Some(_) => Ok(()),
            None => Err(format!("{:#?}", self.prove().faults)),
        }
    }
}
