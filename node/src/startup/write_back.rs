//! Into a datastore that was accepted though it lacks what an earlier agent read, start-up writes what this node's pods hold,
//! before anything else is written and any address given out. What they hold, the earlier agent noted; what it had no time to
//! note, the kernel shows: their devices say whose they are, and routes lead there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use api::attachment::AttachmentId;
use api::pool::AllowedUse;
use datastore::store::StoreError;
use felix::desired::{IfName, RouteKind, Row};
use felix::kernel::KernelEvent;
use felix::ownership::{PROTOCOL_BGP, PROTOCOL_BOOT, PROTOCOL_REMOTE, TABLE_MAIN, is_tunnel};
use felix_io::workload::{self, HostEnd};
use felix_io::{Kernel, Table};
use ipam::{AssignError, AssignRequest, Ipam, Wanted, block};
use ipnet::IpNet;
use tracing::{info, warn};

use super::{Startup, StartupError};
use crate::own::Own;
use crate::task::cni::attributes_beside_handle;

/// What the kernel shows of this node's pods and of other nodes'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Living {
    /// Devices of pods, and the addresses that routes lead to there.
    pub(super) pods: Vec<(HostEnd, Vec<IpAddr>)>,
    /// Where routes of this product lead elsewhere: blocks, or single addresses in them.
    pub(super) ranges_of_others: Vec<IpNet>,
}

impl Living {
    /// From the devices of pods and the rows of table main.
    fn of(ends: Vec<HostEnd>, events: &[KernelEvent], remote_protocol: u8) -> Self {
        let mut pods: Vec<(HostEnd, Vec<IpAddr>)> =
            ends.into_iter().map(|end| (end, Vec::new())).collect();
        let mut ranges_of_others = Vec::new();
        for event in events {
            let KernelEvent::RowSet(Row::Route(key, spec)) = event else {
                continue;
            };
            if key.table != TABLE_MAIN || spec.kind != RouteKind::Unicast {
                continue;
            }
            let devices = || spec.next_hops.iter().filter_map(|hop| hop.ifname.as_ref());
            let leads_to = |ifname: &IfName| devices().any(|device| device == ifname);
            let is_one_address = key.dst.prefix_len() == key.dst.max_prefix_len();
            match pods.iter_mut().find(|(end, _)| leads_to(&end.ifname)) {
                Some((_, addresses)) if is_one_address => addresses.push(key.dst.addr()),
                Some(_) => {}
                None => {
                    let is_ours = [PROTOCOL_BGP, remote_protocol].contains(&spec.protocol)
                        || devices().any(is_tunnel);
                    if is_ours && block::slots(key.dst).is_some() {
                        ranges_of_others.push(key.dst);
                    }
                }
            }
        }
        Self {
            pods,
            ranges_of_others,
        }
    }

    /// Whether a living pod has the address.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        let mut addresses = self.pods.iter().flat_map(|(_, addresses)| addresses);
        addresses.any(|held| *held == address)
    }

    /// So many pods, with addresses from 10.0.0.0 on.
    #[cfg(test)]
    pub(super) fn of_pods(pods: usize) -> Self {
        let pod = |number: usize| {
            let end = HostEnd {
                ifname: IfName::from(format!("cali{number}").as_str()),
                alias: String::new(),
                admin_up: true,
            };
            let address = IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()]);
            (end, vec![address])
        };
        Self {
            pods: (0..pods).map(pod).collect(),
            ranges_of_others: Vec::new(),
        }
    }

    /// Whether a device is a living pod's.
    fn has(&self, ifname: &str) -> bool {
        self.pods.iter().any(|(end, _)| *end.ifname.0 == *ifname)
    }
}

impl Startup<'_> {
    /// What the kernel shows now.
    pub(super) async fn living(&self) -> Result<Living, StartupError> {
        let doing = "reading the pods' devices and routes";
        let unknown = |source: std::io::Error| StartupError::File {
            path: "kernel".to_owned(),
            doing,
            source,
        };
        let mut ends = Vec::new();
        for prefix in &self.params.interface_prefixes {
            let found = workload::host_ends(prefix.clone()).await;
            ends.extend(found.map_err(|error| unknown(std::io::Error::other(error)))?);
        }
        let kernel = Kernel::open().map_err(unknown)?;
        let routes = kernel.dump(Table::Routes).await;
        let routes = routes.map_err(|error| unknown(std::io::Error::other(error)))?;
        let remote_protocol = match self.params.device_route_protocol {
            PROTOCOL_BOOT => PROTOCOL_REMOTE,
            set => set,
        };
        Ok(Living::of(ends, &routes, remote_protocol))
    }

    /// Writes back what living pods hold. From then on nothing is given out of ranges that were others'.
    pub(super) async fn write_back(
        &self,
        ipam: &Ipam,
        mut own: Own,
        living: &Living,
    ) -> Result<(), StartupError> {
        let mut ranges = own.ranges_of_others();
        ranges.extend(&living.ranges_of_others);
        if living.pods.is_empty() {
            ipam.avoid(ranges);
            return Ok(());
        }
        own.keep_living(|endpoint| living.has(&endpoint.spec.interface_name));
        let failed = || self.failed("writing back what pods here hold");
        for conflict in own.write_back(&*self.store).await.map_err(failed())? {
            warn!(reason = conflict, "not written back");
        }
        // With USE_POD_CIDR addresses are another plugin's, which keeps its own files of them: a block would hold them for ever.
        let given_by_ipam = match self.params.use_pod_cidr {
            true => &[][..],
            false => &living.pods[..],
        };
        for (end, addresses) in given_by_ipam {
            for address in addresses.iter().filter(|address| !own.holds(**address)) {
                match ipam.assign(held(ipam.node(), end, *address)).await {
                    Ok(_) => {
                        warn!(%address, device = %end.ifname, "held without a record of its pod; written back");
                    }
                    Err(AssignError::Store(error @ StoreError::Unavailable(_))) => {
                        return Err(failed()(error));
                    }
                    Err(error) => warn!(%address, device = %end.ifname, %error, "not written back"),
                }
            }
        }
        let pods = living.pods.len();
        info!(
            pods,
            "what pods here hold is written back; ranges of other nodes, and what leads there, are left alone until the agent starts anew"
        );
        ipam.avoid(ranges);
        Ok(())
    }
}

/// The request that holds an address for the pod of a device. One that does not say whose it is holds it by its own name,
/// until an operator releases it.
fn held(node: &str, end: &HostEnd, address: IpAddr) -> AssignRequest {
    let attachment = AttachmentId::of_path(&end.alias);
    AssignRequest {
        node_labels: BTreeMap::new(),
        namespace_labels: None,
        handle_id: attachment.as_ref().map_or_else(
            || format!("device-{node}-{}", end.ifname),
            AttachmentId::handle_id,
        ),
        attributes: attachment
            .as_ref()
            .map(attributes_beside_handle)
            .unwrap_or_default(),
        allowed_use: AllowedUse::Workload,
        wanted: Wanted::Address(address),
        now: crate::task::timestamp(SystemTime::now()),
    }
}

#[cfg(test)]
mod tests;
