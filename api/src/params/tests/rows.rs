//! Row by row: what each variable refuses, and that none of Calico's is unknown.

use super::*;
use crate::params::unused::unused_named;

/// A value that is not allowed, by the row's field; a row that is not here takes any text.
const WRONG: &[(&str, &str)] = &[
    ("nodename", "Node_1"),
    ("nodename_file", "nodename"),
    ("kubernetes_node", "Node_1"),
    ("ip", "10.0.0"),
    ("ip6", "10.0.0.1"),
    ("ip_autodetection_method", "newest"),
    ("ip6_autodetection_method", "interface="),
    ("autodetect_poll_interval", "60"),
    ("disable_node_ip_check", "yes"),
    ("as_number", "4294967296"),
    ("router_id", "0.0.0.0"),
    ("backend", "ospf"),
    ("networking", "no"),
    ("datastore_type", "mysql"),
    ("store", "tcp:10.0.0.1"),
    ("k8s_api_endpoint", "10.0.0.1:6443"),
    ("k8s_insecure_skip_tls_verify", "maybe"),
    ("kubernetes_service_port", "0"),
    ("api_group", "projectcalico.org/v1"),
    ("namespace", "calico.system"),
    ("bgp_password_directory", "passwords"),
    ("wait_for_datastore", "1"),
    ("no_default_pools", "on"),
    ("use_pod_cidr", "maybe"),
    ("advertise_cluster_ips", "10.96.0.0/33"),
    ("pool_cidr", "10.244.0.0"),
    ("pool_block_size", "19"),
    ("pool_ipip", "Sometimes"),
    ("pool_vxlan", "Sometimes"),
    ("pool_nat_outgoing", "off"),
    ("pool_node_selector", "rack = 'r1'"),
    ("pool_disable_bgp_export", "disabled"),
    ("pool6_cidr", "10.244.0.0/16"),
    ("pool6_block_size", "115"),
    ("pool6_vxlan", "Sometimes"),
    ("pool6_nat_outgoing", "off"),
    ("pool6_node_selector", "rack ="),
    ("pool6_disable_bgp_export", "disabled"),
    ("manage_cni", "off"),
    ("cni_service_account", "CNI"),
    ("cni_token_refresh_interval", "often"),
    ("ipam_leak_grace_period", "soon"),
    ("shutdown_timestamp_file", "shutdownTS"),
    ("startup_log_level", "loud"),
    ("ipv6_support", "maybe"),
    ("vxlan_port", "65536"),
    ("vxlan_vni", "16777216"),
    ("vxlan_mtu_bytes", "67"),
    ("vxlan_mtu_v6_bytes", "1279"),
    ("vxlan_enabled", "maybe"),
    ("ipip_mtu_bytes", "65536"),
    ("ipip_enabled", "maybe"),
    ("mtu_iface_pattern", "^(eth"),
    ("interface_prefixes", "tortie"),
    ("device_route_protocol", "256"),
    ("normal_route_priority", "0"),
    ("device_route_source", "fd00::1"),
    ("device_route_source6", "10.0.0.1"),
    ("program_cluster_routes", "Some"),
    ("ip_forwarding", "true"),
    ("nat_ports", "5:4"),
    ("nat_outgoing_address", "fd00::1"),
    ("nat_outgoing_exclusions", "All"),
    ("nat_interface_filter", "a+b"),
    ("external_nodes", "10.0.0.0/8,rack1"),
    ("endpoint_to_host", "REJECT"),
    ("service_loop_prevention", "Accept"),
    ("source_spoofing", "Enabled"),
    ("floating_ips", "true"),
    ("checksum_offload_broken", "ChecksumOffloadBroken"),
    ("allow_vxlan_from_workloads", "maybe"),
    ("allow_ipip_from_workloads", "maybe"),
    ("remove_external_routes", "maybe"),
    ("route_refresh_interval", "90s"),
    ("interface_refresh_interval", "-1"),
    ("endpoint_status_path_prefix", "status"),
    ("log_severity_screen", "loud"),
    ("health_enabled", "maybe"),
    ("health_host", "local host"),
    ("health_port", "none"),
    ("metrics_enabled", "maybe"),
    ("metrics_host", "-"),
    ("metrics_port", "65536"),
];

/// Names of files, contexts, hosts and words: what is wrong with them shows where they are used.
const ANY_TEXT: [&str; 8] = [
    "hostname",
    "kubeconfig",
    "k8s_current_context",
    "k8s_ca_file",
    "k8s_cert_file",
    "k8s_key_file",
    "kubernetes_service_host",
    "cluster_type",
];

#[test]
fn each_row_names_variable_value_and_what_is_allowed_of_a_value_that_is_not() {
    for row in TABLE {
        let wrong = WRONG.iter().find(|(field, _)| *field == row.field);
        let Some((_, value)) = wrong else {
            assert!(ANY_TEXT.contains(&row.field), "{}: untested", row.field);
            continue;
        };
        for name in row.names {
            let said = match (row.invalid, read(&[(name, value)])) {
                (Invalid::Stops, Err(errors)) => errors[0].to_string(),
                (Invalid::TakesDefault, Ok(params)) => {
                    assert!(
                        params
                            .settings()
                            .iter()
                            .all(|set| set.origin == Origin::Default)
                    );
                    params.rejected()[0].to_string()
                }
                (Invalid::MeansTrue | Invalid::MeansFalse, Ok(params)) => {
                    let word = format!("{}", row.invalid == Invalid::MeansTrue);
                    let mut settings = params.settings().iter();
                    let shown = settings.find(|set| set.row.field == row.field);
                    let shown = shown.expect("each row is shown");
                    assert_eq!(shown.text, word, "{name}");
                    assert_eq!(shown.origin, Origin::Environment((*name).to_owned()));
                    params.notices()[0].to_string()
                }
                (_, found) => panic!("{name}={value:?}: {found:?}"),
            };
            let named = format!("{name}={value:?}");
            assert!(said.starts_with(&named), "{named}: {said}");
            assert!(said.ends_with(row.allowed), "{named}: {said}");
        }
    }
}

/// Calico's own variables: of calico/node, then of Felix.
const CALICOS: &str = "NODENAME CALICO_NODENAME_FILE HOSTNAME CALICO_K8S_NODE_REF CALICO_STARTUP_LOGLEVEL \
    WAIT_FOR_DATASTORE DATASTORE_TYPE CALICO_DATASTORE_TYPE KUBECONFIG K8S_API_ENDPOINT K8S_CERT_FILE K8S_KEY_FILE \
    K8S_CA_FILE K8S_INSECURE_SKIP_TLS_VERIFY K8S_CURRENT_CONTEXT K8S_CLIENT_QPS K8S_CLIENT_BURST \
    K8S_DISABLE_NODE_POLL CALICO_KUBECONFIG CALICO_K8S_API_ENDPOINT CALICO_K8S_CERT_FILE CALICO_K8S_KEY_FILE \
    CALICO_K8S_CA_FILE CALICO_K8S_INSECURE_SKIP_TLS_VERIFY CALICO_K8S_CURRENT_CONTEXT CALICO_K8S_CLIENT_QPS \
    CALICO_K8S_CLIENT_BURST CALICO_K8S_DISABLE_NODE_POLL CALICO_API_GROUP ETCD_ENDPOINTS ETCD_DISCOVERY_SRV \
    ETCD_USERNAME ETCD_PASSWORD ETCD_KEY_FILE ETCD_CERT_FILE ETCD_CA_CERT_FILE IP IP6 IP_AUTODETECTION_METHOD \
    IP6_AUTODETECTION_METHOD AUTODETECT_POLL_INTERVAL DISABLE_NODE_IP_CHECK AS CALICO_ROUTER_ID \
    CALICO_NETWORKING_BACKEND CALICO_NETWORKING CLUSTER_TYPE NO_DEFAULT_POOLS CALICO_IPV4POOL_CIDR \
    CALICO_IPV4POOL_BLOCK_SIZE CALICO_IPV4POOL_IPIP CALICO_IPV4POOL_VXLAN CALICO_IPV4POOL_NAT_OUTGOING \
    CALICO_IPV4POOL_NODE_SELECTOR CALICO_IPV4POOL_DISABLE_BGP_EXPORT CALICO_IPV6POOL_CIDR CALICO_IPV6POOL_BLOCK_SIZE \
    CALICO_IPV6POOL_VXLAN CALICO_IPV6POOL_NAT_OUTGOING CALICO_IPV6POOL_NODE_SELECTOR \
    CALICO_IPV6POOL_DISABLE_BGP_EXPORT CALICO_MANAGE_CNI CALICO_CNI_SERVICE_ACCOUNT CNI_TOKEN_REFRESH_INTERVAL \
    CALICO_DISABLE_FILE_LOGGING CALICO_DISABLE_FELIX CALICO_SHUTDOWN_TIMESTAMP_FILE NODE_USER_ID \
    CALICO_ADVERTISE_CLUSTER_IPS BGP_LOGSEVERITYSCREEN NAMESPACE KUBERNETES_SERVICE_IPS_PORTS \
    KUBERNETES_APISERVER_ENDPOINTS";
const FELIXS: &str = "RouteRefreshInterval InterfaceRefreshInterval DeviceRouteProtocol DeviceRouteSourceAddress \
    DeviceRouteSourceAddressIPv6 RemoveExternalRoutes RouteTableRanges RouteTableRange RouteSyncDisabled RouteSource \
    ProgramClusterRoutes IPForwarding IPv4NormalRoutePriority IPv6NormalRoutePriority IPv4ElevatedRoutePriority \
    IPv6ElevatedRoutePriority LiveMigrationRouteConvergenceTime FloatingIPs LocalSubnetL2Reachability \
    LocalSubnetL2ReachabilityRefreshInterval ExternalNodesCIDRList Ipv6Support NetlinkTimeoutSecs InterfacePrefix \
    InterfaceExclude MTUIfacePattern RequireMTUFile IpInIpMtu VXLANMTU VXLANMTUV6 WireguardMTU WireguardMTUV6 \
    WorkloadSourceSpoofing AllowVXLANPacketsFromWorkloads AllowIPIPPacketsFromWorkloads IpInIpEnabled VXLANEnabled \
    VXLANPort VXLANVNI WireguardEnabled WireguardEnabledV6 WireguardListeningPort WireguardListeningPortV6 \
    WireguardInterfaceName WireguardInterfaceNameV6 WireguardRoutingRulePriority WireguardHostEncryptionEnabled \
    WireguardPersistentKeepAlive WireguardThreadingEnabled NATPortRange NATOutgoingAddress NATOutgoingExclusions \
    IptablesNATOutgoingInterfaceFilter ServiceLoopPrevention DefaultEndpointToHostAction NFTablesMode \
    NFTablesFlowTableOffload NFTablesFlowTableDataIfacePattern IptablesBackend IptablesMarkMask NftablesMarkMask \
    ChainInsertMode IptablesRefreshInterval NftablesRefreshInterval IpsetsRefreshInterval MaxIpsetSize \
    IptablesFilterAllowAction IptablesMangleAllowAction NftablesFilterAllowAction NftablesMangleAllowAction \
    IptablesFilterDenyAction NftablesFilterDenyAction DisableConntrackInvalidCheck FailsafeInboundHostPorts \
    FailsafeOutboundHostPorts KubeNodePortRanges AWSSrcDstCheck IstioAmbientMode IstioDSCPMark HealthEnabled \
    HealthHost HealthPort HealthTimeoutOverrides DataplaneWatchdogTimeout PrometheusMetricsEnabled \
    PrometheusMetricsHost PrometheusMetricsPort PrometheusGoMetricsEnabled PrometheusProcessMetricsEnabled \
    PrometheusWireGuardMetricsEnabled PrometheusMetricsCAFile PrometheusMetricsCertFile PrometheusMetricsKeyFile \
    PrometheusMetricsClientAuth LogFilePath LogSeverityFile LogSeverityScreen LogSeveritySys LogDebugFilenameRegex \
    LogPrefix LogActionRateLimit LogActionRateLimitBurst EndpointStatusPathPrefix EndpointReportingEnabled \
    EndpointReportingDelaySecs ReportingIntervalSecs ReportingTTLSecs UsageReportingEnabled \
    UsageReportingInitialDelaySecs UsageReportingIntervalSecs PolicySyncPathPrefix GoGCThreshold GoMemoryLimitMB \
    GoMaxProcs FeatureDetectOverride FeatureGates FlowLogsFlushInterval FlowLogsGoldmaneServer FlowLogsLocalReporter \
    FlowLogsPolicyEvaluationMode DebugPort DebugHost MetadataAddr DatastoreType FelixHostname EtcdAddr EtcdEndpoints \
    EtcdScheme EtcdKeyFile EtcdCertFile EtcdCaFile TyphaAddr TyphaK8sServiceName TyphaK8sNamespace TyphaReadTimeout \
    TyphaWriteTimeout TyphaKeyFile TyphaCertFile TyphaCAFile TyphaCN TyphaURISAN BPFEnabled BPFDataIfacePattern \
    BPFMapSizeConntrack XDPEnabled GenericXDPEnabled XDPRefreshInterval WindowsManageFirewallRules";

fn is_known(name: &str) -> bool {
    TABLE.iter().any(|row| row.names.contains(&name)) || unused_named(name).is_some()
}

#[test]
fn none_of_calicos_variables_is_unknown() {
    let felix = FELIXS.split_whitespace();
    let felix = felix.map(|name| format!("FELIX_{}", name.to_uppercase()));
    let all = CALICOS.split_whitespace().map(str::to_owned).chain(felix);
    let unknown: Vec<String> = all.filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn a_variable_either_has_an_effect_or_says_why_not_and_none_both() {
    for unused in UNUSED {
        assert!(!unused.reason.is_empty());
        for name in unused.names {
            let twice = |row: &Row| row.names.contains(name);
            assert!(!TABLE.iter().any(twice), "{name}");
            let variable = name.strip_suffix('*').unwrap_or(name);
            let notices = |value: &str| accepted(&[(variable, value)]).notices().to_vec();
            let said = notices("something").remove(0);
            assert_eq!(said.variable, variable);
            assert!(said.message.starts_with("ignored: "), "{said}");
            assert_eq!(notices(""), []);
        }
    }
    for (variable, value) in [
        ("FELIX_DefaultEndpointToHostAction", "ACCEPT"),
        ("FELIX_BPFENABLED", "false"),
        ("FELIX_WireguardMTU", "0"),
        ("FELIX_LOGFILEPATH", "None"),
        ("FELIX_TYPHAK8SSERVICENAME", "none"),
        ("K8S_DISABLE_NODE_POLL", "false"),
    ] {
        assert_eq!(accepted(&[(variable, value)]).notices(), []);
    }
}

#[test]
fn a_slip_of_the_pen_is_named_and_a_password_is_not_shown() {
    for name in ["FELIX_VXLANPRT", "CALICO_IPV4POOL_BLOCKSIZE"] {
        let params = accepted(&[(name, "1")]);
        let said = params.notices()[0].to_string();
        assert!(said.starts_with(&format!("{name}=\"1\": ")), "{said}");
        assert!(said.contains("no such setting"), "{said}");
    }
    let said = accepted(&[("ETCD_PASSWORD", "secret")]).notices()[0].to_string();
    assert!(
        said.starts_with("ETCD_PASSWORD") && said.contains("etcd"),
        "{said}"
    );
    assert!(!said.contains("secret"), "{said}");
    // A Service's variables of Kubernetes.
    assert_eq!(
        accepted(&[("CALICO_TYPHA_PORT", "tcp://10.0.0.1")]).notices(),
        []
    );
}

#[test]
fn the_file_in_calicos_image_says_nothing_that_is_not_done() {
    let text = "[global]\nMetadataAddr = None\nLogFilePath = None\nLogSeverityFile = None\nLogSeveritySys = None\n";
    let params = accepted(&[]).with_file("/etc/calico/felix.cfg", text);
    assert_eq!(params.notices(), []);
    assert_eq!(params.rejected(), []);
}

#[test]
fn what_is_shown_is_what_is_in_force_with_where_it_comes_from() {
    let shown = |variables: &[(&str, &str)], field: &str| {
        let params = accepted(variables);
        let mut settings = params.settings().iter();
        let setting = settings.find(|setting| setting.row.field == field);
        let setting = setting.expect("each row is shown");
        format!("{} ({})", setting.text, setting.origin)
    };
    for (variable, value, field, expected) in [
        (
            "IP",
            " autodetect ",
            "ip",
            "autodetect (environment variable IP)",
        ),
        ("IP", "", "ip", " (default)"),
        (
            "CALICO_KUBECONFIG",
            "/k",
            "kubeconfig",
            "/k (environment variable CALICO_KUBECONFIG)",
        ),
        (
            "Felix_VxlanPort",
            "8472",
            "vxlan_port",
            "8472 (environment variable Felix_VxlanPort)",
        ),
        // What is not allowed is not in force.
        ("FELIX_VXLANPORT", "0", "vxlan_port", "4789 (default)"),
        (
            "CALICO_MANAGE_CNI",
            "off",
            "manage_cni",
            "true (environment variable CALICO_MANAGE_CNI)",
        ),
        // What follows from another variable.
        (
            "CALICO_NETWORKING",
            "false",
            "backend",
            "none (environment variable CALICO_NETWORKING)",
        ),
        (
            "TORTIE_STORE",
            "unix:/s",
            "datastore_type",
            "local (environment variable TORTIE_STORE)",
        ),
    ] {
        assert_eq!(
            shown(&[(variable, value)], field),
            expected,
            "{variable}={value:?}"
        );
    }
}
