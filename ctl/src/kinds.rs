//! Names of kinds as operators type them.

use anyhow::bail;
use api::key::Kind;

/// The kind of a name in any case, singular, plural or short.
pub(crate) fn kind_of(text: &str) -> anyhow::Result<Kind> {
    let wanted = text.to_lowercase();
    let found = Kind::ALL.into_iter().find(|kind| {
        kind.name().to_lowercase() == wanted
            || kind.plural() == wanted
            || kind.aliases().contains(&wanted.as_str())
    });
    match found {
        Some(kind) => Ok(kind),
        None => {
            let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            bail!("kind {text:?} is unknown; allowed: {}", known.join(", "))
        }
    }
}

/// What `get all` shows: the kinds that people write, and pods' endpoints.
pub(crate) fn kinds_of_all() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| !kind.internal())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_every_name_calicoctl_takes() {
        for (text, kind) in [
            ("ippool", Kind::IPPool),
            ("IPPools", Kind::IPPool),
            ("pool", Kind::IPPool),
            ("no", Kind::Node),
            ("bgpPeer", Kind::BGPPeer),
            ("bp", Kind::BGPPeer),
            ("bf", Kind::BGPFilter),
            ("bgpconfig", Kind::BGPConfiguration),
            ("wep", Kind::WorkloadEndpoint),
            ("ipamConfiguration", Kind::IPAMConfig),
            ("ipReservation", Kind::IPReservation),
        ] {
            assert_eq!(kind_of(text).unwrap(), kind, "{text}");
        }
        let error = kind_of("pod").unwrap_err().to_string();
        assert!(error.contains("IPPool"), "{error}");
    }

    #[test]
    fn every_kind_has_its_row() {
        for kind in Kind::ALL {
            assert_eq!(kind_of(kind.plural()).unwrap(), kind);
        }
    }
}
