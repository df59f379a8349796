//! The result of ADD, free of versions inside and in each version's shape outside.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::spec::error::{CniError, Code};
use crate::spec::version::Version;

/// What ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddResult {
    /// Host end first, then the pod's end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<IpConfig>,
    /// Routes inside the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Name resolution.
    pub dns: Dns,
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Device name.
    pub name: String,
    /// `aa:bb:cc:dd:ee:ff`, or empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// MTU in bytes; printed from version 1.1.0 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `CNI_NETNS` for a device in the pod, empty for one on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Address and mask, host bits kept.
    pub address: IpNet,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route. The optional numbers are printed from version 1.1.0 on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// MTU of the route, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Advertised maximal segment size, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// 0 global, 253 link, 254 host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// Name resolution.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Route {
    /// A route to `dst`, through `gw` if there is one.
    pub const fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self {
            dst,
            gw,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

impl AddResult {
    /// The object to print for a configuration of `version`.
    ///
    /// 0.1.0 and 0.2.0 have room for one address a family: the first of each is printed.
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = if version < Version::V0_3_0 {
            self.by_family()
        } else {
            self.by_list(version)
        };
        object.insert("cniVersion".to_owned(), json!(version.as_str()));
        object.insert("dns".to_owned(), json!(self.dns));
        Value::Object(object)
    }

    fn by_family(&self) -> Map<String, Value> {
        let mut object = Map::new();
        for (key, wants_v4) in [("ip4", true), ("ip6", false)] {
            let of_family = |net: &IpNet| net.addr().is_ipv4() == wants_v4;
            let Some(ip) = self.ips.iter().find(|ip| of_family(&ip.address)) else {
                continue;
            };
            let routes: Vec<Value> = self
                .routes
                .iter()
                .filter(|route| of_family(&route.dst))
                .map(|route| plain_route(route).into())
                .collect();
            let mut entry = Map::new();
            entry.insert("ip".to_owned(), json!(ip.address));
            insert_some(&mut entry, "gateway", ip.gateway);
            if !routes.is_empty() {
                entry.insert("routes".to_owned(), Value::Array(routes));
            }
            object.insert(key.to_owned(), Value::Object(entry));
        }
        object
    }

    fn by_list(&self, version: Version) -> Map<String, Value> {
        let mut object = Map::new();
        if !self.interfaces.is_empty() {
            let interfaces = self.interfaces.iter().map(|interface| {
                let mut entry = interface.clone();
                entry.mtu = entry.mtu.filter(|_| version >= Version::V1_1_0);
                json!(entry)
            });
            object.insert("interfaces".to_owned(), interfaces.collect());
        }
        let ips = self.ips.iter().map(|ip| {
            let mut entry = json!(ip);
            if version < Version::V1_0_0 {
                let family = if ip.address.addr().is_ipv4() {
                    "4"
                } else {
                    "6"
                };
                entry["version"] = json!(family);
            }
            entry
        });
        object.insert("ips".to_owned(), ips.collect());
        if !self.routes.is_empty() {
            let routes = self.routes.iter().map(|route| {
                if version >= Version::V1_1_0 {
                    json!(route)
                } else {
                    plain_route(route).into()
                }
            });
            object.insert("routes".to_owned(), routes.collect());
        }
        object
    }

    /// This result as a later plugin of the list prints it: after what the earlier ones made, whose name resolution stays.
    #[must_use]
    pub fn after(self, earlier: Self) -> Self {
        let made = earlier.interfaces.len();
        let own = self.ips.into_iter().map(|ip| IpConfig {
            interface: ip.interface.map(|index| index + made),
            ..ip
        });
        Self {
            interfaces: [earlier.interfaces, self.interfaces].concat(),
            ips: earlier.ips.into_iter().chain(own).collect(),
            routes: [earlier.routes, self.routes].concat(),
            dns: earlier.dns,
        }
    }

    /// Reads a `prevResult`: its own `cniVersion`, else `version`, says which shape it has.
    pub fn from_json(value: &Value, version: Version) -> Result<Self, CniError> {
        let wrong = |what: String| CniError::new(Code::DECODE, format!("prevResult: {what}"));
        let version = match value.get("cniVersion") {
            None => version,
            Some(Value::String(text)) => Version::parse(text)?,
            Some(other) => return Err(wrong(format!("cniVersion: {other} is not text"))),
        };
        if version >= Version::V0_3_0 {
            return serde_json::from_value(value.clone()).map_err(|e| wrong(e.to_string()));
        }
        let old: OldResult =
            serde_json::from_value(value.clone()).map_err(|e| wrong(e.to_string()))?;
        let mut result = Self {
            dns: old.dns,
            ..Self::default()
        };
        for family in [old.ip4, old.ip6].into_iter().flatten() {
            result.ips.push(IpConfig {
                address: family.ip,
                gateway: family.gateway,
                interface: None,
            });
            result.routes.extend(family.routes);
        }
        Ok(result)
    }
}

/// The result up to 0.2.0.
#[derive(Deserialize)]
struct OldResult {
    #[serde(default)]
    ip4: Option<OldFamily>,
    #[serde(default)]
    ip6: Option<OldFamily>,
    #[serde(default)]
    dns: Dns,
}

#[derive(Deserialize)]
struct OldFamily {
    ip: IpNet,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    routes: Vec<Route>,
}

fn plain_route(route: &Route) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("dst".to_owned(), json!(route.dst));
    insert_some(&mut entry, "gw", route.gw);
    entry
}

fn insert_some(entry: &mut Map<String, Value>, key: &str, value: Option<IpAddr>) {
    if let Some(value) = value {
        entry.insert(key.to_owned(), json!(value));
    }
}
