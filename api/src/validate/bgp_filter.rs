//! Rules of `BGPFilter`.

use super::{Fault, INTERFACE_NAME_LEN_MAX, check_word, reserved_as_number};
use crate::bgp_filter::{BGPFilter, BGPFilterRule, CommunityValue, Operation};

/// Changes in one rule, and AS numbers in one `prependASPath`, at most.
const OPERATIONS_MAX: usize = 10;
/// Priorities run from 1 to this one, so that LOCAL_PREF has its complement.
const PRIORITY_MAX: u32 = 2_147_483_646;
const COMMUNITY: &str =
    "must be `aa:nn` of two numbers up to 65535, or `aa:nn:mm` of three up to 4294967295";

pub(crate) fn check(filter: &BGPFilter, faults: &mut Vec<Fault>) {
    let spec = &filter.spec;
    for (name, rules, bits) in [
        ("exportV4", &spec.export_v4, 32),
        ("importV4", &spec.import_v4, 32),
        ("exportV6", &spec.export_v6, 128),
        ("importV6", &spec.import_v6, 128),
    ] {
        for (index, rule) in rules.iter().enumerate() {
            check_rule(&format!("spec.{name}[{index}]"), rule, bits, faults);
        }
    }
}

fn check_rule(path: &str, rule: &BGPFilterRule, bits: u8, faults: &mut Vec<Fault>) {
    let at = |field: &str| format!("{path}.{field}");
    check_word(
        &at("action"),
        Some(&rule.action),
        &["Accept", "Reject"],
        faults,
    );
    check_prefix(path, rule, bits, faults);
    check_word(
        &at("source"),
        rule.source.as_ref(),
        &["RemotePeers"],
        faults,
    );
    check_word(
        &at("peerType"),
        rule.peer_type.as_ref(),
        &["eBGP", "iBGP"],
        faults,
    );
    if let Some(name) = &rule.interface {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.*-".contains(c);
        if name.is_empty() || name.len() > INTERFACE_NAME_LEN_MAX || !name.chars().all(fits) {
            let rule = format!(
                "must have 1 to {INTERFACE_NAME_LEN_MAX} letters, digits, `_`, `.`, `-` and `*` for any text"
            );
            faults.push(Fault::new(at("interface"), name, rule));
        }
    }
    if let Some(communities) = &rule.communities {
        let field = at("communities.values");
        match communities.values.as_slice() {
            [one] => check_community(&field, one, faults),
            values => faults.push(Fault::new(field, &values, "must hold exactly one")),
        }
    }
    if let Some(priority) = rule.priority {
        check_priority(&at("priority"), priority, faults);
    }
    if rule.operations.len() > OPERATIONS_MAX {
        let allowed = format!("must have {OPERATIONS_MAX} entries at most");
        faults.push(Fault::new(
            at("operations"),
            &rule.operations.len(),
            allowed,
        ));
    }
    if !rule.operations.is_empty() && rule.action == "Reject" {
        let why = format!("must not be given with {path}.action = Reject");
        faults.push(Fault::new(at("operations"), &rule.operations, why));
    }
    for (index, operation) in rule.operations.iter().enumerate() {
        check_operation(&format!("{path}.operations[{index}]"), operation, faults);
    }
}

fn check_prefix(path: &str, rule: &BGPFilterRule, bits: u8, faults: &mut Vec<Fault>) {
    let at = |field: &str| format!("{path}.{field}");
    let operator = rule.match_operator.as_ref();
    let words = ["Equal", "NotEqual", "In", "NotIn"];
    check_word(&at("matchOperator"), operator, &words, faults);
    match (rule.cidr, operator) {
        (Some(_), None) => {
            let why = format!(
                "must be given with {path}.cidr: one of {}",
                words.join(", ")
            );
            faults.push(Fault::absent(at("matchOperator"), why));
        }
        (None, Some(_)) => {
            let why = format!("must be given with {path}.matchOperator");
            faults.push(Fault::absent(at("cidr"), why));
        }
        (Some(cidr), _) if cidr.max_prefix_len() != bits => {
            let family = if bits == 32 { "an IPv4" } else { "an IPv6" };
            faults.push(Fault::new(
                at("cidr"),
                &cidr,
                format!("must be {family} range"),
            ));
        }
        (Some(_) | None, _) => {}
    }
    let Some(length) = rule.prefix_length else {
        return;
    };
    for (name, value) in [("min", length.min), ("max", length.max)] {
        if let Some(value) = value.filter(|value| *value > bits) {
            let field = at(&format!("prefixLength.{name}"));
            faults.push(Fault::new(field, &value, format!("must be 0 to {bits}")));
        }
    }
    if rule.cidr.is_none() {
        let why = format!("must not be given without {path}.cidr");
        faults.push(Fault::new(at("prefixLength"), &length, why));
    } else if operator.is_some_and(|operator| operator.ends_with("qual")) {
        let why = format!(
            "must not be given with {path}.matchOperator = Equal or NotEqual: those compare the length already"
        );
        faults.push(Fault::new(at("prefixLength"), &length, why));
    }
}

fn check_operation(path: &str, operation: &Operation, faults: &mut Vec<Fault>) {
    let given = [
        operation.add_community.is_some(),
        operation.prepend_as_path.is_some(),
        operation.set_priority.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        let why = "must have exactly one of addCommunity, prependASPath, setPriority";
        faults.push(Fault::new(path, operation, why));
    }
    if let Some(add) = &operation.add_community {
        check_community(&format!("{path}.addCommunity.value"), &add.value, faults);
    }
    if let Some(prepend) = &operation.prepend_as_path {
        let asns = &prepend.prefix;
        let reserved = |asn: &u32| reserved_as_number(*asn).is_some();
        if asns.is_empty() || asns.len() > OPERATIONS_MAX || asns.iter().any(reserved) {
            let why = format!(
                "must hold 1 to {OPERATIONS_MAX} AS numbers other than 0 (RFC 7607) and 23456 (AS_TRANS, RFC 6793 §9)"
            );
            faults.push(Fault::new(
                format!("{path}.prependASPath.prefix"),
                asns,
                why,
            ));
        }
    }
    if let Some(set) = operation.set_priority {
        check_priority(&format!("{path}.setPriority.value"), set.value, faults);
    }
}

pub(super) fn check_community(field: &str, text: &str, faults: &mut Vec<Fault>) {
    if CommunityValue::parse(text).is_none() {
        faults.push(Fault::new(field, &text, COMMUNITY));
    }
}

pub(super) fn check_priority(field: &str, priority: u32, faults: &mut Vec<Fault>) {
    if !(1..=PRIORITY_MAX).contains(&priority) {
        faults.push(Fault::new(
            field,
            &priority,
            format!("must be 1 to {PRIORITY_MAX}"),
        ));
    }
}
