//! One value for an object of any kind: what stores hand out and watches deliver.

use serde_json::Value;

use crate::bgp::{BGPConfiguration, BGPPeer};
use crate::bgp_filter::BGPFilter;
use crate::cluster::ClusterInformation;
use crate::endpoint::WorkloadEndpoint;
use crate::felix::FelixConfiguration;
use crate::ipam::{BlockAffinity, IPAMBlock, IPAMConfig, IPAMHandle};
use crate::key::{Key, Kind};
use crate::metadata::Metadata;
use crate::node::Node;
use crate::pool::IPPool;
use crate::shape;

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is its type")]
pub enum Object {
    IPPool(IPPool),
    Node(Node),
    BGPConfiguration(BGPConfiguration),
    BGPPeer(BGPPeer),
    BGPFilter(BGPFilter),
    FelixConfiguration(FelixConfiguration),
    ClusterInformation(ClusterInformation),
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
            Object::BGPFilter($bound) => $body,
            Object::FelixConfiguration($bound) => $body,
            Object::ClusterInformation($bound) => $body,
            Object::WorkloadEndpoint($bound) => $body,
            Object::IPAMConfig($bound) => $body,
            Object::IPAMBlock($bound) => $body,
            Object::BlockAffinity($bound) => $body,
            Object::IPAMHandle($bound) => $body,
        }
    };
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

    fn from_slice(kind: Kind, json: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            Kind::IPPool => Self::IPPool(serde_json::from_slice(json)?),
            Kind::Node => Self::Node(serde_json::from_slice(json)?),
            Kind::BGPConfiguration => Self::BGPConfiguration(serde_json::from_slice(json)?),
            Kind::BGPPeer => Self::BGPPeer(serde_json::from_slice(json)?),
            Kind::BGPFilter => Self::BGPFilter(serde_json::from_slice(json)?),
            Kind::FelixConfiguration => Self::FelixConfiguration(serde_json::from_slice(json)?),
            Kind::ClusterInformation => Self::ClusterInformation(serde_json::from_slice(json)?),
            Kind::WorkloadEndpoint => Self::WorkloadEndpoint(serde_json::from_slice(json)?),
            Kind::IPAMConfig => Self::IPAMConfig(serde_json::from_slice(json)?),
            Kind::IPAMBlock => Self::IPAMBlock(serde_json::from_slice(json)?),
            Kind::BlockAffinity => Self::BlockAffinity(serde_json::from_slice(json)?),
            Kind::IPAMHandle => Self::IPAMHandle(serde_json::from_slice(json)?),
        })
    }

    /// The object as JSON.
    pub fn encode(&self) -> Vec<u8> {
        each!(self, object => serde_json::to_vec(object))
            .expect("resource types hold no map with keys other than text")
    }

    /// Fields that mean nothing here, for what a person wrote.
    pub fn unread(&self) -> shape::Unread {
        let value =
            serde_json::from_slice(&self.encode()).expect("what was written as JSON is JSON");
        shape::unread(self.kind(), &value)
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::IPPool(_) => Kind::IPPool,
            Self::Node(_) => Kind::Node,
            Self::BGPConfiguration(_) => Kind::BGPConfiguration,
            Self::BGPPeer(_) => Kind::BGPPeer,
            Self::BGPFilter(_) => Kind::BGPFilter,
            Self::FelixConfiguration(_) => Kind::FelixConfiguration,
            Self::ClusterInformation(_) => Kind::ClusterInformation,
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
