//! The relay: a store's operations as gRPC over a Unix socket. `proto/relay.proto` is the protocol.

pub mod client;
mod convert;
pub mod message;
pub mod server;

/// Where the embedded store listens unless set otherwise.
pub const SOCKET: &str = "/var/run/calico/tortie-store.sock";

/// One message at most, in bytes; a large answer is cut into several.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
