//! The same octets by our decoder and by others: messages captured from other daemons, and those of the fuzz corpus in which
//! we find no fault. What differs for a reason stands in [`DISAGREEMENTS`].

mod others;

use std::collections::BTreeSet;
use std::panic;
use std::path::Path;

use bgp::types::{AfiSafi, Asn};
use bgp::wire::attr::AsnWidth;
use bgp::wire::framer::Framer;
use bgp::wire::message::{Message, MessageType, RawMessage};
use bgp::wire::update::{FirstAsCheck, PeerKind, ReceiveContext, Update};
use ipnet::IpNet;
use others::Other;

/// What differs, with whom, and who is right.
struct Disagreement {
    with: &'static [Other],
    why: &'static str,
    /// Whether what we say and they say differs in this, and in nothing else.
    applies: fn(&Said, &Result<Said, String>) -> bool,
}

/// Anything else must be the same. In all of them we do what the RFCs say.
const DISAGREEMENTS: &[Disagreement] = &[
    Disagreement {
        with: &[Other::Bgpkit],
        why: "RFC 7911 §3: it takes prefixes that begin with a zero octet, a default route, for ones with path identifiers, though \
              none were negotiated; BIRD sends such fields and means the default route",
        applies: |ours, theirs| {
            let has_default = ours.announced.iter().any(|prefix| prefix.prefix_len() == 0);
            has_default && same_but(ours, theirs, |said| said.announced.clear())
        },
    },
    Disagreement {
        with: &[Other::NetGauze, Other::Routecore],
        why: "RFC 6793 §4.2.3: AS_PATH of a 2-octet peer is to be merged with AS4_PATH; they show both as they are",
        applies: |ours, theirs| {
            let has_trans = |said: &Said| said.as_path.contains("23456");
            theirs.as_ref().is_ok_and(has_trans)
                && same_but(ours, theirs, |said| said.as_path.clear())
        },
    },
    Disagreement {
        with: &[Other::Routecore],
        why: "RFC 4271 §4.3: bits of a prefix beyond its length are irrelevant; it refuses them",
        applies: |_, theirs| *theirs == Err("non-zero host portion".to_owned()),
    },
    Disagreement {
        with: &[Other::NetGauze],
        why: "RFC 4271 §5: an optional attribute that is not recognised is not looked into; it knows BGP-LS (RFC 9552) and refuses \
              a malformed one",
        applies: |_, theirs| {
            theirs
                .as_ref()
                .is_err_and(|error| error.contains("BgpLsError"))
        },
    },
];

fn same_but(ours: &Said, theirs: &Result<Said, String>, forget: fn(&mut Said)) -> bool {
    let (mut ours, mut theirs) = (ours.clone(), theirs.clone());
    forget(&mut ours);
    theirs.iter_mut().for_each(forget);
    theirs == Ok(ours)
}

/// What each says of an UPDATE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

fn context(peer: PeerKind, width: AsnWidth) -> ReceiveContext {
    ReceiveContext {
        peer,
        peer_asn: Asn(65001),
        asn_width: width,
        families: [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast].into(),
        add_paths: BTreeSet::new(),
        ipv6_next_hops: false,
        first_as: FirstAsCheck::Off,
    }
}

/// Compares one message with each of the others; `None` when it is no UPDATE free of faults.
fn compare(raw: &RawMessage, peer: PeerKind, width: AsnWidth) -> Option<Result<(), String>> {
    let context = context(peer, width);
    if raw.kind != MessageType::Update {
        return None;
    }
    let Ok(Message::Update(update)) = Message::decode(raw, &context) else {
        return None;
    };
    if !update.faults.is_empty() {
        return None;
    }
    let ours = ours(&update);
    let wrong: Vec<String> = Other::ALL
        .into_iter()
        .filter_map(|other| differs(other, &ours, raw, peer, width))
        .collect();
    Some(match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("")),
    })
}

/// What one of the others says otherwise, and is not known to.
fn differs(
    other: Other,
    ours: &Said,
    raw: &RawMessage,
    peer: PeerKind,
    width: AsnWidth,
) -> Option<String> {
    let body = raw.body.clone();
    let read = panic::catch_unwind(|| other.read(&body, width));
    let theirs = read
        .unwrap_or_else(|_| Err("it panics".to_owned()))
        .map(|mut theirs| {
            if theirs.announced.is_empty() {
                // We keep attributes for announced routes only.
                theirs = Said {
                    withdrawn: theirs.withdrawn,
                    ..self::ours(&Update::default())
                };
            }
            // RFC 4271 §5.1.5: an eBGP peer's LOCAL_PREF is dropped, which a parser of archives does not do.
            if peer == PeerKind::Ebgp {
                theirs.local_pref = ours.local_pref;
            }
            theirs
        });
    if theirs.as_ref() == Ok(ours) {
        return None;
    }
    let known = DISAGREEMENTS
        .iter()
        .find(|row| row.with.contains(&other) && (row.applies)(ours, &theirs));
    match known {
        Some(row) => {
            println!("known of {other:?}: {}", row.why);
            None
        }
        None => Some(format!(
            "\n  we   {ours:?}\n  {other:?} {theirs:?}\n  {body:02x?}"
        )),
    }
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
fn captured_messages_say_the_same_to_all() {
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

/// Spoils one field.
type Change = fn(&mut Said);

/// Sabotage: whatever one of the fields says otherwise, each of the others notices.
#[test]
fn a_difference_in_any_field_is_a_surprise() {
    // ORIGIN IGP, AS_PATH 65001, NEXT_HOP, MED 5, LOCAL_PREF 100, community 1:2, large community 1:2:3; 192.0.2.0/24 announced,
    // 198.51.100.0/24 withdrawn.
    let attributes = [
        &[0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9][..],
        &[0x40, 3, 4, 10, 0, 0, 1, 0x80, 4, 4, 0, 0, 0, 5],
        &[0x40, 5, 4, 0, 0, 0, 100, 0xc0, 8, 4, 0, 1, 0, 2],
        &[0xc0, 32, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3],
    ]
    .concat();
    let mut body = vec![
        0,
        4,
        24,
        198,
        51,
        100,
        0,
        u8::try_from(attributes.len()).expect("short"),
    ];
    body.extend(&attributes);
    body.extend([24, 192, 0, 2]);
    let length = u16::try_from(19 + body.len()).expect("short").to_be_bytes();
    let mut bytes = vec![0xff; 16];
    bytes.extend(length);
    bytes.push(2);
    bytes.extend(&body);
    let raw = messages(&bytes).remove(0);
    let (peer, width) = (PeerKind::Ibgp, AsnWidth::Four);
    assert_eq!(compare(&raw, peer, width), Some(Ok(())));
    let context = context(peer, width);
    let Ok(Message::Update(update)) = Message::decode(&raw, &context) else {
        panic!("an UPDATE");
    };
    let changes: [(&str, Change); 7] = [
        ("announced", |said| said.announced.clear()),
        ("withdrawn", |said| said.withdrawn.clear()),
        ("as_path", |said| said.as_path.push('1')),
        ("origin", |said| said.origin = 2),
        ("med", |said| said.med = None),
        ("local_pref", |said| said.local_pref = Some(7)),
        ("communities", |said| said.communities.clear()),
    ];
    for (field, change) in changes {
        let mut changed = ours(&update);
        change(&mut changed);
        for other in Other::ALL {
            let found = differs(other, &changed, &raw, peer, width);
            assert!(found.is_some(), "{other:?} notices nothing of {field}");
        }
    }
}

#[test]
fn what_we_find_no_fault_in_says_the_same_to_all() {
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
