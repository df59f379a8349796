//! The one task that owns the speaker.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Instant;

use bgp::action::{Action, ConnectRequest};
use bgp::config::{Config, Endpoint};
use bgp::event::Event;
use bgp::route::{Origination, Reachability, RouteChange};
use bgp::speaker::Speaker;
use bgp::status::{PeerStatus, RouteStatus};
use bgp::types::{ConnId, PeerName};
use bytes::Bytes;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use crate::connection::{self, CHUNKS_AHEAD, Inbox, Write};
use crate::listeners::Listeners;
use crate::listing::Listings;
use crate::security::{Key, Security};
use crate::socket;
use crate::sockopt::set_md5;

/// What the speaker's task is told.
#[derive(Debug)]
pub enum Command {
    /// A new configuration. The listening port and addresses follow it.
    Config(Box<Config>),
    /// Announce a prefix as our own; `None` withdraws it.
    Originate(IpNet, Option<Origination>),
    /// All own routes were given ([`Speaker::handle_originations_complete`]).
    OriginationsComplete,
    /// The way to a watched next hop.
    NextHop(IpAddr, Reachability),
    /// Ask for the peers' state.
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    /// Ask for every route, in no order. Made in slices: what changes meanwhile may stand there twice or not at all.
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
    /// An address is to be listened on no longer.
    NotWanted(SocketAddr),
    /// An address cannot be listened on; it is tried again every few seconds.
    ListenFailed {
        /// Address and port.
        address: SocketAddr,
        /// The system's words.
        error: String,
    },
}

/// What the other tasks tell the driver.
pub(crate) enum FromTask {
    Listening {
        /// As asked for: its port may be 0.
        wanted: SocketAddr,
        bound: SocketAddr,
        socket: Arc<TcpListener>,
    },
    ListenFailed {
        address: SocketAddr,
        error: String,
    },
    Accepted {
        stream: TcpStream,
        remote: SocketAddr,
        /// The key that the listening socket had for it.
        key: Option<Key>,
    },
    Connected {
        conn: ConnId,
        stream: TcpStream,
        far: Far,
    },
    ConnectFailed {
        conn: ConnId,
        error: String,
    },
    /// The system refuses what a peer's configuration asks of the listening socket.
    Refused {
        peer: PeerName,
        fault: String,
    },
    Bytes {
        conn: ConnId,
        bytes: Bytes,
        /// Of the octets that may wait.
        room: OwnedSemaphorePermit,
    },
    Written {
        conn: ConnId,
    },
    Closed {
        conn: ConnId,
        reason: Option<String>,
    },
}

impl FromTask {
    fn octets(&self) -> usize {
        match self {
            Self::Bytes { bytes, .. } => bytes.len(),
            Self::Listening { .. }
            | Self::ListenFailed { .. }
            | Self::Accepted { .. }
            | Self::Connected { .. }
            | Self::ConnectFailed { .. }
            | Self::Refused { .. }
            | Self::Written { .. }
            | Self::Closed { .. } => 0,
        }
    }
}

/// The far end of a connection, and the key its socket has for it.
pub(crate) struct Far {
    address: IpAddr,
    /// To which peer the connection was opened, if it was by us.
    opened: Option<Endpoint>,
    key: Option<Key>,
}

/// Messages of other tasks that wait. Full: sockets are read no further, so TCP holds the peers back.
const INBOX_ROOM: usize = 1024;
/// Octets of all sockets that were read and wait. Full: as above.
const INBOX_OCTETS: usize = 4 << 20;
/// Messages, and octets in them, that are handled before the speaker's outputs are drained and other inputs looked at.
const MESSAGES_PER_TURN: usize = 1024;
const OCTETS_PER_TURN: usize = 1 << 20;
/// So many messages at a time are a crowd: more are on their way.
const CROWD: usize = 4;
/// Octets asked for at a time.
const CHUNK_OCTETS: usize = 64 << 10;
/// Chunks written to one socket before others have their turn.
const CHUNKS_AT_ONCE: usize = 4;

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
    let (inbox_in, inbox) = mpsc::channel(INBOX_ROOM);
    let (security, _) = watch::channel(Security::default());
    let driver = Driver {
        speaker,
        outputs,
        inbox_in,
        inbox_octets: Arc::new(Semaphore::new(INBOX_OCTETS)),
        connections: BTreeMap::new(),
        listeners: Listeners::new(),
        listings: Listings::default(),
        news: VecDeque::new(),
        security,
        tasks: JoinSet::new(),
        accepted: 0,
        chunk: Vec::new(),
    };
    // Dropping the driver ends its tasks and so closes their sockets, wherever they are.
    tokio::select! {
        () = cancel => {}
        () = driver.run(commands, inbox) => {}
    }
}

struct Driver {
    speaker: Speaker,
    outputs: mpsc::Sender<Output>,
    inbox_in: mpsc::Sender<FromTask>,
    inbox_octets: Arc<Semaphore>,
    connections: BTreeMap<ConnId, Connection>,
    listeners: Listeners,
    listings: Listings,
    /// Outputs of the driver's own.
    news: VecDeque<Output>,
    security: watch::Sender<Security>,
    tasks: JoinSet<()>,
    accepted: u64,
    /// Room for what the speaker has to send.
    chunk: Vec<u8>,
}

/// A connection as the driver sees it.
enum Connection {
    Opening(AbortHandle),
    Open(Open),
}

struct Open {
    stream: Arc<TcpStream>,
    far: Far,
    writes: mpsc::Sender<Write>,
    closing: oneshot::Sender<()>,
    /// Chunks given and not yet written.
    ahead: usize,
    /// The speaker has something to send, as far as is known.
    writable: bool,
}

/// The readers of outputs are gone.
struct Deserted;

impl Driver {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut inbox: mpsc::Receiver<FromTask>,
    ) {
        loop {
            if let Err(Deserted) = self.drain().await {
                return;
            }
            let deadline = self.speaker.poll_timeout().map(|(at, _)| at.into());
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(message) = inbox.recv() => self.messages(message, &mut inbox).await,
                () = until(deadline) => self.speaker.handle_timeout(now()),
                () = std::future::ready(()), if !self.listings.is_empty() => {
                    self.listings.go_on(&self.speaker);
                }
                Some(ended) = self.tasks.join_next() => {
                    // A panic ends the process in release builds; elsewhere it must not pass unseen.
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
            }
        }
    }

    /// Handles a message, and what else came. Of a crowd, those that are still to be read have their turn before anything is
    /// sent: what many peers say at one time goes to each other peer in a few writes. A message that comes alone is passed on at
    /// once.
    async fn messages(&mut self, first: FromTask, inbox: &mut mpsc::Receiver<FromTask>) {
        let (mut messages, mut octets) = (0, 0);
        let mut next = Some(first);
        loop {
            let before = messages;
            while let Some(message) = next.take().or_else(|| inbox.try_recv().ok()) {
                messages += 1;
                octets += message.octets();
                self.message(message);
                if messages >= MESSAGES_PER_TURN || octets >= OCTETS_PER_TURN {
                    return;
                }
            }
            if messages - before < CROWD {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Config(config) => self.configure(*config),
            Command::Originate(prefix, origination) => {
                self.speaker.handle_originate(now(), prefix, origination);
            }
            Command::OriginationsComplete => self.speaker.handle_originations_complete(now()),
            Command::NextHop(next_hop, reachability) => {
                self.speaker.handle_next_hop(now(), next_hop, reachability);
            }
            // Who asked may have gone.
            Command::Peers(answer) => drop(answer.send(self.speaker.peers(now()))),
            Command::Routes(answer) => self.listings.ask(answer),
        }
    }

    fn configure(&mut self, config: Config) {
        let security = Security::of(&config);
        self.security.send_if_modified(|present| {
            let changed = *present != security;
            *present = security;
            changed
        });
        let gone =
            self.listeners
                .configure(&config, &self.security, &self.inbox_in, &mut self.tasks);
        self.news.extend(gone.into_iter().map(Output::NotWanted));
        self.speaker.handle_config(now(), config);
        // First, connections that end with this configuration are out of the way: last words are signed with the old key.
        self.act();
        self.change_keys(..);
    }

    /// Gives connections the keys of the present configuration, without ending them.
    fn change_keys(&mut self, which: impl RangeBounds<ConnId>) {
        let security = self.security.borrow();
        for (_, connection) in self.connections.range_mut(which) {
            let Connection::Open(Open { stream, far, .. }) = connection else {
                continue;
            };
            let wanted = security.key_for(far.address, far.opened, far.key.as_ref());
            let password = wanted.map(|key| &key.password);
            if far.key.as_ref().map(|key| &key.password) == password {
                continue;
            }
            let whose = wanted.or(far.key.as_ref()).map(|key| key.peer.clone());
            let wanted = wanted.cloned();
            let password = wanted.as_ref().map(|key| &key.password);
            match (set_md5(&**stream, far.address.into(), password), whose) {
                (Ok(()), _) => far.key = wanted,
                (Err(error), Some(peer)) => {
                    let fault = format!("connection with {}: TCP MD5 key: {error}", far.address);
                    self.speaker.handle_socket_refused(now(), &peer, fault);
                }
                (Err(_), None) => {}
            }
        }
    }

    fn message(&mut self, message: FromTask) {
        match message {
            FromTask::Listening {
                wanted,
                bound,
                socket,
            } => {
                self.listeners.settled(wanted, Some(socket));
                self.news.push_back(Output::Listening(bound));
            }
            FromTask::ListenFailed { address, error } => {
                self.listeners.settled(address, None);
                self.news.push_back(Output::ListenFailed { address, error });
            }
            FromTask::Accepted {
                stream,
                remote,
                key,
            } => self.accepted(stream, remote, key),
            FromTask::Connected { conn, stream, far } => self.connected(conn, stream, far),
            FromTask::Refused { peer, fault } => {
                self.speaker.handle_socket_refused(now(), &peer, fault);
            }
            FromTask::ConnectFailed { conn, error } => {
                self.connections.remove(&conn);
                self.speaker.handle_connect_failed(now(), conn, &error);
            }
            FromTask::Bytes { conn, bytes, room } => {
                self.speaker.handle_bytes(now(), conn, &bytes);
                drop(room);
            }
            FromTask::Written { conn } => self.send(conn, News::Written),
            FromTask::Closed { conn, reason } => {
                debug!(conn = conn.0, reason, "transport ended");
                self.connections.remove(&conn);
                self.speaker.handle_closed(now(), conn);
            }
        }
    }

    fn accepted(&mut self, stream: TcpStream, remote: SocketAddr, key: Option<Key>) {
        let Ok(local) = stream.local_addr() else {
            return;
        };
        self.accepted += 1;
        let conn = ConnId::incoming(self.accepted);
        if let Err(reason) = self.speaker.handle_accepted(now(), conn, remote, local) {
            debug!(%remote, %reason, "BGP connection refused");
            return;
        }
        let ttl = self.speaker.ttl(conn);
        if let Err(error) = socket::set_ttl(&stream, remote.ip(), ttl) {
            self.speaker
                .handle_connect_failed(now(), conn, &error.to_string());
            return;
        }
        let far = Far {
            address: remote.ip(),
            opened: None,
            key,
        };
        self.start(conn, stream, far);
        // They may have changed since the listening socket gave it its own.
        self.change_keys(conn..=conn);
    }

    fn connected(&mut self, conn: ConnId, stream: TcpStream, far: Far) {
        // Closed by the speaker while it was on its way: dropping the stream closes it.
        if !self.connections.contains_key(&conn) {
            return;
        }
        match stream.local_addr() {
            Ok(local) => {
                self.start(conn, stream, far);
                self.speaker.handle_connected(now(), conn, local);
            }
            Err(error) => {
                self.connections.remove(&conn);
                self.speaker
                    .handle_connect_failed(now(), conn, &error.to_string());
            }
        }
    }

    fn start(&mut self, conn: ConnId, stream: TcpStream, far: Far) {
        let (writes, writes_out) = connection::channel();
        let (closing, closing_out) = oneshot::channel();
        let stream = Arc::new(stream);
        let shared = Arc::clone(&stream);
        let inbox = Inbox {
            messages: self.inbox_in.clone(),
            octets: Arc::clone(&self.inbox_octets),
        };
        let task = connection::run(conn, shared, writes_out, inbox, closing_out);
        self.tasks.spawn(task);
        let open = Open {
            stream,
            far,
            writes,
            closing,
            ahead: 0,
            writable: false,
        };
        self.connections.insert(conn, Connection::Open(open));
    }

    /// Does what the speaker asks of the transport; false when that is nothing.
    fn act(&mut self) -> bool {
        let mut any = false;
        while let Some(action) = self.speaker.poll_action() {
            any = true;
            match action {
                Action::Connect(request) => self.connect(request),
                Action::Close { conn, farewell } => self.close(conn, farewell),
            }
        }
        any
    }

    /// Takes everything the speaker has to say.
    async fn drain(&mut self) -> Result<(), Deserted> {
        loop {
            let mut idle = !self.act();
            while let Some(news) = self.news.pop_front() {
                self.say(news).await?;
            }
            while let Some(conn) = self.speaker.poll_writable() {
                idle = false;
                self.send(conn, News::Writable);
            }
            while let Some(change) = self.speaker.poll_route() {
                self.say(Output::Route(change)).await?;
            }
            while let Some(event) = self.speaker.poll_event() {
                self.say(Output::Event(event)).await?;
            }
            while let Some((next_hop, used)) = self.speaker.poll_next_hop_watch() {
                self.say(Output::NextHopWatch(next_hop, used)).await?;
            }
            if idle {
                return Ok(());
            }
        }
    }

    async fn say(&mut self, output: Output) -> Result<(), Deserted> {
        self.outputs.send(output).await.map_err(|_| Deserted)
    }

    fn connect(&mut self, request: ConnectRequest) {
        let conn = request.conn;
        let inbox = self.inbox_in.clone();
        let peer = request.peer.clone();
        let far = Far {
            address: request.remote.ip(),
            opened: Some(Endpoint::from(request.remote)),
            key: (request.password.clone()).map(|password| Key { password, peer }),
        };
        let task = self.tasks.spawn(async move {
            let message = match socket::connect(&request).await {
                Ok(stream) => FromTask::Connected { conn, stream, far },
                Err(error) => FromTask::ConnectFailed {
                    conn,
                    error: error.to_string(),
                },
            };
            // The driver may be gone.
            let _ = inbox.send(message).await;
        });
        self.connections.insert(conn, Connection::Opening(task));
    }

    fn close(&mut self, conn: ConnId, farewell: Vec<u8>) {
        match self.connections.remove(&conn) {
            Some(Connection::Opening(task)) => task.abort(),
            Some(Connection::Open(open)) => {
                // Both fail only when the connection has ended by itself.
                let _ = open.writes.try_send(Write::Last(farewell));
                let _ = open.closing.send(());
            }
            None => {}
        }
    }

    /// Gives a connection what the speaker has for it, as far as there is room.
    fn send(&mut self, conn: ConnId, news: News) {
        let Some(Connection::Open(open)) = self.connections.get_mut(&conn) else {
            return;
        };
        match news {
            News::Writable => open.writable = true,
            News::Written => open.ahead -= 1,
        }
        open.send(conn, &mut self.speaker, &mut self.chunk);
    }
}

/// What makes a connection worth another try to send.
#[derive(Clone, Copy, Debug)]
enum News {
    /// The speaker has something for it.
    Writable,
    /// A chunk given to its task is written.
    Written,
}

impl Open {
    /// The socket is tried first: most of the time it takes a chunk whole, and the connection's task need not be woken.
    fn send(&mut self, conn: ConnId, speaker: &mut Speaker, chunk: &mut Vec<u8>) {
        let now = now();
        let mut at_once = CHUNKS_AT_ONCE;
        while self.writable && self.ahead < CHUNKS_AHEAD {
            chunk.clear();
            let octets = speaker.poll_transmit(now, conn, CHUNK_OCTETS, chunk);
            // Less than asked for: nothing is left, and `poll_writable` will tell when there is.
            self.writable = octets >= CHUNK_OCTETS;
            if octets == 0 {
                return;
            }
            let mut written = 0;
            if self.ahead == 0 && at_once > 0 {
                at_once -= 1;
                // The task meets the same error and reports it.
                written = connection::write_now(&self.stream, chunk).unwrap_or(0);
            }
            if written < octets {
                self.ahead += 1;
                // The channel has room for all chunks ahead; it fails when the connection has ended by itself.
                let _ = self
                    .writes
                    .try_send(Write::Chunk(chunk[written..].to_vec()));
            }
        }
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The runtime's clock, which tests may stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
