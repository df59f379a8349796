//! Watching the datastore.
