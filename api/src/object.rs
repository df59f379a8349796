//! One value for an object of any kind: what stores hand out and watches deliver.

use crate::bgp::{BGPConfiguration, BGPPeer};
use crate::endpoint::WorkloadEndpoint;
use crate::ipam::{BlockAffinity, IPAMBlock, IPAMConfig, IPAMHandle};
use crate::key::{Key, Kind};
use crate::metadata::Metadata;
use crate::node::Node;
use crate::pool::IPPool;

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is its type")]
pub enum Object {
    IPPool(IPPool),
    Node(Node),
    BGPConfiguration(BGPConfiguration),
    BGPPeer(BGPPeer),
    WorkloadEndpoint(WorkloadEndpoint),
    IPAMConfig(IPAMConfig),
    IPAMBlock(IPAMBlock),
    BlockAffinity(BlockAffinity),
    IPAMHandle(IPAMHandle),
}

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct DecodeError {
    /// The object.
    pub key: Key,
    /// Field, value and what is allowed.
    pub message: String,
}

macro_rules! each {
    ($object:expr, $bound:ident => $body:expr) => {
        match $object {
            Object::IPPool($bound) => $body,
            Object::Node($bound) => $body,
            Object::BGPConfiguration($bound) => $body,
            Object::BGPPeer($bound) => $body,
            Object::WorkloadEndpoint($bound) => $body,
            Object::IPAMConfig($bound) => $body,
            Object::IPAMBlock($bound) => $body,
            Object::BlockAffinity($bound) => $body,
            Object::IPAMHandle($bound) => $body,
        }
    };
}

impl Object {
    /// Reads the JSON of an object of `key.kind`.
    pub fn decode(key: &Key, json: &[u8]) -> Result<Self, DecodeError> {
        let refused = |error: serde_json::Error| DecodeError {
            key: key.clone(),
            message: error.to_string(),
        };
        Ok(match key.kind {
            Kind::IPPool => Self::IPPool(serde_json::from_slice(json).map_err(refused)?),
            Kind::Node => Self::Node(serde_json::from_slice(json).map_err(refused)?),
            Kind::BGPConfiguration => {
                Self::BGPConfiguration(serde_json::from_slice(json).map_err(refused)?)
            }
            Kind::BGPPeer => Self::BGPPeer(serde_json::from_slice(json).map_err(refused)?),
            Kind::WorkloadEndpoint => {
                Self::WorkloadEndpoint(serde_json::from_slice(json).map_err(refused)?)
            }
            Kind::IPAMConfig => Self::IPAMConfig(serde_json::from_slice(json).map_err(refused)?),
            Kind::IPAMBlock => Self::IPAMBlock(serde_json::from_slice(json).map_err(refused)?),
            Kind::BlockAffinity => {
                Self::BlockAffinity(serde_json::from_slice(json).map_err(refused)?)
            }
            Kind::IPAMHandle => Self::IPAMHandle(serde_json::from_slice(json).map_err(refused)?),
        })
    }

    /// The object as JSON.
    pub fn encode(&self) -> Vec<u8> {
        each!(self, object => serde_json::to_vec(object))
            .expect("resource types hold no map with keys other than text")
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::IPPool(_) => Kind::IPPool,
            Self::Node(_) => Kind::Node,
            Self::BGPConfiguration(_) => Kind::BGPConfiguration,
            Self::BGPPeer(_) => Kind::BGPPeer,
            Self::WorkloadEndpoint(_) => Kind::WorkloadEndpoint,
            Self::IPAMConfig(_) => Kind::IPAMConfig,
            Self::IPAMBlock(_) => Kind::IPAMBlock,
            Self::BlockAffinity(_) => Kind::BlockAffinity,
            Self::IPAMHandle(_) => Kind::IPAMHandle,
        }
    }

    /// Its metadata.
    pub const fn metadata(&self) -> &Metadata {
        each!(self, object => &object.metadata)
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
