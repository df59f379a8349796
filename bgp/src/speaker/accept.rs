//! Connections that come in: whose they are (RFC 4271 §8.1.4, event 17).
//!
//! | peers at the far address | the connection is |
//! |---|---|
//! | none | of a range, or refused |
//! | one | its |
//! | several, with different ports | known when its OPEN is read: of the peer with that AS; of several with it, of the one with that BGP Identifier, or of the only one whose identifier was not seen yet; else refused and reported |
//!
//! What is refused costs no more than the look-up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::action::{Action, Refused, Ttl};
use crate::config::Endpoint;
use crate::event::{DownReason, Event};
use crate::rib::source::SourceId;
use crate::speaker::Speaker;
use crate::types::{ConnId, RouterId};
use crate::wire::framer::Framer;
use crate::wire::message::MessageType;
use crate::wire::notification::Notification;
use crate::wire::open::Open;

/// How long the OPEN of an unmatched connection is awaited.
const OPEN_TIME: Duration = Duration::from_secs(10);
/// Most of them at a time, and octets kept of each.
const UNMATCHED_MAX: usize = 64;
const OCTETS_MAX: usize = 8192;

/// A connection from an address that several peers have, before its OPEN was read.
#[derive(Debug)]
pub(super) struct Unmatched {
    remote: SocketAddr,
    local: SocketAddr,
    received: Vec<u8>,
    pub(super) until: Instant,
}

impl Speaker {
    /// A connection came in. `conn` is from [`ConnId::incoming`].
    ///
    /// # Errors
    /// Not wanted: the caller closes it, the speaker knows nothing of it.
    pub fn handle_accepted(
        &mut self,
        now: Instant,
        conn: ConnId,
        remote: SocketAddr,
        local: SocketAddr,
    ) -> Result<(), Refused> {
        self.now = now;
        let mut at = self.peers_at(remote);
        let (first, second) = (at.next(), at.next());
        drop(at);
        let id = match (first, second) {
            (Some((_, id)), None) => id,
            (Some(_), Some(_)) => return self.await_open(conn, remote, local),
            (None, _) => self.make_dynamic(Endpoint::from(remote).host())?,
        };
        self.accept(id, conn, remote, local)?;
        self.work();
        Ok(())
    }

    fn accept(
        &mut self,
        id: SourceId,
        conn: ConnId,
        remote: SocketAddr,
        local: SocketAddr,
    ) -> Result<(), Refused> {
        let slot = self.slots.get(&id).ok_or(Refused::UnknownAddress)?;
        slot.peer.wants_incoming()?;
        self.with_peer(id, |peer, cx| peer.handle_accepted(cx, conn, remote, local));
        self.settle(id);
        Ok(())
    }

    /// The peers of an address, by port.
    fn peers_at(&self, remote: SocketAddr) -> impl Iterator<Item = (Endpoint, SourceId)> {
        let host = Endpoint::from(remote).host();
        let most = Endpoint {
            port: u16::MAX,
            ..host
        };
        let range = self.by_endpoint.range(host..=most);
        range.map(|(endpoint, id)| (*endpoint, *id))
    }

    fn await_open(
        &mut self,
        conn: ConnId,
        remote: SocketAddr,
        local: SocketAddr,
    ) -> Result<(), Refused> {
        if self.unmatched.len() >= UNMATCHED_MAX {
            return Err(Refused::TooManyUnmatched);
        }
        let unmatched = Unmatched {
            remote,
            local,
            received: Vec::new(),
            until: self.now + OPEN_TIME,
        };
        self.unmatched.insert(conn, unmatched);
        Ok(())
    }

    /// Reads on of a connection that has no peer yet; gives what came once it has one.
    pub(super) fn match_by_open(&mut self, conn: ConnId, bytes: &[u8]) -> Option<Vec<u8>> {
        let unmatched = self.unmatched.get_mut(&conn)?;
        unmatched.received.extend_from_slice(bytes);
        let mut framer = Framer::new();
        framer.extend(&unmatched.received);
        let open = match framer.next_message() {
            Ok(None) if unmatched.received.len() <= OCTETS_MAX => return None,
            Ok(None) => Err(Notification::fsm_unspecified()),
            Ok(Some(raw)) if raw.kind == MessageType::Open => Open::decode(&raw.body),
            Ok(Some(raw)) => Err(Notification::unexpected_in_open_sent(raw.kind)),
            Err(notification) => Err(notification),
        };
        let Unmatched {
            remote,
            local,
            received,
            ..
        } = self.unmatched.remove(&conn)?;
        let whose = open.and_then(|open| self.whose(remote, &open));
        let farewell = match whose.map(|id| self.accept(id, conn, remote, local)) {
            Ok(Ok(())) => return Some(received),
            Ok(Err(_)) => Notification::connection_rejected(),
            Err(notification) => notification,
        };
        self.refuse(conn, &farewell);
        None
    }

    fn refuse(&mut self, conn: ConnId, notification: &Notification) {
        let mut farewell = Vec::new();
        notification.encode(&mut farewell);
        self.actions.push_back(Action::Close { conn, farewell });
    }

    /// The peer that says this OPEN.
    fn whose(&mut self, remote: SocketAddr, open: &Open) -> Result<SourceId, Notification> {
        let of_as: Vec<(SourceId, Option<RouterId>)> = self
            .peers_at(remote)
            .filter_map(|(_, id)| Some((id, &self.slots.get(&id)?.peer)))
            .filter(|(_, peer)| peer.config.asn == open.asn)
            .map(|(id, peer)| (id, peer.router_id))
            .collect();
        let only = |wanted: Option<RouterId>| {
            let mut found = of_as.iter().filter(|(_, known)| *known == wanted);
            found.next().filter(|_| found.next().is_none())
        };
        match &of_as[..] {
            [] => Err(Notification::bad_peer_as()),
            [(id, _)] => Ok(*id),
            several => match only(Some(open.router_id)).or_else(|| only(None)) {
                Some((id, _)) => Ok(*id),
                None => {
                    let ids = several.iter().map(|(id, _)| *id).collect();
                    self.report_ambiguous(remote, open, ids);
                    Err(Notification::connection_rejected())
                }
            },
        }
    }

    fn report_ambiguous(&mut self, remote: SocketAddr, open: &Open, ids: Vec<SourceId>) {
        let mut peers = Vec::new();
        for id in ids {
            if let Some(slot) = self.slots.get_mut(&id) {
                peers.push(slot.peer.name.clone());
                if slot.peer.established().is_none() {
                    slot.peer.last_error = Some(DownReason::Ambiguous(open.router_id));
                }
            }
        }
        self.events.push_back(Event::ConnectionAmbiguous {
            remote,
            asn: open.asn,
            router_id: open.router_id,
            peers,
        });
    }

    /// Closes the connections that said no OPEN in time.
    pub(super) fn expire_unmatched(&mut self) {
        let now = self.now;
        let late = self.unmatched.extract_if(.., |_, one| one.until <= now);
        let late: Vec<ConnId> = late.map(|(conn, _)| conn).collect();
        for conn in late {
            self.refuse(conn, &Notification::hold_timer_expired());
        }
    }

    /// TTLs that an accepted connection is to have. Of several peers that may say the OPEN, the strictest.
    pub fn ttl(&self, conn: ConnId) -> Ttl {
        let of = |id: SourceId| Some(self.slots.get(&id)?.peer.ttl(&self.offer(id)?));
        if let Some(id) = self.conns.get(&conn) {
            return of(*id).unwrap_or(Ttl::KERNEL);
        }
        let unmatched = self.unmatched.get(&conn);
        let peers = unmatched
            .into_iter()
            .flat_map(|one| self.peers_at(one.remote));
        peers
            .filter_map(|(_, id)| of(id))
            .reduce(|one, other| Ttl {
                sent: one.sent.max(other.sent),
                accepted_min: one.accepted_min.max(other.accepted_min),
            })
            .unwrap_or(Ttl::KERNEL)
    }
}
