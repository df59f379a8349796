//! Evaluation of [`RoutePolicy`].

use ipnet::IpNet;

use crate::config::{PolicyRule, RoutePolicy};
use crate::policy::{Applied, Subject, Verdict, judge};
use crate::route::RouteSource;

/// Whether the first rule that applies, or else the default, lets the route through.
pub(crate) fn permits(policy: &RoutePolicy, prefix: IpNet, originated: bool) -> bool {
    policy
        .rules
        .iter()
        .find(|rule| applies(rule, prefix, originated))
        .map_or(policy.default_accept, |rule| rule.accept)
}

/// Runs a route through a whole policy: the terms whose edits are to be made, or `None` when it does not pass.
pub(crate) fn decide(policy: &RoutePolicy, subject: &Subject<'_>) -> Option<Applied> {
    let judgement = judge(&policy.terms, subject);
    let originated = subject.source == RouteSource::Local;
    let passes = match judgement.verdict {
        Verdict::Accept => true,
        Verdict::Reject => false,
        Verdict::Continue => permits(policy, subject.prefix, originated),
    };
    passes.then_some(judgement.applied)
}

fn applies(rule: &PolicyRule, prefix: IpNet, originated: bool) -> bool {
    let length = prefix.prefix_len();
    rule.prefix
        .is_none_or(|covering| covering.contains(&prefix))
        && rule.min_len.is_none_or(|least| length >= least)
        && rule.max_len.is_none_or(|most| length <= most)
        && rule.originated.is_none_or(|wanted| wanted == originated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, max_len: Option<u8>, accept: bool) -> PolicyRule {
        PolicyRule {
            prefix: Some(prefix.parse().unwrap()),
            min_len: None,
            max_len,
            originated: None,
            accept,
        }
    }

    #[test]
    fn the_first_rule_that_covers_a_prefix_decides() {
        let policy = RoutePolicy {
            terms: Vec::new(),
            rules: vec![
                rule("10.0.0.0/16", Some(24), true),
                rule("10.0.0.0/8", None, false),
            ],
            default_accept: true,
        };
        let verdict = |prefix: &str| permits(&policy, prefix.parse().unwrap(), false);
        assert!(verdict("10.0.1.0/24"));
        assert!(!verdict("10.0.1.0/26"), "longer than the first rule allows");
        assert!(!verdict("10.1.0.0/16"));
        assert!(verdict("192.168.0.0/16"), "no rule covers it");
        assert!(verdict("fd00::/64"), "other family");
    }

    #[test]
    fn a_rule_can_ask_for_own_routes() {
        let mut own = rule("0.0.0.0/0", None, true);
        own.originated = Some(true);
        let policy = RoutePolicy {
            terms: Vec::new(),
            rules: vec![own],
            default_accept: false,
        };
        let prefix = "10.0.0.0/26".parse().unwrap();
        assert!(permits(&policy, prefix, true));
        assert!(!permits(&policy, prefix, false));
    }
}
