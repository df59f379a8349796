//! TCP as the speakers see it: ordered byte streams with latency, cut at random, ended by either side or by a partition.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// How long an attempt to connect goes unanswered before it counts as failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A node by its place in the world.
pub type NodeIndex = usize;

/// One end of a stream: the node and that node's own name for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// Whose.
    pub node: NodeIndex,
    /// The speaker's connection number there.
    pub conn: bgp::types::ConnId,
}

/// What reaches a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Somebody connects.
    Syn {
        /// The connecting end.
        from: End,
        /// Its address.
        remote: SocketAddr,
        /// The address connected to.
        local: SocketAddr,
    },
    /// Our connection attempt went through.
    Connected {
        /// Our own end.
        at: End,
    },
    /// It did not.
    Refused {
        /// Our own end.
        at: End,
    },
    /// Bytes.
    Data {
        /// Our own end.
        at: End,
        /// What arrived, in order.
        bytes: Vec<u8>,
    },
    /// The other side closed, or the connection broke.
    Fin {
        /// Our own end.
        at: End,
    },
}

/// All streams of the world.
#[derive(Debug)]
pub struct Network {
    rng: Rng,
    queue: BTreeMap<(Instant, u64), (NodeIndex, Arrival)>,
    sequence: u64,
    peers: BTreeMap<End, End>,
    last_arrival: BTreeMap<End, Instant>,
    blocked: BTreeSet<(NodeIndex, NodeIndex)>,
    held: VecDeque<(NodeIndex, NodeIndex, End, Arrival)>,
    connecting: BTreeSet<End>,
}

impl Network {
    /// An empty network.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            queue: BTreeMap::new(),
            sequence: 0,
            peers: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            blocked: BTreeSet::new(),
            held: VecDeque::new(),
            connecting: BTreeSet::new(),
        }
    }

    /// When the next thing arrives.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    /// What arrives at or before `now`, one at a time.
    pub fn arrive(&mut self, now: Instant) -> Option<(NodeIndex, Arrival)> {
        let key = *self.queue.keys().next().filter(|(at, _)| *at <= now)?;
        self.queue.remove(&key)
    }

    /// A node starts to connect. Nothing is heard when the way is blocked: the attempt times out.
    pub fn connect(
        &mut self,
        now: Instant,
        from: End,
        to: NodeIndex,
        remote: SocketAddr,
        local: SocketAddr,
    ) {
        self.connecting.insert(from);
        if self.is_blocked(from.node, to) {
            self.push(
                now + CONNECT_TIMEOUT,
                from.node,
                Arrival::Refused { at: from },
            );
            return;
        }
        let arrival = Arrival::Syn {
            from,
            remote,
            local,
        };
        self.deliver(now, from.node, to, from, arrival);
    }

    /// The connected-to node took the connection and calls it `to`.
    pub fn accept(&mut self, now: Instant, from: End, to: End) {
        self.connecting.remove(&from);
        self.peers.insert(from, to);
        self.peers.insert(to, from);
        self.deliver(now, to.node, from.node, to, Arrival::Connected { at: from });
    }

    /// Whether the attempt still stands.
    pub fn is_connecting(&self, from: End) -> bool {
        self.connecting.contains(&from)
    }

    /// The connected-to node did not take it.
    pub fn refuse(&mut self, now: Instant, by: NodeIndex, from: End) {
        self.connecting.remove(&from);
        let order = End {
            node: by,
            conn: from.conn,
        };
        self.deliver(now, by, from.node, order, Arrival::Refused { at: from });
    }

    /// Sends bytes, in pieces cut at random.
    pub fn send(&mut self, now: Instant, from: End, bytes: &[u8]) {
        let Some(to) = self.peers.get(&from).copied() else {
            return;
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = u64::try_from(rest.len()).expect("a length fits 64 bits");
            let cut = usize::try_from(self.rng.below(room) + 1).expect("below a length");
            let (piece, after) = rest.split_at(cut);
            let arrival = Arrival::Data {
                at: to,
                bytes: piece.to_vec(),
            };
            self.deliver(now, from.node, to.node, from, arrival);
            rest = after;
        }
    }

    /// One end closes; what was sent before still arrives.
    pub fn close(&mut self, now: Instant, from: End) {
        self.connecting.remove(&from);
        let Some(to) = self.peers.remove(&from) else {
            return;
        };
        self.peers.remove(&to);
        self.deliver(now, from.node, to.node, from, Arrival::Fin { at: to });
    }

    /// All connections between two nodes break: what is on its way is lost, and both ends learn of it.
    pub fn reset(&mut self, now: Instant, a: NodeIndex, b: NodeIndex) {
        let between = |end: &End, peers: &BTreeMap<End, End>| {
            peers.get(end).is_some_and(|other| {
                (end.node, other.node) == (a, b) || (end.node, other.node) == (b, a)
            })
        };
        let ends: Vec<End> = self
            .peers
            .keys()
            .filter(|end| between(end, &self.peers))
            .copied()
            .collect();
        let is_lost = |arrival: &Arrival| match arrival {
            Arrival::Data { at, .. } | Arrival::Connected { at } => ends.contains(at),
            Arrival::Syn { .. } | Arrival::Refused { .. } | Arrival::Fin { .. } => false,
        };
        self.queue.retain(|_, (_, arrival)| !is_lost(arrival));
        self.held.retain(|(_, _, _, arrival)| !is_lost(arrival));
        for end in ends {
            self.peers.remove(&end);
            // An end that was never told of the connection learns that there is none.
            self.push(now, end.node, Arrival::Fin { at: end });
        }
    }

    /// A process dies: the kernel closes all its connections.
    pub fn close_all(&mut self, now: Instant, node: NodeIndex) {
        let ends: Vec<End> = self
            .peers
            .keys()
            .filter(|end| end.node == node)
            .copied()
            .collect();
        for end in ends {
            self.close(now, end);
        }
        self.connecting.retain(|end| end.node != node);
        // The next process counts its connections from the first again: a SYN of this one would be taken for its own.
        let is_syn = |arrival: &Arrival| match arrival {
            Arrival::Syn { from, .. } => from.node == node,
            Arrival::Connected { .. }
            | Arrival::Refused { .. }
            | Arrival::Data { .. }
            | Arrival::Fin { .. } => false,
        };
        self.queue
            .retain(|_, (to, arrival)| *to != node && !is_syn(arrival));
        self.held.retain(|(_, to, _, _)| *to != node);
    }

    /// Nothing passes between two nodes from now on; it is kept, as TCP would send it again.
    pub fn block(&mut self, a: NodeIndex, b: NodeIndex) {
        self.blocked.insert((a.min(b), a.max(b)));
    }

    /// The way is free again; what was kept arrives.
    pub fn unblock(&mut self, now: Instant, a: NodeIndex, b: NodeIndex) {
        self.blocked.remove(&(a.min(b), a.max(b)));
        let held = std::mem::take(&mut self.held);
        for (from, to, order, arrival) in held {
            self.deliver(now, from, to, order, arrival);
        }
    }

    fn is_blocked(&self, a: NodeIndex, b: NodeIndex) -> bool {
        self.blocked.contains(&(a.min(b), a.max(b)))
    }

    fn push(&mut self, at: Instant, to: NodeIndex, arrival: Arrival) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), (to, arrival));
    }

    fn deliver(
        &mut self,
        now: Instant,
        from: NodeIndex,
        to: NodeIndex,
        order: End,
        arrival: Arrival,
    ) {
        if self.is_blocked(from, to) {
            self.held.push_back((from, to, order, arrival));
            return;
        }
        let latency = Duration::from_micros(50 + self.rng.below(950));
        let earliest = self.last_arrival.get(&order).copied().unwrap_or(now);
        let at = earliest.max(now + latency);
        self.last_arrival.insert(order, at);
        self.push(at, to, arrival);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to count from; nothing else is read from the clock"
    )]
    fn nothing_of_a_dead_process_reaches_the_connections_of_the_next() {
        let now = Instant::now();
        let mut net = Network::new(1);
        let from = End {
            node: 0,
            conn: bgp::types::ConnId(1),
        };
        let at = SocketAddr::from(([10, 0, 0, 1], 179));
        net.connect(now, from, 1, at, at);
        net.close_all(now, 0);
        net.connect(now, from, 2, at, at);
        let arrived: Vec<NodeIndex> =
            std::iter::from_fn(|| net.arrive(now + CONNECT_TIMEOUT).map(|(to, _)| to)).collect();
        assert_eq!(arrived, [2], "the SYN to node 1 was of the dead one");
    }
}
