//! What the speaker does when a session comes up, goes down or says something: the one place where what a peer's FSM
//! let through reaches the routes.

use crate::event::Event;
use crate::rib::source::{Provenance, SourceId};
use crate::session::peer::{Down, PeerOutput};
use crate::speaker::Speaker;
use crate::types::{AfiSafi, ConnId};

impl Speaker {
    pub(super) fn take_outputs(&mut self, id: SourceId) {
        while let Some(output) = self.slots.get_mut(&id).and_then(|slot| slot.peer.poll()) {
            match output {
                PeerOutput::Up(conn) => self.session_up(id, conn),
                PeerOutput::Down(down) => self.session_down(id, down),
                PeerOutput::Failed(reason, is_news) => {
                    let peer = self.slots[&id].peer.name.clone();
                    self.events.push_back(Event::ConnectionFailed {
                        peer,
                        reason,
                        is_news,
                    });
                }
                PeerOutput::Update(update) => self.update(id, *update),
                PeerOutput::Refresh(refresh) => self.refresh(id, refresh),
                PeerOutput::Keepalive => self.report_keepalive(id),
            }
        }
    }

    fn session_up(&mut self, id: SourceId, conn: ConnId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.disabled.clear();
        slot.ended.clear();
        slot.refreshing.clear();
        slot.shared_router_id = None;
        slot.warned.clear();
        let Some(connection) = slot.peer.connection_mut(conn) else {
            return;
        };
        let Some(agreement) = connection.agreement() else {
            return;
        };
        let (router_id, remote) = (agreement.router_id, connection.remote);
        let provenance = Provenance {
            own: false,
            kind: agreement.kind,
            client: slot.peer.config.route_reflector_client,
            router_id,
        };
        self.rib.table.set_provenance(id, &provenance);
        let peer = self.slots[&id].peer.name.clone();
        self.events.push_back(Event::SessionUp {
            peer,
            router_id,
            remote,
        });
        self.report_session_up(id);
        self.restart_session_up(id);
        self.join_groups(id);
    }

    fn session_down(&mut self, id: SourceId, down: Down) {
        for family in [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast] {
            self.rib.leave(id, family);
        }
        self.report_session_down(id);
        let routes_kept = self.restart_session_down(id, down.restart.as_ref());
        self.noted.remove(&down.conn);
        let peer = self.slots[&id].peer.name.clone();
        self.events.push_back(Event::SessionDown {
            peer,
            reason: down.reason,
            routes_kept,
        });
    }
}
