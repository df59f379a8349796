//! What of an object is not read: misspelt fields, and Calico's fields that have no effect.
//!
//! Objects in a store may come from a later version, so unknown fields are kept there without a word. What a person
//! writes is another matter: a misspelt field would silently mean nothing.

use serde_json::Value;

use super::{Need, Shape};
use crate::key::Kind;
use crate::validate::Fault;

/// Fields of one object's `spec` that mean nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// No resource of this kind has them.
    pub unknown: Vec<Fault>,
    /// Paths of those that Calico's API has, that are kept, and that have no effect in this version.
    pub without_effect: Vec<String>,
}

/// Looks through the `spec` of an object of `kind`, as JSON.
pub fn unread(kind: Kind, object: &Value) -> Unread {
    let mut unread = Unread::default();
    if let Some(spec) = object.get("spec") {
        kind.spec().unread("spec", spec, &mut unread);
    }
    unread
}

impl Shape {
    fn unread(&self, path: &str, value: &Value, unread: &mut Unread) {
        match (self, value) {
            (Self::List(item), Value::Array(items)) => {
                for (index, value) in items.iter().enumerate() {
                    item.unread(&format!("{path}[{index}]"), value, unread);
                }
            }
            (Self::Map(item), Value::Object(entries)) => {
                for (name, value) in entries {
                    item.unread(&format!("{path}[{name:?}]"), value, unread);
                }
            }
            (Self::Record(fields), Value::Object(values)) => {
                for (name, value) in values {
                    let path = format!("{path}.{name}");
                    match fields.iter().find(|field| field.name == name) {
                        None => {
                            let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
                            unread
                                .unknown
                                .push(Fault::new(path, value, unknown(name, &names)));
                        }
                        Some(field) if field.need == Need::NoEffect => {
                            unread.without_effect.push(path);
                        }
                        Some(field) => field.shape.unread(&path, value, unread),
                    }
                }
            }
            _ => {}
        }
    }
}

/// The rule that an unknown field breaks; it names the one that was probably meant, or all there are.
fn unknown(name: &str, names: &[&str]) -> String {
    match names.iter().find(|known| known.eq_ignore_ascii_case(name)) {
        Some(meant) => format!("is not a field; {meant} is"),
        None => format!("is not a field; allowed: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(kind: Kind, object: &Value) -> (Vec<String>, Vec<String>) {
        let found = unread(kind, object);
        let unknown = found.unknown.iter().map(ToString::to_string).collect();
        (unknown, found.without_effect)
    }

    #[test]
    fn a_misspelt_field_is_named_with_what_was_meant() {
        let peer = json!({"spec": {"peerIP": "10.0.0.1", "keepOriginalNexthop": true}});
        let expected = "spec.keepOriginalNexthop = true: is not a field; keepOriginalNextHop is";
        assert_eq!(
            texts(Kind::BGPPeer, &peer),
            (vec![expected.to_owned()], vec![])
        );
    }

    #[test]
    fn an_unknown_field_inside_a_record_or_a_list_is_named_with_what_is_allowed() {
        let node = json!({"spec": {
            "bgp": {"ipv4Adress": "10.0.0.1/24"},
            "interfaces": [{"name": "eth0"}, {"name": "eth1", "mtu": 9000}],
        }});
        let (unknown, without_effect) = texts(Kind::Node, &node);
        assert_eq!(unknown.len(), 2, "{unknown:?}");
        assert!(unknown[0].starts_with("spec.bgp.ipv4Adress = \"10.0.0.1/24\": is not a field"));
        assert!(unknown[0].contains("allowed: ipv4Address, "), "{unknown:?}");
        assert_eq!(
            unknown[1],
            "spec.interfaces[1].mtu = 9000: is not a field; allowed: name, addresses"
        );
        assert_eq!(without_effect, Vec::<String>::new());
    }

    #[test]
    fn calicos_fields_without_effect_are_told_apart() {
        let node = json!({"spec": {"bgp": {}, "wireguard": {}}});
        let expected = (vec![], vec!["spec.wireguard".to_owned()]);
        assert_eq!(texts(Kind::Node, &node), expected);
    }
}
