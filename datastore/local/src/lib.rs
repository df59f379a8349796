//! The embedded store: redb in one process, served to others over the relay.
