//! The same octets by our decoder and by `bgpkit-parser`: messages captured from other daemons, and those of the fuzz
//! corpus in which we find no fault. What differs for a reason stands in [`DISAGREEMENTS`].

use std::collections::BTreeSet;
use std::path::Path;

use bgp::types::{AfiSafi, Asn};
use bgp::wire::attr::AsnWidth;
use bgp::wire::framer::Framer;
use bgp::wire::message::{Message, MessageType, RawMessage};
use bgp::wire::update::{FirstAsCheck, PeerKind, ReceiveContext, Update};
use bgpkit_parser::models::{AsnLength, BgpUpdateMessage, MetaCommunity};
use bgpkit_parser::parser::bgp::messages::parse_bgp_update_message;
use ipnet::IpNet;

/// What differs, by what we read in the message, and who is right. Anything else must be the same.
const DISAGREEMENTS: &[(&str, fn(&Said) -> bool)] = &[(
    "bgpkit-parser takes prefixes that begin with a zero octet, a default route, for ones with path identifiers (RFC 7911), \
     though none were negotiated: BIRD sends such fields, and means the default route",
    |said| said.announced.iter().any(|prefix| prefix.prefix_len() == 0),
)];

/// What both say of an UPDATE.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    announced: BTreeSet<IpNet>,
    withdrawn: BTreeSet<IpNet>,
    as_path: String,
    origin: u8,
    med: Option<u32>,
    local_pref: Option<u32>,
    communities: BTreeSet<String>,
}

fn ours(update: &Update) -> Said {
    let attributes = update.attributes.clone().unwrap_or_default();
    let plain = attributes
        .communities
        .iter()
        .map(|c| format!("{}:{}", c.high(), c.low()));
    let large = attributes.large_communities.iter().map(ToString::to_string);
    Said {
        announced: update.reach.iter().flat_map(|reach| &reach.nlri).collect(),
        withdrawn: update.unreach.iter().flatten().collect(),
        as_path: attributes.as_path.to_string(),
        origin: attributes.origin.code(),
        med: attributes.med,
        local_pref: attributes.local_pref,
        communities: plain.chain(large).collect(),
    }
}

fn theirs(update: &BgpUpdateMessage) -> Said {
    let attributes = &update.attributes;
    let nets = |all: &[bgpkit_parser::models::NetworkPrefix]| -> Vec<IpNet> {
        all.iter().map(|net| net.prefix.trunc()).collect()
    };
    let mut announced = nets(&update.announced_prefixes);
    announced.extend(
        attributes
            .get_reachable_nlri()
            .iter()
            .flat_map(|nlri| nets(&nlri.prefixes)),
    );
    let mut withdrawn = nets(&update.withdrawn_prefixes);
    withdrawn.extend(
        attributes
            .get_unreachable_nlri()
            .iter()
            .flat_map(|nlri| nets(&nlri.prefixes)),
    );
    let shown = |community: MetaCommunity| match community {
        MetaCommunity::Plain(plain) => Some(match plain.to_string().as_str() {
            "no-export" => "65535:65281".to_owned(),
            "no-advertise" => "65535:65282".to_owned(),
            "no-export-sub-confed" => "65535:65283".to_owned(),
            other => other.to_owned(),
        }),
        MetaCommunity::Large(large) => Some(large.to_string()),
        MetaCommunity::Extended(_) | MetaCommunity::Ipv6Extended(_) => None,
    };
    let mut said = Said {
        announced: announced.into_iter().collect(),
        withdrawn: withdrawn.into_iter().collect(),
        as_path: attributes
            .effective_as_path()
            .map(|path| path.to_string())
            .unwrap_or_default(),
        origin: attributes.origin() as u8,
        med: attributes.multi_exit_discriminator(),
        local_pref: attributes.local_preference(),
        communities: attributes.iter_communities().filter_map(shown).collect(),
    };
    if said.announced.is_empty() {
        // We keep attributes for announced routes only.
        let nothing = Update::default();
        let withdrawn = std::mem::take(&mut said.withdrawn);
        said = Said {
            withdrawn,
            ..ours(&nothing)
        };
    }
    said
}

/// Compares one message; `None` when it is no UPDATE free of faults.
fn compare(raw: &RawMessage, peer: PeerKind, width: AsnWidth) -> Option<Result<(), String>> {
    let context = ReceiveContext {
        peer,
        peer_asn: Asn(65001),
        asn_width: width,
        families: [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast].into(),
        first_as: FirstAsCheck::Off,
    };
    if raw.kind != MessageType::Update {
        return None;
    }
    let Ok(Message::Update(update)) = Message::decode(raw, &context) else {
        return None;
    };
    if !update.faults.is_empty() {
        return None;
    }
    let length = match width {
        AsnWidth::Two => AsnLength::Bits16,
        AsnWidth::Four => AsnLength::Bits32,
    };
    Some(
        match parse_bgp_update_message(raw.body.clone(), false, &length) {
            Err(error) => Err(format!("they refuse it: {error}")),
            Ok(parsed) => {
                let (mut ours, theirs) = (ours(&update), theirs(&parsed));
                // RFC 4271 §5.1.5: an eBGP peer's LOCAL_PREF is dropped, which a parser of archives does not do.
                if peer == PeerKind::Ebgp {
                    ours.local_pref = theirs.local_pref;
                }
                let known = DISAGREEMENTS.iter().find(|(_, applies)| applies(&ours));
                match known {
                    _ if ours == theirs => Ok(()),
                    Some((reason, _)) => {
                        println!("known: {reason}");
                        Ok(())
                    }
                    None => Err(format!("\n  we   {ours:?}\n  they {theirs:?}")),
                }
            }
        },
    )
}

fn messages(bytes: &[u8]) -> Vec<RawMessage> {
    let mut framer = Framer::new();
    framer.allow_extended();
    framer.extend(bytes);
    std::iter::from_fn(|| framer.next_message().ok().flatten()).collect()
}

fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .expect("committed")
        .map(|entry| entry.expect("readable").path())
        .map(|path| {
            (
                path.file_name()
                    .expect("a file")
                    .to_string_lossy()
                    .into_owned(),
                std::fs::read(path).expect("readable"),
            )
        })
        .collect();
    all.sort();
    all
}

fn check(found: Vec<(String, Option<Result<(), String>>)>, least: usize) {
    let compared = found.iter().filter(|(_, result)| result.is_some()).count();
    println!("{compared} UPDATEs compared");
    assert!(compared >= least, "only {compared} UPDATEs");
    let surprise = |(name, result): (String, Option<Result<(), String>>)| match result {
        Some(Err(what)) => Some(format!("{name}: {what}")),
        Some(Ok(())) | None => None,
    };
    let surprises: Vec<String> = found.into_iter().filter_map(surprise).collect();
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

#[test]
fn captured_messages_say_the_same_to_both() {
    let mut found = Vec::new();
    for (name, text) in files("../../bgp/tests/golden") {
        let width = if name.contains("2octet") {
            AsnWidth::Two
        } else {
            AsnWidth::Four
        };
        let peer = if name.contains("ibgp") {
            PeerKind::Ibgp
        } else {
            PeerKind::Ebgp
        };
        let text = String::from_utf8(text).expect("text");
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        {
            let line = line.trim();
            let octet = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("hex");
            let bytes: Vec<u8> = (0..line.len()).step_by(2).map(octet).collect();
            for raw in messages(&bytes) {
                found.push((format!("{name} {line}"), compare(&raw, peer, width)));
            }
        }
    }
    check(found, 10);
}

#[test]
fn what_we_find_no_fault_in_says_the_same_to_both() {
    let mut found = Vec::new();
    for (name, data) in files("../fuzz/corpus/message") {
        let Some((flags, stream)) = data.split_first() else {
            continue;
        };
        let peer = if flags & 1 != 0 {
            PeerKind::Ebgp
        } else {
            PeerKind::Ibgp
        };
        let width = if flags & 2 != 0 {
            AsnWidth::Two
        } else {
            AsnWidth::Four
        };
        for raw in messages(stream) {
            found.push((name.clone(), compare(&raw, peer, width)));
        }
    }
    check(found, 20);
}
