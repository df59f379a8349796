//! An object of somebody else's that is written, or deleted, in the plan of an assignment or a release: a pod's endpoint.
//!
//! A store that does a plan as a whole then has one transaction for a pod instead of two. What the object expects is its own
//! affair: where it is refused, the plan is decided anew without it, and the caller is told what stands there.

use std::collections::BTreeMap;
use std::fmt;

use api::key::Key;
use api::object::Object;
use bytes::Bytes;
use datastore::store::{Change, Expect, KeyValue, Op};
use datastore::version::Version;
use ipnet::IpNet;

use crate::draft::Draft;

/// Makes the object, once its addresses are known.
pub type Compose = Box<dyn Fn(&[IpNet]) -> Object + Send + Sync>;

/// Companions that a store refused, with what stood there.
pub(crate) type RefusedKeys = BTreeMap<Key, Option<KeyValue>>;

/// What is to be done to an object beside a change of addresses.
pub struct Companion {
    key: Key,
    expect: Expect,
    /// `None` deletes it.
    compose: Option<Compose>,
}

/// What became of a companion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accompanied {
    /// There was none.
    None,
    /// It was done in the same plan, with this change.
    Done(Change),
    /// Its condition did not hold, and this stands there; or another of the same call was about the same object. An assignment was
    /// made without it; a release was not made.
    Refused(Option<KeyValue>),
}

/// A companion in a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Laid {
    /// There is none.
    None,
    /// The object is the draft's to change.
    Over(Key),
    /// It is not, and this stands there.
    Not(Option<KeyValue>),
}

impl Laid {
    /// What became of it in a plan that wrote all this.
    pub(crate) fn done(self, written: &[Change]) -> Accompanied {
        match self {
            Self::None => Accompanied::None,
            Self::Not(stands) => Accompanied::Refused(stands),
            Self::Over(key) => {
                let change = written.iter().rev().find(|change| *change.key() == key);
                change.map_or(Accompanied::Refused(None), |change| {
                    Accompanied::Done(change.clone())
                })
            }
        }
    }
}

impl Companion {
    /// The object `key`, made of the addresses that were assigned, is written if `expect` holds.
    #[must_use]
    pub fn put(key: Key, expect: Expect, compose: Compose) -> Self {
        let compose = Some(compose);
        Self {
            key,
            expect,
            compose,
        }
    }

    /// The object `key` is deleted as it stood at `version`.
    #[must_use]
    pub fn delete(key: Key, version: Version) -> Self {
        Self {
            key,
            expect: Expect::Version(version),
            compose: None,
        }
    }

    /// Lays it over a draft, unless that was refused before.
    pub(crate) fn lay(&self, draft: &mut Draft<'_>, addresses: &[IpNet]) -> Laid {
        if let Some(stands) = draft.refused(&self.key) {
            return Laid::Not(stands.clone());
        }
        let (key, expect) = (self.key.clone(), self.expect.clone());
        let op = match &self.compose {
            Some(compose) => Op::Put {
                key,
                expect,
                value: Bytes::from(compose(addresses).encode()),
            },
            None => Op::Delete { key, expect },
        };
        if draft.lay_beside(op) {
            Laid::Over(self.key.clone())
        } else {
            Laid::Not(None)
        }
    }
}

impl fmt::Debug for Companion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Companion")
            .field("key", &self.key)
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}
