//! Manifests: YAML documents, JSON, lists.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use api::manifest::{complete, documents, items};
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
