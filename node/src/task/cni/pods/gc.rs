//! CNI GC: whatever this network has on this node and the runtime does not name goes.

use std::collections::{BTreeMap, BTreeSet};

use api::key::Kind;
use api::object::Object;
use cni::protocol::{Attachment, Request};
use cni::spec::error::{CniError, Code};
use felix::desired::IfName;
use felix_io::workload;
use tracing::info;

use super::endpoint::Identity;
use super::{Pods, assign_error, kernel_error, stopping, store_error};

impl Pods {
    /// Undoes every ADD of the request's network on this node that the runtime does not name. Goes on after a failure
    /// and tells of all.
    pub async fn gc(&self, request: &Request) -> Result<(), CniError> {
        let listing = self
            .store
            .list(&[Kind::WorkloadEndpoint, Kind::IPAMBlock])
            .await
            .map_err(|error| store_error(&error))?;
        let valid: BTreeSet<&Attachment> = request.valid_attachments.iter().collect();
        let mut failed = Vec::new();
        let mut stale = Vec::new();
        let mut handles = BTreeSet::new();
        for item in &listing.items {
            match Object::decode(&item.key, &item.value) {
                Ok(Object::WorkloadEndpoint(endpoint)) if endpoint.spec.node == self.node => {
                    stale.extend(Identity::of_stored(item).filter(|pod| !is_valid(&valid, pod)));
                }
                Ok(Object::IPAMBlock(block)) => {
                    handles.extend(self.stale_handles(&request.network, &valid, &block.spec));
                }
                Ok(_) | Err(_) => {}
            }
        }
        for pod in stale {
            info!(endpoint = %pod.key, container = pod.container_id(), "GC: endpoint removed");
            let container = pod.container_id().to_owned();
            let handle = format!("{}.{container}", request.network);
            let _turn = self.turn(&pod, &container).await;
            if let Err(error) = self.remove(&pod, &container, handle).await {
                failed.push(format!("{}: {}", pod.key, error.msg));
            }
        }
        for handle in handles {
            if let Err(error) = self.release_stale(&request.network, &handle).await {
                failed.push(format!("{handle}: {}", error.msg));
            }
        }
        if let Err(error) = self.remove_strays().await {
            failed.push(error.msg);
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(CniError::new(Code::TRY_AGAIN_LATER, "GC is not complete")
                .with_details(failed.join("\n")))
        }
    }

    /// Removes pods' devices that no endpoint of this node names: an agent died between making one and telling of it.
    async fn remove_strays(&self) -> Result<(), CniError> {
        let ends = workload::host_ends(self.interface_prefix.clone())
            .await
            .map_err(|error| kernel_error(&error))?;
        let named: BTreeSet<IfName> = self.connected().await?.into_values().collect();
        for ifname in ends.into_iter().filter(|ifname| !named.contains(ifname)) {
            let _turn = self.device_turn(&ifname).await;
            // An ADD may have been at it: it has told of its device now.
            if self.connected().await?.values().any(|name| *name == ifname) {
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

    /// Frees the address of a container that has no endpoint.
    async fn release_stale(&self, network: &str, handle: &str) -> Result<(), CniError> {
        let container = handle
            .strip_prefix(network)
            .and_then(|rest| rest.strip_prefix('.'));
        let container = container.unwrap_or(handle);
        let _turn = self.container_turn(container).await;
        // An ADD that the runtime did not know of yet may have been at it: the address is in use now.
        if self.connected().await?.contains_key(container) {
            return Ok(());
        }
        info!(handle, "GC: address released");
        match self.addresses.release(handle.to_owned()).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(assign_error(&error)),
            None => Err(stopping()),
        }
    }

    /// Containers that have an endpoint on this node, and their devices.
    async fn connected(&self) -> Result<BTreeMap<String, IfName>, CniError> {
        let listing = self
            .store
            .list(&[Kind::WorkloadEndpoint])
            .await
            .map_err(|error| store_error(&error))?;
        let connected =
            listing
                .items
                .iter()
                .filter_map(|item| match Object::decode(&item.key, &item.value) {
                    Ok(Object::WorkloadEndpoint(endpoint)) if endpoint.spec.node == self.node => {
                        let ifname = IfName::from(endpoint.spec.interface_name.as_str());
                        Some((endpoint.spec.container_id, ifname))
                    }
                    Ok(_) | Err(_) => None,
                });
        Ok(connected.collect())
    }

    /// Handles of this network and node in a block whose container the runtime does not name.
    fn stale_handles(
        &self,
        network: &str,
        valid: &BTreeSet<&Attachment>,
        block: &api::ipam::IPAMBlockSpec,
    ) -> Vec<String> {
        let prefix = format!("{network}.");
        block
            .attributes
            .iter()
            .filter(|held| held.secondary.get("node") == Some(&self.node))
            .filter_map(|held| held.handle_id.as_deref())
            .filter(|handle| {
                handle
                    .strip_prefix(&prefix)
                    .is_some_and(|container| !valid.iter().any(|a| a.container_id == container))
            })
            .map(str::to_owned)
            .collect()
    }
}

fn is_valid(valid: &BTreeSet<&Attachment>, pod: &Identity) -> bool {
    valid
        .iter()
        .any(|a| a.container_id == pod.container_id() && a.ifname == pod.ifname())
}
