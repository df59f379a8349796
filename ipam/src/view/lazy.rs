//! A listed object that is decoded when somebody looks at it.
//!
//! A full view lists every block and affinity of the cluster, of which a decision needs a few: decoding the others would
//! be most of the time that a new block costs.

use std::sync::{Arc, OnceLock};

use api::ipam::{BlockAffinity, IPAMBlock, block_cidr};
use api::key::Key;
use api::object::Object;
use bytes::Bytes;
use memchr::{memchr, memmem};

use crate::block;

/// An object as JSON, decoded at most once.
#[derive(Clone, Debug)]
pub(super) struct Lazy<T> {
    /// Dropped when the object is kept for long: it may be a slice of a whole answer of the store.
    json: Option<Bytes>,
    /// Whether the JSON has an escape: any character can be written as one.
    escaped: bool,
    decoded: OnceLock<Result<Arc<T>, String>>,
}

/// How one kind is read.
pub(super) trait Decode: Sized {
    /// The object; else what is wrong with it.
    fn decode(key: &Key, json: &[u8]) -> Result<Self, String>;
}

impl<T: Decode> Lazy<T> {
    pub(super) fn new(json: Bytes) -> Self {
        Self {
            escaped: is_escaped(&json),
            json: Some(json),
            decoded: OnceLock::new(),
        }
    }

    /// The object, whose key is `key`; else what is wrong with it.
    pub(super) fn get(&self, key: impl FnOnce() -> Key) -> Result<&T, &str> {
        let decoded = self.decoded.get_or_init(|| {
            let json = self.json.as_deref().unwrap_or_default();
            T::decode(&key(), json).map(Arc::new)
        });
        decoded.as_deref().map_err(String::as_str)
    }

    /// Whether the object may hold `text`, which has no character that JSON must escape, as a part of any value; it does
    /// not when the answer is no.
    pub(super) fn may_hold(&self, text: &str) -> bool {
        self.escaped || self.json.as_deref().is_none_or(|json| holds(json, text))
    }

    /// Whether the object may be marked as deleted, which is `true` or `"true"`.
    pub(super) fn may_be_tombstone(&self) -> bool {
        self.may_hold("true")
    }

    /// Keeps the decoded object only.
    pub(super) fn shrink(&mut self, key: impl FnOnce() -> Key) {
        let _ = self.get(key);
        self.json = None;
    }

    #[cfg(test)]
    pub(super) fn is_decoded(&self) -> bool {
        self.decoded.get().is_some()
    }
}

fn is_escaped(json: &[u8]) -> bool {
    memchr(b'\\', json).is_some()
}

fn holds(json: &[u8], text: &str) -> bool {
    memmem::find(json, text.as_bytes()).is_some()
}

impl Decode for IPAMBlock {
    fn decode(key: &Key, json: &[u8]) -> Result<Self, String> {
        let found = match Object::decode(key, json) {
            Ok(Object::IPAMBlock(found)) => found,
            Ok(_) => return Err("is no block".to_owned()),
            Err(error) => return Err(error.message),
        };
        match block::fault(&found.spec) {
            Some(problem) => Err(problem),
            None if block_cidr(&key.name) != Some(found.spec.cidr) => {
                Err(format!("cidr {} belongs to another name", found.spec.cidr))
            }
            None => Ok(found),
        }
    }
}

impl Decode for BlockAffinity {
    fn decode(key: &Key, json: &[u8]) -> Result<Self, String> {
        match Object::decode(key, json) {
            Ok(Object::BlockAffinity(found)) => Ok(found),
            Ok(_) => Err("is no affinity".to_owned()),
            Err(error) => Err(error.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(json: &'static str) -> Lazy<BlockAffinity> {
        Lazy::new(Bytes::from_static(json.as_bytes()))
    }

    #[test]
    fn an_escaped_text_may_be_any() {
        assert!(listed(r#"{"node":"n1"}"#).may_hold("n1"));
        assert!(listed(r#"{"node":"\u006e1"}"#).may_hold("n1"));
        assert!(!listed(r#"{"node":"n2"}"#).may_hold("n1"));
    }

    #[test]
    fn both_ways_to_mark_as_deleted_are_seen() {
        assert!(listed(r#"{"deleted": true}"#).may_be_tombstone());
        assert!(listed(r#"{"deleted":"true"}"#).may_be_tombstone());
        assert!(listed(r#"{"deleted":"\u0074rue"}"#).may_be_tombstone());
        assert!(!listed(r#"{"deleted":false}"#).may_be_tombstone());
    }
}
