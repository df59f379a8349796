//! [`Own`] as a file: a line for each object and for each range of others.

use std::path::Path;

use api::key::{Key, Kind};
use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Own, block_key};
use crate::startup::{StartupError, files};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Object {
        kind: String,
        namespace: String,
        name: String,
        /// JSON.
        value: String,
    },
    RangeOfOthers(IpNet),
}

impl Own {
    /// Makes the file say this, if it says something else.
    pub(crate) fn save(&mut self, path: &Path) -> Result<(), StartupError> {
        if !self.changed {
            return Ok(());
        }
        files::write(path, &self.lines())?;
        self.changed = false;
        Ok(())
    }

    /// What the file says; nothing where there is none. A line that cannot be read is left out.
    pub(crate) fn load(node: String, path: &Path) -> Self {
        let mut own = Self::new(node);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(Line::Object {
                    kind,
                    namespace,
                    name,
                    value,
                }) => {
                    if let Some(kind) = Kind::from_name(&kind) {
                        let key = Key::namespaced(kind, namespace, name);
                        own.objects.insert(key, Bytes::from(value));
                    }
                }
                Ok(Line::RangeOfOthers(range)) => {
                    own.others.insert(block_key(range), range);
                }
                Err(_) => {}
            }
        }
        own
    }

    fn lines(&self) -> String {
        let objects = self.objects.iter().map(|(key, value)| Line::Object {
            kind: key.kind.name().to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            value: String::from_utf8_lossy(value).into_owned(),
        });
        let others = self.others.values().copied().map(Line::RangeOfOthers);
        let mut text = String::new();
        for line in objects.chain(others) {
            text += &serde_json::to_string(&line).expect("texts and ranges are JSON");
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use datastore::store::KeyValue;
    use serde_json::json;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn what_is_saved_is_loaded_and_an_unchanged_file_is_left_alone() {
        let scratch = Scratch::new();
        let path = scratch.path().join("own");
        let mut own = Own::new("n1".to_owned());
        let put = |own: &mut Own, key: Key, spec: serde_json::Value| {
            let value = json!({"metadata": {"name": key.name}, "spec": spec});
            own.put(&KeyValue {
                key,
                value: format!("{value:#}").into(),
                version: 1.into(),
            });
        };
        let endpoint = Key::namespaced(Kind::WorkloadEndpoint, "default", "n1-k8s-p-eth0");
        let spec = json!({"node": "n1", "orchestrator": "k8s", "pod": "p", "endpoint": "eth0"});
        put(&mut own, endpoint.clone(), spec);
        let of_n2 = json!({"cidr": "10.0.0.0/30", "affinity": "host:n2",
            "allocations": [null, null, null, null], "unallocated": [0, 1, 2, 3], "attributes": []});
        put(&mut own, block_key("10.0.0.0/30".parse().unwrap()), of_n2);
        own.save(&path).unwrap();
        let loaded = Own::load("n1".to_owned(), &path);
        assert_eq!(
            (&loaded.objects, &loaded.others),
            (&own.objects, &own.others)
        );
        assert_eq!((loaded.pods(), loaded.others.len()), (1, 1));

        std::fs::remove_file(&path).unwrap();
        own.save(&path).unwrap();
        assert!(!path.exists(), "nothing has changed");
        own.remove(&endpoint);
        own.save(&path).unwrap();
        assert_eq!(Own::load("n1".to_owned(), &path).pods(), 0);
        std::fs::write(&path, "half a li").unwrap();
        assert_eq!(Own::load("n1".to_owned(), &path).pods(), 0);
    }
}
