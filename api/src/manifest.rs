//! What a person writes: documents that hold one object or a list of them, with the parts left out that go without saying.

use serde_json::{Map, Value};

use crate::key::{Key, Kind};

/// Why a text is neither YAML nor JSON: place, reason and the lines around it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(String);

/// The documents of a text. It is the operator's own, so it may be as long as they like; what aliases make of it stays
/// bounded.
pub fn documents(text: &str) -> Result<Vec<Value>, SyntaxError> {
    let nodes = text.len().max(1);
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: None,
            max_documents: nodes,
            max_nodes: nodes,
            max_events: nodes.saturating_mul(4),
            max_total_scalar_bytes: nodes.saturating_mul(2),
        },
    };
    serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| SyntaxError(error.to_string()))
}

/// The objects of a document: itself, or what its list holds.
pub fn items(document: Value) -> Vec<Value> {
    let is_list = |kind: &str| kind.ends_with("List");
    match document {
        Value::Null => Vec::new(),
        Value::Array(items) => items,
        Value::Object(mut map) if map.get("kind").and_then(Value::as_str).is_some_and(is_list) => {
            match map.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        other => vec![other],
    }
}

/// Fills in what an object of `kind` may leave out, an empty `spec` and its namespace, and returns its name among all
/// objects; `None` when it has no name of its own.
pub fn complete(kind: Kind, object: &mut Value, namespace: &str) -> Option<Key> {
    let said = |field: &str| {
        let text = object.get("metadata")?.get(field)?.as_str()?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    let name = said("name")?;
    let key = if kind.namespaced() {
        let namespace = said("namespace").unwrap_or_else(|| namespace.to_owned());
        object["metadata"]["namespace"] = Value::String(namespace.clone());
        Key::namespaced(kind, namespace, name)
    } else {
        Key::new(kind, name)
    };
    if object.get("spec").is_none_or(Value::is_null) {
        object["spec"] = Value::Object(Map::new());
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_its_items_and_nothing_is_none() {
        let node = vec![json!({"kind": "Node"})];
        assert_eq!(items(json!({"kind": "NodeList", "items": node})), node);
        assert_eq!(items(json!(node)), node);
        assert_eq!(items(json!({"kind": "Node"})), node);
        assert_eq!(items(Value::Null), [] as [Value; 0]);
    }

    #[test]
    fn a_manifest_may_be_long_and_aliases_may_not_make_it_so() {
        use std::fmt::Write as _;

        let mut text = String::new();
        for n in 0..5000 {
            writeln!(text, "---\nkind: Node\nmetadata: {{name: n{n}}}").unwrap();
        }
        assert_eq!(documents(&text).map(|documents| documents.len()), Ok(5000));
        let list = "- x\n".repeat(260_000);
        let list = documents(&list).unwrap().remove(0);
        assert_eq!(items(list).len(), 260_000);

        let mut laughs = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            writeln!(laughs, "b{n}: &a{n} [{aliases}]").unwrap();
        }
        assert!(documents(&laughs).is_err());
    }

    #[test]
    fn namespace_and_spec_are_filled_in_and_a_name_is_not() {
        let mut endpoint = json!({"metadata": {"name": "w"}, "spec": null});
        let key = complete(Kind::WorkloadEndpoint, &mut endpoint, "ns").unwrap();
        assert_eq!(key.to_string(), "WorkloadEndpoint(ns/w)");
        let whole = json!({"metadata": {"name": "w", "namespace": "ns"}, "spec": {}});
        assert_eq!(endpoint, whole);
        let kept = complete(Kind::WorkloadEndpoint, &mut endpoint, "other");
        assert_eq!(kept, Some(key));
        assert_eq!(
            complete(Kind::IPPool, &mut json!({"metadata": {"name": ""}}), "ns"),
            None
        );
        assert_eq!(complete(Kind::IPPool, &mut json!({}), "ns"), None);
    }
}
