//! What the CNI specification defines, as far as a plugin meets it.

pub mod error;
pub mod result;
pub mod version;
