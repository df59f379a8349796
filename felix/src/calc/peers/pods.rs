//! Peers that are pods of this node: BGPPeers with a `localWorkloadSelector`.
//!
//! The pod connects to an address that BGPConfiguration names for the purpose and that its device gets. Of several BGPPeers that
//! select a pod the first by name counts. Of the object only its AS numbers and its filters do; without a rule for what the pod
//! announces, nothing of it is taken.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::bgp::BGPPeerSpec;
use api::key::Key;
use bgp::config::{PeerConfig, RoutePolicy};
use bgp::types::Asn;
use ipnet::IpNet;

use super::super::Graph;
use super::super::dirty::Dirty;
use super::super::problem::Reason;
use super::super::underlay::Change;
use super::explicit::parse_selector;
use super::{Builder, DEFAULT_PORT, Inputs, Peers, Refusal, Remote, problem, refusal, session};
use crate::desired::{AddrKey, Row, RowKey};
use crate::rules::Family;

const SELECTOR: &str = "spec.localWorkloadSelector";

impl Graph {
    /// This node's addresses on the devices of pods that are peers, and the way to these.
    pub(in super::super) fn flush_pods_ends(&mut self, peers: &Peers, dirty: &mut Dirty) {
        let devices = peers.on_pods.iter();
        let devices = devices.map(|(pod, key)| (*pod, key.ifname.clone()));
        if self.underlay.set_pods(devices.collect()) == Change::Some {
            dirty.next_hops = true;
            dirty.rules = true;
        }
        let wanted: BTreeSet<_> = peers.on_pods.values().collect();
        let before: BTreeSet<_> = self.peers.on_pods.values().collect();
        for gone in before.difference(&wanted) {
            self.rows.put(RowKey::Addr((*gone).clone()), None);
        }
        for new in wanted.difference(&before) {
            let row = Row::Addr((*new).clone());
            self.rows.put(row.key(), Some(row));
        }
    }
}

impl Inputs<'_> {
    /// This node's address on pods' devices.
    fn pods_end(&self, family: Family) -> Option<IpAddr> {
        let config = self.global()?;
        match family {
            Family::V4 => config.local_workload_peering_ip_v4.map(IpAddr::V4),
            Family::V6 => config.local_workload_peering_ip_v6.map(IpAddr::V6),
        }
    }
}

impl Builder<'_> {
    pub(super) fn pods(&mut self) {
        let inputs = self.inputs;
        for (key, peer) in inputs.peers {
            if let Err(Refusal { field, reason }) = self.pods_of(key, &peer.spec) {
                self.problems.push(problem(key, field, reason));
            }
        }
    }

    fn pods_of(&mut self, key: &Key, spec: &BGPPeerSpec) -> Result<(), Refusal> {
        let inputs = self.inputs;
        let text = &spec.local_workload_selector;
        if text.is_empty() || !self.has_peer(spec, &inputs.settings.node_name, self.own)? {
            return Ok(());
        }
        let selector = parse_selector(SELECTOR, text)?;
        let asn = spec.as_number.filter(|asn| *asn != 0).ok_or_else(|| {
            let why = "missing: a pod's AS number must be known, 1 to 4294967295";
            refusal("spec.asNumber", Reason::Invalid(why.into()))
        })?;
        for (ifname, addr) in inputs.workloads.selected(&selector) {
            let family = Family::of(addr);
            let Some(end) = inputs.pods_end(family) else {
                let why = match family {
                    Family::V4 => {
                        "BGPConfiguration default has no spec.localWorkloadPeeringIPV4 to be the node's address on pods' devices: no IPv4 session"
                    }
                    Family::V6 => {
                        "BGPConfiguration default has no spec.localWorkloadPeeringIPV6 to be the node's address on pods' devices: no IPv6 session"
                    }
                };
                let reason = Reason::Invalid(why.into());
                self.problems.push(problem(key, SELECTOR, reason));
                continue;
            };
            let remote = Remote {
                address: addr,
                port: DEFAULT_PORT,
                named_port: None,
                asn: Asn(asn),
                cluster_id: None,
                passive: true,
            };
            if self.on_pods.contains_key(&addr) || !self.is_free(key, &remote) {
                continue;
            }
            let Some(config) = self.pods_session(key, spec, &remote)? else {
                continue;
            };
            self.taken.insert((addr, remote.port).into(), key.clone());
            self.on_pods.insert(
                addr,
                AddrKey {
                    ifname: ifname.clone(),
                    addr: IpNet::from(end),
                },
            );
            let name = session::peer_name("Local_Workload", &remote);
            self.peers.insert(name, config);
        }
        Ok(())
    }

    fn pods_session(
        &mut self,
        key: &Key,
        spec: &BGPPeerSpec,
        remote: &Remote,
    ) -> Result<Option<PeerConfig>, Refusal> {
        let counts = BGPPeerSpec {
            local_as_number: spec.local_as_number,
            source_address: Some("None".to_owned()),
            ..BGPPeerSpec::default()
        };
        let Some(mut config) = self.session(remote, Some(&counts)) else {
            return Ok(None);
        };
        let filters = self.inputs.filters_of(spec)?;
        self.apply_filters(&filters, &mut config)?;
        if config.import.terms.is_empty() {
            config.import = RoutePolicy::reject_all();
            let family = if remote.address.is_ipv4() {
                "importV4"
            } else {
                "importV6"
            };
            let why = format!(
                "no BGPFilter with {family} says what a pod may announce, so nothing of it is taken"
            );
            let reason = Reason::Invalid(why.into());
            self.problems.push(problem(key, "spec.filters", reason));
        }
        Ok(Some(config))
    }
}
