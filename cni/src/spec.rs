//! What the CNI specification defines, as far as a plugin meets it.

pub mod environment;
pub mod error;
pub mod netconf;
pub mod result;
pub mod version;
