//! Reading routes: of both families, into what is given on piece by piece or kept as a whole.

use std::os::fd::AsFd;

use felix::kernel::KernelEvent;
use tokio::sync::mpsc;

use super::{DumpError, Piece, Table, Worker};
use crate::netlink::decode::{self, Names};
use crate::netlink::nexthop::NextHops;
use crate::netlink::socket::{Broken, Failure, attempts};
use crate::netlink::uapi::*;
use crate::netlink::wire::RouteHead;

/// Routes of a piece: what the reader looks at next is in the processor's cache.
const PIECE: usize = 512;

impl Failure {
    /// The same of reading a table.
    pub(super) fn of(self, table: Table) -> DumpError {
        DumpError {
            table,
            errno: self.errno,
            text: self.text.into(),
        }
    }
}

impl Worker {
    /// Gives a table on, and an empty piece at the end. A receiver that is gone ends it.
    pub(super) fn read_pieces(
        &mut self,
        table: Table,
        pieces: &mpsc::Sender<Result<Piece, DumpError>>,
    ) {
        let give = |events| pieces.blocking_send(Ok(Piece::Events(events)));
        let read = match table {
            Table::Routes => self.routes_in_pieces(pieces),
            _ => self.dump(table).map(|events| {
                if !events.is_empty() {
                    // A receiver that is gone needs nothing.
                    let _ = give(events);
                }
            }),
        };
        // The same.
        let _ = match read {
            Ok(()) => give(Vec::new()),
            Err(failure) => pieces.blocking_send(Err(failure.of(table))),
        };
    }

    pub(super) fn dump_routes(&mut self) -> Result<Vec<KernelEvent>, Failure> {
        attempts(|| {
            let mut all = Vec::new();
            self.routes_once(&mut all, &mut |_| ())?;
            Ok(all)
        })
    }

    fn routes_in_pieces(
        &mut self,
        pieces: &mpsc::Sender<Result<Piece, DumpError>>,
    ) -> Result<(), Failure> {
        let mut first = true;
        attempts(|| {
            if !std::mem::replace(&mut first, false) {
                // A receiver that is gone needs nothing.
                let _ = pieces.blocking_send(Ok(Piece::Again));
            }
            let mut read = Vec::with_capacity(PIECE);
            self.routes_once(&mut read, &mut |read| {
                if read.len() >= PIECE {
                    let piece = std::mem::replace(read, Vec::with_capacity(PIECE));
                    // The same.
                    let _ = pieces.blocking_send(Ok(Piece::Events(piece)));
                }
            })?;
            if !read.is_empty() {
                // The same.
                let _ = pieces.blocking_send(Ok(Piece::Events(read)));
            }
            Ok(())
        })
    }

    /// Reads the routes of both families; `look` is called after each with all that was read and is not taken away yet.
    fn routes_once(
        &mut self,
        read: &mut Vec<KernelEvent>,
        look: &mut dyn FnMut(&mut Vec<KernelEvent>),
    ) -> Result<(), Broken> {
        let objects = NextHops::read(&mut self.requests).map_err(Broken::Final)?;
        let mut names = Names::knowing(objects);
        // A second socket-like handle for name look-ups, as the first is borrowed by the dump.
        let lookup = self.requests.as_fd().try_clone_to_owned();
        let lookup = lookup.map_err(|error| Broken::Final(error.into()))?;
        for family in [AF_INET, AF_INET6] {
            let answer = self.requests.dump_once(
                RTM_GETROUTE,
                |writer| {
                    writer.route(RouteHead {
                        family,
                        ..RouteHead::default()
                    });
                    writer.attr_u32(RTA_TABLE, u32::from(RT_TABLE_MAIN));
                },
                &mut |message| {
                    // A kernel without the family answers with all of them.
                    if message.payload.first() == Some(&family) {
                        decode::events(&message, lookup.as_fd(), &mut names, read);
                        look(read);
                    }
                },
            );
            match answer {
                // A namespace in which nobody has written a route yet has no table.
                Err(Broken::Final(failure)) if failure.errno == libc::ENOENT => {}
                answer => answer?,
            }
        }
        Ok(())
    }
}
