//! BGPFilters as policy terms.
//!
//! The filters of a BGPPeer are taken in its order, the rules of each in theirs; the first rule that matches a route ends
//! the matter. A route that none matches is left to the terms that every session has, which stand behind them. A session that
//! names a filter that does not exist, or whose rules cannot be followed, is held down: going without would let through what the
//! operator wants kept back.

mod interface;

use std::collections::BTreeMap;

use api::bgp::BGPPeerSpec;
use api::bgp_filter::{BGPFilterRule, BGPFilterSpec, CommunityValue, Operation};
use bgp::config::PeerConfig;
use bgp::policy::{Edit, Match, PrefixRange, Term, Verdict};
use bgp::route::RouteSource;
use bgp::types::{AfiSafi, Asn};
use bgp::wire::attr::community::{Community, LargeCommunity};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::problem::Reason;
use super::super::route::local_pref;
use super::{Builder, Inputs, Refusal, refusal};

const FIELD: &str = "spec.filters";

/// Filters of one peer, with their names.
pub(super) type Filters<'a> = Vec<(&'a str, &'a BGPFilterSpec)>;

impl Inputs<'_> {
    /// The filters that a peer names.
    pub(super) fn filters_of<'a>(&'a self, spec: &'a BGPPeerSpec) -> Result<Filters<'a>, Refusal> {
        let found = |name: &'a String| match self.filters.get(name) {
            Some(filter) => Ok((name.as_str(), filter)),
            None => {
                let name = name.clone();
                Err(refusal(FIELD, Reason::FilterMissing { name }))
            }
        };
        spec.filters.iter().map(found).collect()
    }
}

/// Whether any rule is about devices.
pub(super) fn ask_for_interfaces(filters: &BTreeMap<String, BGPFilterSpec>) -> bool {
    let rules = filters.values().flat_map(|filter| {
        let of_v4 = filter.import_v4.iter().chain(&filter.export_v4);
        of_v4.chain(&filter.import_v6).chain(&filter.export_v6)
    });
    rules.into_iter().any(|rule| rule.interface.is_some())
}

impl Builder<'_> {
    /// Puts a session under filters.
    pub(super) fn apply_filters(
        &self,
        filters: &Filters<'_>,
        config: &mut PeerConfig,
    ) -> Result<(), Refusal> {
        let session = Session {
            inputs: self.inputs,
            local: config.local_asn.unwrap_or(self.asn),
            remote: config.asn,
        };
        let (mut imports, mut exports) = (Vec::new(), Vec::new());
        for family in &config.families {
            let v4 = *family == AfiSafi::Ipv4Unicast;
            for (name, spec) in filters {
                let (import, export) = if v4 {
                    (("importV4", &spec.import_v4), ("exportV4", &spec.export_v4))
                } else {
                    (("importV6", &spec.import_v6), ("exportV6", &spec.export_v6))
                };
                let mut import = session.terms(name, import.0, Direction::Import, import.1)?;
                let mut export = session.terms(name, export.0, Direction::Export, export.1)?;
                if config.families.len() > 1 {
                    for term in import.iter_mut().chain(&mut export) {
                        term.matches.push(all_of(*family));
                    }
                }
                imports.extend(import);
                exports.extend(export);
            }
        }
        config.import.terms.splice(0..0, imports);
        config.export.terms.splice(0..0, exports);
        Ok(())
    }
}

/// Every prefix of a family: a rule without `cidr` is about its own list's only.
fn all_of(family: AfiSafi) -> Match {
    let all: IpNet = match family {
        AfiSafi::Ipv4Unicast => Ipv4Net::default().into(),
        AfiSafi::Ipv6Unicast => Ipv6Net::default().into(),
    };
    Match::Prefix(vec![PrefixRange::or_longer(all)])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Import,
    Export,
}

/// What rules depend on.
struct Session<'a> {
    inputs: &'a Inputs<'a>,
    local: Asn,
    remote: Asn,
}

impl Session<'_> {
    fn terms(
        &self,
        filter: &str,
        list: &'static str,
        direction: Direction,
        rules: &[BGPFilterRule],
    ) -> Result<Vec<Term>, Refusal> {
        let mut terms = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let place = format!("{filter}: spec.{list}[{index}]");
            let more = self.rule(direction, rule, &place).map_err(|why| {
                let why = format!("BGPFilter {place}.{why}");
                refusal(FIELD, Reason::Invalid(why.into()))
            })?;
            terms.extend(more);
        }
        Ok(terms)
    }

    /// A rule's terms: one, or with `interface` one for learned and one for own routes, as far as any could match. The error
    /// names the field of the rule.
    fn rule(
        &self,
        direction: Direction,
        rule: &BGPFilterRule,
        name: &str,
    ) -> Result<Vec<Term>, String> {
        let Some(term) = self.term(direction, rule, name)? else {
            return Ok(Vec::new());
        };
        let Some(pattern) = &rule.interface else {
            return Ok(vec![term]);
        };
        let ways = self.inputs.leaves_by(pattern, direction);
        let by = |way: Vec<Match>| {
            let mut term = term.clone();
            term.matches.extend(way);
            term
        };
        Ok(ways.into_iter().map(by).collect())
    }

    /// All of a rule but `interface`; `None` when that matches no route of this session.
    fn term(
        &self,
        direction: Direction,
        rule: &BGPFilterRule,
        name: &str,
    ) -> Result<Option<Term>, String> {
        let internal = self.local == self.remote;
        match rule.peer_type.as_deref() {
            Some("eBGP") if internal => return Ok(None),
            Some("iBGP") if !internal => return Ok(None),
            _ => {}
        }
        let mut matches: Vec<Match> = prefix(rule)?.into_iter().collect();
        if rule.source.is_some() {
            matches.push(Match::PeerType(vec![RouteSource::Ebgp, RouteSource::Ibgp]));
        }
        for text in rule.communities.iter().flat_map(|one| &one.values) {
            matches.push(match community(text, "communities.values")? {
                CommunityValue::Standard(high, low) => Match::Community(vec![standard(high, low)]),
                CommunityValue::Large(global, one, two) => {
                    Match::LargeCommunity(vec![large(global, one, two)])
                }
            });
        }
        if let Some(priority) = rule.priority {
            matches.push(Match::LocalPref(local_pref(priority)));
        }
        let path: Vec<Asn> = rule.as_path_prefix.iter().copied().map(Asn).collect();
        // Rules for eBGP see the path with this session's AS in front; terms see it without.
        let seen = match path.as_slice() {
            [first, rest @ ..] if direction == Direction::Export && !internal => {
                if *first != self.local {
                    return Ok(None);
                }
                rest
            }
            path => path,
        };
        if !seen.is_empty() {
            matches.push(Match::AsPathBegins(seen.to_vec()));
        }
        let verdict = match rule.action.as_str() {
            "Accept" => Verdict::Accept,
            "Reject" => Verdict::Reject,
            other => return Err(format!("action = {other:?}: must be Accept or Reject")),
        };
        let edits: Vec<Vec<Edit>> = rule
            .operations
            .iter()
            .map(edits)
            .collect::<Result<_, _>>()?;
        Ok(Some(Term {
            name: name.into(),
            matches,
            edits: edits.concat(),
            verdict,
        }))
    }
}

fn prefix(rule: &BGPFilterRule) -> Result<Option<Match>, String> {
    let (Some(cidr), Some(operator)) = (rule.cidr, rule.match_operator.as_deref()) else {
        return Ok(None);
    };
    let cidr = cidr.trunc();
    let exactly = || Match::Prefix(vec![PrefixRange::exactly(cidr)]);
    let inside = || Match::Prefix(vec![range(cidr, rule)]);
    Ok(Some(match operator {
        "Equal" => exactly(),
        "NotEqual" => Match::Not(Box::new(exactly())),
        "In" => inside(),
        "NotIn" => Match::Not(Box::new(inside())),
        other => {
            return Err(format!(
                "matchOperator = {other:?}: must be Equal, NotEqual, In, NotIn"
            ));
        }
    }))
}

fn range(cidr: IpNet, rule: &BGPFilterRule) -> PrefixRange {
    let length = rule.prefix_length.unwrap_or_default();
    PrefixRange {
        prefix: cidr,
        ge: length.min.unwrap_or(0).max(cidr.prefix_len()),
        le: length.max.unwrap_or(cidr.max_prefix_len()),
    }
}

fn edits(operation: &Operation) -> Result<Vec<Edit>, String> {
    let mut edits = Vec::new();
    if let Some(add) = &operation.add_community {
        edits.push(add_community(community(
            &add.value,
            "operations.addCommunity.value",
        )?));
    }
    if let Some(prepend) = &operation.prepend_as_path {
        // The last one is put in front first.
        let one = |asn: &u32| Edit::Prepend {
            asn: Asn(*asn),
            times: 1,
        };
        edits.extend(prepend.prefix.iter().rev().map(one));
    }
    if let Some(set) = operation.set_priority {
        edits.push(Edit::SetLocalPref(local_pref(set.value)));
    }
    Ok(edits)
}

/// The change that gives a route a community that it lacks.
pub(super) fn add_community(value: CommunityValue) -> Edit {
    match value {
        CommunityValue::Standard(high, low) => Edit::AddCommunities(vec![standard(high, low)]),
        CommunityValue::Large(global, one, two) => {
            Edit::AddLargeCommunities(vec![large(global, one, two)])
        }
    }
}

fn community(text: &str, field: &str) -> Result<CommunityValue, String> {
    CommunityValue::parse(text)
        .ok_or_else(|| format!("{field} = {text:?}: must be `aa:nn` or `aa:nn:mm`"))
}

const fn standard(high: u16, low: u16) -> Community {
    Community((high as u32) << 16 | low as u32)
}

const fn large(global: u32, local1: u32, local2: u32) -> LargeCommunity {
    LargeCommunity {
        global,
        local1,
        local2,
    }
}
