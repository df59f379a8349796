//! What the values of parameters can be, and how they are read from text.
//!
//! A reader's error says what is wrong when that is more than "not one of the allowed values", which the table's row
//! says anyway; then it is empty.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::duration;
use crate::pool::EncapMode;
use crate::selector::Selector;

mod names;

pub(super) use names::{
    api_group, expression, listen_host, namespace, node_name, object_name, optional_listen_host,
    optional_path, optional_port, optional_text, path, socket, text, url,
};

/// A value, or what is wrong with the text.
pub(super) type Read<T> = Result<T, String>;

/// Where a node's address of one family comes from: variables `IP` and `IP6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// Keep the stored address; when none is stored, detect one of IPv4, and have none of IPv6.
    Keep,
    /// Detect it at each start.
    Autodetect,
    /// Store none; keep what is stored.
    None,
    /// This address, with the prefix length of the interface that has it for IPv4, else /32; /128 for IPv6.
    Address(IpAddr),
    /// This address and prefix length; host bits are kept.
    Cidr(IpNet),
}

/// Where the router id comes from: variable `CALICO_ROUTER_ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterIdSource {
    /// The node's IPv4 address.
    NodeAddress,
    /// From the node's name: [`super::router_id_of_name`].
    Hash,
    /// Given.
    Literal(Ipv4Addr),
}

/// The range of the first pool of a family: variables `CALICO_IPV4POOL_CIDR` and `CALICO_IPV6POOL_CIDR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolCidr {
    /// To be chosen: of IPv4 192.168.0.0/16, or one that the host has no address in; of IPv6 a random one.
    Choose,
    /// Make no pool.
    None,
    /// This range, host bits cleared.
    Cidr(IpNet),
}

/// What carries packets between nodes: variable `CALICO_NETWORKING_BACKEND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// BGP (and whatever tunnels the pools ask for).
    Bgp,
    /// VXLAN without BGP.
    Vxlan,
    /// Nothing: policy only.
    None,
}

/// Whose routes to other nodes' blocks come from IPAM's blocks: variable `FELIX_PROGRAMCLUSTERROUTES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgramClusterRoutes {
    /// Those of IPIP and of plain pools.
    Enabled,
    /// None.
    Disabled,
    /// Those of IPIP pools.
    #[default]
    EnabledIpipOnly,
    /// Those of plain pools.
    EnabledNoEncapOnly,
}

/// Destinations outside all pools that pods reach under their own addresses: variable `FELIX_NATOUTGOINGEXCLUSIONS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatOutgoingExclusions {
    /// None.
    #[default]
    IpPoolsOnly,
    /// The cluster's nodes.
    IpPoolsAndHostIps,
}

/// What happens to packets from pods to their own node: variable `FELIX_DEFAULTENDPOINTTOHOSTACTION`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointToHostAction {
    /// Only answers get through, and what a pod needs to find its IPv6 gateway.
    #[default]
    Drop,
    /// They get through, as far as other programs' rules let them.
    Accept,
    /// The same.
    Return,
}

/// What happens to forwarded packets to addresses of Services that no program translated: variable
/// `FELIX_SERVICELOOPPREVENTION`. Routers send them to a node, which would send them back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceLoopPrevention {
    /// They go no further.
    #[default]
    Drop,
    /// Their sender is told.
    Reject,
    /// They are forwarded.
    Disabled,
}

/// Which datastore: variable `DATASTORE_TYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatastoreType {
    /// The Kubernetes API.
    Kubernetes,
    /// etcd, version 3 of its API.
    Etcdv3,
    /// The embedded store, through the socket named by `TORTIE_STORE`.
    Local,
}

/// The least severe line to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogSeverity {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
}

fn no<T>() -> Read<T> {
    Err(String::new())
}

fn ok_or_no<T>(value: Option<T>) -> Read<T> {
    value.ok_or_else(String::new)
}

/// A word for yes or no.
pub(super) fn yes_or_no(text: &str) -> Read<bool> {
    if is_word_for_yes(text) {
        Ok(true)
    } else if is_word_for_no(text) {
        Ok(false)
    } else {
        no()
    }
}

fn is_word_for_yes(text: &str) -> bool {
    ["true", "1", "yes", "y", "t"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

fn is_word_for_no(text: &str) -> bool {
    ["false", "0", "no", "n", "f"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

/// `true` or `false`, in any case.
pub(super) fn true_or_false(text: &str) -> Read<bool> {
    if text.eq_ignore_ascii_case("true") {
        Ok(true)
    } else if text.eq_ignore_ascii_case("false") {
        Ok(false)
    } else {
        no()
    }
}

pub(super) fn felix_bool(text: &str) -> Read<bool> {
    if is_word_for_yes(text) {
        Ok(true)
    } else if is_word_for_no(text) || is_none(text) {
        Ok(false)
    } else {
        no()
    }
}

pub(super) fn optional_felix_bool(text: &str) -> Read<Option<bool>> {
    if text.is_empty() || is_none(text) {
        return Ok(None);
    }
    felix_bool(text).map(Some)
}

/// Felix reads the word `none` as the zero of a parameter that may be zero.
fn is_none(text: &str) -> bool {
    text.eq_ignore_ascii_case("none")
}

pub(super) fn number(range: RangeInclusive<u32>) -> impl Fn(&str) -> Read<u32> {
    move |text| {
        let text = if is_none(text) && range.contains(&0) {
            "0"
        } else {
            text
        };
        ok_or_no(text.parse().ok().filter(|number| range.contains(number)))
    }
}

pub(super) fn port(text: &str) -> Read<u16> {
    ok_or_no(text.parse().ok().filter(|port| *port != 0))
}

pub(super) fn byte(text: &str) -> Read<u8> {
    ok_or_no(if is_none(text) {
        Some(0)
    } else {
        text.parse().ok()
    })
}

pub(super) fn block_len(text: &str) -> Read<u8> {
    ok_or_no(text.parse().ok().filter(|len| (20..=32).contains(len)))
}

pub(super) fn block6_len(text: &str) -> Read<u8> {
    ok_or_no(text.parse().ok().filter(|len| (116..=128).contains(len)))
}

pub(super) fn seconds(text: &str) -> Read<Duration> {
    ok_or_no(if is_none(text) {
        Some(Duration::ZERO)
    } else {
        duration::parse_seconds(text)
    })
}

pub(super) fn go_duration(text: &str) -> Read<Duration> {
    ok_or_no(duration::parse(text))
}

pub(super) fn optional_go_duration(text: &str) -> Read<Option<Duration>> {
    if text.is_empty() {
        return Ok(None);
    }
    go_duration(text).map(Some)
}

/// A number, or two 16-bit halves joined by a dot (RFC 5396 asdot).
pub(super) fn as_number(text: &str) -> Read<Option<u32>> {
    if text.is_empty() {
        return Ok(None);
    }
    let number = crate::bgp::as_number_of(&serde_json::Value::from(text));
    match number {
        Some(number) => match crate::validate::reserved_as_number(number) {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(Some(number)),
        },
        None => no(),
    }
}

pub(super) fn ipv4_source(text: &str) -> Read<AddressSource> {
    address_source(text, IpAddr::is_ipv4)
}

pub(super) fn ipv6_source(text: &str) -> Read<AddressSource> {
    address_source(text, IpAddr::is_ipv6)
}

fn address_source(text: &str, of_family: fn(&IpAddr) -> bool) -> Read<AddressSource> {
    match text {
        "" => return Ok(AddressSource::Keep),
        "autodetect" => return Ok(AddressSource::Autodetect),
        "none" => return Ok(AddressSource::None),
        _ => {}
    }
    let (addr, source) = if text.contains('/') {
        let Ok(net) = text.parse::<IpNet>() else {
            return no();
        };
        (net.addr(), AddressSource::Cidr(net))
    } else {
        let Ok(addr) = text.parse() else {
            return no();
        };
        (addr, AddressSource::Address(addr))
    };
    if !of_family(&addr) {
        return no();
    }
    let link_local = match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    if addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || link_local {
        return Err("other nodes cannot reach this address".to_owned());
    }
    Ok(source)
}

pub(super) fn method(text: &str) -> Read<String> {
    let plain = ["", "first-found", "kubernetes-internal-ip"];
    let with_argument = ["interface=", "skip-interface=", "cidr=", "can-reach="];
    let known = plain.contains(&text)
        || with_argument.iter().any(|prefix| {
            text.strip_prefix(prefix)
                .is_some_and(|rest| !rest.is_empty())
        });
    if known { Ok(text.to_owned()) } else { no() }
}

pub(super) fn router_id(text: &str) -> Read<RouterIdSource> {
    match text {
        "" => Ok(RouterIdSource::NodeAddress),
        "hash" => Ok(RouterIdSource::Hash),
        _ => match text.parse() {
            Ok(Ipv4Addr::UNSPECIFIED) => {
                Err("a router id of 0.0.0.0 is refused by every peer (RFC 6286)".to_owned())
            }
            Ok(id) => Ok(RouterIdSource::Literal(id)),
            Err(_) => no(),
        },
    }
}

pub(super) fn pool_cidr(text: &str) -> Read<PoolCidr> {
    match text {
        "" => return Ok(PoolCidr::Choose),
        "none" => return Ok(PoolCidr::None),
        _ => {}
    }
    let Ok(cidr) = text.parse::<Ipv4Net>() else {
        return no();
    };
    if cidr.network().is_link_local() {
        return Err("link-local addresses cannot be given to pods".to_owned());
    }
    Ok(PoolCidr::Cidr(cidr.trunc().into()))
}

pub(super) fn pool6_cidr(text: &str) -> Read<PoolCidr> {
    match text {
        "" => return Ok(PoolCidr::Choose),
        "none" => return Ok(PoolCidr::None),
        _ => {}
    }
    let Ok(cidr) = text.parse::<Ipv6Net>() else {
        return no();
    };
    if cidr.network().is_unicast_link_local() {
        return Err("link-local addresses cannot be given to pods".to_owned());
    }
    Ok(PoolCidr::Cidr(cidr.trunc().into()))
}

pub(super) fn encap(text: &str) -> Read<EncapMode> {
    match text.to_ascii_lowercase().as_str() {
        "" | "off" | "never" => Ok(EncapMode::Never),
        "always" => Ok(EncapMode::Always),
        "crosssubnet" | "cross-subnet" => Ok(EncapMode::CrossSubnet),
        _ => no(),
    }
}

pub(super) fn selector(text: &str) -> Read<Selector> {
    Selector::parse(text).map_err(|error| error.to_string())
}

pub(super) fn program_cluster_routes(text: &str) -> Read<ProgramClusterRoutes> {
    let words = [
        ("Enabled", ProgramClusterRoutes::Enabled),
        ("Disabled", ProgramClusterRoutes::Disabled),
        ("EnabledIPIPOnly", ProgramClusterRoutes::EnabledIpipOnly),
        (
            "EnabledNoEncapOnly",
            ProgramClusterRoutes::EnabledNoEncapOnly,
        ),
    ];
    one_of(text, words)
}

pub(super) fn enabled(text: &str) -> Read<bool> {
    one_of(text, [("Enabled", true), ("Disabled", false)])
}

pub(super) fn optional_ipv4(text: &str) -> Read<Option<Ipv4Addr>> {
    if text.is_empty() || is_none(text) {
        return Ok(None);
    }
    ok_or_no(text.parse().ok().map(Some))
}

pub(super) fn optional_ipv6(text: &str) -> Read<Option<Ipv6Addr>> {
    if text.is_empty() || is_none(text) {
        return Ok(None);
    }
    ok_or_no(text.parse().ok().map(Some))
}

/// `32768:65535`, or one port.
pub(super) fn optional_ports(text: &str) -> Read<Option<RangeInclusive<u16>>> {
    if text.is_empty() || is_none(text) {
        return Ok(None);
    }
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    match (port(first)?, port(last)?) {
        (first, last) if first <= last => Ok(Some(first..=last)),
        _ => no(),
    }
}

pub(super) fn nat_exclusions(text: &str) -> Read<NatOutgoingExclusions> {
    let words = [
        ("IPPoolsOnly", NatOutgoingExclusions::IpPoolsOnly),
        (
            "IPPoolsAndHostIPs",
            NatOutgoingExclusions::IpPoolsAndHostIps,
        ),
    ];
    one_of(text, words)
}

pub(super) fn endpoint_to_host(text: &str) -> Read<EndpointToHostAction> {
    let words = [
        ("DROP", EndpointToHostAction::Drop),
        ("ACCEPT", EndpointToHostAction::Accept),
        ("RETURN", EndpointToHostAction::Return),
    ];
    one_of(text, words)
}

pub(super) fn service_loop_prevention(text: &str) -> Read<ServiceLoopPrevention> {
    one_of(
        text,
        [
            ("Drop", ServiceLoopPrevention::Drop),
            ("Reject", ServiceLoopPrevention::Reject),
            ("Disabled", ServiceLoopPrevention::Disabled),
        ],
    )
}

pub(super) fn source_spoofing(text: &str) -> Read<bool> {
    one_of(text, [("Any", true), ("Disabled", false)])
}

/// What Felix finds out about the kernel and iptables.
const FEATURES: [&str; 9] = [
    "SNATFullyRandom",
    "MASQFullyRandom",
    "RestoreSupportsLock",
    "ChecksumOffloadBroken",
    "IPIPDeviceIsL3",
    "KernelSideRouteFiltering",
    "NFLogSize",
    "KernelHasUDPGSOFix",
    "NFTablesSupported",
];

/// What a list of features says of `ChecksumOffloadBroken`; the last one counts.
pub(super) fn checksum_offload_broken(text: &str) -> Read<Option<bool>> {
    let mut broken = None;
    if is_none(text) {
        return Ok(broken);
    }
    let items = text.split(',').map(str::trim);
    for item in items.filter(|item| !item.is_empty()) {
        let (feature, value) = ok_or_no(item.split_once('='))?;
        let mut known = FEATURES.into_iter();
        let feature = ok_or_no(known.find(|known| feature.trim().eq_ignore_ascii_case(known)))?;
        // Of NFLogSize it is a number.
        if feature == "ChecksumOffloadBroken" {
            broken = Some(felix_bool(value.trim())?);
        }
    }
    Ok(broken)
}

/// One of these words, in any case.
fn one_of<T, const N: usize>(text: &str, words: [(&str, T); N]) -> Read<T> {
    let mut words = words.into_iter();
    let found = words.find(|(word, _)| text.eq_ignore_ascii_case(word));
    ok_or_no(found.map(|(_, value)| value))
}

/// Ranges and addresses, joined by commas.
pub(super) fn ranges(text: &str) -> Read<Vec<IpNet>> {
    if text.is_empty() || is_none(text) {
        return Ok(Vec::new());
    }
    let range = |item: &str| match (item.parse::<IpNet>(), item.parse::<IpAddr>()) {
        (Ok(range), _) => Some(range.trunc()),
        (_, Ok(address)) => Some(IpNet::from(address)),
        _ => None,
    };
    ok_or_no(text.split(',').map(|item| range(item.trim())).collect())
}

pub(super) fn interface_pattern(text: &str) -> Read<Option<String>> {
    if text.is_empty() || is_none(text) {
        return Ok(None);
    }
    let beginning = text.strip_suffix('+').unwrap_or(text);
    let wrong = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b':' | b'+');
    if beginning.len() > 15 || beginning.bytes().any(wrong) {
        return no();
    }
    Ok(Some(text.to_owned()))
}

pub(super) fn backend(text: &str) -> Read<Backend> {
    match text {
        "" | "bird" => Ok(Backend::Bgp),
        "vxlan" => Ok(Backend::Vxlan),
        "none" => Ok(Backend::None),
        _ => no(),
    }
}

pub(super) fn datastore_type(text: &str) -> Read<DatastoreType> {
    match text {
        "kubernetes" => Ok(DatastoreType::Kubernetes),
        "etcdv3" => Ok(DatastoreType::Etcdv3),
        "local" => Ok(DatastoreType::Local),
        _ => no(),
    }
}

pub(super) fn log_severity(text: &str) -> Read<LogSeverity> {
    match text.to_ascii_lowercase().as_str() {
        "trace" => Ok(LogSeverity::Trace),
        "debug" => Ok(LogSeverity::Debug),
        "info" => Ok(LogSeverity::Info),
        "warning" | "warn" => Ok(LogSeverity::Warning),
        "error" => Ok(LogSeverity::Error),
        "fatal" => Ok(LogSeverity::Fatal),
        _ => no(),
    }
}

/// An MTU in octets of at least `min`, or 0 for one that is found out.
pub(super) fn mtu(min: u32) -> impl Fn(&str) -> Read<u32> {
    let number = number(0..=65535);
    move |text| match number(text)? {
        mtu if mtu == 0 || mtu >= min => Ok(mtu),
        _ => no(),
    }
}

/// Octets that pods' devices have of the first prefix: Linux takes names of 15, and 11 are of the pod.
const FIRST_PREFIX_MAX: usize = 4;

/// Comma-separated beginnings of interface names, the first of them that of pods' devices.
pub(super) fn interface_prefixes(text: &str) -> Read<Vec<String>> {
    let prefixes: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
    let fits = |prefix: &String| {
        (1..=15).contains(&prefix.len())
            && !prefix.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
    };
    let first_fits = prefixes
        .first()
        .is_some_and(|first| first.len() <= FIRST_PREFIX_MAX);
    if first_fits && prefixes.iter().all(fits) {
        Ok(prefixes)
    } else {
        no()
    }
}
