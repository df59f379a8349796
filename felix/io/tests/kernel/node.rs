//! A node to test on: an underlay device, the kernel's handle, events, and comparisons.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use felix::desired::{
    AddrKey, IfName, NextHop, RouteKey, RouteKind, RouteSpec, Row, RowKey, SysctlKey,
};
use felix::kernel::{KernelEvent, Op, OpError};
use felix_io::workload::{self, Attached, Families, HOST_MAC, OldPair, PairSpec, PodNetwork};
use felix_io::{Kernel, Table, netns};
use ipnet::IpNet;
use tokio::sync::mpsc::Receiver;

/// The node's device to the world.
pub(crate) const UNDERLAY: &str = "eth0";

pub(crate) struct Node {
    pub(crate) kernel: Kernel,
    /// Where the other end of the underlay is, `world0`, without an address.
    pub(crate) world: OwnedFd,
}

impl Node {
    /// Adds a device with an address, whose other end is in `world`.
    pub(crate) async fn add_device(&self, world: &OwnedFd, spec: PairSpec, addr: &str) {
        let ifname = spec.host_ifname.clone();
        let world = world.try_clone().unwrap();
        workload::attach(world, spec, PodNetwork::new(Vec::new()))
            .await
            .unwrap();
        let addr = net(addr);
        self.set(Row::Addr(AddrKey { ifname, addr })).await;
    }

    /// `eth0` with 10.0.0.1/24 and a default route via 10.0.0.2; forwarding on.
    pub(crate) async fn new() -> Self {
        let world = crate::namespace::new();
        let kernel = Kernel::open().unwrap();
        let node = Self { kernel, world };
        let spec = PairSpec {
            host_mac: mac(1),
            ..pair(UNDERLAY, "world0")
        };
        node.add_device(&node.world, spec, "10.0.0.1/24").await;
        node.set(route("0.0.0.0/0", via("10.0.0.2", UNDERLAY)))
            .await;
        node.set(sysctl("net/ipv4/ip_forward", "1")).await;
        node
    }

    pub(crate) async fn try_op(&self, op: Op) -> Result<(), OpError> {
        self.kernel.apply(vec![op]).await.pop().unwrap().1
    }

    pub(crate) async fn set(&self, row: Row) {
        self.try_op(Op::Set(row.clone()))
            .await
            .unwrap_or_else(|error| panic!("{row:?}: {error}"));
    }

    pub(crate) async fn remove(&self, row: Row) {
        self.try_op(Op::Remove(row.clone()))
            .await
            .unwrap_or_else(|error| panic!("{row:?}: {error}"));
    }

    /// All rows of a table, by key.
    pub(crate) async fn rows(&self, table: Table) -> BTreeMap<RowKey, Row> {
        let events = self.kernel.dump(table).await.unwrap();
        let rows = events.into_iter().filter_map(|event| match event {
            KernelEvent::RowSet(row) => Some((row.key(), row)),
            _ => None,
        });
        rows.collect()
    }

    /// A pod with one address and its route on the node.
    pub(crate) async fn pod(&self, number: u16) -> Pod {
        let netns = crate::namespace::new();
        let [high, low] = number.to_be_bytes();
        let addr = IpAddr::from([10, 65, high, low]);
        let host_ifname = format!("cali{number:011x}");
        let attached = workload::attach(
            netns.try_clone().unwrap(),
            pair(&host_ifname, "eth0"),
            PodNetwork::new(vec![addr]),
        )
        .await
        .unwrap();
        self.set(pod_route(addr, &host_ifname)).await;
        Pod {
            netns,
            addr,
            attached,
        }
    }
}

pub(crate) struct Pod {
    pub(crate) netns: OwnedFd,
    pub(crate) addr: IpAddr,
    pub(crate) attached: Attached,
}

impl Pod {
    pub(crate) fn netns(&self) -> OwnedFd {
        self.netns.try_clone().unwrap()
    }
}

pub(crate) fn pair(host_ifname: &str, pod_ifname: &str) -> PairSpec {
    PairSpec {
        host_ifname: host_ifname.into(),
        alias: format!("pod of {host_ifname}"),
        old_pair: OldPair::Replace,
        pod_ifname: pod_ifname.into(),
        mtu_bytes: Some(1450),
        host_mac: HOST_MAC,
        pod_mac: None,
        queues: 1,
        families: Families::V4,
    }
}

pub(crate) fn sysctl(path: &str, value: &str) -> Row {
    Row::Sysctl(SysctlKey(path.into()), value.into())
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn mac(last: u8) -> felix::desired::Mac {
    felix::desired::Mac([0x02, 0, 0, 0, 0, last])
}

pub(crate) fn via(gateway: &str, ifname: &str) -> Vec<NextHop> {
    vec![NextHop {
        gateway: Some(ip(gateway)),
        ifname: Some(IfName::from(ifname)),
        onlink: false,
    }]
}

pub(crate) fn route_key(dst: &str) -> RouteKey {
    RouteKey {
        table: 254,
        dst: net(dst),
        tos: 0,
        metric: 0,
    }
}

pub(crate) fn spec(next_hops: Vec<NextHop>) -> RouteSpec {
    RouteSpec {
        kind: RouteKind::Unicast,
        scope: 0,
        protocol: 12,
        next_hops: next_hops.into(),
        object: None,
        prefsrc: None,
        mtu_bytes: None,
    }
}

pub(crate) fn route(dst: &str, next_hops: Vec<NextHop>) -> Row {
    Row::Route(route_key(dst), spec(next_hops))
}

pub(crate) fn pod_route(addr: IpAddr, ifname: &str) -> Row {
    let hop = NextHop {
        gateway: None,
        ifname: Some(ifname.into()),
        onlink: false,
    };
    let key = RouteKey {
        table: 254,
        dst: IpNet::from(addr),
        tos: 0,
        metric: 0,
    };
    let scope = if addr.is_ipv4() { 253 } else { 0 };
    Row::Route(
        key,
        RouteSpec {
            scope,
            protocol: 3,
            ..spec(vec![hop])
        },
    )
}

/// Events up to and with the first that `last` accepts.
pub(crate) async fn events_until(
    events: &mut Receiver<KernelEvent>,
    last: impl Fn(&KernelEvent) -> bool,
) -> Vec<KernelEvent> {
    let mut seen = Vec::new();
    let read = async {
        while let Some(event) = events.recv().await {
            let end = last(&event);
            seen.push(event);
            if end {
                break;
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .is_ok();
    assert!(in_time, "the expected event did not come after {seen:?}");
    seen
}

/// Writes a row in another namespace.
pub(crate) async fn set_in(namespace: OwnedFd, row: Row) {
    let kernel = netns::run(namespace, || Kernel::open().unwrap()).await;
    for (_, result) in kernel.unwrap().apply(vec![Op::Set(row)]).await {
        result.unwrap();
    }
}

/// An address on a device of a namespace.
pub(crate) async fn give(namespace: OwnedFd, device: &str, addr: &str) {
    let addr = AddrKey {
        ifname: device.into(),
        addr: net(addr),
    };
    set_in(namespace, Row::Addr(addr)).await;
}

/// A socket in a namespace, which waits for a packet as long as is needed to bound what never comes: one of the same machine is
/// there at once.
pub(crate) async fn bound(namespace: OwnedFd, addr: IpAddr) -> UdpSocket {
    let socket = netns::run(namespace, move || UdpSocket::bind((addr, 0)).unwrap());
    let socket = socket.await.unwrap();
    let patience = Some(Duration::from_secs(30));
    socket.set_read_timeout(patience).unwrap();
    socket
}

/// `ip -j ARGS`, where iproute2 is installed: an independent reader.
pub(crate) fn ip_json(args: &str) -> Option<serde_json::Value> {
    let output = std::process::Command::new("ip")
        .arg("-j")
        .args(args.split(' '))
        .output()
        .ok()?;
    assert!(
        output.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).ok()
}
