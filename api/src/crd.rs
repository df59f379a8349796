//! CustomResourceDefinitions of the kinds that a Kubernetes API server keeps for us, made from the rows of the kinds, their
//! shapes and [`rules`].
//!
//! What Calico's API has and this version does not know is never pruned: each record keeps unknown fields. Rules are those
//! an API server can check; an object that breaks one of the others is refused by who reads it.

mod kept;
pub(crate) mod rules;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::key::Kind;
use crate::kinds::Printed;
use crate::shape::{Field, Need, Shape};
use rules::{Limit, Limits};

/// Group of the API that the objects belong to.
pub const GROUP: &str = "crd.projectcalico.org";
/// Version of the API.
pub const VERSION: &str = "v1";

/// Characters of an address with a prefix length, at most; API servers must know it to bound the cost of a rule.
const CIDR_LEN_MAX: usize = 49;
/// AS numbers as text, asplain or asdot.
const AS_NUMBER: &str = r"^([0-9]{1,10}|[0-9]{1,5}\.[0-9]{1,5})$";

/// Paths of limits that were found to be of a field.
type Used = BTreeSet<&'static str>;

/// What a definition says of a kind, its schema apart.
struct Names<'a> {
    kind: &'a str,
    plural: &'a str,
    short_names: &'a [&'a str],
    namespaced: bool,
    /// The status is written apart from the rest.
    status: bool,
    columns: &'a [Printed],
}

/// The definitions of all kinds: the plural, and the object for the API server.
pub fn definitions() -> Vec<(String, Value)> {
    let ours = Kind::ALL.into_iter().filter_map(|kind| {
        let crd = kind.crd()?;
        let names = Names {
            kind: kind.name(),
            plural: kind.plural(),
            short_names: crd.short_names,
            namespaced: kind.namespaced(),
            status: crd.status,
            columns: crd.columns,
        };
        let mut schema = object_schema(spec_schema(kind.spec(), crd.limits));
        let about_name = rules(name_limits(kind).as_slice());
        if !about_name.is_empty() {
            schema["x-kubernetes-validations"] = about_name.into();
        }
        Some((kind.plural().to_owned(), definition(&names, &schema)))
    });
    let kept = kept::KINDS.iter().map(|names| {
        let spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = definition(names, &object_schema(spec));
        (names.plural.to_owned(), definition)
    });
    ours.chain(kept).collect()
}

fn definition(names: &Names<'_>, schema: &Value) -> Value {
    let columns: Vec<Value> = names
        .columns
        .iter()
        .map(|Printed(name, kind, path)| json!({"name": name, "type": kind, "jsonPath": path}))
        .collect();
    let mut version = json!({
        "name": VERSION,
        "served": true,
        "storage": true,
        "schema": {"openAPIV3Schema": schema},
    });
    if !columns.is_empty() {
        version["additionalPrinterColumns"] = columns.into();
    }
    if names.status {
        version["subresources"] = json!({"status": {}});
    }
    let mut said = json!({
        "kind": names.kind,
        "listKind": format!("{}List", names.kind),
        "plural": names.plural,
        "singular": names.kind.to_lowercase(),
    });
    if !names.short_names.is_empty() {
        said["shortNames"] = names.short_names.into();
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{GROUP}", names.plural)},
        "spec": {
            "group": GROUP,
            "names": said,
            "scope": if names.namespaced { "Namespaced" } else { "Cluster" },
            "versions": [version],
        },
    })
}

fn object_schema(spec: Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

fn name_limits(kind: Kind) -> Vec<Limit> {
    use crate::validate::Naming;

    match kind.naming() {
        Naming::Default => vec![Limit::Rule(
            "self.metadata.name == 'default'",
            "metadata.name must be `default`",
        )],
        Naming::DefaultOrNode => vec![Limit::Rule(
            "self.metadata.name == 'default' || self.metadata.name.startsWith('node.')",
            "metadata.name must be `default`, or `node.` and a node's name",
        )],
        Naming::Chosen | Naming::Given => Vec::new(),
    }
}

fn spec_schema(shape: &Shape, limits: Limits) -> Value {
    let mut used = BTreeSet::new();
    let mut schema = schema(shape, Need::Required, "", limits, &mut used);
    constrain(&mut schema, "", limits, &mut used);
    let unused = limits.iter().find(|(path, _)| !used.contains(path));
    assert!(
        unused.is_none(),
        "no field {:?}",
        unused.map(|(path, _)| path)
    );
    schema
}

/// The schema of a value at `path` inside the spec. Entries of lists have no rules of their own: an API server counts the
/// cost of one for as many entries as there might be.
fn schema(shape: &Shape, need: Need, path: &str, limits: Limits, used: &mut Used) -> Value {
    match shape {
        Shape::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
        Shape::Text => json!({"type": "string"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::BoolText => json!({"type": "string", "enum": ["true", "false"]}),
        Shape::Number(max) => {
            let mut number = json!({"type": "integer", "format": "int64", "minimum": 0});
            if i64::try_from(*max).is_ok() {
                number["maximum"] = (*max).into();
            }
            number
        }
        Shape::AsNumber => {
            let mut number = json!({
                "x-kubernetes-int-or-string": true,
                "minimum": 0,
                "maximum": u32::MAX,
                "maxLength": 11,
            });
            if path.contains("[]") {
                number["pattern"] = AS_NUMBER.into();
            } else {
                let rule = format!("type(self) != string || self.matches(r'{AS_NUMBER}')");
                number["x-kubernetes-validations"] =
                    json!([{"rule": rule, "message": shape.rule()}]);
            }
            number
        }
        Shape::PortRange => {
            let rule = r"type(self) == int ? self >= 1 && self <= 65535 : self.matches('^([0-9]{1,5}(:[0-9]{1,5})?)?$')";
            json!({
                "x-kubernetes-int-or-string": true,
                "maxLength": 11,
                "x-kubernetes-validations": [{"rule": rule, "message": shape.rule()}],
            })
        }
        Shape::Cidr if path.contains("[]") => json!({"type": "string", "format": "cidr"}),
        Shape::Cidr => checked_text("isCIDR", shape, need),
        Shape::AddressWithLen => json!({"type": "string"}),
        Shape::Ipv4 | Shape::Ipv6 | Shape::Ip => checked_text("isIP", shape, need),
        Shape::Word(words) => {
            // The empty text means the same as leaving the field out.
            let empty = (need != Need::Required).then_some(&"");
            let words: Vec<&str> = words.iter().chain(empty).copied().collect();
            json!({"type": "string", "enum": words})
        }
        Shape::List(item) => list(item, Need::Required, path, limits, used),
        Shape::Slots => json!({
            "type": "array",
            "items": {"type": "integer", "format": "int64", "minimum": 0, "nullable": true},
        }),
        Shape::Map(item) => {
            let item = self::schema(item, Need::Required, path, &[], used);
            json!({"type": "object", "additionalProperties": item})
        }
        Shape::Record(fields) => record(fields, path, limits, used),
    }
}

fn list(item: &Shape, need: Need, path: &str, limits: Limits, used: &mut Used) -> Value {
    let path = format!("{path}[]");
    let mut items = schema(item, need, &path, limits, used);
    constrain(&mut items, &path, limits, used);
    json!({"type": "array", "items": items})
}

fn record(fields: &[Field], path: &str, limits: Limits, used: &mut Used) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields {
        let path = if path.is_empty() {
            field.name.to_owned()
        } else {
            format!("{path}.{}", field.name)
        };
        let mut schema = schema(&field.shape, field.need, &path, limits, used);
        constrain(&mut schema, &path, limits, used);
        if field.need == Need::NoEffect {
            schema["description"] = "Kept, and without effect in this version.".into();
        }
        if field.need == Need::Required {
            required.push(field.name);
        }
        properties.insert(field.name.to_owned(), schema);
    }
    let mut record = json!({
        "type": "object",
        "properties": properties,
        "x-kubernetes-preserve-unknown-fields": true,
    });
    if !required.is_empty() {
        record["required"] = required.into();
    }
    record
}

fn checked_text(function: &str, shape: &Shape, need: Need) -> Value {
    let mut rule = format!("{function}(self)");
    if need != Need::Required {
        rule = format!("self == '' || {rule}");
    }
    json!({
        "type": "string",
        "maxLength": CIDR_LEN_MAX,
        "x-kubernetes-validations": [{"rule": rule, "message": shape.rule()}],
    })
}

/// Adds to a schema what the limits say of this path.
fn constrain(schema: &mut Value, path: &str, limits: Limits, used: &mut Used) {
    let here: Vec<Limit> = limits
        .iter()
        .filter(|(of, _)| rules::is_of(of, path))
        .map(|(of, limit)| {
            used.insert(of);
            *limit
        })
        .collect();
    for limit in &here {
        match limit {
            Limit::AtLeast(min) => schema["minimum"] = (*min).into(),
            Limit::AtMost(max) => schema["maximum"] = (*max).into(),
            Limit::Length(max) => schema["maxLength"] = (*max).into(),
            Limit::Items(min, max) => {
                schema["minItems"] = (*min).into();
                schema["maxItems"] = (*max).into();
            }
            Limit::One => {
                schema["minProperties"] = 1.into();
                schema["maxProperties"] = 1.into();
            }
            Limit::Words(words) => schema["enum"] = (*words).into(),
            Limit::Rule(..) => {}
        }
    }
    let mut rules = rules(&here);
    if let Some(Value::Array(before)) = schema.get_mut("x-kubernetes-validations") {
        before.append(&mut rules);
    } else if !rules.is_empty() {
        schema["x-kubernetes-validations"] = rules.into();
    }
}

fn rules(limits: &[Limit]) -> Vec<Value> {
    let rules = limits.iter().filter_map(|limit| match limit {
        Limit::Rule(rule, message) => Some(json!({"rule": rule, "message": message})),
        _ => None,
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Value {
        let mut all = definitions().into_iter();
        let found = all.find(|(plural, _)| plural == "ippools");
        found.expect("pools have a definition").1
    }

    /// Also that each limit is of a field: making the definitions fails else.
    #[test]
    fn each_kind_of_an_api_server_is_defined_once_and_those_of_nodes_and_pods_are_not() {
        let mut plurals: Vec<String> = definitions().into_iter().map(|(name, _)| name).collect();
        assert!(!plurals.contains(&"nodes".to_owned()));
        assert!(!plurals.contains(&"workloadendpoints".to_owned()));
        let all = plurals.len();
        plurals.sort();
        plurals.dedup();
        assert_eq!(plurals.len(), all);
    }

    #[test]
    fn names_columns_and_status_are_calicos() {
        let pool = pool();
        assert_eq!(pool["metadata"]["name"], "ippools.crd.projectcalico.org");
        let names = &pool["spec"]["names"];
        let said = ["kind", "listKind", "plural", "singular"].map(|field| names[field].as_str());
        let wanted = ["IPPool", "IPPoolList", "ippools", "ippool"].map(Some);
        assert_eq!(said, wanted);
        let version = &pool["spec"]["versions"][0];
        let columns = version["additionalPrinterColumns"].as_array();
        let columns = columns
            .expect("columns")
            .iter()
            .map(|column| &column["name"]);
        let wanted = ["CIDR", "VXLAN", "IPIP", "NAT", "Allocatable", "Age"];
        assert_eq!(columns.collect::<Vec<_>>(), wanted);
        assert_eq!(version["subresources"], json!({"status": {}}));
    }

    /// Whether every record in a schema keeps fields that it does not name.
    fn keeps_unknown_fields(schema: &Value) -> bool {
        let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
        match schema["type"].as_str() {
            Some("object") if schema.get("additionalProperties").is_some() => true,
            Some("object") => {
                let properties = schema["properties"].as_object();
                // Metadata are the API server's own.
                let mut inner = properties
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| *name != "metadata");
                keeps && inner.all(|(_, schema)| keeps_unknown_fields(schema))
            }
            Some("array") => keeps_unknown_fields(&schema["items"]),
            _ => true,
        }
    }

    #[test]
    fn no_field_is_ever_pruned() {
        for (plural, definition) in definitions() {
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            assert!(keeps_unknown_fields(schema), "{plural}");
        }
        let mut pool = pool();
        let schema = &mut pool["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let spec = &mut schema["properties"]["spec"];
        spec["x-kubernetes-preserve-unknown-fields"] = false.into();
        assert!(!keeps_unknown_fields(schema));
    }
}
