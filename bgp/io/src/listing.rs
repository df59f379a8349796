//! Listings of all routes, made in slices between which sessions have their turn.

use std::collections::VecDeque;

use bgp::speaker::{RoutesFrom, Speaker};
use bgp::status::RouteStatus;
use tokio::sync::oneshot;

/// Prefixes looked at between two looks at other inputs.
const SLICE: usize = 4096;

/// Who asked, and how far the answers are.
#[derive(Default)]
pub(crate) struct Listings {
    waiting: VecDeque<Listing>,
}

struct Listing {
    from: RoutesFrom,
    routes: Vec<RouteStatus>,
    answer: oneshot::Sender<Vec<RouteStatus>>,
}

impl Listings {
    pub(crate) fn ask(&mut self, answer: oneshot::Sender<Vec<RouteStatus>>) {
        self.waiting.push_back(Listing {
            from: RoutesFrom::default(),
            routes: Vec::new(),
            answer,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// One slice for the one who asked first.
    pub(crate) fn go_on(&mut self, speaker: &Speaker) {
        let Some(mut listing) = self.waiting.pop_front() else {
            return;
        };
        if listing.answer.is_closed() {
            return;
        }
        match speaker.routes_slice(listing.from, SLICE, &mut listing.routes) {
            Some(next) => {
                listing.from = next;
                self.waiting.push_front(listing);
            }
            // Who asked may have gone.
            None => drop(listing.answer.send(listing.routes)),
        }
    }
}
