//! The front: decisions written to the store.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datastore::store::{Store, StoreError, WatchEvent};

use crate::draft::{Draft, events};
use crate::error::AssignError;
use crate::plan::{self, Halt, Stop};
use crate::release::{self, HostReleased};
use crate::request::{AssignRequest, Assignment, Committed, ReleaseAddress, Released};
use crate::tunnel::{self, TunnelRequest};
use crate::view::{KINDS, View};

/// Conflicts after which a call gives up.
pub const ATTEMPTS_MAX: u32 = 100;

/// Gives out and takes back addresses on behalf of one node.
///
/// It remembers the node's own blocks, so that a request they can serve is one transaction and nothing else. What it
/// remembers may be out of date: every write compares revisions. Calls may overlap, but overlapping calls of one node
/// compete for the same block, so one task should own it and hand what has piled up to [`Ipam::assign_many`].
/// Dropping a future is safe: the transaction happened as a whole or not at all.
pub struct Ipam {
    store: Arc<dyn Store>,
    node: String,
    remembered: Mutex<Option<Arc<View>>>,
}

impl Ipam {
    /// For `node`, over `store`.
    pub fn new(store: Arc<dyn Store>, node: impl Into<String>) -> Self {
        Self {
            store,
            node: node.into(),
            remembered: Mutex::new(None),
        }
    }

    /// Serves one request; see [`Ipam::assign_many`].
    pub async fn assign(
        &self,
        request: AssignRequest,
    ) -> Result<Committed<Assignment>, AssignError> {
        let mut all = self.assign_many(std::slice::from_ref(&request)).await;
        let outcome = all.outcome.pop().expect("one result for one request")?;
        Ok(Committed {
            outcome,
            written: all.written,
        })
    }

    /// Serves requests together, in one transaction: each block is written once.
    ///
    /// One result a request, in order. Each request gets all it wants or nothing, and its failure does not concern the
    /// others, except that a failing store fails all. A handle that already has what it asks for gets the same again.
    pub async fn assign_many(
        &self,
        requests: &[AssignRequest],
    ) -> Committed<Vec<Result<Assignment, AssignError>>> {
        let planned = self
            .commit(|draft| plan::assign_all(draft, &self.node, requests))
            .await;
        planned.unwrap_or_else(|error| Committed {
            outcome: vec![Err(error); requests.len()],
            written: Vec::new(),
        })
    }

    /// Frees all addresses of a handle. Freeing nothing is success: it may be called again and again.
    pub async fn release_by_handle(
        &self,
        handle_id: &str,
    ) -> Result<Committed<Vec<IpAddr>>, AssignError> {
        let all = self.release_by_handles(&[handle_id.to_owned()]).await?;
        Ok(Committed {
            outcome: all.outcome.into_iter().flatten().collect(),
            written: all.written,
        })
    }

    /// Frees all addresses of some handles in one transaction; one result a handle, in order.
    pub async fn release_by_handles(
        &self,
        handle_ids: &[String],
    ) -> Result<Committed<Vec<Vec<IpAddr>>>, AssignError> {
        self.commit(|draft| release::release_handles(draft, handle_ids))
            .await
    }

    /// Frees single addresses, each only if handle and sequence number are those that were looked at.
    pub async fn release_ips(
        &self,
        wanted: &[ReleaseAddress],
    ) -> Result<Committed<Released>, AssignError> {
        self.commit(|draft| release::release_addresses(draft, wanted))
            .await
    }

    /// Gives up every block of `node`, which may be another than this one: for a node that leaves for good.
    ///
    /// With `only_empty` blocks with addresses in use stay; without, they stay as nobody's until the last address is
    /// released.
    pub async fn release_host_affinities(
        &self,
        node: &str,
        only_empty: bool,
    ) -> Result<Committed<HostReleased>, AssignError> {
        self.commit(|draft| release::release_host(draft, node, only_empty))
            .await
    }

    /// Sees to it that the node has the tunnel address it should have: see [`TunnelRequest`].
    ///
    /// Answers the address to be written into the Node object, `None` for none. If writing the Node fails, release the
    /// handle again, unless the address was there before.
    pub async fn ensure_tunnel_address(
        &self,
        request: &TunnelRequest,
    ) -> Result<Committed<Option<IpAddr>>, AssignError> {
        self.commit(|draft| tunnel::ensure(draft, &self.node, request))
            .await
    }

    /// Takes in a change the caller's watch delivered, so that the next decision does not meet a conflict. Optional.
    pub fn observe(&self, event: &WatchEvent) {
        let mut remembered = self.remembered();
        if let Some(view) = remembered.as_mut()
            && view.concerns(&self.node, event)
        {
            Arc::make_mut(view).follow(event);
        }
    }

    /// Forgets what is remembered; the next call reads everything.
    pub fn forget(&self) {
        *self.remembered() = None;
    }

    fn remembered(&self) -> MutexGuard<'_, Option<Arc<View>>> {
        // Nothing panics while it is held; what is remembered may be wrong anyway.
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides and writes until nobody was quicker.
    async fn commit<T>(
        &self,
        decide: impl Fn(&mut Draft<'_>) -> Result<T, Stop>,
    ) -> Result<Committed<T>, AssignError> {
        let remembered = self.remembered().clone();
        let mut view = match remembered {
            Some(view) => view,
            None => self.read_all().await?,
        };
        for _ in 0..ATTEMPTS_MAX {
            let planned = {
                let mut draft = Draft::new(&view);
                decide(&mut draft).map(|outcome| (outcome, draft.into_ops()))
            };
            let (outcome, ops) = match planned {
                Ok(planned) => planned,
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Halt(Halt::Reload)) => {
                    view = self.read_all().await?;
                    continue;
                }
                Err(Stop::Halt(Halt::Read(key))) => {
                    let current = self.store.get(&key).await?;
                    Arc::make_mut(&mut view).learn(&key, current.as_ref());
                    continue;
                }
            };
            if ops.is_empty() {
                let written = Vec::new();
                return Ok(self.remember(view, Committed { outcome, written }));
            }
            match self.store.transact(ops.clone()).await {
                Ok(revision) => {
                    let written = events(ops, revision);
                    return Ok(self.remember(view, Committed { outcome, written }));
                }
                Err(StoreError::Conflict { key, current }) => {
                    Arc::make_mut(&mut view).learn(&key, current.as_deref());
                }
                Err(other) => {
                    self.forget();
                    return Err(AssignError::Store(other));
                }
            }
        }
        self.forget();
        Err(AssignError::Contended {
            attempts: ATTEMPTS_MAX,
        })
    }

    async fn read_all(&self) -> Result<Arc<View>, AssignError> {
        let listing = self.store.list(&KINDS).await?;
        Ok(Arc::new(View::full(&listing)))
    }

    fn remember<T>(&self, mut view: Arc<View>, committed: Committed<T>) -> Committed<T> {
        let mut remembered = self.remembered();
        // If nothing else came in between, this frees the only other reference and nothing is copied.
        *remembered = None;
        let known = Arc::make_mut(&mut view);
        for event in &committed.written {
            known.follow(event);
        }
        known.narrow(&self.node);
        *remembered = Some(view);
        drop(remembered);
        committed
    }
}
