//! Packets that must not notice what befalls a cluster, and an account of those that did.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use crate::cluster::Lab;
use crate::probe::bulk::Bulk;
use crate::probe::stream::Stream;
use crate::runtime::Pod;
use crate::wait;

/// Numbered packets each way between two pods.
const PER_SECOND: u32 = 100;
/// How long a packet may be on its way, in a guest of a busy machine.
const ON_ITS_WAY: Duration = Duration::from_millis(20);
/// How long after a node is connected again packets that cross it may be lost.
pub const HEALED_AFTER: Duration = Duration::from_millis(100);

/// Numbered packets of each family between the first pods of each two nodes and between the first two of a node, both ways, and full
/// TCP segments from the first pod to the last.
#[derive(Debug)]
pub struct Traffic {
    streams: Vec<Flow>,
    bulks: Vec<Bulk>,
    events: Vec<Event>,
}

#[derive(Debug)]
struct Flow {
    /// Nodes of sender and receiver.
    nodes: [String; 2],
    stream: Stream,
}

/// Something that befell the cluster.
#[derive(Clone, Debug)]
struct Event {
    name: String,
    began: Instant,
    /// A node that was cut off, and when it no longer was.
    cut: Option<(String, Option<Instant>)>,
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
        let named = |name: &str| -> Vec<&Pod> {
            let pods = lab.pods.iter();
            pods.filter(|pod| pod.name == name).collect()
        };
        let (pods, seconds) = (named("p0"), named("p1"));
        let mut pairs = Vec::new();
        for from in &pods {
            let others = pods.iter().filter(|to| to.node != from.node);
            let beside = seconds.iter().filter(|to| to.node == from.node);
            pairs.extend(others.map(|to| (*from, *to)));
            pairs.extend(beside.flat_map(|to| [(*from, *to), (*to, *from)]));
        }
        let mut streams = Vec::new();
        for (from, to) in pairs {
            for stream in Stream::of_families(from, to, PER_SECOND) {
                streams.push(Flow {
                    nodes: [from.node.clone(), to.node.clone()],
                    stream: stream?,
                });
            }
        }
        let (first, last) = (pods.first(), pods.last());
        let ends = first.zip(last).expect("a pod on each node");
        let bulks = Bulk::of_families(ends.0, ends.1, lab.options.patience);
        Ok(Self {
            streams,
            bulks: bulks.into_iter().collect::<io::Result<_>>()?,
            events: Vec::new(),
        })
    }

    /// Notes what is about to befall the cluster: what is lost from now on is put down to it.
    pub fn befalls(&mut self, name: &str) {
        self.note(name, None);
    }

    /// As [`Traffic::befalls`], with a node that is cut off: until [`Traffic::is_back`] and [`HEALED_AFTER`] packets that cross it may
    /// be lost.
    pub fn cuts_off(&mut self, name: &str, node: &str) {
        self.note(name, Some((node.to_owned(), None)));
    }

    /// The node that was cut off no longer is.
    pub fn is_back(&mut self) {
        if let Some((_, back)) = self.events.last_mut().and_then(|event| event.cut.as_mut()) {
            *back = Some(Instant::now());
        }
    }

    fn note(&mut self, name: &str, cut: Option<(String, Option<Instant>)>) {
        self.events.push(Event {
            name: name.to_owned(),
            began: Instant::now(),
            cut,
        });
    }

    /// Waits until more has come through each stream and connection than now. Whether it did within the patience.
    pub fn flows(&self, patience: Duration) -> bool {
        let before = self.arrived();
        let more = || {
            let now = self.arrived().into_iter();
            now.zip(&before)
                .all(|(now, before)| now > *before)
                .then_some(())
        };
        wait::until(Instant::now() + patience, more).is_some()
    }

    fn arrived(&self) -> Vec<u64> {
        let packets = self.streams.iter().map(|flow| flow.stream.arrived());
        packets
            .chain(self.bulks.iter().map(Bulk::arrived))
            .collect()
    }

    /// Ends all of it; what was lost, by whom, and when.
    ///
    /// # Errors
    /// What the kernel answers to a sender.
    pub fn finish(self) -> io::Result<Vec<String>> {
        let mut faults: Vec<String> = self.bulks.into_iter().filter_map(Bulk::finish).collect();
        let mut account = Account::new(self.events);
        self.streams.iter().for_each(|flow| flow.stream.stop());
        for Flow { nodes, stream } in self.streams {
            let outcome = stream.finish()?;
            if outcome.sent == 0 {
                faults.push(format!("{}: nothing was sent", outcome.name));
            }
            for at in outcome.lost_at {
                account.note(&outcome.name, &nodes, at);
            }
        }
        faults.extend(account.faults());
        Ok(faults)
    }
}

/// What was lost, put down to events.
struct Account {
    events: Vec<Event>,
    /// By event's number and flow: when each lost packet was sent.
    lost: BTreeMap<(usize, String), Vec<Instant>>,
    /// By event's number: how long after a node's return the last packet that crossed it was lost, and of which flow.
    late: BTreeMap<usize, (Duration, String)>,
}

impl Account {
    fn new(mut events: Vec<Event>) -> Self {
        if let Some(first) = events.first_mut() {
            // What was lost before anything happened is a fault, too.
            first.began -= Duration::from_secs(3600);
        } else {
            events.push(Event {
                name: "all the time".to_owned(),
                began: Instant::now() - Duration::from_secs(3600),
                cut: None,
            });
        }
        let cuts = events.iter().enumerate();
        let late = cuts
            .filter(|(_, event)| event.cut.is_some())
            .map(|(number, _)| (number, (Duration::ZERO, "none".to_owned())))
            .collect();
        Self {
            events,
            lost: BTreeMap::new(),
            late,
        }
    }

    /// A packet of a flow between these nodes, sent at that time, was lost.
    fn note(&mut self, flow: &str, nodes: &[String; 2], at: Instant) {
        let of = self.events.iter().rposition(|event| event.began <= at);
        let number = of.unwrap_or_default();
        let crosses = |node: &String| nodes.contains(node) && nodes[0] != nodes[1];
        // What was on its way when the node was cut off.
        if let Some(next) = self.events.get(number + 1)
            && let Some((node, _)) = &next.cut
            && crosses(node)
            && next.began.saturating_duration_since(at) < ON_ITS_WAY
        {
            return;
        }
        if let Some((node, back)) = &self.events[number].cut
            && crosses(node)
        {
            let after = back.map_or(Duration::MAX, |back| at.saturating_duration_since(back));
            let late = self.late.entry(number).or_default();
            if after > late.0 {
                *late = (after, flow.to_owned());
            }
            return;
        }
        let lost = self.lost.entry((number, flow.to_owned())).or_default();
        lost.push(at);
    }

    /// Of an event that happened several times the quickest recovery counts: a machine that is busy with something else can only make it
    /// slower.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for ((number, flow), lost) in &self.lost {
            let event = &self.events[*number];
            let after = |at: Option<&Instant>| {
                at.map_or(Duration::ZERO, |at| {
                    at.saturating_duration_since(event.began)
                })
            };
            faults.push(format!(
                "{}: {flow}: {} packets lost, sent {:?} to {:?} after that",
                event.name,
                lost.len(),
                after(lost.iter().min()),
                after(lost.iter().max()),
            ));
        }
        let mut quickest: BTreeMap<&str, &(Duration, String)> = BTreeMap::new();
        for (number, late) in &self.late {
            let name = self.events[*number].name.as_str();
            println!(
                "{name}: packets were lost until {:?} after its end ({})",
                late.0, late.1
            );
            let least = quickest.entry(name).or_insert(late);
            *least = late.min(least);
        }
        let slow = quickest
            .into_iter()
            .filter(|(_, late)| late.0 > HEALED_AFTER);
        faults.extend(slow.map(|(name, (late, flow))| {
            format!("{name}: {flow}: packets were lost until {late:?} after its end")
        }));
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(from: &str, to: &str) -> [String; 2] {
        [from.to_owned(), to.to_owned()]
    }

    fn account(cuts: &[Duration]) -> (Account, Vec<Instant>) {
        let start = Instant::now();
        let mut events = vec![Event {
            name: "killed".to_owned(),
            began: start,
            cut: None,
        }];
        let mut backs = Vec::new();
        for (second, away) in (1..).zip(cuts) {
            let began = start + Duration::from_secs(second);
            backs.push(began + *away);
            events.push(Event {
                name: "down".to_owned(),
                began,
                cut: Some(("n3".to_owned(), Some(began + *away))),
            });
        }
        (Account::new(events), backs)
    }

    #[test]
    fn a_lost_packet_is_put_down_to_what_happened_last_before_it() {
        let (mut account, backs) = account(&[Duration::from_millis(300)]);
        let killed = account.events[1].began - Duration::from_millis(500);
        account.note("a -> b", &nodes("n1", "n2"), killed);
        account.note("c -> d", &nodes("n1", "n2"), backs[0]);
        account.note("e -> e", &nodes("n3", "n3"), backs[0]);
        let faults = account.faults();
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(
            faults[0].starts_with("killed: a -> b: 1 packets"),
            "{faults:?}"
        );
        assert!(
            faults[1].starts_with("down: c -> d: 1 packets"),
            "{faults:?}"
        );
        assert!(faults[2].starts_with("down: e -> e"), "{faults:?}");
    }

    #[test]
    fn what_crosses_a_node_that_is_cut_off_may_be_lost_until_it_is_back_and_a_moment_longer() {
        let away = Duration::from_millis(300);
        let (late, soon) = (HEALED_AFTER + Duration::from_millis(1), HEALED_AFTER);
        let (mut account, backs) = account(&[away, away]);
        account.note("a -> b", &nodes("n3", "n1"), backs[0] + soon);
        account.note("a -> b", &nodes("n1", "n3"), backs[1] + late);
        assert_eq!(account.faults(), Vec::<String>::new());
        account.note("a -> b", &nodes("n1", "n3"), backs[0] + late);
        let faults = account.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("down: ") && faults[0].contains("101ms"));
    }
}
