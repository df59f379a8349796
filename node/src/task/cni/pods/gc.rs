//! CNI GC: whatever this network has on this node and the runtime does not name goes.

use std::collections::BTreeSet;

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
            info!(handle, "GC: address released");
            match self.addresses.release(handle.clone()).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => failed.push(format!("{handle}: {}", assign_error(&error).msg)),
                None => return Err(stopping()),
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
        let named = self.named_devices().await?;
        for ifname in ends.into_iter().filter(|ifname| !named.contains(ifname)) {
            let _turn = self.device_turn(&ifname).await;
            // An ADD may have been at it: it has told of its device now.
            if self.named_devices().await?.contains(&ifname) {
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

    /// Devices of all endpoints of this node.
    async fn named_devices(&self) -> Result<BTreeSet<IfName>, CniError> {
        let listing = self
            .store
            .list(&[Kind::WorkloadEndpoint])
            .await
            .map_err(|error| store_error(&error))?;
        let devices =
            listing
                .items
                .iter()
                .filter_map(|item| match Object::decode(&item.key, &item.value) {
                    Ok(Object::WorkloadEndpoint(endpoint)) if endpoint.spec.node == self.node => {
                        Some(IfName::from(endpoint.spec.interface_name.as_str()))
                    }
                    Ok(_) | Err(_) => None,
                });
        Ok(devices.collect())
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
