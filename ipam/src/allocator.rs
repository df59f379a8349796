//! The front: decisions written to the store.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::ipam::IPAMBlockSpec;
use api::key::{Key, Kind};
use api::object::Object;
use bytes::Bytes;
use datastore::plan::{Failed, Plan};
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Op, Store, StoreError};
use datastore::version::{Order, Version};
use futures_util::future::try_join;
use ipnet::IpNet;

use crate::block;
use crate::companion::{Accompanied, Companion, Laid, RefusedKeys};
use crate::cooldown::Cooldown;
use crate::draft::Draft;
use crate::error::AssignError;
use crate::plan::{self, Halt, Stop};
use crate::release::{self, HostReleased};
use crate::request::{AssignRequest, Assignment, Committed, ReleaseAddress, Released};
use crate::time::Timestamp;
use crate::tunnel::{self, TunnelAddress, TunnelRequest};
use crate::view::{Extent, KINDS, View, handle_key};

/// Conflicts after which a call gives up.
pub const ATTEMPTS_MAX: u32 = 100;

/// Gives out and takes back addresses on behalf of one node.
///
/// It remembers the node's own blocks, so that a request they can serve is one plan and nothing else. What it remembers
/// may be out of date: every write compares versions. Calls that overlap take turns: what one found out must not be
/// forgotten for what another remembers. So what has piled up is better handed to [`Ipam::assign_many`]. Dropping a future is
/// safe: whatever part of the plan was done is sound, and the next call goes on from it.
pub struct Ipam {
    store: Arc<dyn Store>,
    node: String,
    turn: futures_util::lock::Mutex<()>,
    remembered: Mutex<Memory>,
    unsettled: Mutex<BTreeMap<Key, Unsettled>>,
    doubtful: Mutex<Arc<[IpNet]>>,
    /// The store has lost a write, and nobody has accepted that.
    diverged: Mutex<Option<StoreError>>,
}

/// What is remembered between calls.
#[derive(Default)]
struct Memory {
    view: Option<Arc<View>>,
    /// What came in since a call took the view: it goes into what that call leaves.
    missed: BTreeMap<Key, Change>,
    /// What that call knows may have gaps.
    forgotten: bool,
}

/// A block that may still be written.
#[derive(Clone, Debug)]
enum Unsettled {
    /// Over this version.
    Stands(Version),
    /// As a new one with this value.
    Made(Bytes),
}

impl Ipam {
    /// For `node`, over `store`.
    pub fn new(store: Arc<dyn Store>, node: impl Into<String>) -> Self {
        Self {
            store,
            node: node.into(),
            turn: futures_util::lock::Mutex::new(()),
            remembered: Mutex::default(),
            unsettled: Mutex::default(),
            doubtful: Mutex::new(Arc::default()),
            diverged: Mutex::new(None),
        }
    }

    /// Name of the node.
    pub fn node(&self) -> &str {
        &self.node
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
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

    /// Serves requests together, in one plan: each block is written once.
    ///
    /// One result a request, in order. Each request gets all it wants or nothing, and its failure does not concern the
    /// others, except that a failing store fails all. A handle that already has what it asks for gets the same again.
    pub async fn assign_many(
        &self,
        requests: &[AssignRequest],
    ) -> Committed<Vec<Result<Assignment, AssignError>>> {
        let all = self.assign_with(requests, &[]).await;
        let outcome = all.outcome.into_iter();
        Committed {
            outcome: outcome.map(|given| given.map(|(given, _)| given)).collect(),
            written: all.written,
        }
    }

    /// As [`Ipam::assign_many`]; each request that gets what it wants takes along the companion at its place, if there is one.
    pub async fn assign_with(
        &self,
        requests: &[AssignRequest],
        companions: &[Option<Companion>],
    ) -> Committed<Vec<Result<(Assignment, Accompanied), AssignError>>> {
        let latest = requests.iter().map(|request| request.now).max();
        let now = latest.unwrap_or_default();
        let planned = self
            .commit(now, |draft| {
                let assigned = plan::assign_all(draft, &self.node, requests)?;
                let mut all = Vec::with_capacity(assigned.len());
                for (number, assigned) in assigned.into_iter().enumerate() {
                    all.push(assigned.map(|given| {
                        let companion = companions.get(number).and_then(Option::as_ref);
                        let laid = companion.map(|found| found.lay(draft, &given.addresses));
                        (given, laid.unwrap_or(Laid::None))
                    }));
                }
                Ok(all)
            })
            .await;
        let planned = planned.unwrap_or_else(|error| Committed {
            outcome: vec![Err(error); requests.len()],
            written: Vec::new(),
        });
        let written = planned.written;
        let outcome = requests.iter().zip(planned.outcome);
        let outcome = outcome.map(|(request, given)| {
            let (mut given, laid) = given?;
            // What an earlier attempt of this call took, a later one finds.
            let handle = handle_key(&request.handle_id);
            given.existing &= !written.iter().any(|change| *change.key() == handle);
            Ok((given, laid.done(&written)))
        });
        Committed {
            outcome: outcome.collect(),
            written,
        }
    }

    /// Frees all addresses of a handle. Freeing nothing is success: it may be called again and again.
    pub async fn release_by_handle(
        &self,
        handle_id: &str,
        now: Timestamp,
    ) -> Result<Committed<Vec<IpAddr>>, AssignError> {
        let handle_ids = [handle_id.to_owned()];
        let all = self.release_by_handles(&handle_ids, now).await?;
        Ok(Committed {
            outcome: all.outcome.into_iter().flatten().collect(),
            written: all.written,
        })
    }

    /// Frees all addresses of some handles in one plan; one result a handle, in order.
    pub async fn release_by_handles(
        &self,
        handle_ids: &[String],
        now: Timestamp,
    ) -> Result<Committed<Vec<Vec<IpAddr>>>, AssignError> {
        self.commit(now, |draft| release::release_handles(draft, handle_ids))
            .await
    }

    /// The addresses of some handles as they stand now, to be released by [`Ipam::release_held`] later; one result a handle, in
    /// order.
    pub async fn held(
        &self,
        handle_ids: &[String],
    ) -> Result<Vec<Vec<ReleaseAddress>>, AssignError> {
        // What cools down is no handle's, however long.
        let now = Timestamp::default();
        let looked = self.commit(now, |draft| release::held_by_handles(draft, handle_ids));
        Ok(looked.await?.outcome)
    }

    /// Frees what each handle held when it was looked at, in one plan; one result a handle, in order. What was given out anew
    /// in the meantime is refused.
    pub async fn release_held(
        &self,
        looks: &[(String, Vec<ReleaseAddress>)],
        now: Timestamp,
    ) -> Result<Committed<Vec<Released>>, AssignError> {
        let done = self.release_with(looks, &[], now).await?;
        let outcome = done.outcome.into_iter();
        Ok(Committed {
            outcome: outcome.map(|(released, _)| released).collect(),
            written: done.written,
        })
    }

    /// As [`Ipam::release_held`]; each takes along the companion at its place, if there is one.
    pub async fn release_with(
        &self,
        looks: &[(String, Vec<ReleaseAddress>)],
        companions: &[Option<Companion>],
        now: Timestamp,
    ) -> Result<Committed<Vec<(Released, Accompanied)>>, AssignError> {
        let done = self
            .commit(now, |draft| release::release_with(draft, looks, companions))
            .await?;
        let written = done.written;
        let outcome = done.outcome.into_iter();
        Ok(Committed {
            outcome: outcome
                .map(|(released, laid)| (released, laid.done(&written)))
                .collect(),
            written,
        })
    }

    /// Frees single addresses, each only if handle and sequence number are those that were looked at.
    pub async fn release_ips(
        &self,
        wanted: &[ReleaseAddress],
        now: Timestamp,
    ) -> Result<Committed<Released>, AssignError> {
        self.commit(now, |draft| release::release_addresses(draft, wanted))
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
        now: Timestamp,
    ) -> Result<Committed<HostReleased>, AssignError> {
        self.commit(now, |draft| release::release_host(draft, node, only_empty))
            .await
    }

    /// Gives up a block of the node's that is empty and still as it was looked at; whether it was.
    pub async fn release_block(
        &self,
        cidr: IpNet,
        sequence_number: u64,
        now: Timestamp,
    ) -> Result<Committed<bool>, AssignError> {
        self.commit(now, |draft| {
            release::release_block(draft, &self.node, cidr, sequence_number)
        })
        .await
    }

    /// The node's blocks as they are remembered, without asking the store; `None` while nothing is.
    pub fn own_blocks(&self) -> Option<Vec<IPAMBlockSpec>> {
        let memory = self.remembered();
        let host = block::host_affinity(&self.node);
        let own = |view: &Arc<View>| {
            view.blocks_of(&host)
                .map(|(_, found)| found.spec.clone())
                .collect()
        };
        memory.view.as_ref().map(own)
    }

    /// The node's claims on blocks that it is not known to own, as they are remembered.
    pub fn lone_claims(&self) -> Vec<(String, IpNet, Version)> {
        let memory = self.remembered();
        let lone = |view: &Arc<View>| view.lone_claims(&self.node);
        memory.view.as_ref().map(lone).unwrap_or_default()
    }

    /// The objects of which something is remembered between calls: pools, rules, own blocks and the handles in them. Empty while nothing
    /// is.
    pub fn remembered_keys(&self) -> Vec<Key> {
        let memory = self.remembered();
        let view = memory.view.iter();
        view.flat_map(|view| view.keys().cloned()).collect()
    }

    /// The rules for cool-down as they are remembered, at this time.
    pub fn cooldown(&self, now: Timestamp) -> Cooldown {
        let memory = self.remembered();
        let rules = memory.view.as_ref().map(|view| view.config().clone());
        Cooldown::of(&rules.unwrap_or_default(), now)
    }

    /// Sees to it that the node has the tunnel address it should have: see [`TunnelRequest`].
    ///
    /// Answers the address to be written into the Node object. Whatever else is held is to be released by
    /// [`Ipam::release_ips`] after that.
    pub async fn ensure_tunnel_address(
        &self,
        request: &TunnelRequest,
    ) -> Result<Committed<TunnelAddress>, AssignError> {
        self.commit(request.now, |draft| {
            tunnel::ensure(draft, &self.node, request)
        })
        .await
    }

    /// Takes in a change the caller's watch delivered: the next decision does not meet a conflict, and heeds what became of
    /// a pool. Who does not watch pools calls [`Ipam::forget`] before a decision that must.
    pub fn observe(&self, change: &Change) {
        let mut memory = self.remembered();
        let concerns = |view: &Arc<View>| view.concerns(&self.node, change);
        // Of what is not known yet everything may count.
        if !memory.view.as_ref().is_none_or(concerns) {
            return;
        }
        if let Some(view) = memory.view.as_mut() {
            Arc::make_mut(view).follow(change);
        }
        // A call that begins now takes the view up after this.
        if self.turn.try_lock().is_none() {
            memory.missed.insert(change.key().clone(), change.clone());
        }
    }

    /// From now on no block that overlaps one of these ranges is claimed, taken over or borrowed from: what others have
    /// there may not stand in the store.
    pub fn avoid(&self, ranges: Vec<IpNet>) {
        *self.doubtful() = ranges.into();
    }

    fn doubtful(&self) -> MutexGuard<'_, Arc<[IpNet]>> {
        // Nothing panics while it is held.
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is remembered; the next call reads everything.
    pub fn forget(&self) {
        let mut memory = self.remembered();
        memory.view = None;
        memory.forgotten = true;
    }

    /// From now on the store counts as it is, though it lost what was written before.
    pub fn accept(&self) {
        *self.diverged() = None;
        self.forget();
    }

    fn diverged(&self) -> MutexGuard<'_, Option<StoreError>> {
        // Nothing panics while it is held.
        self.diverged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self) -> MutexGuard<'_, Memory> {
        // Nothing panics while it is held; what is remembered may be wrong anyway.
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides and writes until nobody was quicker.
    async fn commit<T>(
        &self,
        now: Timestamp,
        decide: impl Fn(&mut Draft<'_>) -> Result<T, Stop>,
    ) -> Result<Committed<T>, AssignError> {
        let _turn = self.turn.lock().await;
        // Asked once it is this call's turn: the one before may have found it out.
        let diverged = self.diverged().clone();
        if let Some(error) = diverged {
            return Err(AssignError::Store(error));
        }
        self.settle().await?;
        let remembered = self.remembered().take_up();
        let mut view = match remembered {
            Some(view) => view,
            None => self.read_all().await?,
        };
        let doubtful = Arc::clone(&self.doubtful());
        let mut written = Vec::new();
        let mut refused = RefusedKeys::new();
        for _ in 0..ATTEMPTS_MAX {
            let decided = {
                let mut draft = Draft::new(&view, &doubtful, now).without(&refused);
                decide(&mut draft).map(|outcome| {
                    let companions = draft.companions();
                    (outcome, companions, draft.into_plan(self.store.folds()))
                })
            };
            let (outcome, companions, plan) = match decided {
                Ok(decided) => decided,
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Halt(Halt::Widen(extent))) => {
                    view = self.widened(&view, extent).await?;
                    continue;
                }
                Err(Stop::Halt(Halt::Read(key))) => {
                    let current = self.store.get(&key).await?;
                    Arc::make_mut(&mut view).learn(&key, current.as_ref());
                    continue;
                }
            };
            if plan.is_empty() {
                return Ok(self.remember(view, Committed { outcome, written }));
            }
            match self.store.commit(plan.clone()).await {
                Ok(changes) => {
                    follow(&mut view, &changes);
                    written.extend(changes);
                    return Ok(self.remember(view, Committed { outcome, written }));
                }
                Err(Failed { done, error }) => {
                    follow(&mut view, &done);
                    let StoreError::Conflict { key, current } = error else {
                        self.note_unsettled(&plan, &done, &error);
                        self.forget();
                        return Err(AssignError::Store(error));
                    };
                    written.extend(done);
                    if let Some(error) = lost_write(&plan, &key, current.as_deref()) {
                        *self.diverged() = Some(error.clone());
                        return Err(AssignError::Store(error));
                    }
                    if companions.contains(&key) {
                        refused.insert(key, current.map(|current| *current));
                    } else {
                        Arc::make_mut(&mut view).learn(&key, current.as_deref());
                    }
                }
            }
        }
        self.forget();
        Err(AssignError::Contended {
            attempts: ATTEMPTS_MAX,
        })
    }

    /// After an answer that did not come, the blocks that were to be written may still be.
    fn note_unsettled(&self, plan: &Plan, done: &[Change], error: &StoreError) {
        if !matches!(error, StoreError::Unavailable(_)) {
            return;
        }
        let blocks = plan.ops().filter(|op| {
            let writes = !matches!(op, Op::Check { .. });
            writes && op.key().kind == Kind::IPAMBlock
        });
        let mut unsettled = self.unsettled();
        for op in blocks {
            let stands = done.iter().rev().find(|change| change.key() == op.key());
            let found = match (stands, op) {
                (Some(change), _) => Unsettled::Stands(change.version().clone()),
                (None, op) => match (op.expect(), op) {
                    (Expect::Version(version), _) => Unsettled::Stands(version.clone()),
                    (_, Op::Put { value, .. }) => Unsettled::Made(value.clone()),
                    _ => continue,
                },
            };
            unsettled.entry(op.key().clone()).or_insert(found);
        }
    }

    /// Makes sure that writes whose answers did not come have been done, or will not be: each block that still stands
    /// as they expect it is moved on, and one that is expected not to be there is made. Otherwise an address could be taken
    /// after its handle was released.
    async fn settle(&self) -> Result<(), AssignError> {
        loop {
            let first = self
                .unsettled()
                .first_key_value()
                .map(|(key, found)| (key.clone(), found.clone()));
            let Some((key, found)) = first else {
                return Ok(());
            };
            match found {
                Unsettled::Stands(version) => self.move_on(&key, &version).await?,
                // Step by step it is made without an address, and found by its name.
                Unsettled::Made(_) if !self.store.folds() => {}
                Unsettled::Made(value) => self.make_empty(&key, &value).await?,
            }
            self.unsettled().remove(&key);
        }
    }

    /// Makes the block of a claim without the addresses that the claim was to take of it. The claim stays pending, as after
    /// a crash.
    async fn make_empty(&self, key: &Key, value: &Bytes) -> Result<(), StoreError> {
        let Ok(Object::IPAMBlock(mut made)) = Object::decode(key, value) else {
            return Ok(());
        };
        let all: Vec<usize> = (0..made.spec.allocations.len()).collect();
        block::free(&mut made.spec, &all);
        made.spec.unallocated = all;
        let affinity = Draft::pending_affinity(&self.node, made.spec.cidr);
        let put = |object: Object| Op::Put {
            key: object.key(),
            value: Bytes::from(object.encode()),
            expect: Expect::Absent,
        };
        let steps = [Object::BlockAffinity(affinity), Object::IPAMBlock(made)].map(put);
        for step in steps {
            match self.store.write(step).await {
                // It stands there: what was to make it comes too late, or came.
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    async fn move_on(&self, key: &Key, expected: &Version) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.store.get(key).await? else {
                return Ok(());
            };
            if found.version != *expected {
                return Ok(());
            }
            let Ok(Object::IPAMBlock(mut block)) = Object::decode(key, &found.value) else {
                return Ok(());
            };
            block.spec.sequence_number += 1;
            let put = Op::Put {
                key: key.clone(),
                value: Bytes::from(Object::IPAMBlock(block).encode()),
                expect: Expect::Version(found.version),
            };
            match self.store.write(put).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    fn unsettled(&self) -> MutexGuard<'_, BTreeMap<Key, Unsettled>> {
        // Nothing panics while it is held.
        self.unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// As much as `extent`, read anew.
    async fn widened(&self, known: &View, extent: Extent) -> Result<Arc<View>, AssignError> {
        if extent == Extent::All {
            let mut all = self.read_all().await?;
            Arc::make_mut(&mut all).adopt_handles(known);
            return Ok(all);
        }
        let list = |kind| async move { self.store.list_since(kind, &known.seen(kind)).await };
        let (pools, rules) = try_join(list(Kind::IPPool), list(Kind::IPAMConfig)).await?;
        // A block that was made under another cut of a pool, and found sound, is older than the pool as it is now. That the
        // pool is still so, the plan tests.
        let mut seen = known.seen(Kind::IPAMBlock);
        seen.extend(pools.items.iter().map(|pool| pool.version.clone()));
        let seen_affinities = known.seen(Kind::BlockAffinity);
        let (blocks, affinities) = try_join(
            self.store.names_since(Kind::IPAMBlock, &seen),
            self.store
                .names_since(Kind::BlockAffinity, &seen_affinities),
        )
        .await?;
        let listed = pools.items.iter().chain(&rules.items);
        let (mut view, missing) = View::named(listed, &blocks, &affinities, known, &self.node);
        for key in missing {
            view.learn(&key, self.store.get(&key).await?.as_ref());
        }
        Ok(Arc::new(view))
    }

    async fn read_all(&self) -> Result<Arc<View>, AssignError> {
        let mut items = Vec::new();
        for kind in KINDS {
            items.extend(self.store.list(kind, &Scope::All).await?.items);
        }
        Ok(Arc::new(View::full(&items)))
    }

    fn remember<T>(&self, mut view: Arc<View>, committed: Committed<T>) -> Committed<T> {
        let mut memory = self.remembered();
        // If nothing else came in between, this frees the only other reference and nothing is copied.
        memory.view = None;
        let missed = std::mem::take(&mut memory.missed);
        if !memory.forgotten {
            let known = Arc::make_mut(&mut view);
            for change in missed.values() {
                known.follow(change);
            }
            known.narrow(&self.node);
            memory.view = Some(view);
        }
        drop(memory);
        committed
    }
}

impl Memory {
    /// What is known; what comes in from now on is kept for what the call will leave.
    fn take_up(&mut self) -> Option<Arc<View>> {
        self.missed.clear();
        self.forgotten = false;
        self.view.clone()
    }
}

/// Whether an object stands as it was before what was read of it: the store is an older copy, though it may have counted
/// further since. From then on nothing is decided over it.
fn lost_write(plan: &Plan, key: &Key, current: Option<&KeyValue>) -> Option<StoreError> {
    let mut ops = plan.ops().filter(|op| op.key() == key);
    let known = ops.find_map(|op| match op.expect() {
        Expect::Version(known) => Some(known),
        Expect::Any | Expect::Absent | Expect::Own => None,
    })?;
    if current?.version.order(known) != Order::Older {
        return None;
    }
    let wanted = known.number()?.into();
    Some(StoreError::Diverged { wanted })
}

fn follow(view: &mut Arc<View>, changes: &[Change]) {
    let known = Arc::make_mut(view);
    // Companions are not IPAM's to remember.
    let is_ipams = |change: &&Change| change.key().kind != Kind::WorkloadEndpoint;
    for change in changes.iter().filter(is_ipams) {
        known.follow(change);
    }
}
