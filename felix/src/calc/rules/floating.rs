//! Floating addresses: what others send to them goes to the pod that has them.

use ipnet::IpNet;

use super::Facts;
use super::filter::chain;
use crate::rules::{Action, Chain, Family, Hook, Match, OUTPUT, PREROUTING, Rule, Ruleset};

/// Where destinations are translated.
const PRIORITY: i32 = -100;
const TO_POD: &str = "nat-cali-fip-dnat";
const FROM_POD: &str = "nat-cali-fip-snat";

impl Facts<'_> {
    pub(super) fn floating_ips(
        &self,
        family: Family,
        ruleset: &mut Ruleset,
        postrouting: &mut Vec<Rule>,
    ) {
        let pairs = self.workloads.floating();
        let pairs = pairs.filter(|(external, _)| Family::of(*external) == family);
        let (mut to_pod, mut from_pod) = (Vec::new(), Vec::new());
        for (external, own) in pairs {
            to_pod.push(Rule {
                matches: vec![Match::DestinationWithin(IpNet::from(external))],
                action: Action::DestinationNat(own),
            });
            // A pod that sends to its own floating address would get an answer from itself.
            let itself = IpNet::from(own);
            from_pod.push(Rule {
                matches: vec![
                    Match::SourceWithin(itself),
                    Match::DestinationWithin(itself),
                ],
                action: Action::SourceNat(external, None),
            });
        }
        if to_pod.is_empty() {
            return;
        }
        ruleset.chains.push(chain(TO_POD, to_pod));
        ruleset.chains.push(chain(FROM_POD, from_pod));
        for (name, number) in [("nat-PREROUTING", PREROUTING), ("nat-OUTPUT", OUTPUT)] {
            let hook = Hook {
                kind: "nat",
                number,
                priority: PRIORITY,
            };
            ruleset.chains.push(Chain {
                name,
                hook: Some(hook),
                rules: vec![jump(TO_POD)],
            });
        }
        postrouting.push(jump(FROM_POD));
    }
}

fn jump(chain: &'static str) -> Rule {
    Rule {
        matches: Vec::new(),
        action: Action::Jump(chain),
    }
}
