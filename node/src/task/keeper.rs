//! Keeps what start-up wrote true: the node's address, its tunnel addresses, the MTU file. What is there when the process
//! starts stays until the calculation knows every fact.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::params::Params;
use datastore::store::Store;
use ipam::Ipam;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::health::Health;
use crate::kubernetes::Kubernetes;
use crate::startup::host::LiveHost;
use crate::startup::tunnel::KINDS;
use crate::startup::tunnel::announcement::{Accepting, Announcement};
use crate::startup::{Startup, chain, files};
use crate::task::calc::{CalcView, Inbox};

/// After a failure it is tried again this soon.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// What the task is made of.
pub struct Keeper {
    /// Settings.
    pub params: Arc<Params>,
    /// Node name.
    pub node: String,
    /// Objects.
    pub store: Arc<dyn Store>,
    /// Gives tunnel addresses.
    pub ipam: Arc<Ipam>,
    /// Kubernetes, when the node is one of its nodes.
    pub kubernetes: Option<Arc<dyn Kubernetes>>,
    /// Says when pools or this node's object changed, and the MTU.
    pub view: watch::Receiver<CalcView>,
    /// Tunnel devices that take packets.
    pub accepting: watch::Receiver<Accepting>,
    /// Where addresses go that tunnel devices are to have before the Node names them.
    pub calc: Inbox,
    /// MTU for pods while the graph knows none.
    pub last_mtu_bytes: Option<u32>,
    /// Says whether another agent runs under this node's name.
    pub health: Health,
    /// End of the process.
    pub cancel: CancellationToken,
}

impl Keeper {
    /// Runs until the token is cancelled.
    pub async fn run(self) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = self.keep() => {}
            () = cancel.cancelled() => {}
        }
    }

    async fn keep(mut self) {
        let every = self
            .params
            .autodetect_poll_interval
            .max(Duration::from_secs(1));
        let mut poll = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        let mut seen = 0;
        let mut due = false;
        let mut failed: Option<String> = None;
        let mut said = Announcement::default();
        if self.view.wait_for(|view| view.in_sync).await.is_err() {
            return;
        }
        loop {
            let (generation, mtu, locked) = {
                let view = self.view.borrow_and_update();
                (
                    view.own_generation,
                    view.pod_mtu_bytes,
                    // What an unknown datastore says is not answered.
                    view.datastore_locked || self.health.datastore_unknown().is_some(),
                )
            };
            // With another agent under this node's name each would answer the other's writes at once, for ever.
            due |= generation != seen && self.health.namesake().is_none();
            seen = generation;
            // Whatever else ended the wait: this has been seen now, and is not told again.
            due |= said.accept(self.accepting.borrow_and_update().clone());
            let said = &mut said;
            let result = self
                .repair(
                    mtu.or(self.last_mtu_bytes),
                    (due && !locked).then_some(&mut *said),
                )
                .await;
            // The same failure is logged once, however often it is tried again.
            if let Err(error) = &result
                && failed.as_ref() != Some(error)
            {
                warn!(
                    error,
                    "keeping the Node and the files of this node; trying again"
                );
            }
            failed = result.err();
            // What is due waits for the unlock.
            due &= locked;
            let soonest = Instant::now() + RETRY_EVERY;
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() { return },
                Ok(()) = self.accepting.changed() => due = true,
                () = until(said.due().map(|at| at.max(soonest))) => due = true,
                _ = poll.tick() => due = true,
                () = tokio::time::sleep(RETRY_EVERY), if failed.is_some() => due = true,
            }
        }
    }

    /// The MTU file, and where the objects are due the Node object with its addresses. What can be done is done.
    async fn repair(
        &self,
        mtu_bytes: Option<u32>,
        objects_due: Option<&mut Announcement>,
    ) -> Result<(), String> {
        let file = mtu_bytes.map_or(Ok(()), |mtu_bytes| {
            files::keep_mtu(Path::new(files::STATE_DIRECTORY), mtu_bytes)
        });
        if let Some(said) = objects_due {
            self.objects(said).await?;
        }
        file.map_err(|error| chain(&error))
    }

    async fn objects(&self, said: &mut Announcement) -> Result<(), String> {
        let host = LiveHost::read(&self.params).await;
        let host = host.map_err(|error| format!("reading the host's interfaces: {error}"))?;
        let startup = Startup {
            waits: crate::startup::Waits::default(),
            params: &self.params,
            host: &host,
            store: Arc::clone(&self.store),
            kubernetes: self.kubernetes.clone(),
        };
        // The Node first: tunnel addresses are written into it.
        let node = startup.refresh(&self.node).await;
        node.map_err(|error| format!("node address: {}", chain(&error)))?;
        let tunnels = startup.refresh_tunnels(&self.node, &self.ipam, said).await;
        for (_, device) in KINDS {
            self.calc.tunnel_addr(device, said.to_come(device));
        }
        tunnels.map_err(|error| format!("tunnel addresses: {}", chain(&error)))
    }
}

/// Waits until `at`, for ever without one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use api::key::{Key, Kind};
    use api::object::Object;
    use datastore::memory::MemoryStore;
    use datastore::scope::Scope;
    use datastore::store::{Change, Expect, Op, WatchEvent};
    use futures_util::StreamExt;
    use ipnet::IpNet;

    use super::*;

    async fn write(store: &MemoryStore, op: Op) {
        store.write(op).await.unwrap();
    }

    #[tokio::test]
    async fn a_node_object_without_what_was_written_is_written_again_at_the_change() {
        let key = Key::new(Kind::Node, "n1");
        let store = Arc::new(MemoryStore::new());
        let variables = [("IP".to_owned(), "10.0.0.1/24".to_owned())];
        let (view_in, view) = watch::channel(CalcView::default());
        let cancel = CancellationToken::new();
        let keeper = Keeper {
            params: Arc::new(Params::from_env(variables).unwrap()),
            node: "n1".to_owned(),
            store: Arc::clone(&store) as Arc<dyn Store>,
            ipam: Arc::new(Ipam::new(Arc::clone(&store) as Arc<dyn Store>, "n1")),
            kubernetes: None,
            view,
            accepting: watch::channel(Accepting::new()).1,
            calc: Inbox::new().0,
            last_mtu_bytes: None,
            health: Health::new(std::time::Instant::now(), SystemTime::UNIX_EPOCH),
            cancel: cancel.clone(),
        };
        let keeping = tokio::spawn(keeper.run());
        let cursor = store.list(Kind::Node, &Scope::All).await.unwrap().cursor;
        let mut changes = store.watch(Kind::Node, Scope::All, cursor);
        let wanted: IpNet = "10.0.0.1/24".parse().unwrap();
        for text in [Some(r#"{"metadata":{"name":"n1"},"spec":{}}"#), None] {
            write(
                &store,
                match text {
                    Some(text) => Op::Put {
                        key: key.clone(),
                        value: text.to_owned().into(),
                        expect: Expect::Any,
                    },
                    None => Op::Delete {
                        key: key.clone(),
                        expect: Expect::Any,
                    },
                },
            )
            .await;
            view_in.send_modify(|view| {
                view.in_sync = true;
                view.own_generation += 1;
            });
            // The poll is a minute away.
            let address = loop {
                let event = changes
                    .next()
                    .await
                    .expect("a memory store's watch goes on");
                let WatchEvent::Change(Change::Put(item), _) = event.unwrap() else {
                    continue;
                };
                if let Ok(Object::Node(node)) = Object::decode(&key, &item.value)
                    && let Some(bgp) = node.spec.bgp
                {
                    break bgp.ipv4_address;
                }
            };
            assert_eq!(address, Some(wanted), "{text:?}");
        }
        cancel.cancel();
        keeping.await.unwrap();
    }
}
