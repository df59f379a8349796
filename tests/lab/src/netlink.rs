//! A small blocking rtnetlink client with an encoder of its own.
//!
//! The lab checks what the product did to the kernel, so it shares no netlink code with it: a mistake in one encoder or parser must not
//! be hidden by the same mistake in the other. Only what the lab and its tests need. Layouts: rtnetlink(7).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

mod diag;
mod message;
mod monitor;

pub use message::{Hop, Link, Neighbour, NeighbourTable, Route, RouteKind};
pub use monitor::{RouteChange, RouteEvent, RouteMonitor};

pub(crate) use diag::{Connection, SockDiag};
use message::Request;

const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct NetlinkError {
    /// The request in words, e.g. `add link n1 of kind veth`.
    pub what: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::new(
            self.source.kind(),
            format!("{}: {}", self.what, self.source),
        )
    }
}

/// An rtnetlink socket of the namespace it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Creates a bridge and sets it up.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        let request = Request::link(message::RTM_NEWLINK, 0, true)
            .string(message::IFLA_IFNAME, name)
            .nest(message::IFLA_LINKINFO, |info| {
                info.string(message::IFLA_INFO_KIND, "bridge")
            });
        self.change(request, NLM_F_CREATE | NLM_F_EXCL, || {
            format!("add bridge {name}")
        })
    }

    /// Creates a link that needs no parameters, e.g. of kind `ipip`, to learn whether the kernel has that kind.
    ///
    /// # Errors
    /// The kernel's refusal; EOPNOTSUPP when it lacks the kind.
    pub fn add_plain_link(&mut self, name: &str, kind: &str) -> Result<(), NetlinkError> {
        let request = Request::link(message::RTM_NEWLINK, 0, false)
            .string(message::IFLA_IFNAME, name)
            .nest(message::IFLA_LINKINFO, |info| {
                info.string(message::IFLA_INFO_KIND, kind)
            });
        self.change(request, NLM_F_CREATE | NLM_F_EXCL, || {
            format!("add link {name} of kind {kind}")
        })
    }

    /// Deletes a link; a veth's peer goes with it.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let index = self.index_of(name)?;
        let request = Request::link(message::RTM_DELLINK, index, false);
        self.change(request, 0, || format!("delete link {name}"))
    }

    /// Creates a veth pair: `name` here, `peer` born in the namespace `peer_ns` with the hardware address `peer_mac`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_ns: RawFd,
        peer_mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let request = Request::link(message::RTM_NEWLINK, 0, true)
            .string(message::IFLA_IFNAME, name)
            .nest(message::IFLA_LINKINFO, |info| {
                info.string(message::IFLA_INFO_KIND, "veth")
                    .nest(message::IFLA_INFO_DATA, |data| {
                        data.nest(message::VETH_INFO_PEER, |link| {
                            link.bytes_raw(&[0; 16])
                                .string(message::IFLA_IFNAME, peer)
                                .bytes(message::IFLA_ADDRESS, &peer_mac)
                                .u32(message::IFLA_NET_NS_FD, peer_ns.cast_unsigned())
                        })
                    })
            });
        self.change(request, NLM_F_CREATE | NLM_F_EXCL, || {
            format!("add veth {name} with peer {peer}")
        })
    }

    /// Makes `port` a port of `bridge`.
    ///
    /// # Errors
    /// The kernel's refusal, or ENODEV when either is missing.
    pub fn set_master(&mut self, port: &str, bridge: &str) -> Result<(), NetlinkError> {
        let index = self.index_of(port)?;
        let master = self.index_of(bridge)?;
        let request =
            Request::link(message::RTM_NEWLINK, index, true).u32(message::IFLA_MASTER, master);
        self.change(request, 0, || format!("make {port} a port of {bridge}"))
    }

    /// Sets a link administratively up.
    ///
    /// # Errors
    /// The kernel's refusal, or ENODEV.
    pub fn set_up(&mut self, name: &str) -> Result<(), NetlinkError> {
        let index = self.index_of(name)?;
        self.change(Request::link(message::RTM_NEWLINK, index, true), 0, || {
            format!("set {name} up")
        })
    }

    /// Sets a link administratively down. Its routes go.
    ///
    /// # Errors
    /// The kernel's refusal, or ENODEV.
    pub fn set_down(&mut self, name: &str) -> Result<(), NetlinkError> {
        let index = self.index_of(name)?;
        self.change(Request::link_down(index), 0, || format!("set {name} down"))
    }

    /// Adds an address to a link.
    ///
    /// # Errors
    /// The kernel's refusal, or ENODEV.
    pub fn add_address(&mut self, link: &str, address: Ipv4Net) -> Result<(), NetlinkError> {
        let index = self.index_of(link)?;
        self.change(
            Request::address(message::RTM_NEWADDR, index, address),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("add address {address} to {link}"),
        )
    }

    /// Adds an IPv6 address to a link; it can be used at once, as nobody is asked whether it is taken.
    ///
    /// # Errors
    /// The kernel's refusal, or ENODEV.
    pub fn add_address6(&mut self, link: &str, address: Ipv6Net) -> Result<(), NetlinkError> {
        let index = self.index_of(link)?;
        self.change(
            Request::address6(message::RTM_NEWADDR, index, address),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("add address {address} to {link}"),
        )
    }

    /// Takes an address off a link. With the last one its routes go, too.
    ///
    /// # Errors
    /// The kernel's refusal, or ENODEV.
    pub fn delete_address(&mut self, link: &str, address: Ipv4Net) -> Result<(), NetlinkError> {
        let index = self.index_of(link)?;
        let request = Request::address(message::RTM_DELADDR, index, address);
        self.change(request, 0, || format!("delete address {address} of {link}"))
    }

    /// As [`Netlink::delete_address`], of IPv6.
    ///
    /// # Errors
    /// The kernel's refusal, or ENODEV.
    pub fn delete_address6(&mut self, link: &str, address: Ipv6Net) -> Result<(), NetlinkError> {
        let index = self.index_of(link)?;
        let request = Request::address6(message::RTM_DELADDR, index, address);
        self.change(request, 0, || format!("delete address {address} of {link}"))
    }

    /// Changes a link's MTU up and down as long as `goes_on`; each change is told to everybody who listens.
    ///
    /// # Errors
    /// The kernel's refusal, or ENODEV.
    pub fn churn(
        &mut self,
        name: &str,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<(), NetlinkError> {
        /// Changes between two questions.
        const CHANGES: u32 = 1000;
        let index = self.index_of(name)?;
        while goes_on() {
            for number in 0..CHANGES {
                let request = Request::link(message::RTM_NEWLINK, index, true)
                    .u32(message::IFLA_MTU, 1400 + number % 2);
                self.change(request, 0, || format!("change the MTU of {name}"))?;
            }
        }
        Ok(())
    }

    /// Adds a route of the main table through `gateway`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_route(
        &mut self,
        destination: impl Into<IpNet>,
        gateway: impl Into<IpAddr>,
    ) -> Result<(), NetlinkError> {
        let (destination, gateway) = (destination.into(), gateway.into());
        let request =
            Request::route(message::RTM_NEWROUTE, destination).ip(message::RTA_GATEWAY, gateway);
        self.change(request, NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("add route {destination} via {gateway}")
        })
    }

    /// As [`Netlink::add_route`], with a metric.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_route_of_metric(
        &mut self,
        destination: impl Into<IpNet>,
        gateway: impl Into<IpAddr>,
        metric: u32,
    ) -> Result<(), NetlinkError> {
        let (destination, gateway) = (destination.into(), gateway.into());
        let request = Request::route(message::RTM_NEWROUTE, destination)
            .ip(message::RTA_GATEWAY, gateway)
            .u32(message::RTA_PRIORITY, metric);
        self.change(request, NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("add route {destination} via {gateway} metric {metric}")
        })
    }

    /// Removes the main table's route to `destination`, whoever made it.
    ///
    /// # Errors
    /// The kernel's refusal; ESRCH when there is none.
    pub fn delete_route(&mut self, destination: impl Into<IpNet>) -> Result<(), NetlinkError> {
        let destination = destination.into();
        let request = Request::delete_route(destination);
        self.change(request, 0, || format!("delete route {destination}"))
    }

    /// Adds a permanent neighbour entry.
    ///
    /// # Errors
    /// The kernel's refusal, or ENODEV.
    pub fn add_neighbour(
        &mut self,
        link: &str,
        address: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let index = self.index_of(link)?;
        self.add_neighbour_at(index, address, mac)
    }

    pub(crate) fn add_neighbour_at(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let request = Request::neighbour(index)
            .ipv4(message::NDA_DST, address)
            .bytes(message::NDA_LLADDR, &mac);
        self.change(request, NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("add neighbour {address} on interface {index}")
        })
    }

    /// Adds a rule that silently drops TCP to `peer` with `port` as its source or destination port.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn block_tcp(&mut self, peer: impl Into<IpAddr>, port: u16) -> Result<(), NetlinkError> {
        let peer = peer.into();
        for attribute in [message::FRA_SPORT_RANGE, message::FRA_DPORT_RANGE] {
            let request = Request::blackhole_rule(peer, attribute, port);
            self.change(request, NLM_F_CREATE | NLM_F_EXCL, || {
                format!("add rule dropping TCP port {port} to {peer}")
            })?;
        }
        Ok(())
    }

    /// All links of the namespace.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut links = Vec::new();
        self.dump(
            Request::link(message::RTM_GETLINK, 0, false),
            "list links",
            |kind, payload| {
                if kind == message::RTM_NEWLINK {
                    links.extend(Link::parse(payload));
                }
            },
        )?;
        Ok(links)
    }

    /// All addresses of the namespace.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn addresses(&mut self) -> Result<Vec<IpAddr>, NetlinkError> {
        let mut addresses = Vec::new();
        self.dump(
            Request::list_addresses(),
            "list addresses",
            |kind, payload| {
                if kind == message::RTM_NEWADDR {
                    addresses.extend(message::parse_local_address(payload));
                }
            },
        )?;
        Ok(addresses)
    }

    /// All routes of the main table.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        self.dump(Request::list_routes(), "list routes", |kind, payload| {
            if kind == message::RTM_NEWROUTE {
                routes.extend(
                    Route::parse(payload).filter(|route| route.table == message::TABLE_MAIN),
                );
            }
        })?;
        Ok(routes)
    }

    /// The permanent or learnt entries of `family` (`libc::AF_INET` for ARP, `libc::AF_BRIDGE` for forwarding databases).
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn neighbours(&mut self, family: i32) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut entries = Vec::new();
        self.dump(
            Request::list_neighbours(family),
            "list neighbours",
            |kind, payload| {
                if kind == message::RTM_NEWNEIGH {
                    entries.extend(Neighbour::parse(payload));
                }
            },
        )?;
        Ok(entries)
    }

    /// The machine's table of ARP entries.
    ///
    /// # Errors
    /// The kernel's refusal, or ENOENT when it told of no such table.
    pub fn neighbour_table(&mut self) -> Result<NeighbourTable, NetlinkError> {
        let what = "read the table of ARP entries";
        let mut table = None;
        self.dump(Request::list_neighbour_tables(), what, |kind, payload| {
            if kind == message::RTM_NEWNEIGHTBL && table.is_none() {
                table = NeighbourTable::parse(payload);
            }
        })?;
        table.ok_or_else(|| NetlinkError {
            what: what.to_owned(),
            source: io::Error::from_raw_os_error(libc::ENOENT),
        })
    }

    pub(crate) fn index_of(&mut self, name: &str) -> Result<u32, NetlinkError> {
        self.links()?
            .into_iter()
            .find(|link| link.name == name)
            .map(|link| link.index)
            .ok_or_else(|| NetlinkError {
                what: format!("find link {name}"),
                source: io::Error::from_raw_os_error(libc::ENODEV),
            })
    }

    fn change(
        &mut self,
        request: Request,
        flags: u16,
        what: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        self.exchange(request, flags | NLM_F_ACK, |_, _| ())
            .map_err(|source| NetlinkError {
                what: what(),
                source,
            })
    }

    fn dump(
        &mut self,
        request: Request,
        what: &str,
        each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        self.exchange(request, NLM_F_DUMP, each)
            .map_err(|source| NetlinkError {
                what: what.to_owned(),
                source,
            })
    }

    /// Sends one request and reads until its acknowledgement, error, or end of dump.
    fn exchange(
        &mut self,
        request: Request,
        flags: u16,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence += 1;
        let bytes = request.finish(flags | NLM_F_REQUEST, self.sequence);
        self.socket.send(&bytes, 0)?;
        loop {
            wait_readable(self.socket.as_raw_fd(), Duration::from_secs(10))?;
            let (datagram, _) = self.socket.recv_from_full()?;
            for part in message::split(&datagram) {
                if part.sequence != self.sequence {
                    continue;
                }
                match part.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = part
                            .payload
                            .get(..4)
                            .map_or(-libc::EIO, message::i32_at_start);
                        return if code == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(-code))
                        };
                    }
                    kind => each(kind, part.payload),
                }
            }
        }
    }
}

/// Waits until `fd` has something to read; an error of kind `TimedOut` after `timeout`.
pub(crate) fn wait_readable(fd: RawFd, timeout: Duration) -> io::Result<()> {
    if crate::wait::readable(fd, timeout)? {
        Ok(())
    } else {
        Err(io::ErrorKind::TimedOut.into())
    }
}
