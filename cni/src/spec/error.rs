//! The error object a plugin prints.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::spec::version::Version;

/// An error code of the specification (1–99) or of this plugin (100 and above).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The configuration's `cniVersion` is not one of ours, or has no such command.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A field or value of the configuration is valid but not supported here.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown or gone; the runtime need not call DEL.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// An environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Reading or writing failed.
    pub const IO: Self = Self(5);
    /// The input is not JSON of the right shape.
    pub const DECODE: Self = Self(6);
    /// The configuration is readable but wrong.
    pub const INVALID_CONFIG: Self = Self(7);
    /// `CNI_NETNS` is no network namespace, or the plugin's own.
    pub const INVALID_NETNS: Self = Self(8);
    /// A passing condition: the runtime should call again.
    pub const TRY_AGAIN_LATER: Self = Self(11);
    /// STATUS: ADD cannot be served.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// STATUS: ADD cannot be served and existing containers may be cut off.
    pub const NOT_AVAILABLE_LIMITED_CONNECTIVITY: Self = Self(51);
    /// No address could be had from the pools.
    pub const NO_ADDRESS: Self = Self(100);
    /// The kernel refused a step.
    pub const KERNEL: Self = Self(101);
    /// The datastore refused or could not be reached.
    pub const DATASTORE: Self = Self(102);
    /// CHECK: what ADD made is not there or differs.
    pub const CHECK_FAILED: Self = Self(103);
    /// The agent broke the socket protocol.
    pub const PROTOCOL: Self = Self(104);

    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::INCOMPATIBLE_VERSION,
        Self::UNSUPPORTED_FIELD,
        Self::UNKNOWN_CONTAINER,
        Self::INVALID_ENVIRONMENT,
        Self::IO,
        Self::DECODE,
        Self::INVALID_CONFIG,
        Self::INVALID_NETNS,
        Self::TRY_AGAIN_LATER,
        Self::NOT_AVAILABLE,
        Self::NOT_AVAILABLE_LIMITED_CONNECTIVITY,
        Self::NO_ADDRESS,
        Self::KERNEL,
        Self::DATASTORE,
        Self::CHECK_FAILED,
        Self::PROTOCOL,
    ];
}

/// A failed command: what the runtime gets on the plugin's standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg} (code {})", .code.0)]
pub struct CniError {
    /// Kind.
    pub code: Code,
    /// One line for the operator: object, field, value, what is allowed.
    pub msg: String,
    /// More lines, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The object to print, in the shape all versions share.
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = json!({
            "cniVersion": version.as_str(),
            "code": self.code.0,
            "msg": self.msg,
        });
        if !self.details.is_empty() {
            object["details"] = Value::String(self.details.clone());
        }
        object
    }
}
