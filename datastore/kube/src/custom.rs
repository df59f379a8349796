//! Custom resources: an object as the API server has it, and as the store's users have it.
//!
//! In `crd.projectcalico.org/v1` Calico keeps what it knows of an object's metadata, beside labels and annotations, in the
//! annotation `projectcalico.org/metadata`: the time of creation, finalizers. Older releases kept labels and annotations
//! there, too. `spec` and what stands beside it pass through as they are, byte for byte.

use std::collections::BTreeMap;

use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::store::KeyValue;
use datastore::version::Version;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::group::Group;

const METADATA: &str = "projectcalico.org/metadata";
/// Where the API server's own finalizers and owners wait while Calico's stand in their place.
const NATIVE: &str = "nativeMetadata";
const NATIVE_FIELDS: [&str; 2] = ["finalizers", "ownerReferences"];
/// What stands in Kubernetes' metadata and nowhere else.
const KUBERNETES: [&str; 5] = ["name", "namespace", "labels", "annotations", "uid"];

const MANAGED_FIELDS: &str = "managedFields";
/// Kinds of which the API server need not keep who wrote which field: only programs write them, as a whole, and to keep it for
/// each address of a block costs it time. An empty entry says so (Kubernetes: Server-Side Apply, "Clearing managedFields"); of an
/// object that is made it does not count, so that the second write ends it.
const UNTRACKED: [Kind; 2] = [Kind::IPAMBlock, Kind::BlockAffinity];

/// Raw parts of an object, by name.
type Parts = BTreeMap<String, Box<RawValue>>;

/// An object as it was read.
pub(crate) fn read(group: Group, kind: Kind, object: &[u8]) -> Result<KeyValue, String> {
    assembled(group, kind, parts(object)?)
}

/// An object as it was sent, with the metadata that the answer to it has.
pub(crate) fn read_written(
    group: Group,
    kind: Kind,
    sent: &[u8],
    answer: &[u8],
) -> Result<KeyValue, String> {
    let mut parts = parts(sent)?;
    parts.remove("metadata");
    parts.extend(self::parts(answer)?.remove_entry("metadata"));
    assembled(group, kind, parts)
}

fn assembled(group: Group, kind: Kind, mut parts: Parts) -> Result<KeyValue, String> {
    let metadata = parts.remove("metadata").ok_or("it has no metadata")?;
    let metadata: Map<String, Value> =
        serde_json::from_str(metadata.get()).map_err(|error| format!("metadata: {error}"))?;
    let text = |field: &str| metadata.get(field).and_then(Value::as_str);
    let name = text("name").ok_or("metadata has no name")?.to_owned();
    let version = version(text("resourceVersion"), text("uid"))?;
    let metadata = match group {
        Group::Crd => calicos(metadata),
        Group::V3 => own(metadata),
    };
    let value = whole(
        api::metadata::api_version().as_str(),
        kind.name(),
        &metadata,
        parts,
    );
    Ok(KeyValue {
        key: Key::new(kind, name),
        value,
        version,
    })
}

/// The object to be written. `version`: the one it takes the place of.
pub(crate) fn write(
    group: Group,
    key: &Key,
    value: &[u8],
    version: Option<&Version>,
) -> Result<Vec<u8>, String> {
    let mut parts = parts(value)?;
    let metadata: Map<String, Value> = match parts.remove("metadata") {
        Some(metadata) => {
            serde_json::from_str(metadata.get()).map_err(|error| format!("metadata: {error}"))?
        }
        None => Map::new(),
    };
    let mut metadata = match group {
        Group::Crd => kubernetes(metadata),
        Group::V3 => own(metadata),
    };
    metadata.insert("name".to_owned(), key.name.as_str().into());
    metadata.remove("namespace");
    match version {
        Some(version) => {
            let number = version.number().map(|number| number.to_string());
            metadata.insert("resourceVersion".to_owned(), number.into());
            metadata.insert("uid".to_owned(), version.life().into());
        }
        None => {
            metadata.remove("uid");
        }
    }
    if UNTRACKED.contains(&key.kind) {
        metadata.insert(MANAGED_FIELDS.to_owned(), serde_json::json!([{}]));
    }
    if key.kind == Kind::BlockAffinity
        && let Some(spec) = parts.get_mut("spec")
    {
        *spec = deleted_as(group, spec)?;
    }
    Ok(whole(group.name(), group.kind(key.kind), &metadata, parts).into())
}

fn parts(object: &[u8]) -> Result<Parts, String> {
    let mut parts: Parts =
        serde_json::from_slice(object).map_err(|error| format!("no JSON object: {error}"))?;
    parts.remove("apiVersion");
    parts.remove("kind");
    Ok(parts)
}

/// The version of an object that has these.
pub(crate) fn version(number: Option<&str>, uid: Option<&str>) -> Result<Version, String> {
    let number = number.ok_or("metadata has no resourceVersion")?;
    let number = number
        .parse()
        .map_err(|_| format!("metadata.resourceVersion: {number:?} is no number"))?;
    let uid = uid
        .filter(|uid| !uid.is_empty())
        .ok_or("metadata has no uid")?;
    Ok(Version::of(number, uid))
}

fn whole(api_version: &str, kind: &str, metadata: &Map<String, Value>, parts: Parts) -> Bytes {
    let mut text = format!(
        "{{\"apiVersion\":{},\"kind\":{},\"metadata\":{}",
        Value::from(api_version),
        Value::from(kind),
        Value::Object(metadata.clone())
    );
    for (name, value) in parts {
        text.push(',');
        text.push_str(&Value::from(name).to_string());
        text.push(':');
        text.push_str(value.get());
    }
    text.push('}');
    text.into()
}

/// Without what the API server keeps for itself.
fn own(mut metadata: Map<String, Value>) -> Map<String, Value> {
    for field in ["resourceVersion", MANAGED_FIELDS, "selfLink"] {
        metadata.remove(field);
    }
    metadata
}

/// Calico's metadata out of Kubernetes'.
fn calicos(metadata: Map<String, Value>) -> Map<String, Value> {
    let mut metadata = own(metadata);
    let kept = metadata
        .get("annotations")
        .and_then(|annotations| annotations.get(METADATA)?.as_str())
        .and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    let Some(mut kept) = kept else {
        return metadata;
    };
    kept.retain(|_, value| !value.is_null());
    if let Some(annotations) = metadata
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(METADATA);
    }
    let native: Map<String, Value> = NATIVE_FIELDS
        .iter()
        .filter_map(|field| metadata.remove_entry(*field))
        .collect();
    if !native.is_empty() {
        kept.insert(NATIVE.to_owned(), native.into());
    }
    let is_empty = |value: &Value| value.as_object().is_none_or(Map::is_empty);
    for (field, value) in metadata {
        let older = matches!(field.as_str(), "labels" | "annotations");
        let of_calico = !KUBERNETES.contains(&field.as_str()) && kept.contains_key(&field);
        // What an older release kept there counts where Kubernetes has none.
        let nothing = older && is_empty(&value);
        if !(of_calico || nothing) {
            kept.insert(field, value);
        }
    }
    kept
}

/// Kubernetes' metadata with Calico's in an annotation.
fn kubernetes(metadata: Map<String, Value>) -> Map<String, Value> {
    let mut metadata = own(metadata);
    let mut out = Map::new();
    for field in KUBERNETES {
        if let Some((field, value)) = metadata.remove_entry(field) {
            out.insert(field, value);
        }
    }
    if let Some(Value::Object(native)) = metadata.remove(NATIVE) {
        out.extend(native);
    }
    // The API server's counter of what was asked for.
    metadata.remove("generation");
    let kept = Value::Object(metadata).to_string();
    let annotations = out.entry("annotations").or_insert_with(|| json!({}));
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[METADATA] = kept.into();
    out
}

/// An affinity's tombstone is a text in one group and a boolean in the other.
fn deleted_as(group: Group, spec: &RawValue) -> Result<Box<RawValue>, String> {
    let mut fields: Parts =
        serde_json::from_str(spec.get()).map_err(|error| format!("spec: {error}"))?;
    let Some(deleted) = fields.get_mut("deleted") else {
        return Ok(spec.to_owned());
    };
    let is = deleted.get().trim_matches('"') == "true";
    let value = match group {
        Group::Crd => json!(is.to_string()),
        Group::V3 => json!(is),
    };
    let value = raw(&value)?;
    if deleted.get() == value.get() {
        return Ok(spec.to_owned());
    }
    *deleted = value;
    raw(&fields)
}

fn raw(value: &impl Serialize) -> Result<Box<RawValue>, String> {
    to_raw_value(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_and_written(group: Group, kind: Kind, object: &str) -> (Value, Value) {
        let read = read(group, kind, object.as_bytes()).unwrap();
        let written = write(group, &read.key, &read.value, Some(&read.version)).unwrap();
        let json = |text: &[u8]| serde_json::from_slice(text).unwrap();
        (json(&read.value), json(&written))
    }

    #[test]
    fn spec_and_what_stands_beside_it_pass_as_they_are() {
        let parts = r#""spec":{"b":1.50,"a":[null,{"x":18446744073709551615}]},"status":{"c":1e3}"#;
        let object = format!(
            r#"{{"kind":"IPPool","metadata":{{"name":"p","uid":"u","resourceVersion":"7","managedFields":[]}},{parts}}}"#
        );
        let read = read(Group::Crd, Kind::IPPool, object.as_bytes()).unwrap();
        assert_eq!(read.version, Version::of(7, "u"));
        let written = write(Group::Crd, &read.key, &read.value, Some(&read.version)).unwrap();
        for text in [&read.value[..], &written] {
            let text = std::str::from_utf8(text).unwrap();
            assert!(text.ends_with(&format!("{parts}}}")), "{text}");
            assert!(!text.contains("managedFields"), "{text}");
        }
    }

    #[test]
    fn who_wrote_which_field_of_a_block_is_not_to_be_kept() {
        let object = r#"{"metadata":{"name":"a","uid":"u","resourceVersion":"7"},"spec":{}}"#;
        for (kind, wanted) in [
            (Kind::IPAMBlock, json!([{}])),
            (Kind::BlockAffinity, json!([{}])),
            (Kind::IPPool, json!(null)),
        ] {
            let (_, written) = read_and_written(Group::Crd, kind, object);
            assert_eq!(written["metadata"]["managedFields"], wanted, "{kind:?}");
        }
    }

    #[test]
    fn an_affinitys_tombstone_is_a_text_in_one_group_and_a_boolean_in_the_other() {
        let object = |deleted: &str| {
            format!(
                r#"{{"metadata":{{"name":"a","uid":"u","resourceVersion":"7"}},"spec":{{"deleted":{deleted},"node":"n"}}}}"#
            )
        };
        for (group, deleted, wanted) in [
            (Group::Crd, "\"true\"", json!("true")),
            (Group::V3, "true", json!(true)),
            (Group::V3, "\"false\"", json!(false)),
            (Group::Crd, "false", json!("false")),
        ] {
            let (_, written) = read_and_written(group, Kind::BlockAffinity, &object(deleted));
            assert_eq!(written["spec"]["deleted"], wanted, "{group:?} {deleted}");
            assert_eq!(written["apiVersion"], group.name());
        }
        let config = r#"{"metadata":{"name":"default","uid":"u","resourceVersion":"7"},"spec":{}}"#;
        let (read, written) = read_and_written(Group::V3, Kind::IPAMConfig, config);
        assert_eq!(
            (read["kind"].clone(), written["kind"].clone()),
            (json!("IPAMConfig"), json!("IPAMConfiguration"))
        );
        assert!(
            written["metadata"].get("annotations").is_none(),
            "{written}"
        );
    }
}
