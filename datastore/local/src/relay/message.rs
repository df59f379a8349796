//! The protocol's messages that carry objects, between their octets and the store's types: for who has only the octets.

use api::key::{Key, Kind};
use datastore::plan::Plan;
use datastore::scope::Scope;
use datastore::store::{Change, KeyValue, WatchEvent};
use datastore::version::Cursor;
use prost::Message as _;

use super::convert;
pub use super::convert::Malformed;
use crate::generated as wire;

/// Which message octets are: gRPC says it by the method's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `GetRequest`, to the server.
    Get,
    /// `WatchRequest`, to the server. A `ListRequest` is the same without a cursor.
    Watch,
    /// `CommitRequest`, to the server.
    Commit,
    /// `ListResponse`, to a client.
    Listed,
    /// `CommitResponse`, to a client.
    Committed,
    /// `WatchResponse` without an end, to a client.
    Events,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Get,
        Self::Watch,
        Self::Commit,
        Self::Listed,
        Self::Committed,
        Self::Events,
    ];
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Read this object.
    Get(Key),
    /// Send the changes of a kind within a scope, after a cursor.
    Watch(Kind, Scope, Cursor),
    /// Carry this plan out.
    Commit(Plan),
    /// Objects, and the moment they were read at.
    Listed(Vec<KeyValue>, Cursor),
    /// What a plan changed, or the object whose condition failed and what stands there.
    Committed(Vec<Change>, Option<(Key, Option<KeyValue>)>),
    /// What happened.
    Events(Vec<WatchEvent>),
}

/// Why octets are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are no Protocol Buffers message of this form.
    #[error("no Protocol Buffers message: {0}")]
    Wire(#[from] prost::DecodeError),
    /// A field is missing or has an unknown kind.
    #[error(transparent)]
    Field(#[from] Malformed),
}

impl Message {
    /// Reads the octets of one message, without gRPC's five in front.
    ///
    /// # Errors
    /// Octets that the receiver would refuse.
    pub fn decode(form: Form, octets: &[u8]) -> Result<Self, DecodeError> {
        Ok(match form {
            Form::Get => Self::Get(convert::key(wire::GetRequest::decode(octets)?.key)?),
            Form::Watch => {
                let request = wire::WatchRequest::decode(octets)?;
                let kind = convert::kind(request.kind)?;
                let scope = convert::scope(request.node);
                Self::Watch(kind, scope, Cursor::read(&request.after))
            }
            Form::Commit => Self::Commit(convert::plan(wire::CommitRequest::decode(octets)?)?),
            Form::Listed => {
                let part = wire::ListResponse::decode(octets)?;
                let items = part.items.into_iter().map(convert::object);
                Self::Listed(items.collect::<Result<_, _>>()?, Cursor::read(&part.cursor))
            }
            Form::Committed => {
                let (changes, conflict) =
                    convert::committed(wire::CommitResponse::decode(octets)?)?;
                Self::Committed(changes, conflict)
            }
            Form::Events => {
                let events = wire::WatchResponse::decode(octets)?.events.into_iter();
                Self::Events(events.map(convert::event).collect::<Result<_, _>>()?)
            }
        })
    }

    /// Its octets, as its sender writes them.
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Get(key) => wire::GetRequest {
                key: Some(convert::key_to_wire(&key)),
            }
            .encode_to_vec(),
            Self::Watch(kind, scope, after) => wire::WatchRequest {
                kind: kind.name().to_owned(),
                node: convert::scope_to_wire(&scope),
                after: after.to_string(),
            }
            .encode_to_vec(),
            Self::Commit(plan) => convert::plan_to_wire(plan).encode_to_vec(),
            Self::Listed(items, cursor) => wire::ListResponse {
                items: items.into_iter().map(convert::object_to_wire).collect(),
                cursor: cursor.to_string(),
            }
            .encode_to_vec(),
            Self::Committed(changes, conflict) => {
                convert::committed_to_wire(changes, conflict).encode_to_vec()
            }
            Self::Events(events) => wire::WatchResponse {
                events: events.into_iter().map(convert::event_to_wire).collect(),
                ..wire::WatchResponse::default()
            }
            .encode_to_vec(),
        }
    }
}
