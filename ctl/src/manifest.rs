//! Manifests: YAML documents, JSON, lists.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use api::manifest::{complete, items};
use api::object::Object;
use serde_json::Value;

use crate::kinds::kind_of;

/// Reads every object of the files, in order. `namespace` is for objects that name none.
pub(crate) fn read_all(files: &[PathBuf], namespace: &str) -> anyhow::Result<Vec<Object>> {
    let mut objects = Vec::new();
    for file in files {
        let text = read_text(file)?;
        let found = parse(&text, namespace).with_context(|| place(file))?;
        objects.extend(found);
    }
    if objects.is_empty() {
        bail!("No resources specified");
    }
    Ok(objects)
}

/// How a file is named in an error.
fn place(file: &Path) -> String {
    if file.as_os_str() == "-" {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    }
}

fn read_text(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("reading standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// Objects of a text: each document is one, or a list of them.
fn parse(text: &str, namespace: &str) -> anyhow::Result<Vec<Object>> {
    let documents = documents(text)?;
    let mut objects = Vec::new();
    for document in documents {
        for value in items(document) {
            objects.push(object(value, namespace)?);
        }
    }
    Ok(objects)
}

/// The documents of a text. It is the operator's own, so it may be as long as they like; what aliases make of it stays
/// bounded.
fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
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
    // Only its own text: it has the place and the lines around it, and its source says the same again.
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| anyhow!("{error}"))
}

fn object(mut value: Value, namespace: &str) -> anyhow::Result<Object> {
    let Some(kind) = value.get("kind").and_then(Value::as_str) else {
        bail!("an object has no `kind`; allowed: IPPool, Node, BGPPeer and so on");
    };
    let kind = kind_of(kind)?;
    let Some(key) = complete(kind, &mut value, namespace) else {
        bail!("{kind}: metadata.name is missing");
    };
    value["kind"] = Value::String(kind.name().to_owned());
    let json = serde_json::to_vec(&value)?;
    Ok(Object::decode(&key, &json)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_and_lists_are_read_in_order() {
        let text = "
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec:
  peerIP: 192.0.2.1
  asNumber: 65000
---
apiVersion: v1
kind: List
items:
- kind: ippool
  metadata: {name: a}
  spec: {cidr: 10.1.0.0/16}
- kind: WorkloadEndpoint
  metadata: {name: w}
  spec: {node: n1}
---
";
        let objects = parse(text, "ns").unwrap();
        let keys: Vec<String> = objects
            .iter()
            .map(|object| object.key().to_string())
            .collect();
        assert_eq!(
            keys,
            ["BGPPeer(tor)", "IPPool(a)", "WorkloadEndpoint(ns/w)"]
        );
    }

    #[test]
    fn a_manifest_may_be_long_and_aliases_may_not_make_it_so() {
        use std::fmt::Write as _;

        let mut text = String::new();
        for n in 0..5000 {
            writeln!(text, "---\nkind: Node\nmetadata: {{name: n{n}}}").unwrap();
        }
        assert_eq!(parse(&text, "default").unwrap().len(), 5000);
        let list: Vec<String> = (0..40_000)
            .map(|n| format!("- {{kind: Node, metadata: {{name: n{n}}}}}\n"))
            .collect();
        let list = format!("kind: List\nitems:\n{}", list.concat());
        assert_eq!(parse(&list, "default").unwrap().len(), 40_000);

        let mut laughs = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            writeln!(laughs, "b{n}: &a{n} [{aliases}]").unwrap();
        }
        assert!(parse(&laughs, "default").is_err());
    }

    #[test]
    fn json_is_read_too() {
        let text = r#"{"kind":"BGPConfiguration","metadata":{"name":"default"}}"#;
        assert_eq!(parse(text, "default").unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("kind: Pod\nmetadata: {name: x}", "Pod"),
            ("metadata: {name: x}", "kind"),
            ("kind: IPPool", "metadata.name"),
            (
                "kind: IPPool\nmetadata: {name: x}\nspec: {cidr: 10.0.0.0/33}",
                "IPPool(x)",
            ),
            ("kind: [", "line"),
        ] {
            let error = format!("{:#}", parse(text, "default").unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
