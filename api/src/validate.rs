//! What must hold of an object beyond being readable.
//!
//! Every rule that is broken is named, not only the first: field, value, rule.

pub(crate) mod bgp;
pub(crate) mod bgp_filter;
pub(crate) mod felix;
pub(crate) mod ipam;
pub(crate) mod node;
pub(crate) mod pool;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::duration;
use crate::key::Kind;
use crate::metadata::{Metadata, Resource};
use crate::object::Object;
use crate::selector::Selector;
pub(crate) use bgp::reserved_as_number;
pub use pool::{Overlap, overlaps};

/// Characters in a selector, at most.
const SELECTOR_LEN_MAX: usize = 1024;
/// The Restart Time of graceful restart has 12 bits (RFC 4724 §3).
const RESTART_SECONDS_MAX: u64 = 4095;
/// Bytes in the name of a network device, at most (IFNAMSIZ less the NUL).
pub(crate) const INTERFACE_NAME_LEN_MAX: usize = 15;

/// One field that breaks one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field, such as `spec.cidr`.
    pub field: String,
    /// Its value as JSON; empty when it is absent.
    pub value: String,
    /// What must hold.
    pub rule: String,
}

impl Fault {
    pub(crate) fn new(
        field: impl Into<String>,
        value: &impl Serialize,
        rule: impl Into<String>,
    ) -> Self {
        let mut value = serde_json::to_string(value).unwrap_or_else(|error| error.to_string());
        // A whole block in an error text helps nobody.
        if let Some((at, _)) = value.char_indices().nth(120) {
            value.truncate(at);
            value.push('…');
        }
        Self {
            field: field.into(),
            value,
            rule: rule.into(),
        }
    }

    pub(crate) fn absent(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            value: String::new(),
            rule: rule.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            write!(f, "{} (not given): {}", self.field, self.rule)
        } else {
            write!(f, "{} = {}: {}", self.field, self.value, self.rule)
        }
    }
}

/// Every rule that `object` breaks by itself; rules between objects are functions of their own ([`overlaps`]).
pub fn validate(object: &Object) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_name(object.kind(), object.metadata(), &mut faults);
    object.validate(&mut faults);
    faults
}

/// Checks a name that people choose, a node's among them: a DNS subdomain (RFC 1123), as Kubernetes has it.
///
/// # Errors
/// What it must be.
pub fn check_object_name(name: &str) -> Result<(), &'static str> {
    let end_fits =
        |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let fits = name.len() <= 253
        && end_fits(name.chars().next())
        && end_fits(name.chars().next_back())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.');
    if fits {
        Ok(())
    } else {
        Err(
            "must be lower-case letters, digits, `-` and `.`, 253 at most, with a letter or digit at both ends",
        )
    }
}

/// What objects of a kind may be called.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Naming {
    /// As people like.
    Chosen,
    /// `default`.
    Default,
    /// `default`, or `node.` and a node's name.
    DefaultOrNode,
    /// What the object holds, or whose it is, gives it its name.
    Given,
}

fn check_name(kind: Kind, metadata: &Metadata, faults: &mut Vec<Fault>) {
    let name = &metadata.name;
    let naming = kind.naming();
    if name.is_empty() {
        faults.push(Fault::absent("metadata.name", "must be given"));
    } else if naming != Naming::Given
        && let Err(why) = check_object_name(name)
    {
        faults.push(Fault::new("metadata.name", name, why));
    }
    let rule = match naming {
        Naming::Default if name != "default" => "must be `default`",
        Naming::DefaultOrNode if name != "default" && !name.starts_with("node.") => {
            "must be `default`, or `node.` and a node's name"
        }
        _ => "",
    };
    if !rule.is_empty() && !name.is_empty() {
        faults.push(Fault::new("metadata.name", name, rule));
    }
    if kind.namespaced() && metadata.namespace.is_empty() {
        faults.push(Fault::absent("metadata.namespace", "must be given"));
    }
}

/// For kinds whose fields may hold all that can be read.
pub(crate) fn nothing_more<S>(_: &Resource<S>, _: &mut Vec<Fault>) {}

fn check_selector(field: &str, text: &str, faults: &mut Vec<Fault>) {
    if text.len() > SELECTOR_LEN_MAX {
        faults.push(Fault::new(
            field,
            &text,
            format!("must have {SELECTOR_LEN_MAX} characters at most"),
        ));
    } else if let Err(error) = Selector::parse(text) {
        faults.push(Fault::new(
            field,
            &text,
            format!(
                "must be a selector: at character {} ({}) expected {}",
                error.position, error.found, error.expected
            ),
        ));
    }
}

fn check_restart_time(field: &str, text: Option<&String>, faults: &mut Vec<Fault>) {
    let Some(text) = text else { return };
    if duration::parse(text).is_none_or(|time| time.as_secs() > RESTART_SECONDS_MAX) {
        faults.push(Fault::new(
            field,
            text,
            format!(
                "must be a duration such as 120s, {RESTART_SECONDS_MAX}s at most (RFC 4724 §3)"
            ),
        ));
    }
}

fn check_word(field: &str, value: Option<&String>, words: &[&str], faults: &mut Vec<Fault>) {
    if let Some(value) = value
        && !words.contains(&value.as_str())
    {
        faults.push(Fault::new(
            field,
            value,
            format!("must be one of {}", words.join(", ")),
        ));
    }
}

fn check_as_number(field: &str, number: Option<u32>, faults: &mut Vec<Fault>) {
    if let Some(number) = number
        && let Some(why) = bgp::reserved_as_number(number)
    {
        faults.push(Fault::new(
            field,
            &number,
            format!("must be 1 to 4294967295, but not 23456: {why}"),
        ));
    }
}

fn check_masked(field: &str, cidr: IpNet, faults: &mut Vec<Fault>) {
    if cidr != cidr.trunc() {
        faults.push(Fault::new(
            field,
            &cidr,
            format!("must have no host bits; the range is {}", cidr.trunc()),
        ));
    }
}

fn check_mac(field: &str, text: &str, faults: &mut Vec<Fault>) {
    if crate::node::parse_mac(text).is_none() {
        faults.push(Fault::new(
            field,
            &text,
            "must be a MAC address such as 66:0e:2b:4c:5d:01",
        ));
    }
}

/// An address that other nodes can send to.
fn is_unicast(addr: IpAddr) -> bool {
    let link_local = match addr {
        IpAddr::V4(addr) => addr.is_link_local() || addr.is_broadcast(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    !(addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || link_local)
}

#[cfg(test)]
mod tests;
