//! Policy terms: what a route must look like, what is changed in it, and what becomes of it.
//!
//! A term applies when all its matches hold. Its edits are seen by the terms after it. Import terms see attributes as
//! received; export terms see them as they stand in the Loc-RIB, and their edits are made on what would be sent: after
//! our AS was put in front and next hop and MED were set for the peer. So an edit has the last word.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::config::RoutePolicy;
use crate::rib::export::LOCAL_PREF_DEFAULT;
use crate::route::RouteSource;
use crate::types::{Asn, PeerName};
use crate::wire::attr::community::{Community, ExtendedCommunity, LargeCommunity};
use crate::wire::attr::{NextHop, Origin, PathAttributes};

/// One term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// For people.
    pub name: Arc<str>,
    /// All must hold; none holds for every route.
    pub matches: Vec<Match>,
    /// Made in order when the term applies and does not reject.
    pub edits: Vec<Edit>,
    /// What becomes of the route.
    pub verdict: Verdict,
}

/// What becomes of a route to which a term applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It passes.
    Accept,
    /// It does not.
    Reject,
    /// The next term decides; after the last one, the policy's default.
    Continue,
}

/// A condition. Of a list, one member is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The prefix is in one of these.
    Prefix(Vec<PrefixRange>),
    /// RFC 1997.
    Community(Vec<Community>),
    /// RFC 4360.
    ExtendedCommunity(Vec<ExtendedCommunity>),
    /// RFC 8092.
    LargeCommunity(Vec<LargeCommunity>),
    /// One of these ASes stands in AS_PATH.
    AsPathContains(Vec<Asn>),
    /// AS_PATH begins with these, in this order. Every path begins with none.
    AsPathBegins(Vec<Asn>),
    /// AS_PATH ends with one of these. An empty path, of our own AS, ends with none.
    OriginatedBy(Vec<Asn>),
    /// AS_PATH is this long, a set counted as one (RFC 4271 §9.1.2.2 a).
    AsPathLength {
        /// Least.
        min: usize,
        /// Most.
        max: usize,
    },
    /// LOCAL_PREF is this; a route without it counts as having 100, as in the decision.
    LocalPref(u32),
    /// The next hop is in one of these.
    NextHop(Vec<IpNet>),
    /// ORIGIN.
    Origin(Vec<Origin>),
    /// How the route was learned.
    PeerType(Vec<RouteSource>),
    /// From whom.
    Source(Vec<PeerName>),
    /// The condition does not hold.
    Not(Box<Self>),
}

/// A prefix and how long those inside it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixRange {
    /// Covers what is meant.
    pub prefix: IpNet,
    /// Least length; the prefix's own when lower.
    pub ge: u8,
    /// Most.
    pub le: u8,
}

impl PrefixRange {
    /// The prefix itself and nothing inside it.
    pub fn exactly(prefix: IpNet) -> Self {
        let length = prefix.prefix_len();
        Self {
            prefix,
            ge: length,
            le: length,
        }
    }

    /// The prefix and everything inside it.
    pub fn or_longer(prefix: IpNet) -> Self {
        Self {
            prefix,
            ge: prefix.prefix_len(),
            le: prefix.max_prefix_len(),
        }
    }

    fn has(&self, prefix: IpNet) -> bool {
        (self.ge..=self.le).contains(&prefix.prefix_len()) && self.prefix.contains(&prefix)
    }
}

/// A change of attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// In place of those that are there.
    SetCommunities(Vec<Community>),
    /// Those that are missing.
    AddCommunities(Vec<Community>),
    /// Those that are there.
    RemoveCommunities(Vec<Community>),
    /// As for communities.
    SetExtendedCommunities(Vec<ExtendedCommunity>),
    /// As for communities.
    AddExtendedCommunities(Vec<ExtendedCommunity>),
    /// As for communities.
    RemoveExtendedCommunities(Vec<ExtendedCommunity>),
    /// As for communities.
    SetLargeCommunities(Vec<LargeCommunity>),
    /// As for communities.
    AddLargeCommunities(Vec<LargeCommunity>),
    /// As for communities.
    RemoveLargeCommunities(Vec<LargeCommunity>),
    /// LOCAL_PREF. Never sent to an eBGP peer (RFC 4271 §5.1.5).
    SetLocalPref(u32),
    /// MULTI_EXIT_DISC, or none.
    SetMed(Option<u32>),
    /// Ignored for a route of the other family.
    SetNextHop(IpAddr),
    /// ORIGIN.
    SetOrigin(Origin),
    /// LOCAL_PREF 0 for a route whose sender is about to go away: one with GRACEFUL_SHUTDOWN (RFC 8326 §4.1).
    LastResortIfLeaving,
    /// AS_PATH, in front; never AS 0.
    Prepend {
        /// Which AS.
        asn: Asn,
        /// How often.
        times: u8,
    },
}

/// A route before a policy.
pub(crate) struct Subject<'a> {
    pub(crate) prefix: IpNet,
    pub(crate) attributes: &'a PathAttributes,
    pub(crate) source: RouteSource,
    pub(crate) peer: Option<&'a PeerName>,
}

/// What terms say of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evaluation {
    /// `Continue` when no term decided.
    pub(crate) verdict: Verdict,
    pub(crate) applied: Applied,
}

/// Indexes of the terms whose edits are to be made, in order.
pub(crate) type Applied = SmallVec<[u16; 4]>;

/// Runs a route through terms.
pub(crate) fn evaluate(terms: &[Term], subject: &Subject<'_>) -> Evaluation {
    let mut applied = Applied::new();
    let mut edited: Option<PathAttributes> = None;
    for (index, term) in terms.iter().enumerate() {
        let attributes = edited.as_ref().unwrap_or(subject.attributes);
        if !term.matches.iter().all(|m| m.holds(subject, attributes)) {
            continue;
        }
        if term.verdict == Verdict::Reject {
            return Evaluation {
                verdict: Verdict::Reject,
                applied: Applied::new(),
            };
        }
        if !term.edits.is_empty() {
            applied.push(u16::try_from(index).expect("terms are fewer than 65536"));
        }
        if term.verdict == Verdict::Accept {
            return Evaluation {
                verdict: Verdict::Accept,
                applied,
            };
        }
        let attributes = edited.get_or_insert_with(|| subject.attributes.clone());
        term.edits.iter().for_each(|edit| edit.make(attributes));
    }
    Evaluation {
        verdict: Verdict::Continue,
        applied,
    }
}

/// Runs a route through a whole policy: the terms whose edits are to be made, or `None` when it does not pass.
pub(crate) fn decide(policy: &RoutePolicy, subject: &Subject<'_>) -> Option<Applied> {
    let evaluation = evaluate(&policy.terms, subject);
    let passes = match evaluation.verdict {
        Verdict::Accept => true,
        Verdict::Reject => false,
        Verdict::Continue => policy.default_accept,
    };
    passes.then_some(evaluation.applied)
}

/// Makes the edits of terms that applied, and the changes that come last.
pub(crate) fn edit(policy: &RoutePolicy, applied: &Applied, attributes: &mut PathAttributes) {
    let edits = applied
        .iter()
        .filter_map(|index| policy.terms.get(usize::from(*index)))
        .flat_map(|term| &term.edits);
    let edits = edits.chain(&policy.last);
    edits.for_each(|edit| edit.make(attributes));
}

/// Whether a route that passes is changed at all.
pub(crate) fn changes(
    policy: &RoutePolicy,
    applied: &Applied,
    attributes: &PathAttributes,
) -> bool {
    let concerns = |edit: &Edit| *edit != Edit::LastResortIfLeaving || is_leaving(attributes);
    !applied.is_empty() || policy.last.iter().any(concerns)
}

fn is_leaving(attributes: &PathAttributes) -> bool {
    let communities = &attributes.communities;
    communities.contains(&Community::GRACEFUL_SHUTDOWN)
}

impl Match {
    fn holds(&self, subject: &Subject<'_>, attributes: &PathAttributes) -> bool {
        let path = &attributes.as_path;
        match self {
            Self::Prefix(ranges) => ranges.iter().any(|range| range.has(subject.prefix)),
            Self::Community(any) => any.iter().any(|c| attributes.communities.contains(c)),
            Self::ExtendedCommunity(any) => {
                let present = &attributes.extended_communities;
                any.iter().any(|c| present.contains(c))
            }
            Self::LargeCommunity(any) => {
                let present = &attributes.large_communities;
                any.iter().any(|c| present.contains(c))
            }
            Self::AsPathContains(any) => any.iter().any(|asn| path.contains(*asn)),
            Self::AsPathBegins(first) => path.asns().take(first.len()).eq(first.iter().copied()),
            Self::LocalPref(value) => attributes.local_pref.unwrap_or(LOCAL_PREF_DEFAULT) == *value,
            Self::OriginatedBy(any) => path.origin_as().is_some_and(|asn| any.contains(&asn)),
            Self::AsPathLength { min, max } => (*min..=*max).contains(&path.length()),
            Self::NextHop(nets) => attributes
                .next_hop
                .is_some_and(|hop| nets.iter().any(|net| net.contains(&hop.address()))),
            Self::Origin(any) => any.contains(&attributes.origin),
            Self::PeerType(any) => any.contains(&subject.source),
            Self::Source(any) => subject.peer.is_some_and(|peer| any.contains(peer)),
            Self::Not(inner) => !inner.holds(subject, attributes),
        }
    }
}

impl Edit {
    fn make(&self, attributes: &mut PathAttributes) {
        match self {
            Self::SetCommunities(all) => attributes.communities = all.as_slice().into(),
            Self::AddCommunities(all) => add(&mut attributes.communities, all),
            Self::RemoveCommunities(all) => remove(&mut attributes.communities, all),
            Self::SetExtendedCommunities(all) => {
                attributes.extended_communities = all.as_slice().into();
            }
            Self::AddExtendedCommunities(all) => add(&mut attributes.extended_communities, all),
            Self::RemoveExtendedCommunities(all) => {
                remove(&mut attributes.extended_communities, all);
            }
            Self::SetLargeCommunities(all) => attributes.large_communities = all.as_slice().into(),
            Self::AddLargeCommunities(all) => add(&mut attributes.large_communities, all),
            Self::RemoveLargeCommunities(all) => remove(&mut attributes.large_communities, all),
            Self::SetLocalPref(value) => attributes.local_pref = Some(*value),
            Self::SetMed(value) => attributes.med = *value,
            Self::SetNextHop(address) => {
                let next_hop = NextHop::from(*address);
                let same = |old: NextHop| old.family() == next_hop.family();
                if attributes.next_hop.is_none_or(same) {
                    attributes.next_hop = Some(next_hop);
                }
            }
            Self::SetOrigin(origin) => attributes.origin = *origin,
            Self::LastResortIfLeaving => {
                if is_leaving(attributes) {
                    attributes.local_pref = Some(0);
                }
            }
            Self::Prepend { asn, times } => {
                if asn.0 != 0 && *times > 0 {
                    attributes.as_path = attributes.as_path.prepend(*asn, usize::from(*times));
                }
            }
        }
    }
}

fn add<T: Copy + PartialEq>(present: &mut Box<[T]>, more: &[T]) {
    let mut all = present.to_vec();
    for one in more {
        if !all.contains(one) {
            all.push(*one);
        }
    }
    *present = all.into();
}

fn remove<T: Copy + PartialEq>(present: &mut Box<[T]>, less: &[T]) {
    *present = present
        .iter()
        .copied()
        .filter(|one| !less.contains(one))
        .collect();
}

#[cfg(test)]
mod tests;
