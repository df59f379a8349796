//! One value for an object of any kind: what stores hand out and watches deliver.

use serde_json::Value;

use crate::key::Key;
pub use crate::kinds::Object;
use crate::shape;

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct DecodeError {
    /// The object.
    pub key: Key,
    /// Field, value and what is allowed.
    pub message: String,
}

impl Object {
    /// Reads the JSON of an object of `key.kind`. The error names every field that cannot be read, with its value.
    pub fn decode(key: &Key, json: &[u8]) -> Result<Self, DecodeError> {
        // The quick way first; where it fails, the slow one finds out why, and accepts a `null`.
        if let Ok(object) = Self::from_slice(key.kind, json) {
            return Ok(object);
        }
        let refused = |message| DecodeError {
            key: key.clone(),
            message,
        };
        let mut value: Value =
            serde_json::from_slice(json).map_err(|error| refused(format!("not JSON: {error}")))?;
        let faults = shape::check(key.kind, &mut value);
        if !faults.is_empty() {
            let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
            return Err(refused(texts.join("; ")));
        }
        let cleaned = value.to_string();
        Self::from_slice(key.kind, cleaned.as_bytes()).map_err(|error| refused(error.to_string()))
    }

    /// The object as JSON.
    pub fn encode(&self) -> Vec<u8> {
        self.to_vec()
            .expect("resource types hold no map with keys other than text")
    }

    /// Fields that mean nothing here, for what a person wrote.
    pub fn unread(&self) -> shape::Unread {
        let value =
            serde_json::from_slice(&self.encode()).expect("what was written as JSON is JSON");
        shape::unread(self.kind(), &value)
    }

    /// Its name among all objects.
    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        let namespace = if self.kind().namespaced() {
            metadata.namespace.clone()
        } else {
            String::new()
        };
        Key {
            kind: self.kind(),
            namespace,
            name: metadata.name.clone(),
        }
    }
}
