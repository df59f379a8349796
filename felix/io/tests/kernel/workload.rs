//! Pods: made in one go, talking at once, leaving nothing behind.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use felix::desired::{Checksums, IfName, LinkSpec, Mac, Parent, Row, SysctlKey};
use felix::kernel::KernelEvent;
use felix_io::workload::{
    self, Attachment, Families, Forwarding, HOST_MAC, HostEnd, OldPair, PairSpec, PodNetwork,
    Routing, Threads, WorkloadError,
};
use felix_io::{Table, netns, sysctl};
use rustix::thread::CapabilitySet;

use crate::namespace::{self, kernel_test};
use crate::node::{Node, UNDERLAY, ip, mac, net, pair, pod_route, route, via};

/// A listener inside a namespace; it serves from any thread.
pub(crate) async fn listener(netns: OwnedFd, addr: IpAddr) -> TcpListener {
    netns::run(netns, move || TcpListener::bind((addr, 0)).unwrap())
        .await
        .unwrap()
}

/// One exchange from inside a namespace.
pub(crate) async fn exchange(client: OwnedFd, server: &TcpListener) -> Exchange {
    let to = server.local_addr().unwrap();
    let server = server.try_clone().unwrap();
    let served = std::thread::spawn(move || {
        let (mut stream, peer): (TcpStream, SocketAddr) = server.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        peer.ip()
    });
    let (retransmitted, took) = netns::run(client, move || {
        let start = Instant::now();
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        let took = start.elapsed();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        (retransmitted(), took)
    })
    .await
    .unwrap();
    Exchange {
        seen: served.join().unwrap(),
        retransmitted,
        took,
    }
}

pub(crate) struct Exchange {
    /// The client's address as the server saw it.
    pub(crate) seen: IpAddr,
    /// TCP segments the client's namespace ever sent again.
    retransmitted: u64,
    /// Time of the connect.
    took: Duration,
}

/// `RetransSegs` of the calling thread's namespace.
fn retransmitted() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = names.split(' ').zip(values.split(' '));
    columns
        .find(|(name, _)| *name == "RetransSegs")
        .unwrap()
        .1
        .parse()
        .unwrap()
}

async fn links(node: &Node) -> Vec<IfName> {
    let events = node.kernel.dump(Table::Links).await.unwrap();
    let names = events.into_iter().filter_map(|event| match event {
        KernelEvent::Link(link) => Some(link.ifname),
        _ => None,
    });
    names.collect()
}

/// The neighbours that a pod was given and need not ask for: all of them are the host's end.
async fn permanent_neighbours(pod: OwnedFd) -> Vec<String> {
    let kernel = netns::run(pod, || felix_io::Kernel::open().unwrap());
    let found = kernel.await.unwrap().dump(Table::Neighbours).await.unwrap();
    let mut neighbours: Vec<IpAddr> = Vec::new();
    for event in found {
        if let KernelEvent::RowSet(Row::Neigh(key, mac)) = event {
            assert_eq!((&*key.ifname.0, mac), ("eth0", HOST_MAC));
            neighbours.push(key.addr);
        }
    }
    neighbours.sort();
    neighbours.iter().map(IpAddr::to_string).collect()
}

kernel_test!(two_pods_talk_by_their_own_addresses, async {
    let node = Node::new().await;
    let (one, two) = (node.pod(1).await, node.pod(2).await);
    assert_eq!(one.attached.host_mac, HOST_MAC);
    assert_eq!(one.attached.mtu_bytes, 1450);
    let server = listener(two.netns(), two.addr).await;
    let seen = exchange(one.netns(), &server).await.seen;
    assert_eq!(seen, one.addr, "no address translation on the way");
    assert_eq!(permanent_neighbours(one.netns()).await, ["169.254.1.1"]);
    let spec = pair(&one.attached.host_ifname.0, "eth0");
    workload::check(one.netns(), spec, PodNetwork::new(vec![one.addr]))
        .await
        .unwrap();
    let forwarding = netns::run(one.netns(), || {
        sysctl::read(&SysctlKey("net/ipv4/ip_forward".into())).unwrap()
    });
    assert_eq!(forwarding.await.unwrap(), "0");
    assert_eq!(
        sysctl::read(&SysctlKey("net/ipv4/ip_forward".into())).unwrap(),
        "1"
    );
});

// Proxy ARP answers for 169.254.1.1 only where the host has a route to it.
kernel_test!(
    pods_of_a_host_without_a_default_route_reach_each_other,
    async {
        let node = Node::new().await;
        node.remove(route("0.0.0.0/0", via("10.0.0.2", UNDERLAY)))
            .await;
        let (one, two) = (node.pod(1).await, node.pod(2).await);
        let server = listener(two.netns(), two.addr).await;
        assert_eq!(exchange(one.netns(), &server).await.seen, one.addr);
    }
);

kernel_test!(the_first_connection_of_a_new_pod_does_not_stall, async {
    let node = Node::new().await;
    let target = node.pod(1).await;
    let server = listener(target.netns(), target.addr).await;
    let mut slowest = Duration::ZERO;
    let mut attaching = Duration::ZERO;
    let mut pods = VecDeque::new();
    for number in 2..1002 {
        let start = Instant::now();
        let pod = node.pod(number).await;
        attaching += start.elapsed();
        let exchange = exchange(pod.netns(), &server).await;
        assert_eq!(exchange.seen, pod.addr);
        // A first packet that is lost is sent again after a second: that is the stall.
        assert_eq!(exchange.retransmitted, 0, "pod {number}");
        slowest = slowest.max(exchange.took);
        // Few at a time: each pod's ARP entries count against one limit of the whole machine.
        pods.push_back(pod);
        if pods.len() > 50 {
            pods.pop_front();
        }
    }
    println!(
        "slowest connect {slowest:?}, mean ADD {:?}",
        attaching / 1000
    );
});

kernel_test!(a_dual_stack_pod_talks_over_ipv6, async {
    let node = Node::new().await;
    node.set(Row::Sysctl(
        SysctlKey("net/ipv6/conf/all/forwarding".into()),
        "1".into(),
    ))
    .await;
    let mut pods = Vec::new();
    for number in 1..=2u16 {
        let netns = namespace::new();
        let addrs = vec![
            ip(&format!("10.65.0.{number}")),
            ip(&format!("fd65::{number}")),
        ];
        let host_ifname = format!("cali{number}");
        let spec = PairSpec {
            families: Families::Dual,
            ..pair(&host_ifname, "eth0")
        };
        let network = PodNetwork::new(addrs.clone());
        workload::attach(netns.try_clone().unwrap(), spec.clone(), network.clone())
            .await
            .unwrap();
        for addr in &addrs {
            node.set(pod_route(*addr, &host_ifname)).await;
        }
        workload::check(netns.try_clone().unwrap(), spec, network)
            .await
            .unwrap();
        assert_eq!(
            permanent_neighbours(netns.try_clone().unwrap()).await,
            ["169.254.1.1", "fe80::ecee:eeff:feee:eeee"]
        );
        pods.push((netns, addrs));
    }
    let server = listener(pods[1].0.try_clone().unwrap(), pods[1].1[1]).await;
    let exchange = exchange(pods[0].0.try_clone().unwrap(), &server).await;
    assert_eq!(exchange.seen, pods[0].1[1]);
});

kernel_test!(a_pair_whose_addresses_never_come_is_removed, async {
    let node = Node::new().await;
    let before = links(&node).await;
    let mut events = node.kernel.events().unwrap();
    let threads = Threads::open().unwrap();
    let attachment = Attachment::begin(&threads, namespace::new(), pair("cali1", "eth0"))
        .await
        .unwrap();
    assert!(attachment.host_ifindex > 0 && attachment.pod_mac != Mac([0; 6]));
    assert!(links(&node).await.contains(&"cali1".into()));
    drop(attachment);
    let gone = KernelEvent::LinkGone("cali1".into());
    crate::node::events_until(&mut events, |event| *event == gone).await;
    assert_eq!(links(&node).await, before);
});

kernel_test!(
    an_agent_that_may_not_enter_namespaces_says_so_for_each_pod,
    async {
        let _node = Node::new().await;
        let threads = Threads::open().unwrap();
        let inside = namespace::new();
        let mut may = rustix::thread::capabilities(None).unwrap();
        may.effective.remove(CapabilitySet::SYS_ADMIN);
        rustix::thread::set_capabilities(None, may).unwrap();
        let begun = Attachment::begin(&threads, inside, pair("cali0", "eth0")).await;
        let error = begun.err();
        assert!(
            matches!(error, Some(WorkloadError::Namespace(_))),
            "{error:?}"
        );
    }
);

kernel_test!(
    threads_that_served_a_pod_are_back_in_the_hosts_namespace,
    async {
        let node = Node::new().await;
        let threads = Threads::open().unwrap();
        for round in 1..=3_u8 {
            // One that fails within the pod's namespace, one that is given up, and one that stays.
            let failing = Attachment::begin(&threads, namespace::new(), pair("cali0", "eth0"));
            let failing = failing.await.unwrap();
            workload::detach("cali0".into()).await.unwrap();
            workload::sweep().await.unwrap();
            let gone = failing.finish(PodNetwork::new(vec![ip("10.65.0.9")]));
            assert!(gone.await.is_err());
            let given_up = Attachment::begin(&threads, namespace::new(), pair("cali0", "eth0"));
            given_up.await.unwrap().abandon().await;
            let name = IfName::from(format!("cali{round}").as_str());
            let inside = namespace::new();
            let begun = Attachment::begin(
                &threads,
                inside.try_clone().unwrap(),
                PairSpec {
                    pod_mac: Some(mac(round)),
                    ..pair(&name.0, "eth0")
                },
            );
            let network = PodNetwork::new(vec![ip(&format!("10.65.0.{round}"))]);
            let attached = begun.await.unwrap().finish(network.clone()).await.unwrap();
            assert_eq!(attached.pod_mac, mac(round));
            assert_eq!(attached.mtu_bytes, 1450);
            workload::check(inside, pair(&name.0, "eth0"), network)
                .await
                .unwrap();
            for setting in ["forwarding", "proxy_arp", "route_localnet"] {
                let key = SysctlKey(format!("net/ipv4/conf/{name}/{setting}").into());
                assert_eq!(sysctl::read(&key).unwrap(), "1", "{key}");
            }
            assert!(!links(&node).await.contains(&"cali0".into()));
            workload::detach_own(&threads, name.clone(), format!("pod of {name}"))
                .await
                .unwrap();
            let ends = workload::host_ends(name.0.to_string()).await.unwrap();
            assert_eq!(ends, []);
        }
    }
);

kernel_test!(
    each_bad_request_has_its_own_error_and_leaves_nothing,
    async {
        let node = Node::new().await;
        let before = links(&node).await;
        let network = || PodNetwork::new(vec![ip("10.65.0.1")]);
        let attach = |netns: OwnedFd, spec: PairSpec| workload::attach(netns, spec, network());

        let error = attach(namespace::new(), pair("cali1", "a/b"))
            .await
            .unwrap_err();
        assert!(matches!(error, WorkloadError::Name(_)), "{error}");
        let error = attach(netns::current().unwrap(), pair("cali1", "eth1"))
            .await
            .unwrap_err();
        assert!(matches!(error, WorkloadError::HostNamespace), "{error}");
        let small = PairSpec {
            mtu_bytes: Some(1279),
            families: Families::Dual,
            ..pair("cali1", "eth0")
        };
        let error = attach(namespace::new(), small).await.unwrap_err();
        assert!(error.to_string().contains("would be 1279"), "{error}");
        let file = OwnedFd::from(File::open("/proc/self/exe").unwrap());
        let error = attach(file, pair("cali1", "eth0")).await.unwrap_err();
        assert!(matches!(error, WorkloadError::Namespace(_)), "{error}");
        let error = attach(namespace::new(), pair("cali1", "lo"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, WorkloadError::PodInterfaceExists(_)),
            "{error}"
        );
        let bad = PairSpec {
            pod_mac: Some(Mac([1, 0, 0, 0, 0, 1])),
            ..pair("cali1", "eth0")
        };
        let error = attach(namespace::new(), bad).await.unwrap_err();
        assert!(matches!(error, WorkloadError::Kernel { .. }), "{error}");
        let threads = Threads::open().unwrap();
        let attachment = Attachment::begin(&threads, namespace::new(), pair("cali1", "eth0"))
            .await
            .unwrap();
        felix_io::workload::detach("cali1".into()).await.unwrap();
        felix_io::workload::sweep().await.unwrap();
        let error = attachment.finish(network()).await.unwrap_err();
        assert!(error.to_string().contains("eth0"), "{error}");
        assert_eq!(links(&node).await, before, "nothing half-made is left");

        let spec = LinkSpec::Vxlan {
            vni: 1,
            port: 4789,
            local: ip("10.0.0.1"),
            parent: Parent::Device(UNDERLAY.into()),
            mac: mac(1),
            mtu_bytes: None,
            checksums: Checksums::AsIs,
        };
        node.set(Row::Link("cali1".into(), spec)).await;
        let error = attach(namespace::new(), pair("cali1", "eth0"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, WorkloadError::ForeignLink { .. }),
            "{error}"
        );
        assert!(workload::detach("cali1".into()).await.is_err());
        assert!(
            links(&node).await.contains(&"cali1".into()),
            "a foreign device is left alone"
        );
    }
);

kernel_test!(a_pod_that_is_made_again_replaces_its_old_pair, async {
    let node = Node::new().await;
    let old = node.pod(1).await;
    let new = node.pod(1).await;
    assert_ne!(old.attached.host_ifindex, new.attached.host_ifindex);
    let server = listener(new.netns(), new.addr).await;
    let other = node.pod(2).await;
    exchange(other.netns(), &server).await;
});

kernel_test!(
    detached_pods_lose_their_routes_at_once_and_are_swept_together,
    async {
        let node = Node::new().await;
        let mut pods = Vec::new();
        for number in 1..=20 {
            pods.push(node.pod(number).await);
        }
        let stays = node.pod(99).await;
        for pod in &pods {
            workload::detach(pod.attached.host_ifname.clone())
                .await
                .unwrap();
            workload::detach(pod.attached.host_ifname.clone())
                .await
                .unwrap();
        }
        let routes = node.rows(Table::Routes).await;
        for pod in &pods {
            assert!(!routes.contains_key(&pod_route(pod.addr, "any").key()));
        }
        let start = Instant::now();
        assert_eq!(workload::sweep().await.unwrap(), 20);
        println!("20 pairs swept in {:?}", start.elapsed());
        assert_eq!(workload::sweep().await.unwrap(), 0);
        let left = links(&node).await;
        assert!(
            pods.iter()
                .all(|pod| !left.contains(&pod.attached.host_ifname))
        );
        assert!(left.contains(&stays.attached.host_ifname));
        workload::detach("cali-never-was".into()).await.unwrap();
    }
);

/// A host end as [`pair`] describes it.
fn host_end(ifname: IfName) -> HostEnd {
    HostEnd {
        alias: format!("pod of {ifname}"),
        ifname,
        admin_up: true,
    }
}

kernel_test!(an_abandoned_pair_is_gone_when_abandoning_it_ends, async {
    let node = Node::new().await;
    let before = links(&node).await;
    let threads = Threads::open().unwrap();
    for _ in 0..5 {
        let made = Attachment::begin(&threads, namespace::new(), pair("cali1", "eth0")).await;
        let ends = workload::host_ends("cali".to_owned()).await.unwrap();
        assert_eq!(ends, [host_end("cali1".into())]);
        made.unwrap().abandon().await;
        assert_eq!(links(&node).await, before);
    }
});

kernel_test!(
    host_ends_are_pairs_of_the_prefix_that_are_not_detached,
    async {
        let node = Node::new().await;
        let pods = [node.pod(1).await, node.pod(2).await];
        let all = |prefix: &str| workload::host_ends(prefix.to_owned());
        let named = |pod: &crate::node::Pod| host_end(pod.attached.host_ifname.clone());
        assert_eq!(all("cali").await.unwrap(), pods.each_ref().map(named));
        assert_eq!(all("veth").await.unwrap(), []);
        workload::detach(named(&pods[0]).ifname).await.unwrap();
        assert_eq!(all("cali").await.unwrap(), [named(&pods[1])]);
    }
);

kernel_test!(a_namespace_of_another_type_is_refused_as_that, async {
    let node = Node::new().await;
    let before = links(&node).await;
    let uts = File::open("/proc/self/ns/uts").unwrap();
    let nowhere = PodNetwork::new(Vec::new());
    let error = workload::attach(uts.into(), pair("cali1", "eth0"), nowhere)
        .await
        .unwrap_err();
    assert!(matches!(error, WorkloadError::Namespace(_)), "{error}");
    assert_eq!(links(&node).await, before);
});

kernel_test!(a_check_names_what_is_missing, async {
    let node = Node::new().await;
    let pod = node.pod(1).await;
    let name = &*pod.attached.host_ifname.0;
    let network = PodNetwork::new(vec![pod.addr]);
    let differs = async |spec: PairSpec, network: PodNetwork| match workload::check(
        pod.netns(),
        spec,
        network,
    )
    .await
    {
        Err(WorkloadError::Differs(text)) => text,
        other => panic!("{other:?}"),
    };
    let text = differs(pair(name, "eth0"), PodNetwork::new(vec![ip("10.65.9.9")])).await;
    assert!(text.contains("10.65.9.9"), "{text}");
    let text = differs(pair(name, "eth7"), network.clone()).await;
    assert!(text.contains("eth7"), "{text}");
    let text = differs(pair("cali7", "eth0"), network.clone()).await;
    assert!(text.contains("cali7"), "{text}");
    let more = PodNetwork {
        routes: vec![net("10.9.0.0/16")],
        ..network.clone()
    };
    let text = differs(pair(name, "eth0"), more).await;
    assert!(
        text.contains("10.9.0.0/16") && text.contains("169.254.1.1"),
        "{text}"
    );
});

kernel_test!(a_pod_may_forward_when_it_is_asked_to, async {
    let _node = Node::new().await;
    let netns = namespace::new();
    let network = PodNetwork {
        forwarding: Forwarding::On,
        ..PodNetwork::new(vec![ip("10.65.0.1")])
    };
    let inside = netns.try_clone().unwrap();
    workload::attach(netns, pair("cali1", "eth0"), network)
        .await
        .unwrap();
    let value = netns::run(inside, || {
        sysctl::read(&SysctlKey("net/ipv4/ip_forward".into()))
    });
    assert_eq!(value.await.unwrap().unwrap(), "1");
});

kernel_test!(many_pods_are_made_at_the_same_time, async {
    let node = Node::new().await;
    let mut making = tokio::task::JoinSet::new();
    for number in 1..=40u8 {
        let netns = namespace::new();
        let inside = netns.try_clone().unwrap();
        let network = PodNetwork::new(vec![IpAddr::from([10, 65, 1, number])]);
        making.spawn(async move {
            let spec = pair(&format!("cali{number}"), "eth0");
            workload::attach(netns, spec.clone(), network.clone())
                .await
                .unwrap();
            workload::check(inside.try_clone().unwrap(), spec, network)
                .await
                .unwrap();
            inside
        });
    }
    let alive = making.join_all().await;
    assert_eq!(
        links(&node)
            .await
            .iter()
            .filter(|name| name.0.starts_with("cali"))
            .count(),
        40
    );
    drop(alive);
});

kernel_test!(
    a_further_interface_answers_over_itself_and_leaves_the_first_alone,
    async {
        let node = Node::new().await;
        node.set(Row::Sysctl(
            SysctlKey("net/ipv4/conf/all/rp_filter".into()),
            "1".into(),
        ))
        .await;
        let pod = node.pod(1).await;
        let first = pod.attached.host_ifname.clone();
        let further = |addr: &str| PodNetwork {
            routing: Routing::BySource,
            ..PodNetwork::new(vec![ip(addr)])
        };
        let first_network = PodNetwork {
            forwarding: Forwarding::On,
            ..PodNetwork::new(vec![pod.addr])
        };
        netns::run(pod.netns(), || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        })
        .await
        .unwrap();
        // The address changes with the second ADD: the first one's rule must not stay.
        for addr in ["10.65.7.1", "10.65.7.2"] {
            let network = further(addr);
            workload::attach(pod.netns(), pair("calinet1", "net1"), network.clone())
                .await
                .unwrap();
            node.set(pod_route(ip(addr), "calinet1")).await;
            workload::check(pod.netns(), pair("calinet1", "net1"), network)
                .await
                .unwrap();
            let other = further("10.65.7.9");
            let error = workload::check(pod.netns(), pair("calinet1", "net1"), other)
                .await
                .unwrap_err();
            assert!(error.to_string().contains("10.65.7.9"), "{error}");
        }
        let rules = netns::run(pod.netns(), || {
            crate::node::ip_json("rule show").map(|rules| rules.to_string())
        });
        if let Some(rules) = rules.await.unwrap() {
            assert!(rules.contains("10.65.7.2"), "{rules}");
            assert!(!rules.contains("10.65.7.1"), "{rules}");
        }
        workload::check(pod.netns(), pair(&first.0, "eth0"), first_network)
            .await
            .unwrap();
        let forwarding = netns::run(pod.netns(), || {
            sysctl::read(&SysctlKey("net/ipv4/ip_forward".into())).unwrap()
        });
        assert_eq!(forwarding.await.unwrap(), "1", "the first one's setting");
        // Strict reverse path filtering on every device: an answer over the wrong one would be dropped.
        let client = node.pod(2).await;
        for addr in [pod.addr, ip("10.65.7.2")] {
            let server = listener(pod.netns(), addr).await;
            assert_eq!(exchange(client.netns(), &server).await.seen, client.addr);
        }
        workload::detach("calinet1".into()).await.unwrap();
        assert_eq!(workload::sweep().await.unwrap(), 1);
        let server = listener(pod.netns(), pod.addr).await;
        assert_eq!(exchange(client.netns(), &server).await.seen, client.addr);
    }
);

kernel_test!(a_pair_that_must_not_be_replaced_stays, async {
    let node = Node::new().await;
    let pod = node.pod(1).await;
    let name = pod.attached.host_ifname.clone();
    let keep = PairSpec {
        old_pair: OldPair::Keep,
        ..pair(&name.0, "eth0")
    };
    let network = PodNetwork::new(vec![ip("10.65.0.9")]);
    let error = workload::attach(namespace::new(), keep.clone(), network.clone())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, WorkloadError::HostInterfaceExists { ifname, alias }
            if *ifname == name && *alias == format!("pod of {name}")),
        "{error}"
    );
    let network_of_old = PodNetwork::new(vec![pod.addr]);
    workload::check(pod.netns(), pair(&name.0, "eth0"), network_of_old)
        .await
        .unwrap();
    let stays = || async {
        let ends = workload::host_ends(name.0.to_string()).await.unwrap();
        ends == [host_end(name.clone())]
    };
    let threads = Threads::open().unwrap();
    workload::detach_own(&threads, name.clone(), "pod of another".to_owned())
        .await
        .unwrap();
    assert!(stays().await, "it bears another alias");
    // What waits for its deletion is nobody's any more.
    workload::detach_own(&threads, name.clone(), format!("pod of {name}"))
        .await
        .unwrap();
    assert!(!stays().await);
    workload::attach(namespace::new(), keep, network)
        .await
        .unwrap();
});
