//! The kernel of one network namespace: operations in, results and objects out.

mod leftovers;
mod routes;
mod rules;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use felix::desired::{
    ElementKey, IfName, Leads, NextHop, RouteKey, RouteSpec, Row, RowKey, SysctlKey,
};
use felix::kernel::{KernelEvent, Op, OpError, says_absent};
use tokio::sync::{mpsc, oneshot};

use crate::netlink::decode::{self, Names};
use crate::netlink::monitor::{Monitor, RulesMonitor};
use crate::netlink::nftables::Change;
use crate::netlink::socket::{BATCH_BYTES, BATCH_MESSAGES, Failure, Requests};
use crate::netlink::uapi::*;
use crate::netlink::wire::Batch;
use crate::netlink::{encode, link};
use crate::sysctl;

/// Requests that wait for the thread; a caller beyond that waits in its `await`.
const COMMANDS: usize = 64;
/// Events that wait for the receiver; beyond that the kernel's socket buffer is the queue.
const EVENTS: usize = 4096;

/// Pieces of a table that wait for who reads them.
const PIECES: usize = 4;

/// What can be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Table {
    /// Devices: [`KernelEvent::Link`], and [`Row::Link`] for tunnel devices that are up.
    Links,
    /// Addresses: [`KernelEvent::HostAddr`] and [`Row::Addr`] for each.
    Addrs,
    /// Next-hop objects that have one of the agent's own numbers.
    NextHops,
    /// Routes of table main, IPv4 and IPv6, of all protocols and owners, that a row can express.
    Routes,
    /// Permanent neighbours.
    Neighbours,
    /// Permanent forwarding entries of VXLAN devices.
    Fdb,
    /// The agent's nftables tables, and the elements of their address sets.
    Rules,
    /// What Felix left in the packet filter beside a table of that name.
    Leftovers,
}

impl Table {
    /// All tables, in the order in which they make sense: devices first.
    pub const ALL: [Self; 8] = [
        Self::Links,
        Self::Addrs,
        Self::NextHops,
        Self::Routes,
        Self::Neighbours,
        Self::Fdb,
        Self::Rules,
        Self::Leftovers,
    ];
}

/// A table could not be read. Retryable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {table:?} from the kernel: {text} (errno {errno})")]
pub struct DumpError {
    /// Which.
    pub table: Table,
    /// errno, positive.
    pub errno: i32,
    /// The kernel's words.
    pub text: Arc<str>,
}

/// A part of a table that is read piece by piece.
#[derive(Debug)]
pub enum Piece {
    /// What was given before is void: the table changed while it was read, and is read from the beginning.
    Again,
    /// More of it.
    Events(Vec<KernelEvent>),
}

/// A table as it is read.
#[derive(Debug)]
pub struct Pieces {
    table: Table,
    pieces: mpsc::Receiver<Result<Piece, DumpError>>,
    is_whole: bool,
}

impl Pieces {
    /// The next piece; none once the table was given as a whole. Cancel-safe.
    ///
    /// # Errors
    /// As [`Kernel::dump`]'s.
    pub async fn next(&mut self) -> Result<Option<Piece>, DumpError> {
        match self.pieces.recv().await {
            // Nothing comes after the whole.
            Some(Ok(Piece::Events(events))) if events.is_empty() => {
                self.is_whole = true;
                Ok(None)
            }
            Some(piece) => piece.map(Some),
            None if self.is_whole => Ok(None),
            None => Err(DumpError {
                table: self.table,
                errno: libc::ESHUTDOWN,
                text: Arc::from("the kernel thread has ended"),
            }),
        }
    }
}

enum Command {
    ReadSysctls(Vec<SysctlKey>, oneshot::Sender<Vec<KernelEvent>>),
    Apply(Vec<Op>, oneshot::Sender<Vec<(RowKey, Result<(), OpError>)>>),
    Dropping(oneshot::Sender<Vec<String>>),
    Dump(Table, oneshot::Sender<Result<Vec<KernelEvent>, DumpError>>),
    Read(Table, mpsc::Sender<Result<Piece, DumpError>>),
}

/// Handle of the thread that writes to one namespace's kernel. The thread ends with the last handle.
#[derive(Clone, Debug)]
pub struct Kernel {
    commands: mpsc::Sender<Command>,
}

impl Kernel {
    /// Opens the sockets in the calling thread's network namespace and starts the thread, which
    /// stays in that namespace (sysctls follow it).
    ///
    /// # Errors
    /// Sockets or the thread could not be made.
    pub fn open() -> io::Result<Self> {
        let requests = Requests::open()?;
        // Full: callers wait, nothing is dropped.
        let (commands, queue) = mpsc::channel(COMMANDS);
        thread::Builder::new()
            .name("felix-kernel".to_owned())
            .spawn(move || {
                Worker {
                    requests,
                    rules: None,
                }
                .run(queue)
            })?;
        Ok(Self { commands })
    }

    /// Carries out operations in order; one result per operation, in order. A refusal of one does
    /// not keep later ones from being tried. Removing what is not there is success.
    pub async fn apply(&self, ops: Vec<Op>) -> Vec<(RowKey, Result<(), OpError>)> {
        let keys: Vec<RowKey> = ops.iter().map(Op::key).collect();
        let (reply, answer) = oneshot::channel();
        // A closed channel shows in the reply that never comes.
        let _ = self.commands.send(Command::Apply(ops, reply)).await;
        answer.await.unwrap_or_else(|_| {
            let gone = OpError::Kernel {
                errno: libc::ESHUTDOWN,
                text: Arc::from("the kernel thread has ended"),
            };
            keys.into_iter()
                .map(|key| (key, Err(gone.clone())))
                .collect()
        })
    }

    /// Reads a table. Subscribe with [`Kernel::events`] before, else a change in between is missed.
    ///
    /// # Errors
    /// The kernel refused, or the table changed in each of several tries.
    pub async fn dump(&self, table: Table) -> Result<Vec<KernelEvent>, DumpError> {
        let (reply, answer) = oneshot::channel();
        // A closed channel shows in the reply that never comes.
        let _ = self.commands.send(Command::Dump(table, reply)).await;
        answer.await.unwrap_or_else(|_| {
            let text = Arc::from("the kernel thread has ended");
            Err(DumpError {
                table,
                errno: libc::ESHUTDOWN,
                text,
            })
        })
    }

    /// Reads a table piece by piece, so that a large one is nowhere as a whole. Subscribe before, as for [`Kernel::dump`].
    pub async fn read(&self, table: Table) -> Pieces {
        // Full: the thread waits, and the kernel's table with it.
        let (sender, pieces) = mpsc::channel(PIECES);
        // A closed channel shows in the end that never comes.
        let _ = self.commands.send(Command::Read(table, sender)).await;
        Pieces {
            table,
            pieces,
            is_whole: false,
        }
    }

    /// Reads sysctls: a [`KernelEvent::RowSet`] for each, [`KernelEvent::RowGone`] for one that cannot be read.
    pub async fn read_sysctls(&self, keys: Vec<SysctlKey>) -> Vec<KernelEvent> {
        let (reply, answer) = oneshot::channel();
        // A closed channel shows in the reply that never comes; the next write says that the thread has ended.
        let _ = self.commands.send(Command::ReadSysctls(keys, reply)).await;
        answer.await.unwrap_or_default()
    }

    /// Other programs' chains that drop forwarded packets by their policy, by name: Docker's `FORWARD` for one. The agent's table cannot
    /// override them.
    pub async fn dropping(&self) -> Vec<String> {
        let (reply, answer) = oneshot::channel();
        // A closed channel shows in the reply that never comes; the next write says that the thread has ended.
        let _ = self.commands.send(Command::Dropping(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// Subscribes to notifications of all tables, by anyone, this handle's own writes included. To
    /// be called in a tokio runtime, from a thread in the namespace of [`Kernel::open`].
    ///
    /// Order is the kernel's. [`KernelEvent::Overrun`] means that events before it are missing:
    /// read all tables again. The kernel does *not* notify IPv4 routes that vanish because their
    /// device went down or was deleted: take [`KernelEvent::Link`] not up and [`KernelEvent::LinkGone`] as
    /// that.
    ///
    /// # Errors
    /// The socket could not be made.
    pub fn events(&self) -> io::Result<mpsc::Receiver<KernelEvent>> {
        let monitor = Monitor::open()?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        // Ends when the receiver is dropped.
        tokio::spawn(monitor.run(sender.clone()));
        match RulesMonitor::open() {
            Ok(rules) => {
                tokio::spawn(rules.run(sender));
            }
            // A kernel without nftables has no rules that change.
            Err(error) => tracing::debug!(%error, "no notifications of packet rules"),
        }
        Ok(receiver)
    }
}

/// Whether the kernel of the calling thread's namespace has next-hop objects (since Linux 5.3).
///
/// # Errors
/// The kernel cannot be asked.
pub fn has_next_hop_objects() -> io::Result<bool> {
    let mut requests = Requests::open()?;
    let read = requests.dump(
        RTM_GETNEXTHOP,
        |writer| writer.next_hop_object(AF_UNSPEC, 0, 0),
        |_, _: &mut Vec<()>| (),
    );
    match read {
        Err(failure) if failure.errno == libc::EOPNOTSUPP => Ok(false),
        read => Ok(read.map(|_| true)?),
    }
}

/// The thread's state.
struct Worker {
    requests: Requests,
    /// The socket of the packet filter, once it was needed.
    rules: Option<Requests>,
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(command) = queue.blocking_recv() {
            match command {
                // A caller that does not wait any more needs no answer; the work is done all the same.
                Command::Apply(ops, reply) => drop(reply.send(self.apply(ops))),
                Command::ReadSysctls(keys, reply) => {
                    let events = keys.into_iter().map(|key| match sysctl::read(&key) {
                        Ok(value) => KernelEvent::RowSet(Row::Sysctl(key, Arc::from(value))),
                        Err(_) => KernelEvent::RowGone(RowKey::Sysctl(key)),
                    });
                    drop(reply.send(events.collect()));
                }
                Command::Dropping(reply) => drop(reply.send(self.dropping())),
                Command::Dump(table, reply) => {
                    let result = self.dump(table).map_err(|failure| failure.of(table));
                    drop(reply.send(result));
                }
                Command::Read(table, pieces) => self.read_pieces(table, &pieces),
            }
        }
    }

    fn apply(&mut self, ops: Vec<Op>) -> Vec<(RowKey, Result<(), OpError>)> {
        let mut run = Run::default();
        for op in &ops {
            let index = run.results.len();
            run.results.push((op.key(), Ok(())));
            if let Some(change) = element_change(op) {
                run.flush(&mut self.requests);
                run.elements.push((index, change));
                continue;
            }
            self.change_elements(&mut run);
            match op {
                Op::Set(Row::Link(..) | Row::Rules(..) | Row::Sysctl(..))
                | Op::Remove(Row::Link(..) | Row::Rules(..) | Row::Leftover(_)) => {
                    run.flush(&mut self.requests);
                    // What a device's making and unmaking does to indexes is asked again.
                    run.indexes.clear();
                    run.results[index].1 = self.alone(op);
                }
                op => {
                    let staged = run.stage(op, &self.requests);
                    run.take_stage(index, device(op), matches!(op, Op::Remove(_)), staged);
                }
            }
            if run.batch.len() >= BATCH_MESSAGES || run.batch.bytes_len() >= BATCH_BYTES - 1024 {
                run.flush(&mut self.requests);
            }
        }
        self.change_elements(&mut run);
        run.flush(&mut self.requests);
        for (op, (_, result)) in ops.iter().zip(&mut run.results) {
            if let Err(OpError::Kernel { errno, .. }) = result
                && *errno == libc::EINVAL
                && let Some(to_gateway) = to_gateway(op)
            {
                *result = self.over(&to_gateway, op);
            }
        }
        run.results
    }

    /// Writes a route while another one, to its gateway, is there.
    fn over(&mut self, to_gateway: &Row, op: &Op) -> Result<(), OpError> {
        let mut run = Run::default();
        let scaffold = [
            Op::Set(to_gateway.clone()),
            op.clone(),
            Op::Remove(to_gateway.clone()),
        ];
        for (index, op) in scaffold.iter().enumerate() {
            run.results.push((op.key(), Ok(())));
            let staged = run.stage(op, &self.requests);
            run.take_stage(index, device(op), matches!(op, Op::Remove(_)), staged);
        }
        run.flush(&mut self.requests);
        run.results.into_iter().try_for_each(|(_, result)| result)
    }

    /// Operations that are more than one message.
    fn alone(&mut self, op: &Op) -> Result<(), OpError> {
        match op {
            Op::Set(Row::Link(name, spec)) => link::set(&mut self.requests, name, spec),
            Op::Remove(Row::Link(name, spec)) => link::remove(&mut self.requests, name, spec)
                .map_err(|failure| link::refused(failure, name)),
            Op::Set(Row::Sysctl(key, value)) => {
                sysctl::write(key, value).map_err(|error| sysctl::refused(&error))
            }
            Op::Set(Row::Rules(family, rules)) => {
                self.replace(*family, rules.ruleset.as_deref(), &rules.elements)
            }
            Op::Remove(Row::Rules(family, _)) => self.replace(*family, None, &[]),
            Op::Remove(Row::Leftover(leftover)) => self.remove_leftover(leftover),
            Op::Set(_) | Op::Remove(_) => Ok(()),
        }
    }

    fn dump(&mut self, table: Table) -> Result<Vec<KernelEvent>, Failure> {
        let mut names = Names::default();
        match table {
            Table::NextHops => match self.read(RTM_GETNEXTHOP, AF_UNSPEC, &mut names) {
                Err(failure) if failure.errno == libc::EOPNOTSUPP => Ok(Vec::new()),
                events => events,
            },
            Table::Links => self.read(RTM_GETLINK, AF_UNSPEC, &mut names),
            Table::Addrs => self.read(RTM_GETADDR, AF_UNSPEC, &mut names),
            Table::Fdb => self.read(RTM_GETNEIGH, AF_BRIDGE, &mut names),
            Table::Rules => self.dump_rules(),
            Table::Leftovers => self.dump_leftovers(),
            Table::Routes => self.dump_routes(),
            Table::Neighbours => {
                let mut events = self.read(RTM_GETNEIGH, AF_INET, &mut names)?;
                events.append(&mut self.read(RTM_GETNEIGH, AF_INET6, &mut names)?);
                Ok(events)
            }
        }
    }

    /// One dump of one family.
    fn read(
        &mut self,
        kind: u16,
        family: u8,
        names: &mut Names,
    ) -> Result<Vec<KernelEvent>, Failure> {
        // A second socket-like handle for name look-ups, as the first is borrowed by the dump.
        let lookup = self.requests.as_fd().try_clone_to_owned()?;
        self.requests.dump(
            kind,
            |writer| match kind {
                RTM_GETLINK => {
                    writer.ifinfo(family, 0, 0, 0);
                    writer.attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
                }
                RTM_GETADDR => writer.ifaddr(family, 0, 0, 0),
                RTM_GETNEXTHOP => writer.next_hop_object(family, 0, 0),
                _ => writer.neigh(family, 0, 0, 0),
            },
            |message, events| {
                // A kernel without the family answers with all of them.
                if family == AF_UNSPEC || message.payload.first() == Some(&family) {
                    decode::events(&message, lookup.as_fd(), names, events);
                }
            },
        )
    }
}

/// One call of apply: results so far, and what waits to be sent.
#[derive(Default)]
struct Run {
    results: Vec<(RowKey, Result<(), OpError>)>,
    batch: Batch,
    /// For each message of the batch: its result's place, its device, whether it removes.
    staged: Vec<(usize, Option<IfName>, bool)>,
    indexes: BTreeMap<IfName, u32>,
    /// Elements to change next, each with its result's place.
    elements: Vec<(usize, (ElementKey, Change))>,
}

/// What an operation does to an element, if it is about one.
fn element_change(op: &Op) -> Option<(ElementKey, Change)> {
    match op {
        Op::Set(Row::Element(key)) => Some((key.clone(), Change::Add)),
        Op::Remove(Row::Element(key)) => Some((key.clone(), Change::Remove)),
        Op::Set(_) | Op::Remove(_) => None,
    }
}

/// Metric of a route that is there for a moment only: before all others.
const METRIC_FIRST: u32 = 1;

/// The route by which IPv6 finds a gateway on the device of its route, though the gateway lies in the route's own destination.
/// The kernel takes no gateway "on link" that its present routes lead to by another device: to a block over a tunnel, say, while
/// the block is reached without.
fn to_gateway(op: &Op) -> Option<Row> {
    let Op::Set(Row::Route(key, spec)) = op else {
        return None;
    };
    let [hop] = &*spec.next_hops else {
        return None;
    };
    let gateway = hop
        .gateway
        .filter(|gateway| hop.onlink && gateway.is_ipv6())?;
    let key = RouteKey {
        dst: gateway.into(),
        metric: METRIC_FIRST,
        ..key.clone()
    };
    let hop = NextHop {
        gateway: None,
        onlink: false,
        ..hop.clone()
    };
    let spec = RouteSpec {
        next_hops: vec![hop].into(),
        mtu_bytes: None,
        ..spec.clone()
    };
    Some(Row::Route(key, spec))
}

impl Run {
    /// Adds the message of one operation to the batch; `Ok(false)` if there is nothing to send.
    fn stage(&mut self, op: &Op, socket: &Requests) -> Result<bool, OpError> {
        let Self { batch, indexes, .. } = self;
        let mut index = |name: &IfName| resolve(indexes, name, socket);
        match op {
            Op::Set(Row::Route(key, spec)) => encode::set_route(batch, key, spec, &mut index)?,
            Op::Set(Row::Mac(name, mac)) => encode::set_mac(batch, *mac, index(name)?),
            Op::Set(Row::Addr(key)) => encode::set_addr(batch, key, index(&key.ifname)?),
            Op::Set(Row::Neigh(key, mac)) => {
                encode::set_neigh(batch, key, *mac, index(&key.ifname)?);
            }
            Op::Set(Row::Fdb(key, remote)) => {
                encode::set_fdb(batch, key, *remote, index(&key.ifname)?);
            }
            Op::Set(Row::NextHop(id, spec)) => match &spec.leads {
                Leads::To(hop) => {
                    let Some(ifname) = &hop.ifname else {
                        return Ok(false);
                    };
                    encode::set_next_hop(batch, *id, spec.protocol, hop, index(ifname)?);
                }
                Leads::Over(members) => encode::set_group(batch, *id, spec.protocol, members),
            },
            Op::Remove(Row::NextHop(id, _)) => encode::remove_next_hop(batch, *id),
            Op::Remove(Row::Route(key, spec)) => {
                encode::remove_route(batch, key, spec, &mut index)?;
            }
            Op::Remove(Row::Addr(key)) => encode::remove_addr(batch, key, index(&key.ifname)?),
            Op::Remove(Row::Neigh(key, _)) => {
                encode::remove_neigh(batch, key, index(&key.ifname)?);
            }
            Op::Remove(Row::Fdb(key, remote)) => {
                encode::remove_fdb(batch, key, *remote, index(&key.ifname)?);
            }
            // A setting has no absence: its last value stays.
            Op::Remove(
                Row::Mac(..)
                | Row::Sysctl(..)
                | Row::Link(..)
                | Row::Rules(..)
                | Row::Element(_)
                | Row::Leftover(_),
            )
            | Op::Set(
                Row::Link(..)
                | Row::Sysctl(..)
                | Row::Rules(..)
                | Row::Element(_)
                | Row::Leftover(_),
            ) => return Ok(false),
        }
        Ok(true)
    }

    /// Notes where the result of what was staged belongs, or the result itself.
    fn take_stage(
        &mut self,
        index: usize,
        device: Option<IfName>,
        removes: bool,
        staged: Result<bool, OpError>,
    ) {
        match staged {
            Ok(true) => self.staged.push((index, device, removes)),
            Ok(false) => {}
            // A device that is gone took its rows along.
            Err(OpError::NoDevice(_)) if removes => {}
            Err(error) => self.results[index].1 = Err(error),
        }
    }

    /// Sends the batch and files the answers.
    fn flush(&mut self, requests: &mut Requests) {
        if self.batch.len() == 0 {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let staged = std::mem::take(&mut self.staged);
        assert_eq!(
            batch.len(),
            staged.len(),
            "each message has one place for its result"
        );
        for (answer, (index, device, removes)) in requests.exchange(&batch).into_iter().zip(staged)
        {
            if let Err(failure) = answer
                && !(removes && says_absent(failure.errno))
            {
                self.results[index].1 = Err(refused(failure, device));
            }
        }
    }
}

/// The index of a device, asked for once per call of apply.
fn resolve(
    indexes: &mut BTreeMap<IfName, u32>,
    name: &IfName,
    socket: &Requests,
) -> Result<u32, OpError> {
    if let Some(index) = indexes.get(name) {
        return Ok(*index);
    }
    let index = rustix::net::netdevice::name_to_index(socket, &name.0)
        .map_err(|_| OpError::NoDevice(name.clone()))?;
    indexes.insert(name.clone(), index);
    Ok(index)
}

/// The device named by a row.
fn device(op: &Op) -> Option<IfName> {
    let (Op::Set(row) | Op::Remove(row)) = op;
    match row {
        Row::Link(name, _) | Row::Mac(name, _) => Some(name.clone()),
        Row::Addr(key) => Some(key.ifname.clone()),
        Row::Neigh(key, _) => Some(key.ifname.clone()),
        Row::Fdb(key, _) => Some(key.ifname.clone()),
        Row::NextHop(_, spec) => spec.ifname().cloned(),
        Row::Route(_, spec) => spec.next_hops.iter().find_map(|hop| hop.ifname.clone()),
        Row::Rules(..) | Row::Element(_) | Row::Leftover(_) | Row::Sysctl(..) => None,
    }
}

fn refused(failure: Failure, device: Option<IfName>) -> OpError {
    match device {
        Some(name) => link::refused(failure, &name),
        None => match failure.errno {
            libc::ENETUNREACH | libc::EHOSTUNREACH => OpError::Unreachable,
            _ => link::other(failure),
        },
    }
}
