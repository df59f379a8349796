//! The calculation graph: objects, BGP routes and the host's own links into rows of the wanted kernel, the speaker's
//! configuration and the prefixes to announce.
//!
//! `handle_*` files each fact with the node it belongs to (pool, host, workload, block, service, bgp_route, underlay) and notes what
//! may follow from it; [`Graph::flush`] works the notes off in a fixed order.

mod bgp_route;
mod block;
mod changes;
mod device;
mod dirty;
mod family;
mod filing;
mod host;
mod local;
mod next_hop;
mod object;
mod origination;
mod peers;
mod pool;
mod problem;
mod route;
mod rules;
mod service;
mod settings;
#[cfg(test)]
mod tests;
mod tunnel;
mod underlay;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use api::bgp::BGPConfigurationSpec;
use api::bgp_filter::BGPFilterSpec;
use api::key::{Key, Kind};
use api::object::Object;
use bgp::config::Config;
use bgp::route::{Origination, Reachability, RouteChange};
use ipnet::IpNet;

use crate::desired::{ElementKey, Row, RowKey};
use crate::kernel::KernelEvent;
use crate::ownership::Ownership;
use crate::rules::Family;
use bgp_route::BgpRoutes;
use block::Blocks;
use changes::Changes;
pub use device::pod_neighbour;
use dirty::Dirty;
use family::PerFamily;
use host::Host;
use local::Local;
pub use next_hop::NextHopLoss;
use next_hop::NextHops;
use object::Objects;
use peers::{Inputs, Peer, Peers};
pub use peers::{Secret, SecretRef};
use pool::Pools;
pub use problem::{Problem, Reason, Subject};
use route::{Facts, Plan};
use service::Services;
pub use settings::{
    BlocksFrom, ClusterRoutes, KernelFacts, LearnedRoutes, Listen, NatExclusions, Settings,
};
use tunnel::Tunnels;
use underlay::{Change, Underlay};
use workload::Workloads;

/// The calculation graph of one node.
///
/// Facts go in through `handle_*` in any order and number; [`flush`](Self::flush) works them off; the `poll_*` outputs
/// then hold what changed, at most one value a key. Outputs depend on the present facts only, never on their order.
/// Nothing comes out before [`in_sync`](Self::in_sync).
pub struct Graph {
    settings: Settings,
    ownership: Ownership,
    synced: BTreeSet<Kind>,
    /// Kinds of [`Self::ON_DEMAND`] that the datastore refuses to list, and its words.
    refused: BTreeMap<Kind, Arc<str>>,
    dirty: Dirty,
    // Facts.
    invalid: BTreeMap<Key, Arc<str>>,
    pools: Pools,
    hosts: BTreeMap<String, Host>,
    workloads: Workloads,
    blocks: Blocks,
    bgp_routes: BgpRoutes,
    bgp_configs: BTreeMap<String, BGPConfigurationSpec>,
    bgp_peers: BTreeMap<Key, Peer>,
    bgp_filters: BTreeMap<String, BGPFilterSpec>,
    passwords: BTreeMap<SecretRef, Secret>,
    services: Services,
    /// What BGPConfiguration says of pools' routes.
    of_bgp: Option<ClusterRoutes>,
    /// What it says is the metric of normal routes.
    normal: PerFamily<u32>,
    /// This node is drained of what others have as well.
    withdraws: bool,
    underlay: Underlay,
    /// Device → address that it is to have before this node's object names it.
    tunnel_addrs: BTreeMap<&'static str, IpAddr>,
    // What follows from them.
    started: bool,
    local: Local,
    /// Destination → the key of its planned route.
    routes: BTreeMap<IpNet, RowKey>,
    skipped: BTreeMap<IpNet, Reason>,
    neighbours: BTreeMap<IpAddr, RowKey>,
    tunnels: Tunnels,
    elements: BTreeSet<ElementKey>,
    peers: Peers,
    next_hops: NextHops,
    objects: Objects,
    // Outputs.
    rows: Changes<RowKey, Row>,
    originations: Changes<IpNet, Origination>,
    config_touched: bool,
    /// As the reader was last given it.
    config_given: Option<Config>,
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph")
            .field("node", &self.settings.node_name)
            .field("dirty", &self.dirty)
            .finish_non_exhaustive()
    }
}

impl Graph {
    /// Kinds of object that must be listed completely before anything comes out.
    pub const KINDS: [Kind; 8] = [
        Kind::IPPool,
        Kind::Node,
        Kind::BGPConfiguration,
        Kind::BGPPeer,
        Kind::BGPFilter,
        Kind::WorkloadEndpoint,
        Kind::IPAMBlock,
        Kind::BlockAffinity,
    ];

    /// Kinds of object that are looked at only where ranges of Services' addresses are configured: those may be announced once all
    /// objects of these kinds were listed, and until then nothing else waits.
    pub const ON_DEMAND: [Kind; 2] = [Kind::Service, Kind::EndpointSlice];

    /// A graph that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        let mut workloads = Workloads::default();
        workloads.count_floating(settings.floating_ips);
        Self {
            ownership: settings.ownership(),
            settings,
            synced: BTreeSet::new(),
            refused: BTreeMap::new(),
            dirty: Dirty::default(),
            invalid: BTreeMap::new(),
            pools: Pools::default(),
            hosts: BTreeMap::new(),
            workloads,
            blocks: Blocks::default(),
            bgp_routes: BgpRoutes::default(),
            bgp_configs: BTreeMap::new(),
            bgp_peers: BTreeMap::new(),
            bgp_filters: BTreeMap::new(),
            passwords: BTreeMap::new(),
            services: Services::default(),
            of_bgp: None,
            normal: PerFamily::default(),
            withdraws: false,
            underlay: Underlay::default(),
            tunnel_addrs: BTreeMap::new(),
            started: false,
            local: Local::default(),
            routes: BTreeMap::new(),
            skipped: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            tunnels: Tunnels::default(),
            elements: BTreeSet::new(),
            peers: Peers::default(),
            next_hops: NextHops::default(),
            objects: Objects::default(),
            rows: Changes::default(),
            originations: Changes::default(),
            config_touched: false,
            config_given: None,
        }
    }

    /// An object was written, or is gone (`None`). Kinds the graph has no use for, and objects of another kind than the
    /// key's, are ignored.
    pub fn handle_update(&mut self, key: &Key, object: Option<&Object>) {
        self.invalid.remove(key);
        macro_rules! spec {
            ($variant:ident) => {
                match object {
                    Some(Object::$variant(object)) => Some(object),
                    Some(_) => return,
                    None => None,
                }
            };
        }
        match key.kind {
            Kind::IPPool => self.update_pool(key, spec!(IPPool)),
            Kind::Node => {
                let node = spec!(Node);
                self.update_pod_cidrs(key, node);
                self.update_node(key, node);
            }
            Kind::BGPConfiguration => self.update_bgp_config(key, spec!(BGPConfiguration)),
            Kind::BGPPeer => self.update_bgp_peer(key, spec!(BGPPeer)),
            Kind::BGPFilter => self.update_bgp_filter(key, spec!(BGPFilter)),
            Kind::WorkloadEndpoint => self.update_workload(key, spec!(WorkloadEndpoint)),
            Kind::Service => self.update_service(key, spec!(Service)),
            Kind::EndpointSlice => self.update_slice(key, spec!(EndpointSlice)),
            Kind::IPAMBlock | Kind::BlockAffinity
                if self.settings.blocks_from == BlocksFrom::PodCidrs => {}
            Kind::IPAMBlock => self.update_block(key, spec!(IPAMBlock)),
            Kind::BlockAffinity => self.update_affinity(key, spec!(BlockAffinity)),
            _ => {}
        }
    }

    /// An object cannot be read or does not validate: it counts as absent, and [`problems`](Self::problems) says why.
    pub fn handle_invalid(&mut self, key: &Key, reason: Arc<str>) {
        self.handle_update(key, None);
        self.invalid.insert(key.clone(), reason);
    }

    /// What is known of a secret; `None` when it is not looked at (any more). Sessions that name it are held down until
    /// its password is known.
    pub fn handle_password(&mut self, secret: &SecretRef, known: Option<Secret>) {
        if self.passwords.get(secret) == known.as_ref() {
            return;
        }
        match known {
            Some(known) => self.passwords.insert(secret.clone(), known),
            None => self.passwords.remove(secret),
        };
        self.dirty.peers = true;
    }

    /// Whether each secret that objects name was looked at. Before that
    /// [`poll_bgp_config`](Self::poll_bgp_config) holds down sessions that may have a password: whoever passes it on
    /// to sessions that stand waits for this.
    pub fn passwords_looked_at(&self) -> bool {
        let mut wanted = self.wanted_passwords().into_iter();
        wanted.all(|secret| self.passwords.contains_key(&secret))
    }

    /// The secrets that objects name: what [`handle_password`](Self::handle_password) should be given for.
    pub fn wanted_passwords(&self) -> BTreeSet<SecretRef> {
        peers::wanted_passwords(&self.bgp_configs, &self.bgp_peers)
    }

    /// All objects of this kind that existed at the start have been given.
    pub fn handle_in_sync(&mut self, kind: Kind) {
        self.synced.insert(kind);
        self.refused.remove(&kind);
        self.dirty.all_services |= Self::ON_DEMAND.contains(&kind);
    }

    /// The datastore refuses to list a kind of [`ON_DEMAND`](Self::ON_DEMAND), in its words, or no longer does (`None`). What was
    /// known of it stays, and nothing waits for it.
    pub fn handle_refused(&mut self, kind: Kind, why: Option<Arc<str>>) {
        match why {
            Some(why) if Self::ON_DEMAND.contains(&kind) => drop(self.refused.insert(kind, why)),
            Some(_) | None => drop(self.refused.remove(&kind)),
        }
    }

    /// The address that this node's tunnel device is to have before this node's object names one: others send through the tunnel as
    /// soon as it does, and Linux takes no IPv4 packet in on a device without address that checks the way back.
    pub fn handle_tunnel_addr(&mut self, device: &'static str, addr: Option<IpAddr>) {
        let before = match addr {
            Some(addr) => self.tunnel_addrs.insert(device, addr),
            None => self.tunnel_addrs.remove(device),
        };
        self.dirty.local |= before != addr;
    }

    /// The best BGP route of a prefix changed.
    pub fn handle_bgp_route(&mut self, change: RouteChange) {
        self.dirty.prefixes.extend(self.bgp_routes.update(change));
    }

    /// Routes of the speaker began (`true`) or ceased to use a next hop. Each beginning is answered by
    /// [`poll_next_hop`](Self::poll_next_hop) once the host is known.
    pub fn handle_next_hop_watch(&mut self, next_hop: IpAddr, used: bool) {
        self.next_hops.watch(next_hop, used);
    }

    /// The host's links, addresses and routes changed. Every event may be given, also about the agent's own rows.
    pub fn handle_kernel_event(&mut self, event: &KernelEvent) {
        if self.underlay.update(&self.ownership, event) == Change::Some {
            self.dirty.underlay = true;
        }
    }

    /// The host is being read again: what is not given until [`handle_kernel_in_sync`](Self::handle_kernel_in_sync) is
    /// gone by then.
    pub fn handle_kernel_resync(&mut self) {
        self.underlay.resync_begin();
    }

    /// All links, addresses and routes of the host have been given.
    pub fn handle_kernel_in_sync(&mut self) {
        if self.underlay.resync_end() == Change::Some {
            self.dirty.underlay = true;
        }
    }

    /// Other settings of the same node: outputs become what they would be had they been these from the start. Which rows of
    /// the kernel are the agent's ([`Settings::ownership`]), the backend and the node's name stay as they were.
    pub fn handle_settings(&mut self, settings: Settings) {
        let before = std::mem::replace(&mut self.settings, settings);
        self.settings.node_name = before.node_name.clone();
        self.settings.backend = before.backend;
        self.settings.interface_prefixes = before.interface_prefixes.clone();
        self.settings.device_route_protocol = before.device_route_protocol;
        self.settings.external_routes = before.external_routes;
        self.workloads.count_floating(self.settings.floating_ips);
        if self.settings.source_spoofing != before.source_spoofing {
            self.dirty
                .ifnames
                .extend(self.workloads.spoofing().cloned());
        }
        if self.started {
            for row in device::host_sysctls(&before) {
                self.rows.put(row.key(), None);
            }
            self.dirty.everything();
        }
    }

    /// Whether all facts of the start are known: what the next flush does not want may be deleted.
    pub fn in_sync(&self) -> bool {
        self.underlay.is_synced() && Self::KINDS.iter().all(|kind| self.synced.contains(kind))
    }

    /// Works off what was handled since the last flush.
    pub fn flush(&mut self) {
        if !self.in_sync() {
            return;
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        if !self.started {
            self.started = true;
            dirty.everything();
        }
        self.flush_underlay(&mut dirty);
        self.flush_local(&mut dirty);
        self.flush_services(&mut dirty);
        self.flush_owner(&mut dirty);
        self.flush_peers(&mut dirty);
        self.flush_drain(&mut dirty);
        self.flush_next_hops(&mut dirty);
        self.flush_prefixes(&dirty);
        self.flush_tunnels(&dirty);
        self.flush_rules(&dirty);
        self.flush_devices(&dirty);
    }

    /// A row of the wanted kernel that changed; `None` in the pair when it is no longer wanted.
    pub fn poll_desired(&mut self) -> Option<(RowKey, Option<Row>)> {
        self.rows.poll()
    }

    /// The speaker's configuration, when it changed. Nothing until the node has an address, or when it does not speak
    /// BGP; a node that loses its addresses is left with a configuration without peers.
    pub fn poll_bgp_config(&mut self) -> Option<Config> {
        let touched = std::mem::take(&mut self.config_touched);
        if !touched || self.peers.config == self.config_given {
            return None;
        }
        self.config_given.clone_from(&self.peers.config);
        self.config_given.clone()
    }

    /// A prefix to announce, or no longer to announce.
    pub fn poll_originate(&mut self) -> Option<(IpNet, Option<Origination>)> {
        self.originations.poll()
    }

    /// A next hop the speaker asked about: what the host's routes say of it, at first and when it changed.
    pub fn poll_next_hop(&mut self) -> Option<(IpAddr, Reachability)> {
        self.next_hops.poll()
    }

    /// The next hops in use that cannot be reached, and why.
    pub fn lost_next_hops(&self) -> impl Iterator<Item = (IpAddr, &NextHopLoss)> {
        self.next_hops.lost()
    }

    /// Whether every prefix this node announces has been polled: from then on the speaker may send End-of-RIB.
    pub fn originations_complete(&self) -> bool {
        let mut kinds = Self::ON_DEMAND.iter();
        let services_known = !self.services.ranges().ask_for_services()
            || kinds.all(|kind| self.synced.contains(kind) || self.refused.contains_key(kind));
        self.started && self.originations.is_read() && services_known
    }

    /// What is skipped, and why, sorted.
    pub fn problems(&self) -> Vec<Problem> {
        let invalid = self.invalid.iter().map(|(key, why)| Problem {
            subject: Subject::Object(key.clone()),
            field: "",
            reason: Reason::Invalid(why.clone()),
        });
        let skipped = self.skipped.iter().map(|(prefix, reason)| Problem {
            subject: Subject::Prefix(*prefix),
            field: "",
            reason: reason.clone(),
        });
        let lost = self.next_hops.lost().map(|(next_hop, loss)| Problem {
            subject: Subject::NextHop(next_hop),
            field: "",
            reason: Reason::NextHopLost(loss.clone()),
        });
        let without_pool = self.blocks.own_without_pool(&self.pools);
        let without_pool = without_pool.map(|block| Problem {
            subject: Subject::Prefix(*block),
            field: "",
            reason: Reason::NoPool,
        });
        let asks = self.services.ranges().ask_for_services();
        let refused = self.refused.iter().filter(|_| asks);
        let refused = refused.map(|(kind, why)| Problem {
            subject: Subject::Kind(*kind),
            field: "",
            reason: Reason::KindRefused { why: why.clone() },
        });
        let mut all: Vec<Problem> = invalid
            .chain(refused)
            .chain(without_pool)
            .chain(skipped)
            .chain(lost)
            .chain(self.pools.problems())
            .chain(self.workloads.problems())
            .chain(self.pods_in_ranges_of_others())
            .chain(self.blocks.problems(&self.settings.node_name))
            .chain(self.tunnels.problems.iter().cloned())
            .chain(self.peers.problems.iter().cloned())
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// Ranges of Kubernetes may go to other nodes where a cluster's Nodes were lost and registered anew; IPAM's blocks know the
    /// addresses that pods of another node have in them.
    fn pods_in_ranges_of_others(&self) -> Vec<Problem> {
        if self.settings.blocks_from != BlocksFrom::PodCidrs {
            return Vec::new();
        }
        let of_another = |addr: IpNet| {
            let (range, node) = self.blocks.owner_of_address(&addr)?;
            let address = addr.addr();
            (node != self.settings.node_name).then_some(())?;
            Some(Problem {
                subject: Subject::Object(self.workloads.key_at(&address)?.clone()),
                field: "spec.ipNetworks",
                reason: Reason::RangeOfAnother {
                    address,
                    range,
                    node: node.to_owned(),
                },
            })
        };
        self.workloads.addrs().filter_map(of_another).collect()
    }

    /// MTU for pods: the smallest of the tunnels in use, else the host's; `None` while the host's is not known.
    pub fn pod_mtu_bytes(&self) -> Option<u32> {
        self.local.pod_mtu_bytes()
    }

    /// Whether routes to other nodes' pods come from blocks in every pool, so that no session of BGP is needed to reach
    /// them; false until that is known, and while there is no pool.
    pub fn blocks_lead_to_pods(&self) -> bool {
        self.in_sync()
            && self
                .pools
                .all_routed_by_blocks(self.settings.cluster_routes)
    }

    /// Its settings.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Working off, in the order of [`Graph::flush`].
impl Graph {
    fn flush_underlay(&mut self, dirty: &mut Dirty) {
        if dirty.underlay {
            dirty.local = true;
            if self.underlay.flush() == Change::Some {
                dirty.next_hops = true;
            }
        }
    }

    fn flush_local(&mut self, dirty: &mut Dirty) {
        if !dirty.local {
            return;
        }
        let local = Local::derive(&local::Inputs {
            settings: &self.settings,
            hosts: &self.hosts,
            pools: &self.pools,
            underlay: &self.underlay,
            tunnel_addrs: &self.tunnel_addrs,
        });
        if local != self.local {
            self.local = local;
            dirty.all_prefixes = true;
            dirty.own_addresses = true;
            dirty.rules = true;
            dirty.tunnels = true;
        }
    }

    /// Routes and originations.
    fn flush_prefixes(&mut self, dirty: &Dirty) {
        let mut prefixes = dirty.prefixes.clone();
        if dirty.all_prefixes || dirty.bgp_prefixes {
            prefixes.extend(self.bgp_routes.prefixes());
        }
        if dirty.all_prefixes {
            prefixes.extend(self.blocks.prefixes());
            prefixes.extend(self.workloads.addrs());
            prefixes.extend(self.local.tunnel_prefixes());
            prefixes.extend(self.routes.keys());
            prefixes.extend(self.originations.keys());
            prefixes.extend(self.services.prefixes());
        }
        let facts = Facts {
            settings: &self.settings,
            remote_protocol: self.ownership.remote_protocol(),
            local: &self.local,
            pools: &self.pools,
            hosts: &self.hosts,
            workloads: &self.workloads,
            blocks: &self.blocks,
            bgp: &self.bgp_routes,
            underlay: &self.underlay,
            objects: &self.objects,
            services: &self.services,
            of_bgp: self.of_bgp,
            normal: self.normal,
            withdraws: self.withdraws,
        };
        for prefix in prefixes {
            self.originations.put(prefix, facts.originate(prefix));
            let (row, skipped) = match facts.plan(prefix) {
                Plan::Nothing => (None, None),
                Plan::Route(key, spec) => (Some(Row::Route(key, spec)), None),
                Plan::Instead(key, spec, reason) => (Some(Row::Route(key, spec)), Some(reason)),
                Plan::Skipped(reason) => (None, Some(reason)),
            };
            put_keyed(&mut self.rows, &mut self.routes, prefix, row);
            match skipped {
                Some(reason) => self.skipped.insert(prefix, reason),
                None => self.skipped.remove(&prefix),
            };
        }
    }

    fn flush_tunnels(&mut self, dirty: &Dirty) {
        if !dirty.tunnels {
            return;
        }
        let tunnels = Tunnels::derive(&self.settings, &self.local, &self.hosts);
        let old = std::mem::replace(&mut self.tunnels, tunnels);
        for key in old.rows.into_keys() {
            if !self.tunnels.rows.contains_key(&key) {
                self.rows.put(key, None);
            }
        }
        for (key, row) in &self.tunnels.rows {
            self.rows.put(key.clone(), Some(row.clone()));
        }
    }

    fn flush_rules(&mut self, dirty: &Dirty) {
        if !dirty.rules && !dirty.elements {
            return;
        }
        let facts = rules::Facts {
            settings: &self.settings,
            local: &self.local,
            pools: &self.pools,
            hosts: &self.hosts,
            workloads: &self.workloads,
            services: self.bgp_configs.get("default"),
            peers: self.peers.config.as_ref(),
            on_pods: &self.peers.on_pods,
        };
        let mut elements = BTreeSet::new();
        for family in Family::ALL {
            let table = facts.table(family);
            elements.extend(facts.elements(family, table.as_ref()));
            if dirty.rules {
                let row = table.map(|ruleset| Row::Rules(family, ruleset.into()));
                self.rows.put(RowKey::Rules(family), row);
            }
        }
        for gone in self.elements.difference(&elements) {
            self.rows.put(RowKey::Element(gone.clone()), None);
        }
        for new in elements.difference(&self.elements) {
            let row = Row::Element(new.clone());
            self.rows.put(row.key(), Some(row));
        }
        self.elements = elements;
    }

    /// Settings and neighbours of pods' devices.
    fn flush_devices(&mut self, dirty: &Dirty) {
        if dirty.host {
            for row in device::host_sysctls(&self.settings) {
                self.rows.put(row.key(), Some(row));
            }
        }
        for ifname in &dirty.ifnames {
            let wanted = self.workloads.has_device(ifname);
            let spoofs = self.settings.source_spoofing && self.workloads.has_sources(ifname);
            for row in device::device_settings(&self.settings, ifname, spoofs) {
                self.rows.put(row.key(), wanted.then_some(row));
            }
        }
        for addr in &dirty.neighbours {
            let row = device::neighbour(&self.workloads, *addr);
            put_keyed(&mut self.rows, &mut self.neighbours, *addr, row);
        }
    }

    /// How BGP next hops and peers behind gateways are reached.
    fn flush_next_hops(&mut self, dirty: &mut Dirty) {
        self.flush_objects(dirty);
        if dirty.next_hops {
            dirty.prefixes.extend(self.underlay.gatewayed());
            self.next_hops.review(&self.underlay);
        }
        self.next_hops.answer(&self.underlay);
    }

    fn flush_peers(&mut self, dirty: &mut Dirty) {
        let devices = dirty.next_hops || dirty.own_addresses;
        let concerned = dirty.peers || (self.peers.by_interface && devices);
        if !concerned {
            return;
        }
        let before = self.underlay.to_peers();
        self.derive_peers(dirty);
        if self.peers.by_interface && self.underlay.to_peers() != before {
            self.derive_peers(dirty);
        }
    }

    fn derive_peers(&mut self, dirty: &mut Dirty) {
        let mut peers = Peers::derive(&Inputs {
            settings: &self.settings,
            hosts: &self.hosts,
            pools: &self.pools,
            workloads: &self.workloads,
            blocks: &self.blocks,
            local: &self.local,
            underlay: &self.underlay,
            normal: self.normal,
            services: self.services.ranges(),
            configs: &self.bgp_configs,
            peers: &self.bgp_peers,
            filters: &self.bgp_filters,
            passwords: &self.passwords,
        });
        if peers.config.is_none() {
            peers.config = self.peers.config.take().map(|config| Config {
                peers: BTreeMap::new(),
                ..config
            });
        }
        let before: Vec<IpNet> = self.underlay.gatewayed().collect();
        if self.underlay.set_gateways(&peers.gateways) == Change::Some {
            dirty.prefixes.extend(before);
            dirty.next_hops = true;
        }
        self.flush_pods_ends(&peers, dirty);
        self.config_touched = true;
        self.peers = peers;
    }
}

/// Puts a row whose key may differ from the key of the row that was there for the same `at`.
fn put_keyed<K: Ord>(
    rows: &mut Changes<RowKey, Row>,
    keys: &mut BTreeMap<K, RowKey>,
    at: K,
    row: Option<Row>,
) {
    let key = row.as_ref().map(Row::key);
    let old = match &key {
        Some(key) => keys.insert(at, key.clone()),
        None => keys.remove(&at),
    };
    if let Some(old) = old.filter(|old| Some(old) != key.as_ref()) {
        rows.put(old, None);
    }
    if let Some(key) = key {
        rows.put(key, row);
    }
}
