//! What must hold whatever the text or the object.

use std::collections::BTreeMap;

use api::duration;
use api::ipam::{block_cidr, block_name};
use api::key::{Key, Kind};
use api::object::Object;
use api::params::Params;
use api::path;
use api::selector::Selector;
use api::validate::validate;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

fn ranges() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0_u8..=32).prop_map(|(addr, len)| IpNet::V4(Ipv4Net::new_assert(
            addr.into(),
            len
        ))
        .trunc()),
        (any::<u128>(), 0_u8..=128).prop_map(|(addr, len)| IpNet::V6(Ipv6Net::new_assert(
            addr.into(),
            len
        ))
        .trunc()),
    ]
}

/// JSON of some depth, with the names of real fields among others.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[a-z0-9./:-]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let name = prop_oneof![
            Just("spec".to_owned()),
            Just("metadata".to_owned()),
            Just("cidr".to_owned()),
            Just("bgp".to_owned()),
            Just("asNumber".to_owned()),
            Just("labels".to_owned()),
            Just("allocations".to_owned()),
            "[a-z]{1,6}",
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map(name, inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC{0,40}") {
        let _ = Selector::parse(&text);
        let _ = duration::parse(&text);
        let _ = path::parse(&text);
        let _ = block_cidr(&text);
    }

    #[test]
    fn text_near_a_selector_is_parsed_or_refused_within_it(
        text in "(has\\(|all\\(\\)|a|!|\\(|\\)|==|!=|in|not in|'x'|\"|\\{|\\}|,|&&|\\|\\|| ){0,12}"
    ) {
        match Selector::parse(&text) {
            Ok(selector) => { selector.matches(&BTreeMap::new()); }
            Err(error) => prop_assert!(error.position <= text.chars().count() + 1, "{error}"),
        }
    }

    #[test]
    fn no_environment_makes_the_table_panic(
        values in proptest::collection::vec("[a-z0-9./:=, -]{0,20}", 50)
    ) {
        let names = api::params::TABLE.iter().flat_map(|row| row.names.iter().copied());
        let variables = names.map(str::to_owned).zip(values);
        if let Err(errors) = Params::from_env(variables) {
            prop_assert!(errors.iter().all(|error| !error.allowed.is_empty()));
        }
    }

    #[test]
    fn a_blocks_name_is_the_block(range in ranges()) {
        prop_assert_eq!(block_cidr(&block_name(range)), Some(range));
        let key = Key::new(Kind::IPAMBlock, block_name(range));
        let path = path::of_key(&key).expect("a block's name says it all");
        prop_assert_eq!(path::parse(&path), Some(key), "{}", path);
    }

    #[test]
    fn what_is_decoded_is_decoded_again_from_what_is_encoded(json in json()) {
        for kind in Kind::ALL {
            let key = Key::new(kind, "x");
            let text = json.to_string();
            match Object::decode(&key, text.as_bytes()) {
                Ok(object) => {
                    validate(&object);
                    let again = Object::decode(&key, &object.encode());
                    prop_assert_eq!(again.as_ref(), Ok(&object));
                }
                Err(error) => prop_assert!(!error.message.is_empty()),
            }
        }
    }
}

#[test]
fn fields_of_other_releases_survive_a_write() {
    let json = br#"{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"p","generation":3},
        "spec":{"cidr":"10.0.0.0/8","assignmentMode":"Manual"},"status":{"conditions":[]}}"#;
    let object =
        Object::decode(&Key::new(Kind::IPPool, "p"), json).expect("a pool of today's Calico");
    let written: serde_json::Value = serde_json::from_slice(&object.encode()).expect("it is JSON");
    let read: serde_json::Value = serde_json::from_slice(json).expect("it is JSON");
    for pointer in [
        "/metadata/generation",
        "/spec/assignmentMode",
        "/status/conditions",
    ] {
        assert_eq!(written.pointer(pointer), read.pointer(pointer), "{pointer}");
    }
}
