//! TCP sockets as BGP wants them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use bgp::action::{ConnectRequest, Ttl};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::sockopt::{set_md5, set_ttl_min};

/// DSCP CS6, as routing protocols are marked (RFC 4594 §3.1), in the octet that holds it.
const TRAFFIC_CLASS: u32 = 0xc0;
/// Sessions that come at once are a common case: all peers of a restarted speaker. The kernel caps it at somaxconn.
const BACKLOG: i32 = 4096;

/// Opens a connection.
pub(crate) async fn connect(request: &ConnectRequest) -> io::Result<TcpStream> {
    let socket = new_socket(request.remote)?;
    if let Some(password) = &request.password {
        set_md5(&socket, request.remote.ip(), Some(password))?;
    }
    set_ttl(&socket, request.remote.ip(), request.ttl)?;
    if let Some(address) = request.local_address {
        socket.bind(&SocketAddr::new(address, 0).into())?;
    }
    socket.set_tcp_nodelay(true)?;
    TcpSocket::from_std_stream(socket.into())
        .connect(request.remote)
        .await
}

/// Opens a listening socket.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Settings of a connection that came in.
pub(crate) fn adopt(stream: &TcpStream, peer: IpAddr, ttl: Ttl) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_ttl(stream, peer, ttl)
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    match address {
        SocketAddr::V4(_) => socket.set_tos_v4(TRAFFIC_CLASS)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
        }
    }
    Ok(socket)
}

fn set_ttl(socket: &impl AsFd, peer: IpAddr, ttl: Ttl) -> io::Result<()> {
    if let Some(sent) = ttl.sent {
        set_ttl_sent(socket, peer, sent)?;
    }
    match ttl.accepted_min {
        Some(least) => set_ttl_min(socket, peer, least),
        None => Ok(()),
    }
}

/// TTL of segments sent.
pub(crate) fn set_ttl_sent(socket: &impl AsFd, address: IpAddr, ttl: u8) -> io::Result<()> {
    let socket = SockRef::from(socket);
    match address {
        IpAddr::V4(_) => socket.set_ttl_v4(u32::from(ttl)),
        IpAddr::V6(_) => socket.set_unicast_hops_v6(u32::from(ttl)),
    }
}
