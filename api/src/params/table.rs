//! The table itself: one row a parameter.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::value::{
    self, AddressSource, Backend, DatastoreType, EndpointToHostAction, LogSeverity,
    NatOutgoingExclusions, PoolCidr, ProgramClusterRoutes, RouterIdSource, ServiceLoopPrevention,
};
use ipnet::IpNet;

use super::{EmptyText, Invalid, Params, Reader, Row};
use crate::pool::EncapMode;
use crate::selector::Selector;

/// Makes, from one list, the struct with a typed field a row, the table of rows, and the code that fills the fields.
macro_rules! parameters {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $read:expr, [$($name:literal),+], $default:literal, $unit:literal,
            $empty:ident, $invalid:ident, $allowed:literal;
    )*) => {
        /// The value of every parameter.
        #[derive(Clone, Debug)]
        pub struct Values {
            $( $(#[doc = $doc])+ pub $field: $type, )*
        }

        /// Every parameter, in the order in which they are shown.
        pub static TABLE: &[Row] = &[$( Row {
            field: stringify!($field),
            names: &[$($name),+],
            default: $default,
            unit: $unit,
            allowed: $allowed,
            doc: concat!($($doc),+),
            empty: EmptyText::$empty,
            invalid: Invalid::$invalid,
        }, )*];

        impl Reader {
            /// Reads all rows in order.
            pub(super) fn read_table(&mut self) -> Values {
                let mut rows = TABLE.iter();
                Values {
                    $( $field: self.read(
                        rows.next().expect("the table has a row for each field"),
                        $read,
                    ), )*
                }
            }
        }
    };
}

parameters! {
    /// Name of this node; else the nodename file, `HOSTNAME` and the kernel's host name are asked.
    nodename: Option<String> = value::node_name, ["NODENAME"], "", "",
        IsUnset, Stops, "lower-case letters, digits, `-` and `.`, 253 at most, with a letter or digit at both ends";
    /// File with the node's name: second source of it, and where it is written once the node is up.
    nodename_file: String = value::path, ["CALICO_NODENAME_FILE"], "/var/lib/calico/nodename", "",
        IsUnset, Stops, "an absolute path";
    /// Host name: third source of the node's name.
    hostname: Option<String> = value::optional_text, ["HOSTNAME"], "", "",
        IsUnset, Stops, "as NODENAME, in lower or upper case";
    /// Name of the Kubernetes Node that this node is, when it is another one than the node's own name.
    kubernetes_node: Option<String> = value::node_name, ["CALICO_K8S_NODE_REF"], "", "",
        IsUnset, Stops, "the name of a Kubernetes Node";
    /// The node's IPv4 address.
    ip: AddressSource = value::ipv4_source, ["IP"], "", "",
        IsUnset, Stops, "`autodetect`, `none`, an IPv4 address, an IPv4 address with prefix length, or nothing";
    /// The node's IPv6 address; detected only when `autodetect` asks for it.
    ip6: AddressSource = value::ipv6_source, ["IP6"], "", "",
        IsUnset, Stops, "`autodetect`, `none`, an IPv6 address, an IPv6 address with prefix length, or nothing";
    /// How the IPv4 address is detected.
    ip_autodetection_method: String = value::method, ["IP_AUTODETECTION_METHOD"], "first-found", "",
        IsUnset, Stops, "`first-found`, `interface=REGEX,…`, `skip-interface=REGEX,…`, `cidr=CIDR,…`, `can-reach=HOST` or `kubernetes-internal-ip`";
    /// How the IPv6 address is detected.
    ip6_autodetection_method: String = value::method, ["IP6_AUTODETECTION_METHOD"], "first-found", "",
        IsUnset, Stops, "`first-found`, `interface=REGEX,…`, `skip-interface=REGEX,…`, `cidr=CIDR,…`, `can-reach=HOST` or `kubernetes-internal-ip`";
    /// How often the addresses are detected anew, once a second at most.
    autodetect_poll_interval: Duration = value::go_duration, ["AUTODETECT_POLL_INTERVAL"], "60s", "",
        IsUnset, Stops, "a duration such as `60s` or `1m30s`";
    /// Skip the check that no other node has our address.
    disable_node_ip_check: bool = value::true_or_false, ["DISABLE_NODE_IP_CHECK"], "false", "",
        IsUnset, MeansFalse, "`true`; everything else means false";
    /// The node's AS, written to its Node object.
    as_number: Option<u32> = value::as_number, ["AS"], "", "",
        IsUnset, Stops, "1 to 4294967295 but not 23456, or two numbers up to 65535 joined by a dot";
    /// The speaker's router id.
    router_id: RouterIdSource = value::router_id, ["CALICO_ROUTER_ID"], "", "",
        IsUnset, Stops, "nothing (the node's IPv4 address), `hash`, or a dotted quad other than 0.0.0.0";
    /// What carries packets between nodes.
    backend: Backend = value::backend, ["CALICO_NETWORKING_BACKEND"], "bird", "",
        IsUnset, Stops, "`bird` (BGP), `vxlan` or `none`";
    /// `false` is an old word for the backend `none`.
    networking: bool = value::true_or_false, ["CALICO_NETWORKING"], "true", "",
        IsUnset, MeansTrue, "`false`; everything else leaves the choice to CALICO_NETWORKING_BACKEND";
    /// Which datastore; `local` without being named when `TORTIE_STORE` is set.
    datastore_type: DatastoreType = value::datastore_type, ["DATASTORE_TYPE", "CALICO_DATASTORE_TYPE"], "etcdv3", "",
        IsUnset, Stops, "`kubernetes`, `etcdv3` or `local`";
    /// Socket of the embedded store.
    store: Option<String> = value::socket, ["TORTIE_STORE"], "", "",
        IsUnset, Stops, "`unix:` and an absolute path, such as unix:/var/run/calico/tortie-store.sock";
    /// File that says where the API server is and who we are to it; without it and `K8S_API_ENDPOINT` what a pod is given counts.
    kubeconfig: Option<String> = value::optional_text, ["KUBECONFIG", "CALICO_KUBECONFIG"], "", "",
        IsUnset, Stops, "the path of a kubeconfig file";
    /// Which context of that file; its current one.
    k8s_current_context: Option<String> = value::optional_text, ["K8S_CURRENT_CONTEXT", "CALICO_K8S_CURRENT_CONTEXT"], "", "",
        IsUnset, Stops, "the name of a context";
    /// The API server; counts before the file's.
    k8s_api_endpoint: Option<String> = value::url, ["K8S_API_ENDPOINT", "CALICO_K8S_API_ENDPOINT"], "", "",
        IsUnset, Stops, "a URL such as https://10.0.0.1:6443";
    /// Who signs the API server's certificate; counts before the file's.
    k8s_ca_file: Option<String> = value::optional_text, ["K8S_CA_FILE", "CALICO_K8S_CA_FILE"], "", "",
        IsUnset, Stops, "the path of a PEM file";
    /// Our certificate for the API server, with `K8S_KEY_FILE`; counts before the file's.
    k8s_cert_file: Option<String> = value::optional_text, ["K8S_CERT_FILE", "CALICO_K8S_CERT_FILE"], "", "",
        IsUnset, Stops, "the path of a PEM file";
    /// Its key.
    k8s_key_file: Option<String> = value::optional_text, ["K8S_KEY_FILE", "CALICO_K8S_KEY_FILE"], "", "",
        IsUnset, Stops, "the path of a PEM file";
    /// Take any certificate of the API server's.
    k8s_insecure_skip_tls_verify: bool = value::yes_or_no, ["K8S_INSECURE_SKIP_TLS_VERIFY", "CALICO_K8S_INSECURE_SKIP_TLS_VERIFY"], "false", "",
        IsUnset, Stops, "`true` or `false`";
    /// Where a pod finds the API server, given by kubelet.
    kubernetes_service_host: Option<String> = value::optional_text, ["KUBERNETES_SERVICE_HOST"], "", "",
        IsUnset, Stops, "an address or a name";
    /// Its port.
    kubernetes_service_port: Option<String> = value::optional_port, ["KUBERNETES_SERVICE_PORT"], "", "",
        IsUnset, Stops, "1 to 65535";
    /// Group and version of Calico's objects; without it the one of the cluster that has `ipamblocks`, the first before the second.
    api_group: Option<String> = value::api_group, ["CALICO_API_GROUP"], "", "",
        IsUnset, Stops, "`crd.projectcalico.org/v1` or `projectcalico.org/v3`";
    /// Where Secrets with BGP passwords are.
    namespace: String = value::namespace, ["NAMESPACE"], "kube-system", "",
        IsUnset, Stops, "the name of a namespace: lower-case letters, digits and `-`, 63 at most";
    /// Directory of BGP passwords, a file `SECRET/KEY` for each; `TORTIE_BGP_PASSWORD_SECRET_KEY` counts before it.
    bgp_password_directory: String = value::path, ["TORTIE_BGP_PASSWORD_DIR"], "/etc/tortie/bgp-passwords", "",
        IsUnset, Stops, "an absolute path";
    /// Wait until the datastore answers, instead of failing at once.
    wait_for_datastore: bool = value::true_or_false, ["WAIT_FOR_DATASTORE"], "false", "",
        IsUnset, MeansFalse, "`true`; everything else means false";
    /// Pods have addresses of their node's `spec.podCIDRs`, given out by another IPAM plugin such as host-local: these ranges, and
    /// no IPAM blocks, are the nodes'.
    use_pod_cidr: bool = value::felix_bool, ["USE_POD_CIDR"], "false", "",
        IsUnset, Stops, "`true` or `false`";
    /// Ranges of Services' cluster addresses that are announced, in the place of BGPConfiguration's `serviceClusterIPs`.
    advertise_cluster_ips: Vec<IpNet> = value::ranges, ["CALICO_ADVERTISE_CLUSTER_IPS"], "", "",
        IsUnset, Stops, "ranges such as `10.96.0.0/12`, joined by commas";
    /// Where the cluster runs, words joined by commas: added to ClusterInformation's clusterType.
    cluster_type: String = value::text, ["CLUSTER_TYPE"], "", "",
        IsUnset, Stops, "words joined by commas";
    /// Make no pool at the first start.
    no_default_pools: bool = value::true_or_false, ["NO_DEFAULT_POOLS"], "false", "",
        IsUnset, MeansFalse, "`true`; everything else means false";
    /// Range of the pool made when no IPv4 pool exists.
    pool_cidr: PoolCidr = value::pool_cidr, ["CALICO_IPV4POOL_CIDR"], "", "",
        IsUnset, Stops, "an IPv4 range such as 10.244.0.0/16, `none`, or nothing (192.168.0.0/16, or a free range of 172.16.0.0/12)";
    /// Prefix length of that pool's blocks.
    pool_block_size: u8 = value::block_len, ["CALICO_IPV4POOL_BLOCK_SIZE"], "26", "bits",
        IsUnset, Stops, "20 to 32";
    /// IPIP between nodes for that pool.
    pool_ipip: EncapMode = value::encap, ["CALICO_IPV4POOL_IPIP"], "Never", "",
        IsUnset, Stops, "`Always`, `CrossSubnet`, `Never` or `off`";
    /// VXLAN between nodes for that pool.
    pool_vxlan: EncapMode = value::encap, ["CALICO_IPV4POOL_VXLAN"], "Never", "",
        IsUnset, Stops, "`Always`, `CrossSubnet`, `Never` or `off`";
    /// Masquerade what leaves the pools.
    pool_nat_outgoing: bool = value::yes_or_no, ["CALICO_IPV4POOL_NAT_OUTGOING"], "true", "",
        IsValue, MeansTrue, "`false`, `0`, `no`, `n` or `f` for false; everything else means true";
    /// Nodes that may use that pool.
    pool_node_selector: Selector = value::selector, ["CALICO_IPV4POOL_NODE_SELECTOR"], "all()", "",
        IsUnset, Stops, "a selector such as rack == 'r1'";
    /// Do not announce that pool.
    pool_disable_bgp_export: bool = value::yes_or_no, ["CALICO_IPV4POOL_DISABLE_BGP_EXPORT"], "false", "",
        IsValue, MeansTrue, "`false`, `0`, `no`, `n` or `f` for false; everything else means true";
    /// Range of the pool made when no IPv6 pool exists.
    pool6_cidr: PoolCidr = value::pool6_cidr, ["CALICO_IPV6POOL_CIDR"], "", "",
        IsUnset, Stops, "an IPv6 range such as fd00:10:244::/56, `none`, or nothing (a random /48 of fd00::/8)";
    /// Prefix length of that pool's blocks.
    pool6_block_size: u8 = value::block6_len, ["CALICO_IPV6POOL_BLOCK_SIZE"], "122", "bits",
        IsUnset, Stops, "116 to 128";
    /// VXLAN between nodes for that pool.
    pool6_vxlan: EncapMode = value::encap, ["CALICO_IPV6POOL_VXLAN"], "Never", "",
        IsUnset, Stops, "`Always`, `CrossSubnet`, `Never` or `off`";
    /// Masquerade what leaves the IPv6 pools.
    pool6_nat_outgoing: bool = value::yes_or_no, ["CALICO_IPV6POOL_NAT_OUTGOING"], "false", "",
        IsValue, MeansTrue, "`false`, `0`, `no`, `n` or `f` for false; everything else means true";
    /// Nodes that may use that pool.
    pool6_node_selector: Selector = value::selector, ["CALICO_IPV6POOL_NODE_SELECTOR"], "all()", "",
        IsUnset, Stops, "a selector such as rack == 'r1'";
    /// Do not announce that pool.
    pool6_disable_bgp_export: bool = value::yes_or_no, ["CALICO_IPV6POOL_DISABLE_BGP_EXPORT"], "false", "",
        IsValue, MeansTrue, "`false`, `0`, `no`, `n` or `f` for false; everything else means true";
    /// Whether the kubeconfig of CNI plugins, with a token that is refreshed, is written.
    manage_cni: bool = value::true_or_false, ["CALICO_MANAGE_CNI"], "true", "",
        IsUnset, MeansTrue, "`false`; everything else means true";
    /// Service account of that token.
    cni_service_account: String = value::object_name, ["CALICO_CNI_SERVICE_ACCOUNT"], "calico-cni-plugin", "",
        IsUnset, Stops, "the name of a service account in the agent's namespace";
    /// How often that token is refreshed; by default when a quarter of its life is over.
    cni_token_refresh_interval: Option<Duration> = value::optional_go_duration, ["CNI_TOKEN_REFRESH_INTERVAL"], "", "",
        IsUnset, Stops, "a duration such as `1h`, or nothing";
    /// How long an address must have been of no use before it is freed, `0s` for never; by default what KubeControllersConfiguration
    /// `default` says (`controllers.node.leakGracePeriod`), else 15 minutes.
    ipam_leak_grace_period: Option<Duration> = value::optional_go_duration, ["TORTIE_IPAM_LEAK_GRACE_PERIOD"], "", "",
        IsUnset, Stops, "a duration such as `15m`, `0s`, or nothing";
    /// File with the time at which `tortie-node shutdown` was called, until the node's network is there again.
    shutdown_timestamp_file: String = value::path, ["CALICO_SHUTDOWN_TIMESTAMP_FILE"], "/var/lib/calico/shutdownTS", "",
        IsUnset, Stops, "an absolute path";
    /// The least severe line on the terminal until the node has started.
    startup_log_level: LogSeverity = value::log_severity, ["CALICO_STARTUP_LOGLEVEL"], "Info", "",
        IsUnset, Stops, "`Trace`, `Debug`, `Info`, `Warning`, `Error` or `Fatal`";
    /// Whether an IPv6 pool is made when there is none, and IPv6 is set up in the kernel: forwarding, pods' devices, packet rules.
    /// Where the kernel has no IPv6 it is as `false`.
    ipv6_support: bool = value::felix_bool, ["FELIX_IPV6SUPPORT"], "true", "",
        IsUnset, TakesDefault, "`true` or `false`";
    /// UDP port of VXLAN.
    vxlan_port: u16 = value::port, ["FELIX_VXLANPORT"], "4789", "",
        IsUnset, TakesDefault, "1 to 65535";
    /// VXLAN network identifier.
    vxlan_vni: u32 = value::number(1..=0x00ff_ffff), ["FELIX_VXLANVNI"], "4096", "",
        IsUnset, TakesDefault, "1 to 16777215";
    /// MTU of `vxlan.calico`; 0 is found out.
    vxlan_mtu_bytes: u32 = value::mtu(68), ["FELIX_VXLANMTU"], "0", "bytes",
        IsUnset, TakesDefault, "0 (found out) or 68 to 65535";
    /// MTU of `vxlan-v6.calico`; 0 is found out.
    vxlan_mtu_v6_bytes: u32 = value::mtu(1280), ["FELIX_VXLANMTUV6"], "0", "bytes",
        IsUnset, TakesDefault, "0 (found out) or 1280, which IPv6 needs, to 65535";
    /// Whether VXLAN is on; by default when a pool asks for it.
    vxlan_enabled: Option<bool> = value::optional_felix_bool, ["FELIX_VXLANENABLED"], "", "",
        IsUnset, TakesDefault, "`true` or `false`";
    /// MTU of `tunl0`; 0 is found out.
    ipip_mtu_bytes: u32 = value::mtu(68), ["FELIX_IPINIPMTU"], "0", "bytes",
        IsUnset, TakesDefault, "0 (found out) or 68 to 65535";
    /// Whether IPIP is on; by default when a pool asks for it.
    ipip_enabled: Option<bool> = value::optional_felix_bool, ["FELIX_IPINIPENABLED"], "", "",
        IsUnset, TakesDefault, "`true` or `false`";
    /// Interfaces whose MTU counts as the host's.
    mtu_iface_pattern: String = value::expression, ["FELIX_MTUIFACEPATTERN"],
        "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)", "",
        IsUnset, TakesDefault, "a regular expression over interface names";
    /// Beginnings of the names of workload interfaces.
    interface_prefixes: Vec<String> = value::interface_prefixes, ["FELIX_INTERFACEPREFIX"], "cali", "",
        IsUnset, TakesDefault,
        "beginnings of interface names, joined by commas; the first, which pods' devices get, of at most 4 octets";
    /// Protocol number of workload routes.
    device_route_protocol: u8 = value::byte, ["FELIX_DEVICEROUTEPROTOCOL"], "3", "",
        IsUnset, TakesDefault, "0 to 255";
    /// Metric of workload routes.
    normal_route_priority: u32 = value::number(1..=2_147_483_646), ["FELIX_IPV4NORMALROUTEPRIORITY"], "1024", "",
        IsUnset, TakesDefault, "1 to 2147483646";
    /// `src` of IPv4 workload routes: the address the host's own packets to pods have.
    device_route_source: Option<Ipv4Addr> = value::optional_ipv4, ["FELIX_DEVICEROUTESOURCEADDRESS"], "", "",
        IsUnset, TakesDefault, "an IPv4 address";
    /// `src` of IPv6 workload routes.
    device_route_source6: Option<Ipv6Addr> = value::optional_ipv6, ["FELIX_DEVICEROUTESOURCEADDRESSIPV6"], "", "",
        IsUnset, TakesDefault, "an IPv6 address";
    /// Which pools' blocks on other nodes are routed from IPAM's blocks; the others are routed from BGP.
    program_cluster_routes: ProgramClusterRoutes = value::program_cluster_routes, ["FELIX_PROGRAMCLUSTERROUTES"],
        "EnabledIPIPOnly", "",
        IsUnset, TakesDefault, "`Enabled`, `Disabled`, `EnabledIPIPOnly` or `EnabledNoEncapOnly`";
    /// Whether forwarding between the host's interfaces is turned on.
    ip_forwarding: bool = value::enabled, ["FELIX_IPFORWARDING"], "Enabled", "",
        IsUnset, TakesDefault, "`Enabled` or `Disabled`";
    /// Ports that NAT gives TCP and UDP.
    nat_ports: Option<RangeInclusive<u16>> = value::optional_ports, ["FELIX_NATPORTRANGE"], "", "",
        IsUnset, TakesDefault, "a port, or two joined by a colon such as 32768:65535, the lower one first";
    /// Address that NAT-outgoing gives; by default that of the interface by which a packet leaves.
    nat_outgoing_address: Option<Ipv4Addr> = value::optional_ipv4, ["FELIX_NATOUTGOINGADDRESS"], "", "",
        IsUnset, TakesDefault, "an IPv4 address";
    /// Destinations that NAT-outgoing leaves alone.
    nat_outgoing_exclusions: NatOutgoingExclusions = value::nat_exclusions, ["FELIX_NATOUTGOINGEXCLUSIONS"], "IPPoolsOnly", "",
        IsUnset, TakesDefault, "`IPPoolsOnly` or `IPPoolsAndHostIPs`";
    /// NAT-outgoing is for packets that leave by this interface; `+` at the end stands for anything.
    nat_interface_filter: Option<String> = value::interface_pattern, ["FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER"], "", "",
        IsUnset, TakesDefault, "an interface's name of at most 15 bytes, or the beginning of one and `+`";
    /// Ranges and addresses outside the cluster that tunnel packets are taken from, besides those of its nodes.
    external_nodes: Vec<IpNet> = value::ranges, ["FELIX_EXTERNALNODESCIDRLIST"], "", "",
        IsUnset, TakesDefault, "ranges or addresses, joined by commas";
    /// What happens to packets from pods to their own node: with `DROP` only answers get through, and what a pod needs to find its
    /// IPv6 gateway.
    endpoint_to_host: EndpointToHostAction = value::endpoint_to_host, ["FELIX_DEFAULTENDPOINTTOHOSTACTION"], "DROP", "",
        IsUnset, TakesDefault, "`DROP`, `ACCEPT` or `RETURN`";
    /// What happens to forwarded packets to addresses of Services that nobody translated: BGPConfiguration's ranges.
    service_loop_prevention: ServiceLoopPrevention = value::service_loop_prevention, ["FELIX_SERVICELOOPPREVENTION"], "Drop", "",
        IsUnset, TakesDefault, "`Drop`, `Reject` or `Disabled`";
    /// Whether pods that ask for it send under prefixes that are not theirs: annotation `cni.projectcalico.org/allowedSourcePrefixes`.
    source_spoofing: bool = value::source_spoofing, ["FELIX_WORKLOADSOURCESPOOFING"], "Disabled", "",
        IsUnset, TakesDefault, "`Disabled` or `Any`";
    /// Whether pods are reached under further addresses that they ask for: annotation `cni.projectcalico.org/floatingIPs`.
    floating_ips: bool = value::enabled, ["FELIX_FLOATINGIPS"], "Disabled", "",
        IsUnset, TakesDefault, "`Enabled` or `Disabled`";
    /// What of the kernel is to be taken otherwise than it is found. Of Felix's features `ChecksumOffloadBroken` is looked at here: VXLAN
    /// devices leave no checksum to the hardware, as with Linux 5.7 and before. The others are known and without effect.
    checksum_offload_broken: Option<bool> = value::checksum_offload_broken, ["FELIX_FEATUREDETECTOVERRIDE"], "", "",
        IsUnset, TakesDefault, "features of Felix, joined by commas, each with `=true` or `=false`, as ChecksumOffloadBroken=true";
    /// Whether pods may send packets to VXLAN's port.
    allow_vxlan_from_workloads: bool = value::felix_bool, ["FELIX_ALLOWVXLANPACKETSFROMWORKLOADS"], "false", "",
        IsUnset, TakesDefault, "`true` or `false`";
    /// Whether pods may send packets in IPIP.
    allow_ipip_from_workloads: bool = value::felix_bool, ["FELIX_ALLOWIPIPPACKETSFROMWORKLOADS"], "false", "",
        IsUnset, TakesDefault, "`true` or `false`";
    /// Delete foreign routes on workload interfaces.
    remove_external_routes: bool = value::felix_bool, ["FELIX_REMOVEEXTERNALROUTES"], "true", "",
        IsUnset, TakesDefault, "`true` or `false`";
    /// How often the kernel's routes are compared with the wanted ones; 0 is never. Links are read with them: the shorter one
    /// of the two intervals counts for both.
    route_refresh_interval: Duration = value::seconds, ["FELIX_ROUTEREFRESHINTERVAL"], "90", "s",
        IsUnset, TakesDefault, "seconds; 0 for never";
    /// How often the kernel's links are listed anew; 0 is never. Routes are read with them.
    interface_refresh_interval: Duration = value::seconds, ["FELIX_INTERFACEREFRESHINTERVAL"], "90", "s",
        IsUnset, TakesDefault, "seconds; 0 for never";
    /// Where the directory `endpoint-status` is, with a file for each pod that is connected, as Calico's CNI plugin waits for it.
    endpoint_status_path_prefix: Option<String> = value::optional_path, ["FELIX_ENDPOINTSTATUSPATHPREFIX"], "/var/run/calico", "",
        IsUnset, TakesDefault, "an absolute path, or `none`";
    /// The least severe line on the terminal.
    log_severity_screen: LogSeverity = value::log_severity, ["FELIX_LOGSEVERITYSCREEN"], "Info", "",
        IsUnset, TakesDefault, "`Trace`, `Debug`, `Info`, `Warning`, `Error` or `Fatal`";
    /// Whether health is served over HTTP.
    health_enabled: bool = value::felix_bool, ["FELIX_HEALTHENABLED"], "false", "",
        IsUnset, TakesDefault, "`true` or `false`";
    /// Address health is served at.
    health_host: String = value::listen_host, ["FELIX_HEALTHHOST"], "localhost", "",
        IsUnset, TakesDefault, "an address or a name";
    /// TCP port health is served at.
    health_port: u16 = value::port, ["FELIX_HEALTHPORT"], "9099", "",
        IsUnset, TakesDefault, "1 to 65535";
    /// Whether metrics are served over HTTP.
    metrics_enabled: bool = value::felix_bool, ["FELIX_PROMETHEUSMETRICSENABLED"], "false", "",
        IsUnset, TakesDefault, "`true` or `false`";
    /// Address metrics are served at; all when not given.
    metrics_host: Option<String> = value::optional_listen_host, ["FELIX_PROMETHEUSMETRICSHOST"], "", "",
        IsUnset, TakesDefault, "an address or a name";
    /// TCP port metrics are served at.
    metrics_port: u16 = value::port, ["FELIX_PROMETHEUSMETRICSPORT"], "9091", "",
        IsUnset, TakesDefault, "1 to 65535";
}

impl std::ops::Deref for Params {
    type Target = Values;

    fn deref(&self) -> &Values {
        &self.values
    }
}
