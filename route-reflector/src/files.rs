//! Objects in YAML and JSON files. What is wrong spoils no more than its own document.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use api::key::{Key, Kind};
use api::manifest::{complete, items};
use api::object::Object;
use api::validate::validate;
use serde_json::Value;

/// Endings of the files of a folder that count.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// An object, or why it cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// The file, and which of its documents.
    pub(crate) place: String,
    pub(crate) object: Result<Object, String>,
}

/// What the files say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) objects: BTreeMap<Key, Found>,
    /// What is wrong, in words: place, object, field.
    pub(crate) faults: Vec<String>,
}

impl Content {
    /// Reads the text of each file, the files in the order of their names. Of an object that stands twice, the first
    /// counts.
    pub(crate) fn of(files: &BTreeMap<PathBuf, String>) -> Self {
        let mut content = Self::default();
        for (path, text) in files {
            for (number, document) in documents(text).into_iter().enumerate() {
                let place = format!("{}, document {}", path.display(), number + 1);
                match serde_saphyr::from_str::<Value>(&document) {
                    Ok(value) => {
                        for item in items(value) {
                            content.take(&place, item);
                        }
                    }
                    Err(error) => content.faults.push(format!("{place}: not YAML: {error}")),
                }
            }
        }
        content
    }

    fn take(&mut self, place: &str, value: Value) {
        let (key, object) = match read(value) {
            Ok(found) => found,
            Err(why) => {
                self.faults.push(format!("{place}: {why}"));
                return;
            }
        };
        if let Some(first) = self.objects.get(&key) {
            let first = &first.place;
            self.faults.push(format!(
                "{place}: {key}: stands in {first} already, which counts"
            ));
            return;
        }
        match &object {
            Err(why) => self.faults.push(format!("{place}: {key}: {why}")),
            // What is known of the object counts all the same: a field of a later version ends no session.
            Ok(object) => {
                let unknown = object.unread().unknown.into_iter();
                self.faults
                    .extend(unknown.map(|fault| format!("{place}: {key}: {fault}")));
            }
        }
        let place = place.to_owned();
        self.objects.insert(key, Found { place, object });
    }

    /// The Node that a reflector is, when nobody names it.
    pub(crate) fn only_reflector(&self) -> Result<String, String> {
        let reflectors: Vec<&str> = self
            .objects
            .iter()
            .filter_map(|(key, found)| match &found.object {
                Ok(Object::Node(node)) => {
                    let bgp = node.spec.bgp.as_ref()?;
                    bgp.route_reflector_cluster_id.map(|_| key.name.as_str())
                }
                Ok(_) | Err(_) => None,
            })
            .collect();
        match reflectors.as_slice() {
            [one] => Ok((*one).to_owned()),
            [] => Err("no Node has spec.bgp.routeReflectorClusterID".to_owned()),
            many => Err(format!(
                "several Nodes have spec.bgp.routeReflectorClusterID: {}",
                many.join(", ")
            )),
        }
    }
}

/// Reads a file, or the files of a folder that count; hidden ones do not.
pub(crate) fn read_all(path: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let named = |error: io::Error, path: &Path| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| named(error, path));
    if !path.is_dir() {
        return Ok(BTreeMap::from([(path.to_owned(), read(path)?)]));
    }
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).map_err(|error| named(error, path))? {
        let entry = entry.map_err(|error| named(error, path))?.path();
        let hidden = entry
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let counts = entry
            .extension()
            .is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
        if counts && !hidden && entry.is_file() {
            let text = read(&entry)?;
            files.insert(entry, text);
        }
    }
    Ok(files)
}

/// The documents of a text. A line that begins with `---` cannot stand inside one.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line.starts_with("---") {
            documents.push(line.trim_start_matches('-').to_owned());
        } else if let Some(last) = documents.last_mut() {
            last.push('\n');
            last.push_str(line);
        }
    }
    let says_something = |document: &String| {
        document
            .lines()
            .any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    };
    documents.into_iter().filter(says_something).collect()
}

/// The object's key, and the object or what is wrong with its fields.
fn read(mut value: Value) -> Result<(Key, Result<Object, String>), String> {
    let kind = value.get("kind").and_then(Value::as_str);
    let kind = kind.ok_or("kind: missing")?;
    let kind = Kind::from_name(kind).ok_or_else(|| {
        let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("kind: {kind:?} is unknown; allowed: {}", known.join(", "))
    })?;
    let key = complete(kind, &mut value, "default")
        .ok_or_else(|| format!("{kind}: metadata.name: missing"))?;
    let object = Object::decode(&key, value.to_string().as_bytes())
        .map_err(|error| error.message)
        .and_then(|object| {
            let faults: Vec<String> = validate(&object).iter().map(ToString::to_string).collect();
            if faults.is_empty() {
                Ok(object)
            } else {
                Err(faults.join("; "))
            }
        });
    Ok((key, object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(files: &[(&str, &str)]) -> Content {
        let files = files
            .iter()
            .map(|(name, text)| (PathBuf::from(name), (*text).to_owned()))
            .collect();
        Content::of(&files)
    }

    const REFLECTOR: &str = "
# The reflector itself.
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: rr1, labels: {rr: \"yes\"}}
spec:
  bgp: {ipv4Address: 10.0.0.8/24, routeReflectorClusterID: 1.0.0.1}
---
kind: BGPPeer
metadata: {name: clients}
spec: {peerIP: 10.0.0.1, asNumber: 64512}
";

    #[test]
    fn an_unknown_field_is_reported_and_the_object_counts() {
        let text = REFLECTOR.replace("asNumber", "ttlSecurty: 1, asNumber");
        let content = content(&[("a.yaml", &text)]);
        assert_eq!(content.faults.len(), 1, "{:?}", content.faults);
        let named =
            "a.yaml, document 2: BGPPeer(clients): spec.ttlSecurty = 1: is not a field; allowed: ";
        assert!(
            content.faults[0].starts_with(named),
            "{}",
            content.faults[0]
        );
        assert_eq!(content.objects.len(), 2);
    }

    #[test]
    fn every_document_and_list_item_is_an_object() {
        let list =
            "{kind: List, items: [{kind: IPPool, metadata: {name: a}, spec: {cidr: 10.1.0.0/16}}]}";
        let content = content(&[("a.yaml", REFLECTOR), ("b.json", list)]);
        let keys: Vec<String> = content.objects.keys().map(ToString::to_string).collect();
        assert_eq!(keys, ["IPPool(a)", "Node(rr1)", "BGPPeer(clients)"]);
        assert_eq!(content.faults, Vec::<String>::new());
        assert_eq!(content.only_reflector(), Ok("rr1".to_owned()));
    }

    #[test]
    fn a_fault_names_file_object_and_field_and_spoils_nothing_else() {
        for (text, named) in [
            (
                "kind: Pod\nmetadata: {name: x}",
                "b.yaml, document 1: kind: \"Pod\" is unknown",
            ),
            ("metadata: {name: x}", "b.yaml, document 1: kind: missing"),
            (
                "kind: BGPPeer",
                "b.yaml, document 1: BGPPeer: metadata.name: missing",
            ),
            (
                "kind: BGPPeer\nmetadata: {name: x}\nspec: {peerIP: 10.0.0.300, asNumber: 1}",
                "b.yaml, document 1: BGPPeer(x): spec.peerIP",
            ),
            (
                "kind: Node\nmetadata: {name: x}\nspec: {bgp: {ipv4Address: 10.0.0.1/33}}",
                "b.yaml, document 1: Node(x): spec.bgp.ipv4Address",
            ),
            ("kind: [", "b.yaml, document 1: not YAML"),
            (
                "kind: Node\nmetadata: {name: rr1}",
                "b.yaml, document 1: Node(rr1): stands in a.yaml, document 1 already, which counts",
            ),
        ] {
            let content = content(&[("a.yaml", REFLECTOR), ("b.yaml", text)]);
            assert_eq!(content.faults.len(), 1, "{:?}", content.faults);
            assert!(
                content.faults[0].starts_with(named),
                "{}",
                content.faults[0]
            );
            let good = content
                .objects
                .values()
                .filter(|found| found.object.is_ok());
            assert_eq!(good.count(), 2, "{text}");
        }
    }

    #[test]
    fn a_reflector_that_is_not_the_only_one_must_be_named() {
        let second = REFLECTOR.replace("rr1", "rr2").replace("clients", "others");
        let two = content(&[("a.yaml", REFLECTOR), ("b.yaml", &second)]);
        assert!(two.only_reflector().unwrap_err().ends_with(": rr1, rr2"));
        assert!(content(&[]).only_reflector().is_err());
    }
}
