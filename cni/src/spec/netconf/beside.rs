//! What an IPAM plugin's result has beside addresses: gateways and routes, for the plugin that connects the pod.
//!
//! Calico's has neither, and with neither macvlan and ipvlan work. The keys that ask for them are those of host-local.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::Value;

use super::{Fields, wrong};
use crate::spec::error::CniError;
use crate::spec::result::{AddResult, IpConfig, Route};

/// Of all common plugins the one that connects nothing without a gateway: it gives the gateway's address to the host's end.
const NEEDS_GATEWAY: &str = "ptp";

/// Calico's host ends answer for these.
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(
        0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee,
    )),
];

/// Gateways, at most one a family, and routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    gateways: Vec<IpAddr>,
    routes: Vec<Route>,
}

impl Beside {
    pub(super) fn read(fields: Fields<'_>, plugin: &str) -> Result<Self, CniError> {
        let Some(ipam) = fields.object("ipam")? else {
            return Ok(Self::default());
        };
        let mut gateways = gateways(ipam)?;
        if plugin == NEEDS_GATEWAY {
            let has = |wanted: &IpAddr| gateways.iter().any(|of| of.is_ipv4() == wanted.is_ipv4());
            let missing: Vec<IpAddr> = GATEWAYS.into_iter().filter(|of| !has(of)).collect();
            gateways.extend(missing);
        }
        Ok(Self {
            gateways,
            routes: routes(ipam)?,
        })
    }

    /// The result with these, as far as it has addresses of their family.
    pub(crate) fn with(self, addresses: AddResult) -> AddResult {
        let Self { gateways, routes } = self;
        let of = |address: IpAddr| {
            let same = |gateway: &&IpAddr| gateway.is_ipv4() == address.is_ipv4();
            gateways.iter().find(same).copied()
        };
        let beside = |ip: IpConfig| IpConfig {
            gateway: of(ip.address.addr()),
            ..ip
        };
        let ips: Vec<IpConfig> = addresses.ips.into_iter().map(beside).collect();
        let has = |route: &Route| {
            let is_ipv4 = route.dst.addr().is_ipv4();
            ips.iter().any(|ip| ip.address.addr().is_ipv4() == is_ipv4)
        };
        let routes = routes.into_iter().filter(has).collect();
        AddResult {
            ips,
            routes,
            ..addresses
        }
    }
}

fn gateways(ipam: Fields<'_>) -> Result<Vec<IpAddr>, CniError> {
    let allowed = "allowed: an address, or a list of at most one IPv4 and one IPv6 address";
    let Some(value) = ipam.value("gateway") else {
        return Ok(Vec::new());
    };
    let refused = || wrong(format!("ipam.gateway: {value}; {allowed}"));
    let list = match value {
        Value::Array(list) => list.as_slice(),
        Value::String(text) if text.is_empty() => return Ok(Vec::new()),
        other => std::slice::from_ref(other),
    };
    let parse = |entry: &Value| entry.as_str()?.parse::<IpAddr>().ok();
    let found: Option<Vec<IpAddr>> = list.iter().map(parse).collect();
    let found = found.ok_or_else(refused)?;
    let of_ipv4 = found.iter().filter(|gateway| gateway.is_ipv4()).count();
    if of_ipv4 > 1 || found.len() - of_ipv4 > 1 {
        return Err(refused());
    }
    Ok(found)
}

fn routes(ipam: Fields<'_>) -> Result<Vec<Route>, CniError> {
    let allowed =
        "allowed: a list of {\"dst\": CIDR, \"gw\": address}, gw of dst's family or left out";
    let Some(value) = ipam.value("routes") else {
        return Ok(Vec::new());
    };
    let refused = |what: &Value| wrong(format!("ipam.routes: {what}; {allowed}"));
    let list = value.as_array().ok_or_else(|| refused(value))?;
    let parse = |entry: &Value| -> Option<Route> {
        let dst: IpNet = entry.get("dst")?.as_str()?.parse().ok()?;
        let gw: Option<IpAddr> = match entry.get("gw") {
            None | Some(Value::Null) => None,
            Some(gw) => Some(gw.as_str()?.parse().ok()?),
        };
        let same = |gw: IpAddr| gw.is_ipv4() == dst.addr().is_ipv4();
        gw.is_none_or(same).then(|| Route::new(dst, gw))
    };
    list.iter()
        .map(|entry| parse(entry).ok_or_else(|| refused(entry)))
        .collect()
}
