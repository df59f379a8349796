//! What is fed to the readers of manifests and selectors, and what must hold then: shared by the fuzz targets and by the
//! replay of the corpora in `api/tests/corpus.rs`.

use std::collections::BTreeMap;

use api::key::Kind;
use api::manifest::{complete, documents, items};
use api::object::Object;
use api::selector::Selector;
use api::validate::validate;

/// Selectors: nothing panics, an error names a place inside the text, and a selector means the same when its own text is
/// read again.
#[allow(dead_code, reason = "each fuzz target uses one of the two")]
pub(crate) fn selector(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Selector::parse(text) {
        Ok(selector) => {
            let again = Selector::parse(&selector.to_string());
            let labels = [("a", "b"), ("rack", "r1"), ("", "")];
            let labels: BTreeMap<String, String> = labels
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            for labels in [labels, BTreeMap::new()] {
                let matches = again.as_ref().map(|again| again.matches(&labels));
                assert_eq!(matches, Ok(selector.matches(&labels)), "{text:?}");
                assert!(!selector.is_all() || selector.matches(&labels), "{text:?}");
            }
        }
        Err(error) => {
            assert!(
                (1..=text.chars().count() + 1).contains(&error.position),
                "{error}"
            );
            assert!(!error.expected.is_empty(), "{error}");
        }
    }
}

/// Manifests: nothing panics, what was read can be written and is the same when it is read again, and its rules are
/// broken or kept alike.
#[allow(dead_code, reason = "each fuzz target uses one of the two")]
pub(crate) fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(documents) = documents(text) else {
        return;
    };
    for mut value in documents.into_iter().flat_map(items) {
        let kind = value.get("kind").and_then(|kind| kind.as_str());
        let Some(kind) = kind.and_then(Kind::from_name) else {
            continue;
        };
        let Some(key) = complete(kind, &mut value, "default") else {
            continue;
        };
        let Ok(object) = Object::decode(&key, value.to_string().as_bytes()) else {
            continue;
        };
        assert_eq!(object.key(), key, "{text:?}");
        let again = Object::decode(&key, &object.encode());
        let again = again.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(again, object, "{text:?}");
        assert_eq!(validate(&again), validate(&object), "{text:?}");
        assert_eq!(again.unread(), object.unread(), "{text:?}");
    }
}
