//! What settings change in the planned kernel.

use super::*;
use crate::desired::{AddrKey, FdbKey, LinkSpec, NeighKey, NextHop, RouteKey};
use crate::ownership::{BgpRoutes, ExternalRoutes, IPIP_DEVICE, Ownership};

/// [`cluster`] with other settings of its node.
fn cluster_with(settings: Settings, pool_spec: serde_json::Value) -> World {
    let mut world = World::new(settings);
    for (key, object) in cluster(pool_spec).objects {
        world.put((key, object));
    }
    world.start();
    world.flush();
    world
}

fn device_mtu(world: &World) -> Option<u32> {
    match world.rows.get(&RowKey::Link(IfName::from(VXLAN_DEVICE)))? {
        Row::Link(_, LinkSpec::Vxlan { mtu_bytes, .. }) => *mtu_bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pods_get_the_least_mtu_of_the_encapsulations_in_use() {
    let mut world = cluster(plain());
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1500));
    world.put(pool(
        "q",
        json!({"cidr": "10.2.0.0/16", "ipipMode": "Always"}),
    ));
    world.flush();
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1480));
    world.put(pool(
        "r",
        json!({"cidr": "10.3.0.0/16", "vxlanMode": "CrossSubnet"}),
    ));
    world.flush();
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1450));

    let mut settings = Settings::new("n1");
    settings.vxlan_mtu_bytes = Some(1400);
    let world = cluster_with(settings, vxlan("Always"));
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1400));
    assert_eq!(device_mtu(&world), Some(1400));
}

#[test]
fn hardware_computes_no_checksum_on_an_old_kernel_unless_a_setting_says_it_may() {
    let checksums = |broken: bool, asked: &[(&str, &str)]| {
        let given = asked
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let params = api::params::Params::from_env(given).expect("all are allowed");
        let kernel = KernelFacts {
            breaks_checksums: broken,
            ..KernelFacts::default()
        };
        let settings = Settings::from_params("n1", &params, &kernel);
        // A FelixConfiguration that says nothing of it leaves what the kernel is.
        let settings = settings.with_live(&params);
        let world = cluster_with(settings, vxlan("Always"));
        match world.rows.get(&RowKey::Link(IfName::from(VXLAN_DEVICE))) {
            Some(Row::Link(_, LinkSpec::Vxlan { checksums, .. })) => *checksums,
            other => panic!("{other:?}"),
        }
    };
    let variable = "FELIX_FEATUREDETECTOVERRIDE";
    let yes = [(
        variable,
        "SNATFullyRandom=false, ChecksumOffloadBroken=true",
    )];
    let no = [(variable, "ChecksumOffloadBroken=false")];
    for (broken, asked, expected) in [
        (false, &[][..], Checksums::AsIs),
        (true, &[][..], Checksums::Kernel),
        (false, &yes[..], Checksums::Kernel),
        (true, &no[..], Checksums::AsIs),
    ] {
        assert_eq!(checksums(broken, asked), expected, "{broken} {asked:?}");
    }
}

#[test]
fn a_setting_turns_the_vxlan_device_on_or_off_whatever_the_pools_say() {
    let mut settings = Settings::new("n1");
    settings.vxlan_enabled = Some(true);
    assert!(device_mtu(&cluster_with(settings.clone(), plain())).is_some());
    settings.vxlan_enabled = Some(false);
    assert!(device_mtu(&cluster_with(settings, vxlan("Always"))).is_none());
}

#[test]
fn the_host_forwards_unless_its_setting_is_left_alone() {
    let key = RowKey::Sysctl(crate::desired::SysctlKey("net/ipv4/ip_forward".into()));
    let mut settings = Settings::new("n1");
    let world = cluster_with(settings.clone(), plain());
    assert!(matches!(&world.rows[&key], Row::Sysctl(_, value) if **value == *"1"));
    settings.ip_forwarding = false;
    assert!(!cluster_with(settings, plain()).rows.contains_key(&key));
}

#[test]
fn another_device_route_protocol_is_used_for_every_route_but_those_of_bgp() {
    let mut settings = Settings::new("n1");
    settings.device_route_protocol = 77;
    let mut world = cluster_with(settings.clone(), vxlan("CrossSubnet"));
    world.put(endpoint("a", "n1", "cali1", &["10.1.0.5/32"]));
    world.flush();
    for (dst, route) in [
        ("10.1.0.5/32", "dev cali1 proto 77 scope link metric 1024"),
        ("10.1.0.0/26", "blackhole proto 77"),
        ("10.1.1.0/26", "via 10.0.0.2 dev eth0 onlink proto 77"),
        (
            "10.1.2.0/26",
            "via 10.1.2.0 dev vxlan.calico onlink proto 77 mtu 1450",
        ),
    ] {
        assert_eq!(fib(&world, dst).as_deref(), Some(route));
    }
    let mut world = cluster_with(settings, plain());
    world.bgp("10.1.1.0/26", &["10.0.0.2"]);
    world.flush();
    assert_eq!(
        fib(&world, "10.1.1.0/26").unwrap(),
        "via 10.0.0.2 dev eth0 proto 12 metric 1024"
    );
}

#[test]
fn which_rows_of_the_kernel_are_the_agents_is_told_by_table_protocol_and_device() {
    let ours = Settings::new("n1").ownership();
    let keep = Ownership {
        bgp_routes: BgpRoutes::Foreign,
        external_routes: ExternalRoutes::Keep,
        ..ours.clone()
    };
    let route = |table, protocol, ifname: Option<&str>| {
        let key = RouteKey {
            table,
            dst: prefix("10.1.0.0/26"),
            tos: 0,
            metric: 0,
        };
        let hop = |name: &str| NextHop {
            gateway: None,
            ifname: Some(IfName::from(name)),
            onlink: false,
        };
        let spec = RouteSpec {
            kind: RouteKind::Unicast,
            scope: 0,
            protocol,
            next_hops: ifname.map(hop).into_iter().collect(),
            object: None,
            prefsrc: None,
            mtu_bytes: None,
        };
        Row::Route(key, spec)
    };
    // Row, whether it is the agent's by default, and when it speaks no BGP and keeps external routes.
    for (row, by_default, otherwise) in [
        (route(254, 80, Some("eth0")), true, true),
        (route(254, 80, None), true, true),
        (route(255, 80, None), false, false),
        (route(254, 12, Some("eth0")), true, false),
        (route(254, 4, Some("eth0")), false, false),
        (route(254, 3, Some("eth0")), false, false),
        (route(254, 2, Some("cali1")), false, false),
        (route(254, 3, Some("cali1")), true, true),
        (route(254, 4, Some("cali1")), true, false),
        (route(254, 4, Some(VXLAN_DEVICE)), true, true),
        (route(254, 4, Some(IPIP_DEVICE)), false, false),
    ] {
        assert_eq!(
            (ours.owns(&row), keep.owns(&row)),
            (by_default, otherwise),
            "{row:?}"
        );
    }
    let mac = crate::desired::Mac([2; 6]);
    let neigh = |name: &str, addr: &str| {
        let (ifname, addr) = (IfName::from(name), addr.parse().unwrap());
        Row::Neigh(NeighKey { ifname, addr }, mac)
    };
    let fdb = |name: &str| {
        let ifname = IfName::from(name);
        Row::Fdb(FdbKey { ifname, mac }, "10.0.0.2".parse().unwrap())
    };
    let addr = |name: &str, addr: &str| {
        let ifname = IfName::from(name);
        Row::Addr(AddrKey {
            ifname,
            addr: prefix(addr),
        })
    };
    for (row, is_ours) in [
        (neigh(VXLAN_DEVICE, "10.1.1.0"), true),
        (neigh("cali1", "10.1.0.5"), true),
        (neigh("cali1", "fd00::5"), false),
        (neigh("eth0", "10.0.0.2"), false),
        (fdb(VXLAN_DEVICE), true),
        (fdb("vxlan.foreign"), false),
        (addr(VXLAN_DEVICE, "10.1.0.0/32"), true),
        (addr(IPIP_DEVICE, "10.1.0.1/32"), true),
        (addr(VXLAN_DEVICE, "fe80::1/64"), false),
        (addr("eth0", "10.0.0.1/24"), false),
    ] {
        assert_eq!(ours.owns(&row), is_ours, "{row:?}");
    }
}

#[test]
fn each_setting_comes_from_its_parameter() {
    let given = [
        ("TORTIE_STORE", "unix:/x"),
        ("CALICO_NETWORKING_BACKEND", "vxlan"),
        ("FELIX_DEVICEROUTEPROTOCOL", "80"),
        ("FELIX_INTERFACEPREFIX", "cali,tap"),
        ("FELIX_REMOVEEXTERNALROUTES", "false"),
        ("FELIX_VXLANVNI", "7"),
        ("FELIX_VXLANPORT", "4790"),
        ("FELIX_VXLANENABLED", "true"),
        ("FELIX_VXLANMTU", "1400"),
        ("FELIX_IPINIPENABLED", "false"),
        ("FELIX_IPINIPMTU", "1401"),
        ("FELIX_PROGRAMCLUSTERROUTES", "EnabledNoEncapOnly"),
        ("FELIX_DEVICEROUTESOURCEADDRESS", "10.0.0.9"),
        ("FELIX_IPFORWARDING", "Disabled"),
        ("FELIX_NATPORTRANGE", "4000:5000"),
        ("FELIX_NATOUTGOINGADDRESS", "192.0.2.7"),
        ("FELIX_NATOUTGOINGEXCLUSIONS", "IPPoolsAndHostIPs"),
        ("FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER", "eth+"),
        ("FELIX_IPV4NORMALROUTEPRIORITY", "99"),
        ("FELIX_DEVICEROUTESOURCEADDRESSIPV6", "fd00::9"),
        ("CALICO_ROUTER_ID", "hash"),
    ];
    let given = given.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let params = api::params::Params::from_env(given).expect("all are allowed");
    assert!(params.rejected().is_empty(), "{:?}", params.rejected());
    let kernel = |has_ipv6| KernelFacts {
        breaks_checksums: false,
        rp_filter: "2".into(),
        has_ipv6,
        has_next_hop_objects: true,
    };
    let settings = Settings::from_params("n1", &params, &kernel(true));
    assert_eq!(settings.node_name, "n1");
    assert_eq!(settings.backend, api::params::Backend::Vxlan);
    assert_eq!(settings.device_route_protocol, 80);
    assert_eq!(settings.interface_prefixes, ["cali", "tap"]);
    assert_eq!(settings.external_routes, ExternalRoutes::Keep);
    assert_eq!((settings.vxlan_vni, settings.vxlan_port), (7, 4790));
    assert_eq!(settings.vxlan_enabled, Some(true));
    assert_eq!(settings.vxlan_mtu_bytes, Some(1400));
    assert_eq!(settings.ipip_enabled, Some(false));
    assert_eq!(settings.ipip_mtu_bytes, Some(1401));
    assert_eq!(settings.cluster_routes, ClusterRoutes::EnabledNoEncapOnly);
    assert_eq!(
        settings.device_route_source,
        Some(std::net::Ipv4Addr::new(10, 0, 0, 9))
    );
    assert_eq!(settings.nat_ports, Some(4000..=5000));
    assert_eq!(
        settings.nat_address,
        Some(std::net::Ipv4Addr::new(192, 0, 2, 7))
    );
    assert_eq!(
        settings.nat_exclusions,
        crate::calc::NatExclusions::PoolsAndHosts
    );
    assert_eq!(settings.nat_interface.as_deref(), Some("eth+"));
    assert!(!settings.ip_forwarding);
    assert_eq!(settings.normal_route_metric, 99);
    assert_eq!(settings.router_id, api::params::RouterIdSource::Hash);
    assert_eq!(&*settings.rp_filter, "2");
    let source6 = Some("fd00::9".parse().unwrap());
    assert_eq!(settings.device_route_source6, source6);
    assert!(settings.ipv6_support);
    assert!(!Settings::from_params("n1", &params, &kernel(false)).ipv6_support);
    let off = [("FELIX_IPV6SUPPORT".to_owned(), "false".to_owned())];
    let off = api::params::Params::from_env(off).expect("it is allowed");
    let off = Settings::from_params("n1", &off, &kernel(true));
    assert!(!off.ipv6_support);
    // What was decided at the start stays.
    assert!(!off.with_live(&params).ipv6_support);
    let live = settings.with_live(&params);
    assert!(live.ipv6_support && *live.rp_filter == *"2");
}

#[test]
fn with_ipv6_the_host_forwards_it_pods_devices_serve_it_and_their_routes_have_a_source() {
    let forwarding = |of: &str| {
        let path = format!("net/ipv6/conf/{of}/forwarding");
        RowKey::Sysctl(crate::desired::SysctlKey(path.into()))
    };
    let with_pod = |settings: Settings| {
        let mut world = cluster_with(settings, json!({"cidr": "fd00:1::/48"}));
        world.put(endpoint("a", "n1", "cali1", &["fd00:1::5/128"]));
        world.flush();
        world
    };
    let mut settings = Settings::new("n1");
    settings.ipv6_support = false;
    let world = with_pod(settings.clone());
    let believes = crate::desired::SysctlKey("net/ipv6/conf/cali1/accept_ra".into());
    let row = &world.rows[&RowKey::Sysctl(believes)];
    assert!(matches!(row, Row::Sysctl(_, value) if **value == *"0"));
    for of in ["all", "cali1"] {
        assert!(!world.rows.contains_key(&forwarding(of)), "{of}");
    }
    settings.ipv6_support = true;
    settings.device_route_source6 = Some("fd00::9".parse().unwrap());
    let world = with_pod(settings.clone());
    for of in ["all", "cali1"] {
        let row = &world.rows[&forwarding(of)];
        assert!(
            matches!(row, Row::Sysctl(_, value) if **value == *"1"),
            "{of}"
        );
    }
    let key = settings.workload_route_key("fd00:1::5".parse().unwrap());
    match &world.rows[&key] {
        Row::Route(_, spec) => assert_eq!(spec.prefsrc, Some("fd00::9".parse().unwrap())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_that_change_later_give_what_they_would_have_given_from_the_start() {
    let base = || Settings::new("n1");
    type Variant = (&'static str, fn(&mut Settings));
    let variants: [Variant; 12] = [
        ("nat address", |settings| {
            settings.nat_address = Some("10.0.0.1".parse().unwrap());
        }),
        ("nat exclusions", |settings| {
            settings.nat_exclusions = NatExclusions::PoolsAndHosts;
        }),
        ("port", |settings| settings.vxlan_port = 8472),
        ("vni", |settings| settings.vxlan_vni = 77),
        ("mtu", |settings| settings.vxlan_mtu_bytes = Some(1300)),
        ("vxlan off", |settings| settings.vxlan_enabled = Some(false)),
        ("ipip on", |settings| settings.ipip_enabled = Some(true)),
        ("metric", |settings| settings.normal_route_metric = 99),
        ("forwarding", |settings| settings.ip_forwarding = false),
        ("source", |settings| {
            settings.device_route_source = Some("10.0.0.1".parse().unwrap());
        }),
        ("source of IPv6", |settings| {
            settings.device_route_source6 = Some("fd00::9".parse().unwrap());
        }),
        ("routes", |settings| {
            settings.cluster_routes = ClusterRoutes::Enabled;
        }),
    ];
    let with_pod = |settings: Settings, spec: serde_json::Value| {
        let mut world = cluster_with(settings, spec);
        let addresses = ["10.1.0.5/32", "fd00::5/128"];
        world.put(endpoint("a", "n1", "cali1", &addresses));
        world.bgp("10.1.1.0/26", &["10.0.0.2"]);
        world.flush();
        world
    };
    for spec in [vxlan("Always"), vxlan("CrossSubnet"), plain()] {
        let untouched = with_pod(base(), spec.clone()).rows;
        for (name, change) in &variants {
            let mut settings = base();
            change(&mut settings);
            let wanted = with_pod(settings.clone(), spec.clone()).rows;
            let mut world = with_pod(base(), spec.clone());
            world.graph.handle_settings(settings);
            world.flush();
            assert_eq!(world.rows, wanted, "{name} with {spec}");
            world.graph.handle_settings(base());
            world.flush();
            assert_eq!(world.rows, untouched, "{name} taken back with {spec}");
        }
    }
    // What decides which rows are the agent's stays as it was.
    let mut world = with_pod(base(), plain());
    let mut settings = base();
    settings.device_route_protocol = 77;
    settings.interface_prefixes = vec!["tap".to_owned()];
    settings.external_routes = ExternalRoutes::Keep;
    world.graph.handle_settings(settings);
    world.flush();
    let wanted = with_pod(base(), plain()).rows;
    assert_eq!(world.rows, wanted);
}

#[test]
fn blocks_lead_to_pods_unless_a_pool_is_left_to_bgp() {
    let ipip = || json!({"cidr": "10.1.0.0/16", "ipipMode": "Always"});
    for (spec, owned, expected) in [
        (plain(), ClusterRoutes::EnabledIpipOnly, false),
        (plain(), ClusterRoutes::EnabledNoEncapOnly, true),
        (ipip(), ClusterRoutes::EnabledIpipOnly, true),
        (ipip(), ClusterRoutes::Disabled, false),
        (vxlan("CrossSubnet"), ClusterRoutes::Disabled, true),
    ] {
        let mut world = cluster(spec.clone());
        let mut settings = Settings::new("n1");
        settings.cluster_routes = owned;
        world.graph.handle_settings(settings);
        world.flush();
        assert_eq!(
            world.graph.blocks_lead_to_pods(),
            expected,
            "{spec} {owned:?}"
        );
        let beside = json!({"cidr": "10.2.0.0/16", "allowedUses": ["LoadBalancer"]});
        world.put(pool("services", beside));
        assert_eq!(
            world.graph.blocks_lead_to_pods(),
            expected,
            "Services are no pods"
        );
    }
    assert!(!World::started().graph.blocks_lead_to_pods(), "no pool");
    let mut world = cluster(vxlan("Always"));
    world.put(pool("q", json!({"cidr": "10.2.0.0/16"})));
    assert!(!world.graph.blocks_lead_to_pods(), "one of two by BGP");
}
