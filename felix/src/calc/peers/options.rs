//! What annotations of a BGPPeer ask of its sessions: what Calico's fields have no words for.
//!
//! Each is `networking.tortie.dev/bgp-` and a name of [`ROWS`]. One that is not known, or whose value cannot be used, holds the
//! session down, as a filter that does not exist does: what it was to keep out or to save would go unnoticed.

use std::collections::BTreeMap;
use std::time::Duration;

use bgp::config::{AddPaths, PeerConfig};
use bgp::policy::Edit;
use bgp::types::{AfiSafi, Role};

use super::super::problem::Reason;
use super::{Refusal, refusal};

const PREFIX: &str = "networking.tortie.dev/bgp-";
const FIELD: &str = "metadata.annotations";

/// An annotation.
struct Row {
    /// Behind [`PREFIX`].
    name: &'static str,
    /// The values that there are, for who wrote another.
    allowed: &'static str,
    /// Follows a value; `None` when it cannot be used.
    apply: fn(&str, &mut PeerConfig) -> Option<()>,
}

const ROWS: [Row; 12] = [
    Row {
        name: "add-paths",
        allowed: "receive, send or both",
        apply: |value, config| {
            let (receive, send) = match value {
                "receive" => (true, false),
                "send" => (false, true),
                "both" => (true, true),
                _ => return None,
            };
            config.options.add_paths = AddPaths { receive, send };
            Some(())
        },
    },
    Row {
        name: "connect-retry-time",
        allowed: "a time of 1s to 1h",
        apply: |value, config| {
            config.connect_retry_time = time(value, 1..=3600)?;
            Some(())
        },
    },
    Row {
        name: "enforce-first-as",
        allowed: "true or false",
        apply: |value, config| {
            config.options.enforce_first_as = value.parse().ok()?;
            Some(())
        },
    },
    Row {
        name: "extended-next-hop",
        allowed: "true or false",
        apply: |value, config| {
            config.options.ipv6_next_hops = value.parse().ok()?;
            if config.options.ipv6_next_hops {
                config.families.insert(AfiSafi::Ipv4Unicast);
            }
            Some(())
        },
    },
    Row {
        name: "graceful-shutdown",
        allowed: "true or false",
        apply: |value, config| {
            if value.parse().ok()? {
                config.import.last = vec![Edit::LastResortIfLeaving];
            }
            Some(())
        },
    },
    Row {
        name: "hold-time",
        allowed: "0s, for none, or a time of 3s to 65535s",
        apply: |value, config| {
            let none = || time(value, 0..=0);
            config.hold_time = time(value, 3..=65535).or_else(none)?;
            Some(())
        },
    },
    Row {
        name: "prefix-limit",
        allowed: "a number from 1 on",
        apply: |value, config| {
            config.prefix_limit = Some(value.parse().ok().filter(|limit| *limit > 0)?);
            Some(())
        },
    },
    Row {
        name: "prefix-warning",
        allowed: "a number from 1 on",
        apply: |value, config| {
            let from = value.parse().ok().filter(|limit| *limit > 0)?;
            config.options.prefix_warning = Some(from);
            Some(())
        },
    },
    Row {
        name: "require-policy",
        allowed: "true or false",
        apply: |value, config| {
            config.options.require_policy = value.parse().ok()?;
            Some(())
        },
    },
    Row {
        name: "role",
        allowed: "what this side is: provider, rs, rs-client, customer or peer",
        apply: |value, config| {
            config.options.role = Some(match value {
                "provider" => Role::Provider,
                "rs" => Role::RouteServer,
                "rs-client" => Role::RouteServerClient,
                "customer" => Role::Customer,
                "peer" => Role::Peer,
                _ => return None,
            });
            Some(())
        },
    },
    Row {
        name: "role-strict",
        allowed: "true or false",
        apply: |value, config| {
            config.options.strict_role = value.parse().ok()?;
            Some(())
        },
    },
    Row {
        name: "shutdown",
        allowed: "a text for the peer's operator, of at most 255 octets",
        apply: |value, config| {
            let text = (value.len() <= 255).then(|| value.into())?;
            config.options.shutdown = true;
            config.options.shutdown_text = Some(text);
            Some(())
        },
    },
];

/// Those of an object's annotations that are for this module.
pub(in super::super) fn of(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = annotations
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX));
    ours.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Gives a session what its object's annotations ask for.
pub(super) fn apply(
    annotations: &BTreeMap<String, String>,
    config: &mut PeerConfig,
) -> Result<(), Refusal> {
    for (name, value) in annotations {
        let word = name.strip_prefix(PREFIX).unwrap_or(name);
        let Some(row) = ROWS.iter().find(|row| row.name == word) else {
            let known = ROWS.map(|row| row.name).join(", ");
            let why = format!("{name}: not known; behind {PREFIX} there are {known}");
            return Err(refusal(FIELD, Reason::Invalid(why.into())));
        };
        (row.apply)(value, config).ok_or_else(|| {
            let why = format!("{name}: {value:?}: must be {}", row.allowed);
            refusal(FIELD, Reason::Invalid(why.into()))
        })?;
    }
    Ok(())
}

/// A time in whole seconds.
fn time(text: &str, seconds: std::ops::RangeInclusive<u64>) -> Option<Duration> {
    let time = api::duration::parse(text)?;
    let is_whole = time.subsec_nanos() == 0;
    (is_whole && seconds.contains(&time.as_secs())).then_some(time)
}
