//! The host, as the kernel shows it.
