//! Addresses for pods that other plugins connect: `calico-ipam` as the IPAM of ptp, macvlan and their like.
//!
//! There is no endpoint, device or route of ours by which anybody could see that such an address is used. So only who asked for it
//! gives it back, by DEL or GC; the collection of garbage takes it once its node is gone (`ipam::collect`).

use std::collections::BTreeMap;

use api::attachment::AttachmentId;
use api::key::{Key, Kind};
use api::object::Object;
use cni::protocol::Request;
use cni::spec::error::{CniError, Code};
use cni::spec::result::{AddResult, IpConfig};
use ipam::collect::PLUGIN;
use ipnet::IpNet;

use super::Pods;
use super::endpoint::{CONTAINER, INTERFACE, Identity, NETWORK};
use super::error::store_error;
use super::wishes::NamespaceLabels;

/// The plugin that makes a route by way of the gateway to the network of the address that it is given.
const LEADS_ITS_NETWORK: &str = "ptp";

impl Pods {
    /// Gives a pod's interface its addresses; the same again where it has some. As in Calico they have the length of their
    /// block, but for those that were asked for by name; for ptp that of their pool, since ptp leads their network to the gateway.
    pub async fn assign_alone(
        &self,
        request: &Request,
        waits: &(dyn Fn() -> bool + Sync),
    ) -> Result<AddResult, CniError> {
        let pod = self.identify(request)?;
        self.in_sync().await?;
        self.known_datastore()?;
        self.may_write()?;
        let labels = self.namespace_labels(&pod).await?;
        let _turn = self.container_turn(&request.container_id).await;
        if !waits() {
            let text = "the plugin ended before its ADD was begun; its runtime calls DEL";
            return Err(CniError::new(Code::TRY_AGAIN_LATER, text));
        }
        let given = self.assign(request, &pod, &labels).await?;
        let is_named = request.ip.is_some() || !request.ips.is_empty();
        let mut ips = Vec::new();
        for (address, pool) in given.addresses.into_iter().zip(given.pools) {
            let address = match is_named {
                true => address,
                false => {
                    let whole = request.plugin == LEADS_ITS_NETWORK;
                    self.as_of_pool(address, &pool, whole).await?
                }
            };
            ips.push(IpConfig {
                address,
                gateway: None,
                interface: None,
            });
        }
        Ok(AddResult {
            ips,
            ..AddResult::default()
        })
    }

    /// Takes back what an interface has. Nothing to take back is success.
    pub async fn release_alone(&self, request: &Request) -> Result<(), CniError> {
        self.may_write()?;
        let pod = self.identify(request)?;
        let _turn = self.container_turn(&request.container_id).await;
        for (handle, held) in self.look([pod.attachment.handle_id()].into()).await? {
            self.release(handle, held).await?;
        }
        Ok(())
    }

    /// Whether an interface still has what the earlier result says of it.
    pub async fn verify_alone(&self, request: &Request) -> Result<(), CniError> {
        self.in_sync().await?;
        let handle = self.identify(request)?.attachment.handle_id();
        let differs = |text: String| Err(CniError::new(Code::CHECK_FAILED, text));
        let looks = self.look([handle.clone()].into()).await?;
        let held: Vec<_> = looks.into_iter().flat_map(|(_, held)| held).collect();
        if held.is_empty() {
            return differs(format!("IPAM has no address for {handle}"));
        }
        let result = request.prev_result.as_ref();
        let says = |of: &ipam::ReleaseAddress| {
            let mut ips = result.into_iter().flat_map(|result| &result.ips);
            ips.any(|ip| ip.address.addr() == of.address)
        };
        match held.iter().find(|of| !says(of)) {
            None => Ok(()),
            Some(of) => differs(format!(
                "IPAM has {} for {handle}, which prevResult lacks",
                of.address
            )),
        }
    }

    /// For pools of some namespaces; of annotations the calling plugin knows nothing.
    async fn namespace_labels(&self, pod: &Identity) -> Result<NamespaceLabels, CniError> {
        if pod.is_outside_kubernetes() {
            return Ok(None);
        }
        let words = self.store.pod_words(&pod.key, pod.pod_uid()).await;
        let words = words.map_err(|error| store_error(&error))?;
        Ok(words.map(|words| words.namespace_labels))
    }

    /// With the length of the pool, or of its blocks; of a pool that is gone as a host's.
    async fn as_of_pool(&self, address: IpNet, pool: &str, whole: bool) -> Result<IpNet, CniError> {
        let key = Key::new(Kind::IPPool, pool);
        let found = self.store.get(&key).await;
        let found = found.map_err(|error| store_error(&error))?;
        let decoded = found.and_then(|found| Object::decode(&key, &found.value).ok());
        let length = match decoded {
            Some(Object::IPPool(pool)) if whole => pool.spec.cidr.prefix_len(),
            Some(Object::IPPool(pool)) => pool.spec.block_len(),
            _ => return Ok(address),
        };
        Ok(IpNet::new(address.addr(), length).unwrap_or(address))
    }
}

/// What IPAM notes about such an address: whose it is, and which plugin connects it. Not `pod` and `namespace`:
/// calico-kube-controllers would look for it among the addresses that Kubernetes knows.
pub(super) fn attributes(
    node: &str,
    attachment: &AttachmentId,
    plugin: &str,
) -> BTreeMap<String, String> {
    let parts = [
        ("node", node),
        (NETWORK, &attachment.network),
        (CONTAINER, &attachment.container_id),
        (INTERFACE, &attachment.ifname),
        (PLUGIN, plugin),
    ];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    parts.map(owned).into()
}
