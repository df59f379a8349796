//! CNI GC: whatever this network has on this node and the runtime does not name goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::attachment::AttachmentId;
use api::ipam::{AllocationAttribute, IPAMBlockSpec};
use api::key::Kind;
use api::object::Object;
use cni::protocol::Request;
use cni::spec::error::{CniError, Code};
use datastore::scope::Scope;
use felix::desired::IfName;
use felix_io::workload::{self, HostEnd};
use ipam::request::ReleaseAddress;
use tracing::info;

use super::Pods;
use super::endpoint::{CONTAINER, INTERFACE, NETWORK, Record};
use super::error::{kernel_error, store_error};
use super::record::Found;

impl Pods {
    /// Undoes every ADD of the request's network on this node that the runtime does not name. Goes on after a failure
    /// and reports all.
    pub async fn gc(&self, request: &Request) -> Result<(), CniError> {
        self.in_sync().await?;
        self.may_write()?;
        let network = request.network.as_str();
        let valid = Valid::of(request);
        // Blocks first: what an ADD takes and writes afterwards is looked up once more before it is released.
        let blocks = self.store.list(Kind::IPAMBlock, &Scope::All).await;
        let blocks = blocks.map_err(|error| store_error(&error))?;
        let records = self.records().await?;
        let (mut held, mut looked_at) = (Vec::new(), Vec::new());
        for item in blocks.items {
            if let Ok(Object::IPAMBlock(block)) = Object::decode(&item.key, &item.value) {
                held.extend(allocations(&block.spec, &self.node));
                looked_at.extend(looks(&block.spec, &self.node));
            }
        }
        let handles: BTreeMap<IpAddr, String> = held
            .iter()
            .map(|(addr, held)| (*addr, held.handle_id.clone().unwrap_or_default()))
            .collect();
        let mut failed = Vec::new();
        for record in records {
            let attachment = record.attachment_in(network);
            if !is_in(&record, network, &handles) || valid.names(&attachment) {
                continue;
            }
            if let Err(error) = self.remove_stale(&record, &attachment).await {
                failed.push(format!("{}: {}", record.key(), error.msg));
            }
        }
        let stale: BTreeSet<(String, String)> = held
            .into_iter()
            .filter_map(|(_, held)| valid.stale(network, &held))
            .collect();
        for (container, handle) in stale {
            let of_handle = looked_at
                .iter()
                .filter(|look| look.handle_id.as_ref() == Some(&handle));
            let looks = of_handle.cloned().collect();
            if let Err(error) = self
                .release_stale(&container, network, (&handle, looks))
                .await
            {
                failed.push(format!("{handle}: {}", error.msg));
            }
        }
        if let Err(error) = self.remove_strays(network, &valid).await {
            failed.push(error.msg);
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(CniError::new(Code::TRY_AGAIN_LATER, "GC is not complete")
                .with_details(failed.join("\n")))
        }
    }

    /// Removes an endpoint that was listed, if it is still the same attachment's.
    async fn remove_stale(
        &self,
        listed: &Record,
        attachment: &AttachmentId,
    ) -> Result<(), CniError> {
        let device = listed.host_ifname();
        let _turn = self.turn(&attachment.container_id, &device).await;
        let stored = self.store.get(listed.key()).await;
        let stored = stored.map_err(|error| store_error(&error))?;
        let Some(record) = stored
            .and_then(Record::read)
            .filter(|record| record.is_of(attachment) && record.host_ifname() == device)
        else {
            return Ok(());
        };
        info!(endpoint = %record.key(), %attachment, "GC: endpoint removed");
        self.remove(attachment, &device, Found::Own(record)).await
    }

    /// Removes devices of the network that no endpoint of this node names: an agent died between making one and writing
    /// its endpoint. One that works and does not say whose it is stays.
    async fn remove_strays(&self, network: &str, valid: &Valid) -> Result<(), CniError> {
        let ends = workload::host_ends(self.interface_prefix.clone())
            .await
            .map_err(|error| kernel_error(&error))?;
        let stray = |end: HostEnd| {
            let stale = match AttachmentId::of_path(&end.alias) {
                Some(of) => of.network == network && !valid.names(&of),
                None => end.alias.is_empty() && !end.admin_up,
            };
            stale.then_some(end.ifname)
        };
        let ends = ends.into_iter().filter_map(stray);
        let named = self.devices().await?;
        for ifname in ends.filter(|ifname| !named.contains(ifname)) {
            let _turn = self.device_turn(&ifname).await;
            // An ADD may have been at it: its endpoint names the device now.
            if self.devices().await?.contains(&ifname) {
                continue;
            }
            info!(%ifname, "GC: device without an endpoint removed");
            workload::detach(ifname)
                .await
                .map_err(|error| kernel_error(&error))?;
            self.detached.notify_one();
        }
        Ok(())
    }

    /// Devices that endpoints of this node name.
    async fn devices(&self) -> Result<BTreeSet<IfName>, CniError> {
        let records = self.records().await?;
        Ok(records.iter().map(Record::host_ifname).collect())
    }

    /// Frees the addresses that a handle had when it was listed and no endpoint has.
    async fn release_stale(
        &self,
        container: &str,
        network: &str,
        (handle, looks): (&str, Vec<ReleaseAddress>),
    ) -> Result<(), CniError> {
        let _turn = self.container_turn(container).await;
        // An ADD that the runtime did not know of yet may have been at it: the address is in use now.
        let records = self.records().await?;
        if records
            .iter()
            .any(|record| record.handle_id(network) == handle)
        {
            return Ok(());
        }
        info!(handle, "GC: address released");
        self.release(handle.to_owned(), looks).await
    }
}

/// What the runtime names.
struct Valid(BTreeSet<AttachmentId>);

impl Valid {
    fn of(request: &Request) -> Self {
        let named = request.valid_attachments.iter().map(|named| AttachmentId {
            network: request.network.clone(),
            container_id: named.container_id.clone(),
            ifname: named.ifname.clone(),
        });
        Self(named.collect())
    }

    fn names(&self, attachment: &AttachmentId) -> bool {
        self.0.contains(attachment)
    }

    /// Container and handle of an allocation that is this network's and no attachment's. A handle of Calico's form names
    /// no interface: any interface of the container keeps it.
    fn stale(&self, network: &str, held: &AllocationAttribute) -> Option<(String, String)> {
        let handle = held.handle_id.as_deref()?;
        let part = |name: &str| held.secondary.get(name);
        let (container, keeps) = match (part(NETWORK), part(CONTAINER), part(INTERFACE)) {
            (Some(of), Some(container), Some(ifname)) => {
                let attachment = AttachmentId {
                    network: of.clone(),
                    container_id: container.clone(),
                    ifname: ifname.clone(),
                };
                (container.as_str(), of != network || self.names(&attachment))
            }
            _ => {
                let container = AttachmentId::container_of_handle(network, handle)?;
                let mut named = self.0.iter();
                (container, named.any(|id| id.container_id == container))
            }
        };
        (!keeps).then(|| (container.to_owned(), handle.to_owned()))
    }
}

/// Whether an endpoint is in a network. One that Calico wrote does not say: its addresses' handle does.
fn is_in(record: &Record, network: &str, handles: &BTreeMap<IpAddr, String>) -> bool {
    match record.network() {
        Some(name) => name == network,
        None => {
            let handle = record.handle_id(network);
            let mut addresses = record.addresses().into_iter();
            addresses.any(|addr| handles.get(&addr) == Some(&handle))
        }
    }
}

/// The addresses of a block that this node has, as they are to be released.
fn looks(block: &IPAMBlockSpec, node: &str) -> Vec<ReleaseAddress> {
    let held = allocations(block, node).into_iter();
    let look = |(address, held): (IpAddr, AllocationAttribute)| {
        let ordinal = ipam::block::ordinal(block.cidr, address)?;
        let numbers = &block.sequence_number_for_allocation;
        Some(ReleaseAddress {
            address,
            handle_id: held.handle_id,
            sequence_number: numbers.get(&ordinal.to_string()).copied(),
        })
    };
    held.filter_map(look).collect()
}

/// The addresses of a block that this node has, and what is noted about each.
fn allocations(block: &IPAMBlockSpec, node: &str) -> Vec<(IpAddr, AllocationAttribute)> {
    (0..block.allocations.len())
        .filter_map(|ordinal| {
            let addr = ipam::block::address(block.cidr, ordinal)?.addr();
            let held = ipam::block::holder(block, ordinal)?;
            let ours = held.secondary.get("node").map(String::as_str) == Some(node);
            ours.then(|| (addr, held.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(handle: &str, parts: &[(&str, &str)]) -> AllocationAttribute {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        AllocationAttribute {
            handle_id: Some(handle.to_owned()),
            secondary: parts.iter().map(owned).collect(),
            extra: serde_json::Map::new(),
        }
    }

    fn valid(network: &str, named: &[(&str, &str)]) -> Valid {
        let id = |(container, ifname): &(&str, &str)| AttachmentId {
            network: network.to_owned(),
            container_id: (*container).to_owned(),
            ifname: (*ifname).to_owned(),
        };
        Valid(named.iter().map(id).collect())
    }

    #[test]
    fn only_allocations_of_the_network_that_the_runtime_does_not_name_are_stale() {
        let net1 = [(NETWORK, "a"), (CONTAINER, "c"), (INTERFACE, "net1")];
        let cases = [
            // Of Calico's form: the container is the part after the last dot.
            ("a", &[][..], held("a.c", &[]), true),
            ("a", &[("c", "net1")][..], held("a.c", &[]), false),
            ("a", &[][..], held("a.b.c", &[]), false),
            ("a.b", &[][..], held("a.b.c", &[]), true),
            ("a", &[][..], held("vxlan-tunnel-addr-n1", &[]), false),
            // Of ours: the parts are noted beside it.
            ("a", &[][..], held("a-c-net1-0", &net1), true),
            ("a", &[("c", "net1")][..], held("a-c-net1-0", &net1), false),
            ("a", &[("c", "eth0")][..], held("a-c-net1-0", &net1), true),
            ("b", &[][..], held("a-c-net1-0", &net1), false),
        ];
        for (network, named, held, stale) in cases {
            let found = valid(network, named).stale(network, &held);
            assert_eq!(found.is_some(), stale, "{network} {named:?} {held:?}");
            if let Some((container, handle)) = found {
                assert_eq!((container.as_str(), Some(handle)), ("c", held.handle_id));
            }
        }
    }
}
