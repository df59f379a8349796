use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;

mod rows;

fn read(variables: &[(&str, &str)]) -> Result<Params, Vec<ParamError>> {
    Params::from_env(
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn accepted(variables: &[(&str, &str)]) -> Params {
    read(variables).unwrap_or_else(|errors| panic!("{errors:?}"))
}

#[test]
fn an_empty_environment_gives_the_defaults_of_the_contract() {
    let params = accepted(&[]);
    assert_eq!(params.nodename_file, "/var/lib/calico/nodename");
    assert_eq!(params.ip, AddressSource::Keep);
    assert_eq!(params.router_id, RouterIdSource::NodeAddress);
    assert_eq!(params.backend, Backend::Bgp);
    assert_eq!(params.datastore_type, DatastoreType::Etcdv3);
    assert_eq!(params.pool_cidr, PoolCidr::Choose);
    assert_eq!(params.pool_block_size, 26);
    assert!(params.pool_nat_outgoing);
    assert!(!params.pool_disable_bgp_export);
    assert_eq!((params.vxlan_port, params.vxlan_vni), (4789, 4096));
    assert_eq!(params.route_refresh_interval, Duration::from_secs(90));
    assert_eq!(params.health_port, 9099);
    assert_eq!(params.metrics_port, 9091);
    assert_eq!(params.settings().len(), TABLE.len());
    assert!(
        params
            .settings()
            .iter()
            .all(|setting| setting.origin == Origin::Default)
    );
}

#[test]
fn every_error_is_reported_with_variable_value_and_what_is_allowed() {
    let errors = read(&[
        ("CALICO_IPV4POOL_CIDR", "10.0.0.0/33"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "19"),
        ("CALICO_IPV4POOL_IPIP", "sometimes"),
        ("AS", "70000.1"),
        ("IP", "fd00::1"),
        ("CALICO_IPV4POOL_NODE_SELECTOR", "rack = 'a'"),
    ])
    .expect_err("all are wrong");
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 6, "{shown:?}");
    for (variable, value, allowed) in [
        ("CALICO_IPV4POOL_CIDR", "10.0.0.0/33", "IPv4 range"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "19", "20 to 32"),
        ("CALICO_IPV4POOL_IPIP", "sometimes", "CrossSubnet"),
        ("AS", "70000.1", "4294967295"),
        ("IP", "fd00::1", "autodetect"),
        (
            "CALICO_IPV4POOL_NODE_SELECTOR",
            "rack = 'a'",
            "at character 6",
        ),
    ] {
        let named = format!("{variable}={value:?}");
        assert!(
            shown
                .iter()
                .any(|text| text.starts_with(&named) && text.contains(allowed)),
            "{variable}: {shown:?}"
        );
    }
}

#[test]
fn a_node_name_that_no_node_object_can_have_is_refused() {
    for name in ["Node1", "node_1", ".node", "node-"] {
        let errors = read(&[("NODENAME", name)]).expect_err(name);
        let text = errors[0].to_string();
        assert!(text.contains(name) && text.contains("lower-case"), "{text}");
    }
}

#[test]
fn rules_between_variables_are_checked() {
    for (variables, named) in [
        (
            vec![
                ("CALICO_IPV4POOL_IPIP", "Always"),
                ("CALICO_IPV4POOL_VXLAN", "CrossSubnet"),
            ],
            "CALICO_IPV4POOL_VXLAN",
        ),
        (
            vec![
                ("NO_DEFAULT_POOLS", "True"),
                ("CALICO_IPV4POOL_CIDR", "10.0.0.0/16"),
            ],
            "CALICO_IPV4POOL_CIDR",
        ),
        (
            vec![
                ("NO_DEFAULT_POOLS", "true"),
                ("CALICO_IPV6POOL_CIDR", "fd00::/48"),
            ],
            "CALICO_IPV6POOL_CIDR",
        ),
        (
            vec![("CALICO_IPV4POOL_CIDR", "10.0.0.0/28")],
            "CALICO_IPV4POOL_BLOCK_SIZE",
        ),
        (
            vec![("CALICO_IPV6POOL_CIDR", "fd00::/124")],
            "CALICO_IPV6POOL_BLOCK_SIZE",
        ),
        (vec![("DATASTORE_TYPE", "local")], "DATASTORE_TYPE"),
        (vec![("K8S_CERT_FILE", "/a.pem")], "K8S_CERT_FILE"),
        (vec![("K8S_KEY_FILE", "/a.pem")], "K8S_KEY_FILE"),
    ] {
        let errors = read(&variables).expect_err(named);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].variable, named);
    }
}

#[test]
fn a_wrong_felix_value_leaves_the_default_and_is_reported() {
    let params = accepted(&[("FELIX_VxlanPort", "70000"), ("FELIX_HEALTHPORT", "none")]);
    assert_eq!(params.vxlan_port, 4789);
    assert_eq!(params.rejected().len(), 2);
    assert_eq!(params.rejected()[0].variable, "FELIX_VxlanPort");
}

#[test]
fn felix_names_are_read_in_any_case_and_none_is_zero() {
    let params = accepted(&[
        ("Felix_VXLANport", "8472"),
        ("FELIX_ROUTEREFRESHINTERVAL", "none"),
        ("FELIX_INTERFACEPREFIX", "cali, tap"),
    ]);
    assert_eq!(params.vxlan_port, 8472);
    assert_eq!(params.route_refresh_interval, Duration::ZERO);
    assert_eq!(params.interface_prefixes, ["cali", "tap"]);
    let shown = params
        .settings()
        .iter()
        .find(|setting| setting.row.field == "vxlan_port");
    let shown = shown.expect("each row is shown");
    assert_eq!(shown.text, "8472");
    assert_eq!(
        shown.origin,
        Origin::Environment("Felix_VXLANport".to_owned())
    );
}

#[test]
fn pool_booleans_are_true_unless_a_word_for_no_is_given() {
    for (text, wanted) in [
        ("", true),
        ("False", false),
        ("0", false),
        ("off", true),
        ("N", false),
    ] {
        let params = accepted(&[("CALICO_IPV4POOL_NAT_OUTGOING", text)]);
        assert_eq!(params.pool_nat_outgoing, wanted, "{text:?}");
    }
}

#[test]
fn what_is_ignored_is_reported() {
    let params = accepted(&[
        ("CALICO_DISABLE_FILE_LOGGING", "true"),
        ("NODE_USER_ID", "1000"),
        ("FELIX_BPFENABLED", "true"),
        ("CALICO_IPV4POOL_CIDR", "10.1.2.3/16"),
    ]);
    let named: Vec<&str> = params
        .notices()
        .iter()
        .map(|notice| notice.variable.as_str())
        .collect();
    assert_eq!(
        named,
        ["CALICO_IPV4POOL_CIDR", "FELIX_BPFENABLED", "NODE_USER_ID"]
    );
    assert_eq!(
        params.pool_cidr,
        PoolCidr::Cidr("10.1.0.0/16".parse().unwrap())
    );
}

#[test]
fn a_store_socket_means_the_local_datastore() {
    let params = accepted(&[("TORTIE_STORE", "unix:/run/store.sock")]);
    assert_eq!(params.datastore_type, DatastoreType::Local);
    assert_eq!(params.store.as_deref(), Some("/run/store.sock"));
}

#[test]
fn the_node_name_comes_from_the_first_source_that_has_one() {
    assert_eq!(
        accepted(&[("NODENAME", "a")])
            .node_name(Some("b"), "c")
            .as_deref(),
        Some("a")
    );
    assert_eq!(
        accepted(&[("HOSTNAME", "H")])
            .node_name(Some("b\n"), "c")
            .as_deref(),
        Some("b")
    );
    assert_eq!(
        accepted(&[("HOSTNAME", "H")])
            .node_name(None, "c")
            .as_deref(),
        Some("h")
    );
    assert_eq!(
        accepted(&[]).node_name(Some(""), " C\n").as_deref(),
        Some("c")
    );
    assert_eq!(accepted(&[]).node_name(None, ""), None);
}

#[test]
fn addresses_and_numbers_are_read_in_each_form() {
    let params = accepted(&[
        ("IP", "10.10.1.11/24"),
        ("AS", "1.10"),
        ("CALICO_ROUTER_ID", "hash"),
    ]);
    assert_eq!(
        params.ip,
        AddressSource::Cidr("10.10.1.11/24".parse().unwrap())
    );
    assert_eq!(params.as_number, Some(65546));
    assert_eq!(params.router_id, RouterIdSource::Hash);
    // The first four bytes of `printf n1 | sha256sum`; of n13, whose first byte is 244, lowered by 32.
    assert_eq!(router_id_of_name("n1").to_string(), "103.107.139.184");
    assert_eq!(router_id_of_name("n13").to_string(), "212.245.13.237");
}

#[test]
fn as_numbers_that_no_speaker_may_have_are_refused_with_the_reason() {
    for (text, reason) in [
        ("0", "RFC 7607"),
        ("23456", "AS_TRANS"),
        ("0.23456", "AS_TRANS"),
    ] {
        let given = [("AS".to_owned(), text.to_owned())];
        let errors = Params::from_env(given).expect_err(text);
        let at = errors.iter().find(|error| error.variable == "AS");
        let message = at.map(ToString::to_string).unwrap_or_default();
        assert!(
            message.contains(text) && message.contains(reason),
            "{message}"
        );
    }
}

#[test]
fn settings_of_routes_are_read_as_felix_words_them() {
    let defaults = accepted(&[]);
    assert_eq!(
        defaults.program_cluster_routes,
        ProgramClusterRoutes::EnabledIpipOnly
    );
    assert!(defaults.ip_forwarding && defaults.device_route_source.is_none());
    let given = accepted(&[
        ("FELIX_ProgramClusterRoutes", "disabled"),
        ("FELIX_IPFORWARDING", "Disabled"),
        ("FELIX_DEVICEROUTESOURCEADDRESS", "10.0.0.9"),
    ]);
    assert_eq!(given.program_cluster_routes, ProgramClusterRoutes::Disabled);
    assert!(!given.ip_forwarding);
    assert_eq!(given.device_route_source, Some(Ipv4Addr::new(10, 0, 0, 9)));
    let wrong = accepted(&[("FELIX_IPFORWARDING", "yes")]);
    assert!(wrong.ip_forwarding);
    assert!(wrong.rejected()[0].to_string().contains("`Disabled`"));
}

#[test]
fn variables_of_the_second_family_have_their_own_defaults_and_bounds() {
    let defaults = accepted(&[]);
    assert_eq!(defaults.ip6, AddressSource::Keep);
    assert_eq!(defaults.pool6_cidr, PoolCidr::Choose);
    assert_eq!(defaults.pool6_block_size, 122);
    assert!(!defaults.pool6_nat_outgoing && !defaults.pool6_disable_bgp_export);
    assert_eq!(defaults.pool6_vxlan, EncapMode::Never);
    assert!(defaults.ipv6_support);
    let given = accepted(&[
        ("IP6", "fd00::11/64"),
        ("IP6_AUTODETECTION_METHOD", "interface=eth.*"),
        ("CALICO_IPV6POOL_CIDR", "fd00:244::1/56"),
        ("CALICO_IPV6POOL_BLOCK_SIZE", "120"),
        ("CALICO_IPV6POOL_VXLAN", "cross-subnet"),
        ("CALICO_IPV6POOL_NAT_OUTGOING", ""),
        ("FELIX_IPV6SUPPORT", "false"),
    ]);
    let net = "fd00::11/64".parse().unwrap();
    assert_eq!(given.ip6, AddressSource::Cidr(net));
    let pool = "fd00:244::/56".parse().unwrap();
    assert_eq!(given.pool6_cidr, PoolCidr::Cidr(pool));
    assert_eq!(given.pool6_block_size, 120);
    assert_eq!(given.pool6_vxlan, EncapMode::CrossSubnet);
    assert!(given.pool6_nat_outgoing && !given.ipv6_support);
    for (variable, value, allowed) in [
        ("IP6", "10.0.0.1", "an IPv6 address"),
        ("IP6", "fe80::1", "other nodes cannot reach"),
        ("IP6_AUTODETECTION_METHOD", "newest", "first-found"),
        ("CALICO_IPV6POOL_CIDR", "10.0.0.0/16", "an IPv6 range"),
        ("CALICO_IPV6POOL_CIDR", "fe80::/64", "link-local"),
        ("CALICO_IPV6POOL_BLOCK_SIZE", "115", "116 to 128"),
        ("CALICO_IPV6POOL_VXLAN", "maybe", "CrossSubnet"),
        ("CALICO_IPV6POOL_NODE_SELECTOR", "rack =", "at character"),
    ] {
        let errors = read(&[(variable, value)]).expect_err(variable);
        let said = errors[0].to_string();
        let named = format!("{variable}={value:?}");
        assert!(said.starts_with(&named) && said.contains(allowed), "{said}");
    }
}

#[test]
fn variables_of_the_nodes_life_are_read() {
    let defaults = accepted(&[]);
    assert!(defaults.manage_cni && defaults.networking);
    assert_eq!(defaults.cni_service_account, "calico-cni-plugin");
    assert_eq!(defaults.cni_token_refresh_interval, None);
    assert_eq!(
        defaults.shutdown_timestamp_file,
        "/var/lib/calico/shutdownTS"
    );
    assert_eq!(defaults.startup_log_level, LogSeverity::Info);
    let given = accepted(&[
        ("CALICO_MANAGE_CNI", "false"),
        ("CALICO_NETWORKING", "false"),
        ("CNI_TOKEN_REFRESH_INTERVAL", "1h"),
        ("TORTIE_IPAM_LEAK_GRACE_PERIOD", "0s"),
        ("CALICO_K8S_NODE_REF", "worker-1"),
        ("CALICO_STARTUP_LOGLEVEL", "DEBUG"),
    ]);
    assert!(!given.manage_cni);
    assert_eq!(given.backend, Backend::None);
    assert_eq!(
        given.cni_token_refresh_interval,
        Some(Duration::from_secs(3600))
    );
    assert_eq!(given.ipam_leak_grace_period, Some(Duration::ZERO));
    assert_eq!(given.kubernetes_node.as_deref(), Some("worker-1"));
    assert_eq!(given.startup_log_level, LogSeverity::Debug);
    for (variable, value, allowed) in [
        ("CNI_TOKEN_REFRESH_INTERVAL", "often", "1h"),
        ("TORTIE_IPAM_LEAK_GRACE_PERIOD", "soon", "15m"),
        ("CALICO_K8S_NODE_REF", "Worker_1", "Kubernetes Node"),
        ("CALICO_STARTUP_LOGLEVEL", "loud", "Warning"),
        ("CALICO_SHUTDOWN_TIMESTAMP_FILE", "here", "absolute path"),
        ("CALICO_NODENAME_FILE", "here", "absolute path"),
        ("AUTODETECT_POLL_INTERVAL", "60", "1m30s"),
        ("CALICO_NETWORKING_BACKEND", "ospf", "vxlan"),
        ("DATASTORE_TYPE", "mysql", "etcdv3"),
        ("CALICO_ROUTER_ID", "router", "hash"),
        ("IP_AUTODETECTION_METHOD", "First-Found", "can-reach"),
    ] {
        let errors = read(&[(variable, value)]).expect_err(variable);
        let said = errors[0].to_string();
        let named = format!("{variable}={value:?}");
        assert!(said.starts_with(&named) && said.contains(allowed), "{said}");
    }
}

#[test]
fn settings_of_packet_rules_are_read_as_felix_words_them() {
    let defaults = accepted(&[]);
    assert_eq!(defaults.nat_ports, None);
    assert_eq!(
        defaults.nat_outgoing_exclusions,
        NatOutgoingExclusions::IpPoolsOnly
    );
    let given = accepted(&[
        ("FELIX_NATPORTRANGE", "32768:65535"),
        ("FELIX_NATOUTGOINGADDRESS", "192.0.2.7"),
        ("FELIX_NATOUTGOINGEXCLUSIONS", "ippoolsandhostips"),
        ("FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER", "bond+"),
    ]);
    assert_eq!(given.nat_ports, Some(32768..=65535));
    assert_eq!(
        given.nat_outgoing_exclusions,
        NatOutgoingExclusions::IpPoolsAndHostIps
    );
    assert_eq!(given.nat_interface_filter.as_deref(), Some("bond+"));
    assert_eq!(
        accepted(&[("FELIX_NATPORTRANGE", "99")]).nat_ports,
        Some(99..=99)
    );
    assert_eq!(defaults.endpoint_to_host, EndpointToHostAction::Drop);
    let given = accepted(&[
        ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "Return"),
        (
            "FELIX_EXTERNALNODESCIDRLIST",
            "10.9.1.2/16, 192.0.2.1,fd00::1",
        ),
    ]);
    assert_eq!(given.endpoint_to_host, EndpointToHostAction::Return);
    let external: Vec<String> = given
        .external_nodes
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(external, ["10.9.0.0/16", "192.0.2.1/32", "fd00::1/128"]);
    for (name, text) in [
        ("FELIX_NATPORTRANGE", "5:4"),
        ("FELIX_NATPORTRANGE", "0:4"),
        ("FELIX_NATPORTRANGE", "1:70000"),
        ("FELIX_NATOUTGOINGADDRESS", "fd00::1"),
        ("FELIX_NATOUTGOINGEXCLUSIONS", "All"),
        ("FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER", "a+b"),
        (
            "FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER",
            "sixteen-bytes-xx",
        ),
    ] {
        let rejected = accepted(&[(name, text)]).rejected()[0].to_string();
        assert!(
            rejected.contains(name) && rejected.contains(text),
            "{rejected}"
        );
    }
}
