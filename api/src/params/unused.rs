//! Variables of Calico's that are known and change nothing here, and why.

/// Such variables.
#[derive(Clone, Copy, Debug)]
pub struct Unused {
    /// Their names; those that begin with `FELIX_` are read in any case, and `*` at the end stands for anything.
    pub names: &'static [&'static str],
    /// Values, in any case, that ask for what is done anyway: nothing is said about them.
    pub done_anyway: &'static [&'static str],
    /// Why they change nothing.
    pub reason: &'static str,
}

const fn unused(
    names: &'static [&'static str],
    done_anyway: &'static [&'static str],
    reason: &'static str,
) -> Unused {
    Unused {
        names,
        done_anyway,
        reason,
    }
}

const OFF: &[&str] = &["false", "0", "no", "n", "f", "none"];
const ON: &[&str] = &["true", "1", "yes", "y", "t"];
const DISABLED: &[&str] = &["disabled", "none"];
const LOG: &str = "the log goes to standard error only";
const POLICY: &str = "policy is not enforced yet";
const BPF: &str = "there is no eBPF dataplane";
const WIREGUARD: &str = "there is no WireGuard yet";
const IPTABLES: &str = "packet rules are nftables only";
const GO: &str = "the agent is no Go program";
const ETCD: &str = "etcd is no datastore of this release";
const TYPHA: &str = "there is no Typha: each agent watches the datastore itself";
const STATUS: &str =
    "status is asked of the agent (tortiectl node status), not written into the datastore";

/// All of them.
pub static UNUSED: &[Unused] = &[
    unused(
        &[
            "ETCD_ENDPOINTS",
            "ETCD_DISCOVERY_SRV",
            "ETCD_USERNAME",
            "ETCD_PASSWORD",
            "ETCD_KEY_FILE",
            "ETCD_CERT_FILE",
            "ETCD_CA_CERT_FILE",
            "FELIX_ETCD*",
        ],
        &["none"],
        ETCD,
    ),
    unused(
        &[
            "K8S_CLIENT_QPS",
            "CALICO_K8S_CLIENT_QPS",
            "K8S_CLIENT_BURST",
            "CALICO_K8S_CLIENT_BURST",
        ],
        &[],
        "requests are not counted here: an API server that is busy (429) says when it may be asked again",
    ),
    unused(
        &["K8S_DISABLE_NODE_POLL", "CALICO_K8S_DISABLE_NODE_POLL"],
        OFF,
        "Nodes are watched, never polled, and the agent needs them",
    ),
    unused(
        &["CALICO_IPV6POOL_IPIP"],
        &["never", "off"],
        "IPIP carries IPv4 only",
    ),
    unused(&["CALICO_DISABLE_FILE_LOGGING"], &["true"], LOG),
    unused(&["CALICO_DISABLE_FELIX"], &[], "the agent is one process"),
    unused(&["NODE_USER_ID"], &[], "the agent runs as root"),
    unused(
        &["BGP_LOGSEVERITYSCREEN"],
        &[],
        "FELIX_LOGSEVERITYSCREEN is for the whole agent",
    ),
    unused(
        &[
            "KUBERNETES_SERVICE_IPS_PORTS",
            "KUBERNETES_APISERVER_ENDPOINTS",
        ],
        &[],
        BPF,
    ),
    // Which datastore, and who we are.
    unused(
        &["FELIX_DATASTORETYPE"],
        &[],
        "DATASTORE_TYPE is for the whole agent",
    ),
    unused(
        &["FELIX_FELIXHOSTNAME"],
        &[],
        "NODENAME is for the whole agent",
    ),
    unused(&["FELIX_TYPHA*"], &["none"], TYPHA),
    // Routes.
    unused(
        &["FELIX_ROUTETABLERANGES", "FELIX_ROUTETABLERANGE"],
        &["1-250", "none"],
        "the agent needs no routing table of its own",
    ),
    unused(
        &["FELIX_IPV6NORMALROUTEPRIORITY"],
        &["1024"],
        "FELIX_IPV4NORMALROUTEPRIORITY is for both families",
    ),
    unused(
        &["FELIX_ROUTESYNCDISABLED"],
        OFF,
        "the agent writes all routes",
    ),
    unused(
        &["FELIX_ROUTESOURCE"],
        &["calicoipam"],
        "routes follow from IPAM's blocks",
    ),
    unused(
        &[
            "FELIX_IPV4ELEVATEDROUTEPRIORITY",
            "FELIX_IPV6ELEVATEDROUTEPRIORITY",
        ],
        &["512"],
        "live migration is not followed yet",
    ),
    unused(
        &["FELIX_LIVEMIGRATIONROUTECONVERGENCETIME"],
        &["30"],
        "live migration is not followed yet",
    ),
    unused(
        &["FELIX_LOCALSUBNETL2REACHABILITY"],
        DISABLED,
        "ARP and NDP are not answered for pods on the host's interfaces yet",
    ),
    unused(
        &["FELIX_LOCALSUBNETL2REACHABILITYREFRESHINTERVAL"],
        &["120"],
        "ARP and NDP are not answered for pods on the host's interfaces yet",
    ),
    unused(
        &["FELIX_NETLINKTIMEOUTSECS"],
        &["10"],
        "the kernel's answers have a deadline of the agent's own",
    ),
    // Interfaces.
    unused(
        &["FELIX_INTERFACEEXCLUDE"],
        &["kube-ipvs0"],
        "there are no HostEndpoints yet, which is all it is for",
    ),
    unused(
        &["FELIX_REQUIREMTUFILE"],
        OFF,
        "the MTU file is written again until it stands",
    ),
    unused(
        &["FELIX_AWSSRCDSTCHECK"],
        &["donothing"],
        "the cloud's settings are the operator's",
    ),
    // Packet rules.
    unused(&["FELIX_NFTABLESMODE"], &["auto", "enabled"], IPTABLES),
    unused(&["FELIX_IPTABLESBACKEND"], &["auto", "nft"], IPTABLES),
    unused(
        &["FELIX_NFTABLESFLOWTABLEOFFLOAD"],
        DISABLED,
        "there is no flow table yet",
    ),
    unused(
        &["FELIX_NFTABLESFLOWTABLEDATAIFACEPATTERN"],
        &["none"],
        "there is no flow table yet",
    ),
    unused(
        &["FELIX_CHAININSERTMODE"],
        &["insert"],
        "the agent has a table of its own, into which nothing is inserted",
    ),
    unused(
        &[
            "FELIX_IPTABLESREFRESHINTERVAL",
            "FELIX_NFTABLESREFRESHINTERVAL",
        ],
        &["180"],
        "packet rules are read with the routes (FELIX_ROUTEREFRESHINTERVAL)",
    ),
    unused(
        &["FELIX_IPSETSREFRESHINTERVAL"],
        &["90", "10"],
        "packet rules are read with the routes (FELIX_ROUTEREFRESHINTERVAL)",
    ),
    unused(&["FELIX_MAXIPSETSIZE"], &["1048576"], IPTABLES),
    unused(
        &["FELIX_IPTABLESMARKMASK", "FELIX_NFTABLESMARKMASK"],
        &["0xffff0000", "4294901760"],
        "packets are not marked yet",
    ),
    unused(
        &[
            "FELIX_IPTABLESFILTERALLOWACTION",
            "FELIX_IPTABLESMANGLEALLOWACTION",
            "FELIX_NFTABLESFILTERALLOWACTION",
            "FELIX_NFTABLESMANGLEALLOWACTION",
        ],
        &["accept"],
        POLICY,
    ),
    unused(
        &[
            "FELIX_IPTABLESFILTERDENYACTION",
            "FELIX_NFTABLESFILTERDENYACTION",
        ],
        &["drop"],
        POLICY,
    ),
    unused(&["FELIX_DISABLECONNTRACKINVALIDCHECK"], ON, POLICY),
    unused(
        &[
            "FELIX_FAILSAFEINBOUNDHOSTPORTS",
            "FELIX_FAILSAFEOUTBOUNDHOSTPORTS",
        ],
        &["none"],
        "there are no HostEndpoints yet, which is all they are for",
    ),
    unused(&["FELIX_KUBENODEPORTRANGES"], &["30000:32767"], POLICY),
    unused(
        &["FELIX_ISTIOAMBIENTMODE"],
        DISABLED,
        "Istio's ambient mode is not served yet",
    ),
    unused(
        &["FELIX_ISTIODSCPMARK"],
        &["23"],
        "Istio's ambient mode is not served yet",
    ),
    unused(&["FELIX_POLICYSYNCPATHPREFIX"], &["none"], POLICY),
    unused(
        &["FELIX_LOGPREFIX"],
        &["calico-packet"],
        "no rule logs packets yet",
    ),
    unused(
        &["FELIX_LOGACTIONRATELIMIT"],
        &["none"],
        "no rule logs packets yet",
    ),
    unused(
        &["FELIX_LOGACTIONRATELIMITBURST"],
        &["5"],
        "no rule logs packets yet",
    ),
    // Health, metrics, log, process.
    unused(
        &["FELIX_DATAPLANEWATCHDOGTIMEOUT"],
        &["90"],
        "each loop has 90 s to report",
    ),
    unused(
        &["FELIX_HEALTHTIMEOUTOVERRIDES"],
        &["none"],
        "each loop has 90 s to report",
    ),
    unused(
        &[
            "FELIX_PROMETHEUSMETRICSCAFILE",
            "FELIX_PROMETHEUSMETRICSCERTFILE",
            "FELIX_PROMETHEUSMETRICSKEYFILE",
        ],
        &["none"],
        "metrics are served without TLS, to whoever asks",
    ),
    unused(
        &["FELIX_PROMETHEUSMETRICSCLIENTAUTH"],
        &["noclientcert"],
        "metrics are served without TLS, to whoever asks",
    ),
    unused(&["FELIX_PROMETHEUSGOMETRICSENABLED"], OFF, GO),
    unused(
        &["FELIX_PROMETHEUSPROCESSMETRICSENABLED"],
        OFF,
        "the agent has no metrics of its process yet",
    ),
    unused(&["FELIX_PROMETHEUSWIREGUARDMETRICSENABLED"], OFF, WIREGUARD),
    unused(
        &[
            "FELIX_LOGFILEPATH",
            "FELIX_LOGSEVERITYFILE",
            "FELIX_LOGSEVERITYSYS",
        ],
        &["none"],
        LOG,
    ),
    unused(
        &["FELIX_METADATAADDR", "FELIX_METADATAPORT"],
        &["none"],
        "metadata of OpenStack are not served",
    ),
    unused(
        &["FELIX_LOGDEBUGFILENAMEREGEX"],
        &["none"],
        "RUST_LOG chooses lines by the module they come from",
    ),
    unused(&["FELIX_REPORTINGINTERVALSECS"], &["0", "none"], STATUS),
    unused(&["FELIX_REPORTINGTTLSECS"], &["90", "0", "none"], STATUS),
    unused(&["FELIX_ENDPOINTREPORTINGENABLED"], OFF, STATUS),
    unused(&["FELIX_ENDPOINTREPORTINGDELAYSECS"], &["1"], STATUS),
    unused(
        &["FELIX_USAGEREPORTINGENABLED"],
        OFF,
        "nothing is reported to anybody",
    ),
    unused(
        &[
            "FELIX_USAGEREPORTINGINITIALDELAYSECS",
            "FELIX_USAGEREPORTINGINTERVALSECS",
        ],
        &["300", "86400"],
        "nothing is reported to anybody",
    ),
    unused(&["FELIX_GOGCTHRESHOLD"], &["40"], GO),
    unused(&["FELIX_GOMEMORYLIMITMB", "FELIX_GOMAXPROCS"], &["-1"], GO),
    unused(
        &["FELIX_DEBUGPORT", "FELIX_DEBUGHOST"],
        &["none", "localhost"],
        GO,
    ),
    unused(
        &["FELIX_FEATUREGATES"],
        &["none"],
        "the kernel is asked what it can do",
    ),
    unused(
        &["FELIX_FLOWLOGS*"],
        &["300", "none", "disabled", "continuous"],
        "flows are not logged yet",
    ),
    // Other dataplanes.
    unused(
        &["FELIX_WIREGUARDENABLED", "FELIX_WIREGUARDENABLEDV6"],
        OFF,
        WIREGUARD,
    ),
    unused(&["FELIX_WIREGUARD*"], &["0", "none", "false"], WIREGUARD),
    unused(&["FELIX_BPFENABLED"], OFF, BPF),
    unused(
        &["FELIX_BPF*", "FELIX_XDP*", "FELIX_GENERICXDPENABLED"],
        &["none"],
        BPF,
    ),
    unused(
        &["FELIX_WINDOWSMANAGEFIREWALLRULES"],
        DISABLED,
        "the agent runs on Linux",
    ),
];

/// What is known of a variable, by its name; `FELIX_` and what follows in upper case.
pub(super) fn unused_named(name: &str) -> Option<&'static Unused> {
    let is = |known: &&str| match known.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => *known == name,
    };
    UNUSED.iter().find(|unused| unused.names.iter().any(&is))
}
