//! Which fields an object has and what each may hold: finds every field that cannot be read, with its path and value.
//!
//! Objects are read by serde first. Only what serde refuses comes here, because serde knows neither the path nor the
//! value of what it stumbles over, and stops at the first.

use ipnet::IpNet;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::key::Kind;
use crate::node_status::UPDATE_PERIOD_SECONDS_MAX;
use crate::validate::Fault;

pub(crate) mod felix;
mod unread;

pub use unread::{Unread, unread};

/// What a field may hold.
pub(crate) enum Shape {
    /// Anything: read elsewhere, or not at all.
    Any,
    Text,
    Bool,
    /// The text `true` or `false`, or the like without quotes.
    BoolText,
    /// A whole number from 0 to this one.
    Number(u64),
    AsNumber,
    /// A port, or a text of two joined by a colon.
    PortRange,
    Cidr,
    /// An address, with or without a prefix length.
    AddressWithLen,
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    Ip,
    /// One of these words.
    Word(&'static [&'static str]),
    List(&'static Self),
    /// A list in which `null` may stand.
    Slots,
    /// Values of one shape under any name.
    Map(&'static Self),
    Record(&'static [Field]),
}

pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
    pub(crate) shape: Shape,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Need {
    Required,
    Optional,
    /// A field of Calico's that is kept and has no effect.
    NoEffect,
}

const fn required(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        need: Need::Required,
        shape,
    }
}

const fn optional(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        need: Need::Optional,
        shape,
    }
}

const fn without_effect(name: &'static str) -> Field {
    Field {
        name,
        need: Need::NoEffect,
        shape: Shape::Any,
    }
}

const ENCAP: Shape = Shape::Word(&["Never", "Always", "CrossSubnet"]);
const U32: Shape = Shape::Number(u32::MAX as u64);
const U16: Shape = Shape::Number(u16::MAX as u64);
const U8: Shape = Shape::Number(u8::MAX as u64);

const SERVICE_RANGES: Shape = Shape::List(&Shape::Record(&[required("cidr", Shape::Cidr)]));

/// A key of a secret.
const SECRET_REF: Shape = Shape::Record(&[required(
    "secretKeyRef",
    Shape::Record(&[
        required("name", Shape::Text),
        required("key", Shape::Text),
        optional("optional", Shape::Bool),
    ]),
)]);

static METADATA: Shape = Shape::Record(&[
    optional("name", Shape::Text),
    optional("namespace", Shape::Text),
    optional("labels", Shape::Map(&Shape::Text)),
    optional("annotations", Shape::Map(&Shape::Text)),
    optional("resourceVersion", Shape::Text),
    optional("uid", Shape::Text),
    optional("creationTimestamp", Shape::Text),
]);

pub(crate) static IP_POOL: Shape = Shape::Record(&[
    required("cidr", Shape::Cidr),
    optional("blockSize", U8),
    optional("ipipMode", ENCAP),
    optional("vxlanMode", ENCAP),
    optional("natOutgoing", Shape::Bool),
    optional("disabled", Shape::Bool),
    optional("disableBGPExport", Shape::Bool),
    optional("nodeSelector", Shape::Text),
    optional(
        "allowedUses",
        Shape::List(&Shape::Word(&["Workload", "Tunnel", "LoadBalancer"])),
    ),
    optional("namespaceSelector", Shape::Text),
    optional("assignmentMode", Shape::Word(&["Automatic", "Manual"])),
]);

pub(crate) static NODE: Shape = Shape::Record(&[
    optional(
        "bgp",
        Shape::Record(&[
            optional("ipv4Address", Shape::AddressWithLen),
            optional("ipv6Address", Shape::AddressWithLen),
            optional("asNumber", Shape::AsNumber),
            optional("ipv4IPIPTunnelAddr", Shape::Ipv4),
            optional("routeReflectorClusterID", Shape::Ipv4),
        ]),
    ),
    optional("ipv4VXLANTunnelAddr", Shape::Ipv4),
    optional("vxlanTunnelMACAddr", Shape::Text),
    optional("ipv6VXLANTunnelAddr", Shape::Ipv6),
    optional("vxlanTunnelMACAddrV6", Shape::Text),
    optional(
        "interfaces",
        Shape::List(&Shape::Record(&[
            required("name", Shape::Text),
            optional("addresses", Shape::List(&Shape::Ip)),
        ])),
    ),
    without_effect("addresses"),
    without_effect("orchRefs"),
    without_effect("wireguard"),
]);

pub(crate) static BGP_CONFIGURATION: Shape = Shape::Record(&[
    optional("logSeverityScreen", Shape::Text),
    optional("nodeToNodeMeshEnabled", Shape::Bool),
    optional("asNumber", Shape::AsNumber),
    optional("listenPort", U16),
    optional("nodeMeshMaxRestartTime", Shape::Text),
    optional("nodeMeshPassword", SECRET_REF),
    optional("bindMode", Shape::Word(&["None", "NodeIP"])),
    optional(
        "communities",
        Shape::List(&Shape::Record(&[
            required("name", Shape::Text),
            required("value", Shape::Text),
        ])),
    ),
    without_effect("ignoredInterfaces"),
    optional("ipv4NormalRoutePriority", U32),
    optional("ipv6NormalRoutePriority", U32),
    optional("localWorkloadPeeringIPV4", Shape::Ipv4),
    optional("localWorkloadPeeringIPV6", Shape::Ipv6),
    optional(
        "prefixAdvertisements",
        Shape::List(&Shape::Record(&[
            required("cidr", Shape::Cidr),
            optional("communities", Shape::List(&Shape::Text)),
        ])),
    ),
    optional(
        "programClusterRoutes",
        Shape::Word(&[
            "Enabled",
            "Disabled",
            "EnabledIPIPOnly",
            "EnabledNoEncapOnly",
        ]),
    ),
    optional("serviceClusterIPs", SERVICE_RANGES),
    optional("serviceExternalIPs", SERVICE_RANGES),
    optional(
        "serviceLoadBalancerAggregation",
        Shape::Word(&["Enabled", "Disabled"]),
    ),
    optional("serviceLoadBalancerIPs", SERVICE_RANGES),
]);

pub(crate) static SERVICE: Shape = Shape::Record(&[
    optional("type", Shape::Text),
    optional("clusterIPs", Shape::List(&Shape::Text)),
    optional("externalIPs", Shape::List(&Shape::Text)),
    optional("externalTrafficPolicy", Shape::Text),
]);

pub(crate) static ENDPOINT_SLICE: Shape = Shape::Record(&[
    optional("service", Shape::Text),
    optional("addressType", Shape::Text),
    optional("ready", Shape::Bool),
    optional("nodes", Shape::List(&Shape::Text)),
]);

pub(crate) static BGP_PEER: Shape = Shape::Record(&[
    optional("node", Shape::Text),
    optional("nodeSelector", Shape::Text),
    optional("peerIP", Shape::Text),
    optional("asNumber", Shape::AsNumber),
    optional("peerSelector", Shape::Text),
    optional("keepOriginalNextHop", Shape::Bool),
    optional("nextHopMode", Shape::Text),
    optional("sourceAddress", Shape::Text),
    optional("maxRestartTime", Shape::Text),
    optional("keepaliveTime", Shape::Text),
    optional("numAllowedLocalASNumbers", U8),
    optional("ttlSecurity", U8),
    optional("reachableBy", Shape::Text),
    optional("localASNumber", Shape::AsNumber),
    optional("password", SECRET_REF),
    optional("reversePeering", Shape::Word(&["Auto", "Manual"])),
    optional("filters", Shape::List(&Shape::Text)),
    optional("localWorkloadSelector", Shape::Text),
]);

const COMMUNITY_VALUES: Shape = Shape::Record(&[required("values", Shape::List(&Shape::Text))]);
const AS_NUMBERS: Shape = Shape::List(&Shape::AsNumber);
const FILTER_RULES: Shape = Shape::List(&Shape::Record(&[
    optional("cidr", Shape::Cidr),
    optional(
        "prefixLength",
        Shape::Record(&[optional("min", U8), optional("max", U8)]),
    ),
    optional("matchOperator", Shape::Text),
    optional("source", Shape::Text),
    optional("interface", Shape::Text),
    optional("peerType", Shape::Text),
    optional("communities", COMMUNITY_VALUES),
    optional("asPathPrefix", AS_NUMBERS),
    optional("priority", U32),
    required("action", Shape::Text),
    optional(
        "operations",
        Shape::List(&Shape::Record(&[
            optional(
                "addCommunity",
                Shape::Record(&[required("value", Shape::Text)]),
            ),
            optional(
                "prependASPath",
                Shape::Record(&[required("prefix", AS_NUMBERS)]),
            ),
            optional("setPriority", Shape::Record(&[required("value", U32)])),
        ])),
    ),
]));

pub(crate) static BGP_FILTER: Shape = Shape::Record(&[
    optional("exportV4", FILTER_RULES),
    optional("importV4", FILTER_RULES),
    optional("exportV6", FILTER_RULES),
    optional("importV6", FILTER_RULES),
]);

pub(crate) static CLUSTER_INFORMATION: Shape = Shape::Record(&[
    optional("clusterGUID", Shape::Text),
    optional("clusterType", Shape::Text),
    optional("calicoVersion", Shape::Text),
    optional("datastoreReady", Shape::Bool),
    without_effect("variant"),
]);

pub(crate) static WORKLOAD_ENDPOINT: Shape = Shape::Record(&[
    optional("orchestrator", Shape::Text),
    optional("workload", Shape::Text),
    optional("node", Shape::Text),
    optional("containerID", Shape::Text),
    optional("pod", Shape::Text),
    optional("endpoint", Shape::Text),
    optional("ipNetworks", Shape::List(&Shape::Cidr)),
    optional("profiles", Shape::List(&Shape::Text)),
    optional("interfaceName", Shape::Text),
    optional("mac", Shape::Text),
    optional("allowSpoofedSourcePrefixes", Shape::List(&Shape::Cidr)),
    optional(
        "ipNATs",
        Shape::List(&Shape::Record(&[
            required("internalIP", Shape::Ip),
            required("externalIP", Shape::Ip),
        ])),
    ),
    without_effect("ipv4Gateway"),
    without_effect("ipv6Gateway"),
    without_effect("ports"),
    without_effect("qosControls"),
    without_effect("serviceAccountName"),
]);

pub(crate) static CALICO_NODE_STATUS: Shape = Shape::Record(&[
    optional("node", Shape::Text),
    optional(
        "classes",
        Shape::List(&Shape::Word(&["Agent", "BGP", "Routes"])),
    ),
    optional(
        "updatePeriodSeconds",
        Shape::Number(UPDATE_PERIOD_SECONDS_MAX as u64),
    ),
]);

pub(crate) static IPAM_CONFIG: Shape = Shape::Record(&[
    optional("strictAffinity", Shape::Bool),
    optional("autoAllocateBlocks", Shape::Bool),
    optional("maxBlocksPerHost", U32),
    optional("ipCooldownSeconds", U32),
    without_effect("kubeVirtVMAddressPersistence"),
]);

pub(crate) static IP_RESERVATION: Shape = Shape::Record(&[optional(
    "reservedCIDRs",
    Shape::List(&Shape::AddressWithLen),
)]);

pub(crate) static IPAM_BLOCK: Shape = Shape::Record(&[
    required("cidr", Shape::Cidr),
    optional("affinity", Shape::Text),
    optional("affinityClaimTime", Shape::Text),
    required("allocations", Shape::Slots),
    required("unallocated", Shape::List(&U32)),
    optional(
        "attributes",
        Shape::List(&Shape::Record(&[
            optional("handle_id", Shape::Text),
            optional("secondary", Shape::Map(&Shape::Text)),
            optional("releasedAt", Shape::Text),
        ])),
    ),
    optional("sequenceNumber", Shape::Number(u64::MAX)),
    optional(
        "sequenceNumberForAllocation",
        Shape::Map(&Shape::Number(u64::MAX)),
    ),
    optional("deleted", Shape::Bool),
    optional("strictAffinity", Shape::Bool),
]);

pub(crate) static BLOCK_AFFINITY: Shape = Shape::Record(&[
    optional(
        "state",
        Shape::Word(&["confirmed", "pending", "pendingDeletion"]),
    ),
    required("node", Shape::Text),
    required("cidr", Shape::Cidr),
    optional("type", Shape::Text),
    optional("deleted", Shape::BoolText),
]);

pub(crate) static IPAM_HANDLE: Shape = Shape::Record(&[
    required("handleID", Shape::Text),
    optional("block", Shape::Map(&U32)),
    optional("deleted", Shape::Bool),
]);

/// Every field of an object of `kind` that cannot be read. `null` in a field that may be absent is taken out.
pub(crate) fn check(kind: Kind, object: &mut Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some(fields) = object.as_object_mut() else {
        return vec![Fault::new("(object)", &*object, "must be a JSON object")];
    };
    for name in ["apiVersion", "kind"] {
        if let Some(value) = fields.get_mut(name) {
            Shape::Text.check(name, value, &mut faults);
        }
    }
    if fields.get("metadata").is_some_and(Value::is_null) {
        fields.remove("metadata");
    }
    if let Some(metadata) = fields.get_mut("metadata") {
        METADATA.check("metadata", metadata, &mut faults);
    }
    match fields.get_mut("spec") {
        Some(spec) => kind.spec().check("spec", spec, &mut faults),
        None => faults.push(Fault::absent("spec", "must be given")),
    }
    faults
}

impl Shape {
    fn check(&self, path: &str, value: &mut Value, faults: &mut Vec<Fault>) {
        match (self, &mut *value) {
            (Self::List(item), Value::Array(items)) => {
                for (index, value) in items.iter_mut().enumerate() {
                    item.check(&format!("{path}[{index}]"), value, faults);
                }
            }
            (Self::Slots, Value::Array(slots)) => {
                for (index, value) in slots.iter_mut().enumerate() {
                    if !value.is_null() {
                        U32.check(&format!("{path}[{index}]"), value, faults);
                    }
                }
            }
            (Self::Map(item), Value::Object(entries)) => {
                for (name, value) in entries.iter_mut() {
                    item.check(&format!("{path}[{name:?}]"), value, faults);
                }
            }
            (Self::Record(fields), Value::Object(values)) => {
                for field in *fields {
                    if field.need == Need::Optional
                        && values.get(field.name).is_some_and(Value::is_null)
                    {
                        values.remove(field.name);
                    }
                    let path = format!("{path}.{}", field.name);
                    match values.get_mut(field.name) {
                        Some(value) => field.shape.check(&path, value, faults),
                        None if field.need == Need::Required => faults.push(Fault::absent(
                            path,
                            format!("must be given: {}", field.shape.rule()),
                        )),
                        None => {}
                    }
                }
            }
            (_, value) => {
                if !self.admits(value) {
                    faults.push(Fault::new(path, &*value, self.rule_for(value)));
                }
            }
        }
    }

    /// Whether a value with nothing inside it fits.
    fn admits(&self, value: &Value) -> bool {
        let text = value.as_str();
        match self {
            Self::Any => true,
            Self::Text => text.is_some(),
            Self::Bool => value.is_boolean(),
            Self::BoolText => value.is_boolean() || matches!(text, Some("true" | "false")),
            Self::Number(max) => value.as_u64().is_some_and(|number| number <= *max),
            Self::AsNumber => crate::bgp::as_number_of(value).is_some(),
            Self::PortRange => {
                let port = |number: u64| (1..=65535).contains(&number);
                let is_port = |text: &str| text.parse().is_ok_and(port);
                value.as_u64().is_some_and(port)
                    || text.is_some_and(|text| text.is_empty() || text.split(':').all(is_port))
            }
            Self::Cidr => text.is_some_and(|text| text.parse::<IpNet>().is_ok()),
            Self::AddressWithLen => {
                text.is_some_and(|text| crate::node::address_with_len(text).is_some())
            }
            Self::Ipv4 => text.is_some_and(|text| text.parse::<Ipv4Addr>().is_ok()),
            Self::Ipv6 => text.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok()),
            Self::Ip => text.is_some_and(|text| text.parse::<IpAddr>().is_ok()),
            Self::Word(words) => text.is_some_and(|text| words.contains(&text) || text.is_empty()),
            Self::List(_) | Self::Slots | Self::Map(_) | Self::Record(_) => false,
        }
    }

    /// The rule that this value breaks, with what YAML may have made of it.
    fn rule_for(&self, value: &Value) -> String {
        let rule = self.rule();
        let unquoted = match (self, value) {
            (Self::AsNumber, Value::Number(number)) if number.is_f64() => {
                "the dotted form must stand in quotes, such as \"1.10\", because without them YAML reads a decimal number"
            }
            (Self::Text, Value::Number(_) | Value::Bool(_)) => {
                "YAML reads it as a number or a truth value unless it stands in quotes"
            }
            (Self::Number(_) | Self::Bool, Value::String(_)) => "it must not stand in quotes",
            _ => return rule,
        };
        format!("{rule}; {unquoted}")
    }

    pub(crate) fn rule(&self) -> String {
        match self {
            Self::Any => "may be anything".to_owned(),
            Self::Text => "must be a text".to_owned(),
            Self::Bool => "must be true or false".to_owned(),
            Self::BoolText => "must be \"true\" or \"false\"".to_owned(),
            Self::Number(max) => format!("must be a whole number from 0 to {max}"),
            Self::AsNumber => {
                "must be an AS number: 0 to 4294967295, or two numbers up to 65535 joined by a dot"
                    .to_owned()
            }
            Self::PortRange => {
                "must be a port from 1 to 65535, or two joined by a colon such as \"32768:65535\""
                    .to_owned()
            }
            Self::Cidr => "must be a range such as 10.244.0.0/16 or fd00:10::/64".to_owned(),
            Self::AddressWithLen => {
                "must be an address, normally with its prefix length, such as 10.0.0.1/24"
                    .to_owned()
            }
            Self::Ipv4 => "must be an IPv4 address".to_owned(),
            Self::Ipv6 => "must be an IPv6 address".to_owned(),
            Self::Ip => "must be an address".to_owned(),
            Self::Word(words) => format!("must be one of {}", words.join(", ")),
            Self::List(_) | Self::Slots => "must be a list".to_owned(),
            Self::Map(_) | Self::Record(_) => "must be an object of named values".to_owned(),
        }
    }
}
