//! Rules of [`crate::validate`] that an API server checks, too: in its own words where it has them, else in its Common
//! Expression Language. None refuses what Calico writes.

/// What a field must keep to, by its path inside the spec: `peerIP`; `operations[].setPriority`; the empty one is the spec
/// itself; `*` stands for any one name at the beginning.
pub(crate) type Limits = &'static [(&'static str, Limit)];

#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// Smallest number.
    AtLeast(u64),
    /// Largest number.
    AtMost(u64),
    /// Characters, at most.
    Length(usize),
    /// Entries, at least and at most.
    Items(usize, usize),
    /// Exactly one of its fields.
    One,
    /// One of these words.
    Words(&'static [&'static str]),
    /// An expression that must hold of the value, and what to say when it does not.
    Rule(&'static str, &'static str),
}

use Limit::{AtLeast, AtMost, Items, Length, One, Rule, Words};

/// Whether a limit's path is this one.
pub(super) fn is_of(limit: &str, path: &str) -> bool {
    match limit.strip_prefix('*') {
        Some(rest) => path
            .find(['[', '.'])
            .is_some_and(|end| path[end..] == *rest),
        None => limit == path,
    }
}

const DURATION_LEN_MAX: usize = 64;
const SELECTOR_LEN_MAX: usize = 1024;
const PRIORITY_MAX: u64 = 2_147_483_646;
const COMMUNITY_LEN_MAX: usize = 32;

macro_rules! duration {
    ($more:literal) => {
        concat!(
            r"self.matches('^(0|([0-9]+([.][0-9]+)?(ns|us|µs|ms|s|m|h))+)$') && ",
            $more
        )
    };
}
const RESTART_TIME: Limit = Rule(
    duration!("duration(self) <= duration('4095s')"),
    "must be a duration such as 120s, 4095s at most (RFC 4724 §3)",
);
const AS_NUMBER: Limit = Rule(
    "type(self) != int || (self != 0 && self != 23456)",
    "must be 1 to 4294967295, but not 23456 (RFC 7607, RFC 6793 §9)",
);

pub(crate) const IP_POOL: Limits = &[
    (
        "cidr",
        Rule(
            "!isCIDR(self) || cidr(self) == cidr(self).masked()",
            "must have no host bits",
        ),
    ),
    (
        "cidr",
        Rule(
            "!isCIDR(self) || !cidr(self).ip().isLinkLocalUnicast()",
            "must hold no link-local addresses",
        ),
    ),
    (
        "cidr",
        Rule("self == oldSelf", "cannot be changed: make another pool"),
    ),
    (
        "blockSize",
        Rule("self == oldSelf", "cannot be changed: make another pool"),
    ),
    ("nodeSelector", Length(SELECTOR_LEN_MAX)),
    ("namespaceSelector", Length(SELECTOR_LEN_MAX)),
    ("allowedUses", Items(0, 10)),
    (
        "",
        Rule(
            "!isCIDR(self.cidr) || !has(self.blockSize) || (cidr(self.cidr).ip().family() == 4 ? \
             self.blockSize >= 20 && self.blockSize <= 32 : self.blockSize >= 116 && self.blockSize <= 128)",
            "blockSize must be 20 to 32 in an IPv4 pool, 116 to 128 in an IPv6 pool",
        ),
    ),
    (
        "",
        Rule(
            "!isCIDR(self.cidr) || cidr(self.cidr).prefixLength() <= (has(self.blockSize) ? self.blockSize : \
             cidr(self.cidr).ip().family() == 4 ? 26 : 122)",
            "a block (blockSize, by default 26 in IPv4 and 122 in IPv6) cannot be larger than the pool",
        ),
    ),
    (
        "",
        Rule(
            "!has(self.ipipMode) || !has(self.vxlanMode) || self.ipipMode in ['Never', ''] || \
             self.vxlanMode in ['Never', '']",
            "ipipMode or vxlanMode must be Never: a pool has one kind of tunnel",
        ),
    ),
    (
        "",
        Rule(
            "!isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 4 || !has(self.ipipMode) || \
             self.ipipMode in ['Never', '']",
            "ipipMode must be Never in an IPv6 pool",
        ),
    ),
    (
        "",
        Rule(
            "!has(self.allowedUses) || !('LoadBalancer' in self.allowedUses) || size(self.allowedUses) == 1",
            "allowedUses must hold LoadBalancer alone, or the others without it",
        ),
    ),
    (
        "",
        Rule(
            "!has(self.allowedUses) || !('LoadBalancer' in self.allowedUses) || \
             ((!has(self.ipipMode) || self.ipipMode in ['Never', '']) && \
             (!has(self.vxlanMode) || self.vxlanMode in ['Never', '']) && \
             !(has(self.disableBGPExport) && self.disableBGPExport))",
            "a pool for load balancers must have neither ipipMode, vxlanMode nor disableBGPExport",
        ),
    ),
];

pub(crate) const BGP_CONFIGURATION: Limits = &[
    ("logSeverityScreen", Length(16)),
    (
        "logSeverityScreen",
        Rule(
            "self.matches('^(?i)(trace|debug|info|warning|error|fatal)?$')",
            "must be one of Trace, Debug, Info, Warning, Error, Fatal",
        ),
    ),
    ("asNumber", AS_NUMBER),
    ("listenPort", AtLeast(1)),
    ("ipv4NormalRoutePriority", AtLeast(1)),
    ("ipv4NormalRoutePriority", AtMost(PRIORITY_MAX)),
    ("ipv6NormalRoutePriority", AtLeast(1)),
    ("ipv6NormalRoutePriority", AtMost(PRIORITY_MAX)),
    ("nodeMeshMaxRestartTime", Length(DURATION_LEN_MAX)),
    ("nodeMeshMaxRestartTime", RESTART_TIME),
    ("communities", Items(0, 500)),
    ("communities[].value", Length(COMMUNITY_LEN_MAX)),
    (
        "communities[].value",
        Rule(
            "self.matches('^[0-9]{1,5}:[0-9]{1,5}$') || self.matches('^[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}$')",
            "must be `aa:nn` of two numbers up to 65535, or `aa:nn:mm` of three up to 4294967295",
        ),
    ),
    ("prefixAdvertisements", Items(0, 500)),
    ("prefixAdvertisements[].communities", Items(0, 50)),
    (
        "",
        Rule(
            "!has(self.nodeMeshMaxRestartTime) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled",
            "nodeMeshMaxRestartTime must not be given, because nodeToNodeMeshEnabled is false",
        ),
    ),
];

pub(crate) const BGP_PEER: Limits = &[
    ("node", Length(253)),
    ("nodeSelector", Length(SELECTOR_LEN_MAX)),
    ("peerSelector", Length(SELECTOR_LEN_MAX)),
    ("peerIP", Length(64)),
    (
        "peerIP",
        Rule(
            r"self == '' || isIP(self) || self.contains('%') || self.matches('^[0-9.]+:[0-9]{1,5}$') || self.matches('^\\[[0-9a-fA-F:.]+\\](:[0-9]{1,5})?$')",
            "must be an address, alone or with a port: 10.0.0.1, 10.0.0.1:1790, fd00::1, [fd00::1]:1790",
        ),
    ),
    ("localASNumber", AS_NUMBER),
    ("nextHopMode", Words(&["Auto", "Self", "Keep"])),
    ("sourceAddress", Words(&["UseNodeIP", "None"])),
    ("maxRestartTime", Length(DURATION_LEN_MAX)),
    ("maxRestartTime", RESTART_TIME),
    ("keepaliveTime", Length(DURATION_LEN_MAX)),
    (
        "keepaliveTime",
        Rule(
            duration!("duration(self) >= duration('1s')"),
            "must be a duration such as 30s, 1s at least (RFC 4271 §4.4)",
        ),
    ),
    ("reachableBy", Length(64)),
    (
        "reachableBy",
        Rule("self == '' || isIP(self)", "must be an address"),
    ),
    (
        "",
        Rule(
            "!has(self.node) || !has(self.nodeSelector) || self.node == '' || self.nodeSelector == ''",
            "node and nodeSelector must not be given together",
        ),
    ),
    (
        "",
        Rule(
            "(has(self.peerIP) && self.peerIP != '') || (has(self.peerSelector) && self.peerSelector != '') || \
             has(self.localWorkloadSelector)",
            "peerIP must be given, unless peerSelector is",
        ),
    ),
    (
        "",
        Rule(
            "!has(self.peerIP) || !has(self.peerSelector) || self.peerIP == '' || self.peerSelector == ''",
            "peerIP and peerSelector must not be given together",
        ),
    ),
    (
        "",
        Rule(
            "!has(self.peerIP) || self.peerIP == '' || (has(self.asNumber) && \
             (type(self.asNumber) != int || (self.asNumber != 0 && self.asNumber != 23456)))",
            "asNumber must be 1 to 4294967295, but not 23456: with peerIP the peer's AS must be known",
        ),
    ),
    (
        "",
        Rule(
            "!has(self.peerSelector) || self.peerSelector == '' || !has(self.asNumber) || self.asNumber == 0",
            "asNumber must not be given together with peerSelector: the selected nodes name their AS",
        ),
    ),
    (
        "",
        Rule(
            "!has(self.keepOriginalNextHop) || !self.keepOriginalNextHop || !has(self.nextHopMode)",
            "keepOriginalNextHop must not be given together with nextHopMode, which replaces it",
        ),
    ),
    (
        "",
        Rule(
            "!has(self.reachableBy) || self.reachableBy == '' || (has(self.peerIP) && self.peerIP != '')",
            "reachableBy must not be given without peerIP",
        ),
    ),
];

pub(crate) const BGP_FILTER: Limits = &[
    ("*[].action", Words(&["Accept", "Reject"])),
    (
        "*[].matchOperator",
        Words(&["Equal", "NotEqual", "In", "NotIn"]),
    ),
    ("*[].source", Words(&["RemotePeers"])),
    ("*[].peerType", Words(&["eBGP", "iBGP"])),
    ("*[].interface", Length(15)),
    ("*[].communities.values", Items(1, 1)),
    ("*[].priority", AtLeast(1)),
    ("*[].priority", AtMost(PRIORITY_MAX)),
    ("*[].operations", Items(0, 10)),
    ("*[].operations[].prependASPath.prefix", Items(1, 10)),
    ("*[].operations[].setPriority.value", AtLeast(1)),
    ("*[].operations[].setPriority.value", AtMost(PRIORITY_MAX)),
    ("*[].operations[]", One),
    ("exportV4[].prefixLength.min", AtMost(32)),
    ("exportV4[].prefixLength.max", AtMost(32)),
    ("importV4[].prefixLength.min", AtMost(32)),
    ("importV4[].prefixLength.max", AtMost(32)),
    ("exportV6[].prefixLength.min", AtMost(128)),
    ("exportV6[].prefixLength.max", AtMost(128)),
    ("importV6[].prefixLength.min", AtMost(128)),
    ("importV6[].prefixLength.max", AtMost(128)),
    (
        "*[]",
        Rule(
            "has(self.cidr) == has(self.matchOperator)",
            "cidr and matchOperator must be given together",
        ),
    ),
    (
        "*[]",
        Rule(
            "!has(self.prefixLength) || has(self.cidr)",
            "prefixLength must not be given without cidr",
        ),
    ),
    (
        "*[]",
        Rule(
            "!has(self.operations) || size(self.operations) == 0 || self.action == 'Accept'",
            "operations must not be given with action Reject",
        ),
    ),
];

pub(crate) const FELIX_CONFIGURATION: Limits =
    &[("vxlanPort", AtLeast(1)), ("vxlanVNI", AtMost(16_777_215))];

pub(crate) const IPAM_CONFIG: Limits = &[
    ("ipCooldownSeconds", AtMost(1200)),
    (
        "",
        Rule(
            "(has(self.strictAffinity) && self.strictAffinity) || !has(self.autoAllocateBlocks) || \
             self.autoAllocateBlocks",
            "autoAllocateBlocks must be true, unless strictAffinity is",
        ),
    ),
    (
        "",
        Rule(
            "(has(self.strictAffinity) && self.strictAffinity) || !has(self.maxBlocksPerHost) || \
             self.maxBlocksPerHost == 0",
            "maxBlocksPerHost must be 0, unless strictAffinity is true",
        ),
    ),
];

pub(crate) const BLOCK_AFFINITY: Limits = &[("type", Words(&["host", "virtual", ""]))];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_name() {
        assert!(is_of("*[].cidr", "exportV4[].cidr"));
        assert!(!is_of("*[].cidr", "exportV4[].prefixLength.cidr"));
        assert!(is_of("", ""));
        assert!(!is_of("", "cidr"));
    }
}
