//! CNI CHECK and STATUS: is a pod as ADD left it, could another be added.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use api::key::{Key, Kind};
use cni::protocol::Request;
use cni::spec::error::{CniError, Code};
use felix_io::workload::{self, PairSpec, WorkloadError};
use ipnet::IpNet;

use super::Pods;
use super::error::kernel_error;
use super::record::Found;
use crate::startup::chain;

/// How long CHECK waits for it.
const CHECK_PATIENCE: Duration = Duration::from_secs(1);
/// How long STATUS waits for the datastore.
const STATUS_PATIENCE: Duration = Duration::from_secs(3);

impl Pods {
    /// Compares what stands in the kernel with what ADD left.
    pub async fn check(&self, request: &Request, netns: Option<OwnedFd>) -> Result<(), CniError> {
        let pod = self.identify(request)?;
        let Some(netns) = netns else {
            return Err(CniError::new(
                Code::INVALID_NETNS,
                "CHECK came without the descriptor of the pod's network namespace (CNI_NETNS)",
            ));
        };
        self.in_sync().await?;
        let differs = |text: String| Err(CniError::new(Code::CHECK_FAILED, text));
        let Found::Own(record) = self.find(&pod).await? else {
            return differs(format!("{} does not exist", pod.key));
        };
        let addresses = record.addresses();
        if let Some(missing) = expected(request)
            .into_iter()
            .find(|addr| !addresses.contains(addr))
        {
            return differs(format!("{}: spec.ipNetworks lacks {missing}", pod.key));
        }
        let host_ifname = record.host_ifname();
        let pair = PairSpec {
            host_ifname: host_ifname.clone(),
            ..self.pair(request, &pod)
        };
        let mut network = pod.network(addresses.clone());
        let routes = routes(request);
        if !routes.is_empty() {
            network.routes = routes;
        }
        workload::check(netns, pair, network)
            .await
            .map_err(|error| match error {
                WorkloadError::Differs(text) => CniError::new(Code::CHECK_FAILED, text),
                error => kernel_error(&error),
            })?;
        tokio::time::timeout(CHECK_PATIENCE, self.routes(&host_ifname, None, &addresses))
            .await
            .unwrap_or_else(|_| {
                differs(format!(
                    "the host has no route to {addresses:?} on {host_ifname}"
                ))
            })
    }

    /// Whether ADD would be served now.
    pub async fn status(&self) -> Result<(), CniError> {
        let refused = |text: &str| Err(CniError::new(Code::NOT_AVAILABLE, text));
        if !(self.view.borrow().in_sync && self.health.first_apply_done()) {
            return refused(
                "the agent has started but not read the datastore and written the kernel yet",
            );
        }
        if let Some(namesake) = self.health.namesake() {
            let code = Code::NOT_AVAILABLE_LIMITED_CONNECTIVITY;
            return Err(CniError::new(code, namesake));
        }
        if self.view.borrow().datastore_locked {
            return refused(super::LOCKED);
        }
        let node = Key::new(Kind::Node, self.node.as_str());
        match tokio::time::timeout(STATUS_PATIENCE, self.store.get(&node)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => refused(&format!("{}; pods that run keep running", chain(&error))),
            Err(_) => refused("the datastore does not answer; pods that run keep running"),
        }
    }
}

/// The routes that ADD made in place of a default one, where another IPAM plugin named some. Those of other plugins of the list are
/// theirs.
fn routes(request: &Request) -> Vec<IpNet> {
    let result = request.prev_result.iter();
    result
        .flat_map(|result| &result.routes)
        .filter(|route| route.gw.is_none())
        .map(|route| route.dst)
        .collect()
}

/// The addresses that the result gives the pod's interface; those of other plugins of the list are theirs to check.
fn expected(request: &Request) -> Vec<IpAddr> {
    let Some(result) = &request.prev_result else {
        return Vec::new();
    };
    let is_own = |index: usize| {
        result.interfaces.get(index).is_none_or(|interface| {
            interface.name == request.ifname && !interface.sandbox.is_empty()
        })
    };
    let ips = result.ips.iter();
    ips.filter(|ip| ip.interface.is_none_or(is_own))
        .map(|ip| ip.address.addr())
        .collect()
}
