//! A node that is drained of its routes (RFC 8326), as the annotation of its Node object says.
//!
//! What it announces becomes the last resort of those who hear it: with the community GRACEFUL_SHUTDOWN, and to peers of its own AS
//! with LOCAL_PREF 0. Whoever has another way takes that, and packets on their way are still forwarded. In the second step what
//! others have as well is announced no longer: addresses of Services, learned routes to other ASes, blocks without pods. A pod that
//! is still there keeps its route. No session is reset.

use api::key::{Key, Kind};
use api::node::Drain;
use bgp::policy::{Edit, Match, Term, Verdict};
use bgp::route::RouteSource;
use bgp::wire::attr::community::Community;

use super::super::Graph;
use super::super::dirty::Dirty;
use super::super::problem::Reason;
use super::{Builder, problem};

impl Graph {
    /// Whether only pods keep their routes.
    pub(in super::super) fn flush_drain(&mut self, dirty: &mut Dirty) {
        let name = &self.settings.node_name;
        let own = self.hosts.get(name);
        let withdraws = own.is_some_and(|own| own.drain == Ok(Some(Drain::Withdrawn)));
        dirty.all_prefixes |= withdraws != self.withdraws;
        self.withdraws = withdraws;
        if withdraws && dirty.own_addresses {
            dirty.prefixes.extend(self.blocks.of_node(name));
        }
    }
}

impl Builder<'_> {
    pub(super) fn drain(&mut self) {
        let (drain, told) = match &self.own.drain {
            Ok(None) => return,
            Ok(Some(Drain::LastResort)) => (
                Some(Drain::LastResort),
                "drained: its routes are announced as the last resort of others".to_owned(),
            ),
            Ok(Some(Drain::Withdrawn)) => (
                Some(Drain::Withdrawn),
                "drained: of its routes only those to pods that are still here are announced, as the last resort of others"
                    .to_owned(),
            ),
            Err(text) => {
                let allowed = Drain::ALL.map(Drain::word).join(" or ");
                let why = format!("{}: {text:?}: must be {allowed}", api::node::DRAIN);
                (None, why)
            }
        };
        let key = Key::new(Kind::Node, self.inputs.settings.node_name.as_str());
        let reason = Reason::Invalid(told.into());
        self.problems
            .push(problem(&key, "metadata.annotations", reason));
        let Some(drain) = drain else {
            return;
        };
        for peer in self.peers.values_mut() {
            peer.export.last = vec![
                Edit::AddCommunities(vec![Community::GRACEFUL_SHUTDOWN]),
                Edit::SetLocalPref(0),
            ];
            if drain == Drain::Withdrawn && peer.is_external(self.asn) {
                let learned = Match::PeerType(vec![RouteSource::Ebgp, RouteSource::Ibgp]);
                let term = Term {
                    name: "learned routes of a drained node".into(),
                    matches: vec![learned],
                    edits: Vec::new(),
                    verdict: Verdict::Reject,
                };
                peer.export.terms.insert(0, term);
            }
        }
    }
}
