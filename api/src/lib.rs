//! What exists: resource types, keys, validation, selectors, parameter table.
#![forbid(unsafe_code)]
