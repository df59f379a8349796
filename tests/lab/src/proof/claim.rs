//! From the start of a CNI ADD that claims a new block to the block's route in the farthest node's FIB.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::cluster::Lab;
use crate::netlink::{RouteChange, RouteEvent, RouteMonitor};
use crate::netns::NetNs;
use crate::topology::Site;

/// Notifications that one ADD can cause on a node, by far.
const EVENTS_MAX: usize = 4096;
/// How often the listener looks whether it is still wanted.
const LISTEN_SLICE: Duration = Duration::from_millis(20);

impl Lab {
    /// Adds a pod and, when that claimed a new block, measures the time from the start of the plugin to the notification of the
    /// block's route on the farthest node. `None` when the pod's address came from a block in use, or there is one node only,
    /// or other nodes get no routes to blocks.
    ///
    /// # Errors
    /// In words: the plugin's error, or no notification in time.
    pub fn timed_add(&mut self, node: usize) -> Result<Option<Duration>, String> {
        let far = self.farthest_from(node).cloned();
        let listener = far
            .as_ref()
            .map(|far| Listener::start(&far.namespace))
            .transpose()
            .map_err(|error| format!("listen for routes: {error}"))?;
        // A tunnel address may have claimed the node's first block long before its first pod.
        let mut known: Vec<IpNet> = self.blocks().into_iter().map(|(block, _)| block).collect();
        if let Some(far) = &far {
            known.extend(routed(far)?);
        }
        let pod = self
            .add_pod(node)
            .map_err(|error| describe(&error))?
            .clone();
        let block = self.options.block_of(pod.address);
        if self.goes_by_tors() {
            return Ok(None);
        }
        let (Some(far), Some(listener)) = (far, listener) else {
            return Ok(None);
        };
        if known.contains(&block) {
            return Ok(None);
        }
        match listener.wait_for(block, Instant::now() + self.options.patience) {
            Some(at) => Ok(Some(at.saturating_duration_since(pod.started))),
            None => Err(format!(
                "CNI ADD of {} claimed block {block}: no route notification on {} within {:?}",
                pod.label(),
                far.name,
                self.options.patience
            )),
        }
    }

    /// The node that news from `node` reach last: in another rack if there is one, and the one that started last.
    fn farthest_from(&self, node: usize) -> Option<&Site> {
        let here = &self.topology.sites[node];
        let others = || {
            self.topology
                .sites
                .iter()
                .filter(|site| site.name != here.name)
        };
        others()
            .rfind(|site| site.rack != here.rack)
            .or_else(|| others().next_back())
    }
}

/// The prefixes that a machine has routes to.
fn routed(site: &Site) -> Result<Vec<IpNet>, String> {
    let unreadable = |error: &dyn std::error::Error| {
        format!(
            "the routes of {} cannot be read: {}",
            site.name,
            describe(error)
        )
    };
    let mut netlink = site
        .namespace
        .netlink()
        .map_err(|error| unreadable(&error))?;
    let routes = netlink.routes().map_err(|error| unreadable(&error))?;
    Ok(routes.into_iter().map(|route| route.destination).collect())
}

/// A thread that notes each route notification with the time at which it came.
struct Listener {
    events: Receiver<RouteEvent>,
    stop: Arc<AtomicBool>,
}

impl Listener {
    fn start(namespace: &NetNs) -> std::io::Result<Self> {
        let monitor = RouteMonitor::open(namespace)?;
        // When full, the thread waits: the kernel's buffer holds the rest, and the times of later events do not matter.
        let (sender, events) = sync_channel(EVENTS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::spawn(move || listen(monitor, &sender, &stopped));
        Ok(Self { events, stop })
    }

    fn wait_for(&self, block: IpNet, deadline: Instant) -> Option<Instant> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event)
                    if event.change == RouteChange::Added && event.route.destination == block =>
                {
                    return Some(event.at);
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn listen(mut monitor: RouteMonitor, sender: &SyncSender<RouteEvent>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(events) = monitor.wait(LISTEN_SLICE) else {
            return;
        };
        for event in events {
            if sender.send(event).is_err() {
                return;
            }
        }
    }
}

/// An error with its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
