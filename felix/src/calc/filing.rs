//! Filing of facts: each goes to the node of the graph it belongs to, which says what must be looked at again.

use api::bgp::{BGPConfiguration, BGPPeer};
use api::bgp_filter::BGPFilter;
use api::endpoint::WorkloadEndpoint;
use api::ipam::{BlockAffinity, IPAMBlock};
use api::key::Key;
use api::node::Node;
use api::pool::IPPool;
use api::service::{EndpointSlice, Service};
use ipnet::IpNet;

use super::Graph;
use super::host::Host;
use super::peers::{Peer, options};
use super::settings::BlocksFrom;

impl Graph {
    pub(super) fn update_pool(&mut self, key: &Key, pool: Option<&IPPool>) {
        let ranges = self.pools.update(key, pool.map(|pool| &pool.spec));
        if !ranges.is_empty() {
            self.dirty.local = true;
            self.dirty.rules = true;
            self.dirty.peers = true;
        }
        for range in ranges {
            self.dirty
                .prefixes
                .extend(self.blocks.prefixes_inside(&range));
            self.dirty
                .prefixes
                .extend(self.bgp_routes.prefixes_inside(&range));
            self.dirty.prefixes.extend(self.addrs_inside(&range));
        }
    }

    pub(super) fn update_node(&mut self, key: &Key, node: Option<&Node>) {
        let new = node.map(|node| Host::of(&key.name, &node.spec, &node.metadata));
        if self.hosts.get(&key.name) == new.as_ref() {
            return;
        }
        match new {
            Some(new) => self.hosts.insert(key.name.clone(), new),
            None => self.hosts.remove(&key.name),
        };
        self.dirty.prefixes.extend(self.blocks.of_node(&key.name));
        self.dirty.local = true;
        self.dirty.elements = true;
        self.dirty.tunnels = true;
        self.dirty.peers = true;
    }

    pub(super) fn update_bgp_config(&mut self, key: &Key, config: Option<&BGPConfiguration>) {
        self.dirty.rules = true;
        match config {
            Some(config) => {
                let spec = config.spec.clone();
                self.bgp_configs.insert(key.name.clone(), spec);
            }
            None => {
                self.bgp_configs.remove(&key.name);
            }
        }
        self.dirty.peers = true;
    }

    pub(super) fn update_bgp_peer(&mut self, key: &Key, peer: Option<&BGPPeer>) {
        match peer {
            Some(peer) => {
                let peer = Peer {
                    created: peer.metadata.creation_timestamp.clone(),
                    options: options::of(&peer.metadata.annotations),
                    spec: peer.spec.clone(),
                };
                self.bgp_peers.insert(key.clone(), peer);
            }
            None => {
                self.bgp_peers.remove(key);
            }
        }
        self.dirty.peers = true;
    }

    pub(super) fn update_bgp_filter(&mut self, key: &Key, filter: Option<&BGPFilter>) {
        match filter {
            Some(filter) => {
                let spec = filter.spec.clone();
                self.bgp_filters.insert(key.name.clone(), spec);
            }
            None => {
                self.bgp_filters.remove(&key.name);
            }
        }
        self.dirty.peers = true;
    }

    pub(super) fn update_workload(&mut self, key: &Key, endpoint: Option<&WorkloadEndpoint>) {
        let ours = endpoint.filter(|endpoint| endpoint.spec.node == self.settings.node_name);
        let touched = self.workloads.update(key, ours);
        let has_peers = |peer: &Peer| !peer.spec.local_workload_selector.is_empty();
        self.dirty.peers |= !touched.ifnames.is_empty() && self.bgp_peers.values().any(has_peers);
        self.dirty.ifnames.extend(touched.ifnames);
        self.dirty.rules |= touched.rules;
        self.dirty.own_addresses |= !touched.addrs.is_empty();
        for addr in touched.addrs {
            self.dirty.prefixes.insert(IpNet::from(addr));
            self.dirty.neighbours.insert(addr);
        }
    }

    /// A node's ranges of Kubernetes, in the place of IPAM's blocks and of confirmed affinities to them.
    pub(super) fn update_pod_cidrs(&mut self, key: &Key, node: Option<&Node>) {
        if self.settings.blocks_from != BlocksFrom::PodCidrs {
            return;
        }
        let ranges = node.map(api::node::pod_cidrs).unwrap_or_default();
        let is_own = key.name == self.settings.node_name;
        let touched = self.blocks.update_pod_cidrs(key, &ranges, is_own);
        self.touch_ranges(touched);
    }

    pub(super) fn update_block(&mut self, key: &Key, block: Option<&IPAMBlock>) {
        let spec = block.map(|block| &block.spec);
        let touched = self.blocks.update(key, spec);
        self.touch_ranges(touched);
        let node = &self.settings.node_name;
        for addr in self.workloads.update_block(key, spec, node) {
            self.dirty.own_addresses = true;
            self.dirty.prefixes.insert(IpNet::from(addr));
            self.dirty.neighbours.insert(addr);
        }
    }

    pub(super) fn update_affinity(&mut self, key: &Key, affinity: Option<&BlockAffinity>) {
        let node = &self.settings.node_name;
        let ours = affinity
            .map(|affinity| &affinity.spec)
            .filter(|spec| spec.node == *node && spec.affinity_type == "host");
        let touched = self.blocks.update_affinity(key, ours);
        self.touch_ranges(touched);
    }

    pub(super) fn update_service(&mut self, key: &Key, service: Option<&Service>) {
        let touched = self.services.update_service(key, service);
        self.dirty.services.extend(touched);
    }

    pub(super) fn update_slice(&mut self, key: &Key, slice: Option<&EndpointSlice>) {
        let node = &self.settings.node_name;
        let touched = self.services.update_slice(key, slice, node);
        self.dirty.services.extend(touched);
    }

    /// Blocks and affinities decide about themselves and about whether addresses inside them are announced.
    fn touch_ranges(&mut self, ranges: impl IntoIterator<Item = IpNet>) {
        for range in ranges {
            self.dirty.own_addresses = true;
            self.dirty.prefixes.insert(range);
            self.dirty.prefixes.extend(self.addrs_inside(&range));
        }
    }

    /// This node's own addresses inside a range: of pods and of tunnels.
    fn addrs_inside(&self, range: &IpNet) -> Vec<IpNet> {
        let tunnels = self.local.tunnel_prefixes();
        self.workloads
            .addrs_inside(range)
            .chain(tunnels.filter(|addr| range.contains(addr)))
            .collect()
    }
}
