//! `FelixConfiguration`: settings of the agents from the datastore.
//!
//! Precedence, low to high: the defaults, the object `default`, the oldest object with a `nodeSelector` that selects the node,
//! the object `node.<name>`, the environment. A field without a parameter in the table of
//! settings is kept and has no effect.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::duration;
use crate::metadata::Resource;
use crate::params::TABLE;
use crate::selector::Selector;

/// A `FelixConfiguration` object: `default`, `node.<name>` for one node, or any name with a `nodeSelector`.
pub type FelixConfiguration = Resource<FelixConfigurationSpec>;

/// Settings, as far as they are given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FelixConfigurationSpec {
    /// Nodes these settings are for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// The settings by name of their field: `vxlanPort`.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// Fields that have an effect, and the environment variable that means the same.
pub const FIELDS: [(&str, &str); 39] = [
    (
        "allowIPIPPacketsFromWorkloads",
        "FELIX_ALLOWIPIPPACKETSFROMWORKLOADS",
    ),
    (
        "allowVXLANPacketsFromWorkloads",
        "FELIX_ALLOWVXLANPACKETSFROMWORKLOADS",
    ),
    (
        "defaultEndpointToHostAction",
        "FELIX_DEFAULTENDPOINTTOHOSTACTION",
    ),
    ("deviceRouteProtocol", "FELIX_DEVICEROUTEPROTOCOL"),
    ("deviceRouteSourceAddress", "FELIX_DEVICEROUTESOURCEADDRESS"),
    (
        "deviceRouteSourceAddressIPv6",
        "FELIX_DEVICEROUTESOURCEADDRESSIPV6",
    ),
    ("endpointStatusPathPrefix", "FELIX_ENDPOINTSTATUSPATHPREFIX"),
    ("externalNodesList", "FELIX_EXTERNALNODESCIDRLIST"),
    ("featureDetectOverride", "FELIX_FEATUREDETECTOVERRIDE"),
    ("floatingIPs", "FELIX_FLOATINGIPS"),
    ("healthEnabled", "FELIX_HEALTHENABLED"),
    ("healthHost", "FELIX_HEALTHHOST"),
    ("healthPort", "FELIX_HEALTHPORT"),
    ("interfacePrefix", "FELIX_INTERFACEPREFIX"),
    ("interfaceRefreshInterval", "FELIX_INTERFACEREFRESHINTERVAL"),
    ("ipForwarding", "FELIX_IPFORWARDING"),
    ("ipipEnabled", "FELIX_IPINIPENABLED"),
    ("ipipMTU", "FELIX_IPINIPMTU"),
    (
        "iptablesNATOutgoingInterfaceFilter",
        "FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER",
    ),
    ("ipv4NormalRoutePriority", "FELIX_IPV4NORMALROUTEPRIORITY"),
    ("ipv6Support", "FELIX_IPV6SUPPORT"),
    ("logSeverityScreen", "FELIX_LOGSEVERITYSCREEN"),
    ("mtuIfacePattern", "FELIX_MTUIFACEPATTERN"),
    ("natOutgoingAddress", "FELIX_NATOUTGOINGADDRESS"),
    ("natOutgoingExclusions", "FELIX_NATOUTGOINGEXCLUSIONS"),
    ("natPortRange", "FELIX_NATPORTRANGE"),
    ("programClusterRoutes", "FELIX_PROGRAMCLUSTERROUTES"),
    ("prometheusMetricsEnabled", "FELIX_PROMETHEUSMETRICSENABLED"),
    ("prometheusMetricsHost", "FELIX_PROMETHEUSMETRICSHOST"),
    ("prometheusMetricsPort", "FELIX_PROMETHEUSMETRICSPORT"),
    ("removeExternalRoutes", "FELIX_REMOVEEXTERNALROUTES"),
    ("routeRefreshInterval", "FELIX_ROUTEREFRESHINTERVAL"),
    ("serviceLoopPrevention", "FELIX_SERVICELOOPPREVENTION"),
    ("vxlanEnabled", "FELIX_VXLANENABLED"),
    ("vxlanMTU", "FELIX_VXLANMTU"),
    ("vxlanMTUV6", "FELIX_VXLANMTUV6"),
    ("vxlanPort", "FELIX_VXLANPORT"),
    ("vxlanVNI", "FELIX_VXLANVNI"),
    ("workloadSourceSpoofing", "FELIX_WORKLOADSOURCESPOOFING"),
];

/// Variables whose value of the start counts until the agent's next one: they decide what in the kernel is the agent's own, or
/// are asked at the start only. All other fields count at once.
pub const NEXT_START: [&str; 6] = [
    "FELIX_DEVICEROUTEPROTOCOL",
    "FELIX_ENDPOINTSTATUSPATHPREFIX",
    "FELIX_INTERFACEPREFIX",
    "FELIX_IPV6SUPPORT",
    "FELIX_MTUIFACEPATTERN",
    "FELIX_REMOVEEXTERNALROUTES",
];

/// One setting of an object, as the environment would give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Where it stands: `FelixConfiguration(default): spec.vxlanPort`.
    pub place: String,
    /// The variable that means the same.
    pub variable: &'static str,
    /// Its value in the variable's form.
    pub text: String,
}

/// The settings that `objects` give a node with this name and these labels, the strongest first.
pub fn given_to(
    objects: &[FelixConfiguration],
    node: &str,
    labels: &BTreeMap<String, String>,
) -> Vec<Given> {
    let own = format!("node.{node}");
    let named = |name: &str| {
        let mut objects = objects.iter();
        objects.find(|object| object.metadata.name == name)
    };
    let selecting = selecting(objects, node, labels).into_iter().next();
    [named(&own), selecting, named("default")]
        .into_iter()
        .flatten()
        .flat_map(settings)
        .collect()
}

/// Names of the objects whose `nodeSelector` selects a node with this name and these labels, the oldest first: that one counts,
/// so that a new object does not take the settings from under one that works.
pub fn selecting_names(
    objects: &[FelixConfiguration],
    node: &str,
    labels: &BTreeMap<String, String>,
) -> Vec<String> {
    let selecting = selecting(objects, node, labels).into_iter();
    selecting
        .map(|object| object.metadata.name.clone())
        .collect()
}

fn selecting<'a>(
    objects: &'a [FelixConfiguration],
    node: &str,
    labels: &BTreeMap<String, String>,
) -> Vec<&'a FelixConfiguration> {
    let own = format!("node.{node}");
    let selects = |object: &&FelixConfiguration| {
        let text = object.spec.node_selector.as_deref();
        ![own.as_str(), "default"].contains(&object.metadata.name.as_str())
            && text
                .and_then(|text| Selector::parse(text).ok())
                .is_some_and(|selector| selector.matches(labels))
    };
    let mut selecting: Vec<_> = objects.iter().filter(selects).collect();
    selecting.sort_by_key(|object| {
        let metadata = &object.metadata;
        (metadata.creation_timestamp.as_deref(), &metadata.name)
    });
    selecting
}

fn settings(object: &FelixConfiguration) -> impl Iterator<Item = Given> {
    FIELDS.iter().filter_map(|(field, variable)| {
        let value = object.spec.fields.get(*field)?;
        Some(Given {
            place: format!("FelixConfiguration({}): spec.{field}", object.metadata.name),
            variable,
            text: as_variable(variable, value)?,
        })
    })
}

/// The value of a field in the form of its variable: durations become seconds, lists words joined by commas. `None` for `null`.
pub(crate) fn as_variable(variable: &str, value: &Value) -> Option<String> {
    let in_seconds = || {
        TABLE
            .iter()
            .any(|row| row.names.contains(&variable) && row.unit == "s")
    };
    match value {
        Value::Null => None,
        Value::String(text) if in_seconds() => match duration::parse(text) {
            Some(time) => Some(time.as_secs_f64().to_string()),
            None => Some(text.clone()),
        },
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let items = items.iter().map(|item| match item {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            Some(items.collect::<Vec<_>>().join(","))
        }
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::params::Params;

    fn config(name: &str, spec: Value) -> FelixConfiguration {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        serde_json::from_value(object).expect("a FelixConfiguration")
    }

    fn labels() -> BTreeMap<String, String> {
        BTreeMap::from([("rack".to_owned(), "r1".to_owned())])
    }

    fn read(objects: &[FelixConfiguration], environment: &[(&str, &str)]) -> Params {
        let environment = environment
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .chain([("TORTIE_STORE".to_owned(), "unix:/x".to_owned())]);
        Params::from_sources(environment, &given_to(objects, "n1", &labels()))
            .unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    #[test]
    fn the_environment_beats_the_node_and_that_the_selector_and_that_the_default() {
        let all = [
            config(
                "default",
                json!({"vxlanPort": 1, "vxlanVNI": 1, "vxlanMTU": 1400, "ipipMTU": 1401}),
            ),
            config(
                "rack",
                json!({"nodeSelector": "rack == 'r1'", "vxlanPort": 2, "vxlanVNI": 2, "vxlanMTU": 1402}),
            ),
            config(
                "other",
                json!({"nodeSelector": "rack == 'r2'", "vxlanPort": 9}),
            ),
            config("node.n1", json!({"vxlanPort": 3, "vxlanVNI": 3})),
            config("node.n2", json!({"vxlanPort": 9})),
        ];
        let params = read(&all, &[("FELIX_VXLANPORT", "4")]);
        assert_eq!(params.vxlan_port, 4);
        assert_eq!(params.vxlan_vni, 3);
        assert_eq!(params.vxlan_mtu_bytes, 1402);
        assert_eq!(params.ipip_mtu_bytes, 1401);
        let shown = params.settings().iter();
        let origins: Vec<String> = shown
            .filter(|setting| setting.row.field.starts_with("vxlan_vni"))
            .map(|setting| setting.origin.to_string())
            .collect();
        assert_eq!(origins, ["FelixConfiguration(node.n1): spec.vxlanVNI"]);
    }

    #[test]
    fn of_several_objects_that_select_the_node_the_oldest_alone_counts() {
        let made = |name: &str, created: &str, port: u16, more: Value| {
            let mut spec = json!({"nodeSelector": "rack == 'r1'", "vxlanPort": port});
            spec.as_object_mut().unwrap().extend(
                more.as_object()
                    .unwrap()
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone())),
            );
            let mut object = config(name, spec);
            object.metadata.creation_timestamp = Some(created.to_owned());
            object
        };
        let mut all = [
            made("a", "2026-06-01T00:00:00Z", 2, json!({"vxlanVNI": 2})),
            made("b", "2025-01-01T00:00:00Z", 3, json!({})),
            made("c", "2025-01-01T00:00:00Z", 4, json!({})),
        ];
        for _ in 0..2 {
            let params = read(&all, &[]);
            assert_eq!((params.vxlan_port, params.vxlan_vni), (3, 4096));
            assert_eq!(selecting_names(&all, "n1", &labels()), ["b", "c", "a"]);
            all.reverse();
        }
        let other = BTreeMap::new();
        assert!(selecting_names(&all, "n1", &other).is_empty());
    }

    #[test]
    fn none_in_an_object_is_zero_too() {
        let spec = json!({"routeRefreshInterval": "none", "healthPort": "none"});
        let params = read(&[config("default", spec)], &[]);
        assert!(params.route_refresh_interval.is_zero());
        assert_eq!(params.health_port, 9099, "it must not be zero");
        assert_eq!(params.rejected().len(), 1);
    }

    #[test]
    fn an_empty_variable_leaves_the_word_to_the_object() {
        let params = read(
            &[config("default", json!({"vxlanPort": 4790}))],
            &[("felix_vxlanport", "")],
        );
        assert_eq!(params.vxlan_port, 4790);
    }

    #[test]
    fn durations_words_and_truth_values_are_read_as_the_object_writes_them() {
        let spec = json!({"routeRefreshInterval": "1m30s", "removeExternalRoutes": false,
            "interfacePrefix": "cali,tap"});
        let params = read(&[config("default", spec)], &[]);
        assert_eq!(params.route_refresh_interval.as_secs(), 90);
        assert!(!params.remove_external_routes);
        assert_eq!(params.interface_prefixes, ["cali", "tap"]);
    }

    #[test]
    fn a_value_that_cannot_be_read_leaves_the_default_and_is_named_with_its_place() {
        let params = read(&[config("default", json!({"vxlanPort": 0}))], &[]);
        assert_eq!(params.vxlan_port, 4789);
        let said = params.rejected()[0].to_string();
        assert!(
            said.contains("FelixConfiguration(default): spec.vxlanPort"),
            "{said}"
        );
        assert!(said.contains("1 to 65535"), "{said}");
    }

    #[test]
    fn what_counts_from_the_next_start_stays_and_the_rest_changes() {
        let start = read(
            &[config(
                "default",
                json!({"deviceRouteProtocol": 77, "vxlanPort": 4790}),
            )],
            &[],
        );
        let now = [config(
            "default",
            json!({"deviceRouteProtocol": 78, "vxlanPort": 4791, "interfacePrefix": "tap"}),
        )];
        let given = given_to(&now, "n1", &labels());
        let live = start.with_live(&given);
        assert_eq!((live.device_route_protocol, live.vxlan_port), (77, 4791));
        assert_eq!(live.interface_prefixes, ["cali"]);
        let next = start.with(&given);
        assert_eq!(next.device_route_protocol, 78);
        assert_eq!(next.interface_prefixes, ["tap"]);
        let gone = live.with_live(&[]);
        assert_eq!((gone.device_route_protocol, gone.vxlan_port), (77, 4789));
        for variable in NEXT_START {
            assert!(FIELDS.iter().any(|(_, known)| *known == variable));
        }
    }

    #[test]
    fn every_field_is_a_variable_of_the_table() {
        for (field, variable) in FIELDS {
            assert!(
                TABLE.iter().any(|row| row.names.contains(&variable)),
                "{field}"
            );
        }
    }
}
