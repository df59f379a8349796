//! TCP sockets as BGP wants them.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;

use bgp::action::{ConnectRequest, Ttl};
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::sockopt::{set_md5, set_ttl_min};

/// DSCP CS6, as routing protocols are marked (RFC 4594 §3.1), in the octet that holds it.
const TRAFFIC_CLASS: u32 = 0xc0;
/// Sessions that come at once are a common case: all peers of a restarted speaker. The kernel caps it at somaxconn.
const BACKLOG: i32 = 4096;

/// Opens a connection. An error of an option names it.
pub(crate) async fn connect(request: &ConnectRequest) -> io::Result<TcpStream> {
    let socket = new_socket(request.remote)?;
    if let Some(password) = &request.password {
        let peer = IpNet::from(request.remote.ip());
        set_md5(&socket, peer, Some(password)).map_err(|error| named("TCP MD5 key", error))?;
    }
    set_ttl(&socket, request.remote.ip(), request.ttl)?;
    if let Some(address) = request.local_address {
        socket
            .bind(&bound_to(address, request.remote).into())
            .map_err(|error| named(&format!("source address {address}"), error))?;
    }
    socket.set_tcp_nodelay(true)?;
    TcpSocket::from_std_stream(socket.into())
        .connect(request.remote)
        .await
}

/// Where to bind a connection: a link-local address is the one of the peer's link (RFC 4007 §6).
fn bound_to(address: IpAddr, remote: SocketAddr) -> SocketAddr {
    match (address, remote) {
        (IpAddr::V6(address), SocketAddr::V6(remote)) if address.is_unicast_link_local() => {
            SocketAddrV6::new(address, 0, 0, remote.scope_id()).into()
        }
        (address, _) => SocketAddr::new(address, 0),
    }
}

/// Who may listen on the port of a listening socket beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// Nobody.
    Exclusive,
    /// A socket of ours that this one follows, until this one listens.
    SharedUntilListening,
}

/// Opens a listening socket. Connections that come in by it inherit what is set here.
pub(crate) fn listen(address: SocketAddr, port: Port) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(port == Port::SharedUntilListening)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(false)?;
    TcpListener::from_std(socket.into())
}

/// The error of what was asked for.
pub(crate) fn named(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
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

/// TTLs of a connection. An error names the TTL.
pub(crate) fn set_ttl(socket: &impl AsFd, peer: IpAddr, ttl: Ttl) -> io::Result<()> {
    if let Some(sent) = ttl.sent {
        set_ttl_sent(socket, peer, sent).map_err(|error| named(&format!("TTL {sent}"), error))?;
    }
    match ttl.accepted_min {
        Some(least) => set_ttl_min(socket, peer, least)
            .map_err(|error| named(&format!("least TTL {least} (RFC 5082)"), error)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_comes_in_has_the_listeners_settings() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), Port::Exclusive).unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tos_v4().unwrap(), TRAFFIC_CLASS);
        drop(far);
    }

    #[test]
    fn an_option_that_is_refused_is_named() {
        let socket = new_socket(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let ttl = Ttl {
            sent: Some(0),
            accepted_min: None,
        };
        let error = set_ttl(&socket, IpAddr::from([127, 0, 0, 1]), ttl).unwrap_err();
        assert!(error.to_string().starts_with("TTL 0: "), "{error}");
    }
}
