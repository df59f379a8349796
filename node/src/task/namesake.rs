//! Is another agent running under this node's name?
//!
//! Each agent signs its Node ([`crate::instance`]). The one whose signature was written over says so, and signs again, so
//! that the other one sees it, too. Who signs alone for [`ALONE_AFTER`] polls is alone.

use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, Kind};
use api::object::Object;
use datastore::store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::health::Health;
use crate::instance::{ANNOTATION, Instance};
use crate::startup::objects;
use crate::task::calc::CalcView;

/// Polls without another's signature after which the other one counts as gone.
const ALONE_AFTER: u32 = 2;

/// What the task is made of.
pub struct Namesake {
    /// This run.
    pub instance: Instance,
    /// Node name.
    pub node: String,
    /// Objects.
    pub store: Arc<dyn Store>,
    /// Says who signed the Node.
    pub view: watch::Receiver<CalcView>,
    /// Where another agent is reported.
    pub health: Health,
    /// How often an agent whose signature was written over signs again.
    pub every: Duration,
    /// End of the process.
    pub cancel: CancellationToken,
}

/// What to do about a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    Fine,
    /// Sign, as nobody has.
    Sign,
    /// Report the other one, and sign again when it is time.
    Another,
}

/// Reads a signature. `signed`: this run's has been read before, so that another's is that of a living agent rather than
/// of the former process.
fn compare(own: &Instance, found: Option<&Instance>, signed: bool) -> Verdict {
    match found {
        Some(found) if found == own => Verdict::Fine,
        Some(_) if signed => Verdict::Another,
        Some(_) | None => Verdict::Sign,
    }
}

impl Namesake {
    /// Runs until the token is cancelled.
    pub async fn run(self) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = self.watch() => {}
            () = cancel.cancelled() => {}
        }
    }

    async fn watch(mut self) {
        if self.view.wait_for(|view| view.in_sync).await.is_err() {
            return;
        }
        let mut signed = false;
        let mut may_sign = true;
        let mut quiet_polls = ALONE_AFTER;
        let every = self.every.max(Duration::from_secs(1));
        let mut poll = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        loop {
            let found = self.view.borrow_and_update().agent.clone();
            let verdict = compare(&self.instance, found.as_ref(), signed);
            signed |= verdict == Verdict::Fine;
            if verdict == Verdict::Another
                && let Some(other) = &found
            {
                quiet_polls = 0;
                // At once when it is news, so that the other one learns of it too; then once a poll.
                may_sign |= self.report(other);
            }
            if verdict != Verdict::Fine && may_sign {
                may_sign = false;
                self.sign().await;
            }
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() { return },
                _ = poll.tick() => {
                    may_sign = true;
                    quiet_polls = quiet_polls.saturating_add(1);
                    if quiet_polls == ALONE_AFTER && self.health.set_namesake(None) {
                        info!(node = self.node, "no other agent runs as this node any more");
                    }
                }
            }
        }
    }

    /// Whether it is news.
    fn report(&self, other: &Instance) -> bool {
        let text = format!(
            "another agent runs as node {}: on host {}, started {}; this one is on host {}. They share the node's address, \
             blocks and pods. Give each host a name of its own: NODENAME, or delete the copied nodename file on one of them \
             and restart its agent",
            self.node, other.host, other.started, self.instance.host
        );
        let is_news = self.health.set_namesake(Some(text.clone()));
        if is_news {
            error!(node = self.node, reason = text, "two agents, one node name");
        }
        is_news
    }

    async fn sign(&self) {
        let key = Key::new(Kind::Node, self.node.as_str());
        let stored = match self.store.get(&key).await {
            Ok(Some(stored)) => Object::decode(&key, &stored.value).ok(),
            Ok(None) => None,
            Err(error) => {
                warn!(%error, "this node's signature");
                return;
            }
        };
        // A node that is not there, or not readable, is start-up's to make.
        let Some(before) = stored else {
            return;
        };
        let signature = self.instance.sign();
        let written = objects::update(&*self.store, &key, |stored| {
            let mut object = stored.unwrap_or_else(|| before.clone());
            if let Object::Node(node) = &mut object {
                let annotations = &mut node.metadata.annotations;
                annotations.insert(ANNOTATION.to_owned(), signature.clone());
            }
            object
        });
        if let Err(error) = written.await {
            warn!(%error, "this node's signature");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use api::node::{Node, NodeSpec};
    use datastore::memory::MemoryStore;

    use super::*;

    fn instance(host: &str) -> Instance {
        Instance {
            id: host.to_owned(),
            host: host.to_owned(),
            started: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    /// Agents of one node name over one store. Nothing watches the store: `look` stands in for that.
    struct Agent {
        view: watch::Sender<CalcView>,
        health: Health,
        cancel: CancellationToken,
    }

    impl Agent {
        fn start(host: &str, store: &Arc<MemoryStore>) -> Self {
            let (view, receiver) = watch::channel(CalcView::default());
            let agent = Self {
                view,
                health: Health::new(Instant::now(), SystemTime::UNIX_EPOCH),
                cancel: CancellationToken::new(),
            };
            let task = Namesake {
                instance: instance(host),
                node: "n1".to_owned(),
                store: Arc::clone(store) as Arc<dyn Store>,
                view: receiver,
                health: agent.health.clone(),
                every: EVERY,
                cancel: agent.cancel.clone(),
            };
            tokio::spawn(task.run());
            agent
        }

        async fn look(&self, store: &MemoryStore) {
            let found = signature(store).await;
            self.view.send_modify(|view| {
                view.in_sync = true;
                view.agent = found;
            });
            // Virtual time: everything that can run has run after it.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    const EVERY: Duration = Duration::from_secs(60);

    fn key() -> Key {
        Key::new(Kind::Node, "n1")
    }

    async fn signature(store: &MemoryStore) -> Option<Instance> {
        let stored = store.get(&key()).await.unwrap()?;
        match Object::decode(&key(), &stored.value).unwrap() {
            Object::Node(node) => Instance::read(node.metadata.annotations.get(ANNOTATION)?),
            _ => None,
        }
    }

    async fn node() -> Arc<MemoryStore> {
        let store = Arc::new(MemoryStore::new());
        let node = Object::Node(Node::new(&key(), NodeSpec::default()));
        objects::create(&*store, node).await.unwrap();
        store
    }

    #[tokio::test(start_paused = true)]
    async fn the_successor_of_a_dead_agent_is_alone() {
        let store = node().await;
        for host in ["a", "b", "a"] {
            let agent = Agent::start(host, &store);
            for _ in 0..3 {
                agent.look(&store).await;
                tokio::time::sleep(EVERY).await;
            }
            assert_eq!(signature(&store).await, Some(instance(host)));
            assert_eq!(agent.health.namesake(), None);
            agent.cancel.cancel();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn both_agents_of_one_name_say_so_with_few_writes_and_the_last_one_takes_it_back() {
        let store = node().await;
        let first = Agent::start("a", &store);
        first.look(&store).await;
        first.look(&store).await;
        let second = Agent::start("b", &store);
        let mut writes = Vec::new();
        for _ in 0..3 {
            for agent in [&second, &first, &second, &first] {
                agent.look(&store).await;
                writes.extend(signature(&store).await);
            }
            tokio::time::sleep(EVERY).await;
        }
        writes.dedup();
        assert!(writes.len() <= 8, "one write a poll and agent: {writes:?}");
        let reported = first.health.namesake().expect("the second one wrote");
        assert!(
            reported.contains("host b") && reported.contains("nodename file"),
            "{reported}"
        );
        let reported = second.health.namesake().expect("the first one wrote again");
        assert!(reported.contains("on host a"), "{reported}");
        second.cancel.cancel();
        for _ in 0..=ALONE_AFTER + 1 {
            first.look(&store).await;
            first.look(&store).await;
            tokio::time::sleep(EVERY).await;
        }
        assert_eq!(signature(&store).await, Some(instance("a")));
        assert_eq!(first.health.namesake(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_applied_without_the_signature_is_signed_again_and_means_nothing() {
        let store = node().await;
        let agent = Agent::start("a", &store);
        agent.look(&store).await;
        agent.look(&store).await;
        tokio::time::sleep(EVERY).await;
        let bare = Object::Node(Node::new(&key(), NodeSpec::default()));
        objects::update(&*store, &key(), |_| bare.clone())
            .await
            .unwrap();
        agent.look(&store).await;
        assert_eq!(signature(&store).await, Some(instance("a")));
        assert_eq!(agent.health.namesake(), None);
    }
}
