//! rtnetlink: one request at a time through its handle, and batches through netlink-proto, which the handle does not offer.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use netlink_sys::{AsyncSocket as _, SocketAddr};
use rtnetlink::RouteMessageBuilder;

use super::network::{PROTOCOL, Wanted};

/// Requests of a batch: the acknowledgements of 512 were seen to be lost, and to be waited for without end.
const BATCH: usize = 100;
const RECEIVE_BUFFER_BYTES: u32 = 16 << 20;

fn message(route: &Wanted, device: usize, ifindex: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.prefix.addr(), route.prefix.prefix_len())
        .gateway(route.gateway(device))
        .output_interface(ifindex)
        .scope(RouteScope::Universe)
        .protocol(RouteProtocol::Other(PROTOCOL))
        .build()
}

/// Adds routes one at a time.
pub(super) async fn add(
    routes: impl Iterator<Item = Wanted>,
    device: usize,
    ifindex: u32,
) -> anyhow::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    for route in routes {
        let request = handle.route().add(message(&route, device, ifindex));
        request.execute().await?;
    }
    Ok(())
}

/// Replaces or adds routes by batches.
pub(super) async fn replace(
    routes: impl Iterator<Item = Wanted>,
    device: usize,
    ifindex: u32,
) -> anyhow::Result<()> {
    let (mut connection, handle, _) = netlink_proto::new_connection::<RouteNetlinkMessage>(
        netlink_sys::protocols::NETLINK_ROUTE,
    )?;
    let socket = connection.socket_mut().socket_mut();
    socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES)?;
    tokio::spawn(connection);
    let mut routes = routes.peekable();
    while routes.peek().is_some() {
        let messages = routes.by_ref().take(BATCH).map(|route| {
            let route = RouteNetlinkMessage::NewRoute(message(&route, device, ifindex));
            let mut message = NetlinkMessage::from(route);
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE | NLM_F_CREATE;
            message
        });
        let messages: Vec<_> = messages.collect();
        let mut answers = handle.request_batch(messages, SocketAddr::new(0, 0))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                ensure!(error.code.is_none(), "the kernel refused: {error:?}");
            }
        }
    }
    Ok(())
}

/// Reads all routes; how many there are of the protocol.
pub(super) async fn count() -> anyhow::Result<usize> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> = handle
        .route()
        .get(all)
        .execute()
        .try_collect()
        .await
        .context("reading routes")?;
    let ours = |route: &&RouteMessage| u8::from(route.header.protocol) == PROTOCOL;
    Ok(routes.iter().filter(ours).count())
}
