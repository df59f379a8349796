//! patch and label: changes of one resource that exists.

use anyhow::{Context, anyhow, bail};
use api::key::Key;
use api::object::Object;
use serde_json::Value;

use crate::check;
use crate::cli::{Label, Patch, PatchType};
use crate::kinds::kind_of;
use crate::labels::{self, Change};
use crate::objects::{Objects, Refused, key};
use crate::output;
use crate::print::outln;

/// `tortiectl patch`.
pub(crate) async fn patch(patch: Patch) -> anyhow::Result<()> {
    let kind = kind_of(&patch.kind)?;
    let key = key(kind, &patch.namespace, &patch.name);
    let change = Patching::read(&patch)?;
    let objects = Objects::open(&patch.datastore).await?;
    let stored = objects
        .get(&key)
        .await?
        .ok_or_else(|| Refused::Absent.error(&key))?;
    let wanted = change.of(&key, &stored)?;
    for note in check::without_effect(std::slice::from_ref(&wanted)) {
        eprintln!("{note}");
    }
    check::against_store(&objects, &[wanted]).await?;
    objects
        .write(&key, |stored| {
            let stored = stored.ok_or(Refused::Absent)?.map_err(Refused::Other)?;
            change.of(&key, &stored).map_err(Refused::Other)
        })
        .await
        .map_err(|refused| refused.error(&key))?;
    outln!("Successfully patched 1 '{kind}' resource(s)");
    Ok(())
}

enum Patching {
    Operations(json_patch::Patch),
    Merge(Value),
}

impl Patching {
    fn read(patch: &Patch) -> anyhow::Result<Self> {
        let value: Value = serde_saphyr::from_str(&patch.patch).map_err(|error| {
            anyhow!("--patch {:?}: neither JSON nor YAML: {error}", patch.patch)
        })?;
        match patch.kind_of_patch {
            PatchType::Json => {
                let operations = serde_json::from_value(value).with_context(|| {
                    format!(
                        "--patch {:?}: must be a list such as [{{\"op\": \"replace\", \"path\": \"/spec/disabled\", \"value\": true}}] (RFC 6902)",
                        patch.patch
                    )
                })?;
                Ok(Self::Operations(operations))
            }
            PatchType::Strategic | PatchType::Merge if value.is_object() => Ok(Self::Merge(value)),
            PatchType::Strategic | PatchType::Merge => bail!(
                "--patch {:?}: must be an object such as {{\"spec\": {{\"disabled\": true}}}}",
                patch.patch
            ),
        }
    }

    /// The patched object, which must be as sound as one from a manifest.
    fn of(&self, key: &Key, stored: &Object) -> anyhow::Result<Object> {
        let mut value = output::value(stored);
        match self {
            Self::Operations(operations) => {
                json_patch::patch(&mut value, operations)
                    .with_context(|| format!("{key}: the patch does not fit"))?;
            }
            Self::Merge(merge) => json_patch::merge(&mut value, merge),
        }
        let object = Object::decode(key, &serde_json::to_vec(&value)?)?;
        if object.key() != *key {
            bail!("{key}: a patch cannot change metadata.name or metadata.namespace");
        }
        check::each_alone(std::slice::from_ref(&object))?;
        Ok(object)
    }
}

/// `tortiectl label`.
pub(crate) async fn label(label: Label) -> anyhow::Result<()> {
    let kind = kind_of(&label.kind)?;
    let key = key(kind, &label.namespace, &label.name);
    let changes: Vec<Change> = label
        .labels
        .iter()
        .map(|text| labels::change(text, label.remove))
        .collect::<anyhow::Result<_>>()?;
    let objects = Objects::open(&label.datastore).await?;
    let said = std::cell::RefCell::new(Vec::new());
    objects
        .write(&key, |stored| {
            let stored = stored.ok_or(Refused::Absent)?.map_err(Refused::Other)?;
            let (object, done) =
                labelled(&stored, &changes, label.overwrite).map_err(Refused::Other)?;
            said.replace(done);
            Ok(object)
        })
        .await
        .map_err(|refused| refused.error(&key))?;
    for line in said.into_inner() {
        outln!("{line} {key}");
    }
    Ok(())
}

/// The object with other labels, and what was done to it.
fn labelled(
    stored: &Object,
    changes: &[Change],
    overwrite: bool,
) -> anyhow::Result<(Object, Vec<String>)> {
    let mut value = output::value(stored);
    let mut labels = stored.metadata().labels.clone();
    let mut said = Vec::new();
    for change in changes {
        match change {
            Change::Remove(label) => {
                if labels.remove(label).is_none() {
                    bail!("label {label} is not set");
                }
                said.push(format!("Successfully removed label {label} from"));
            }
            Change::Set(label, text) => match labels.insert(label.clone(), text.clone()) {
                None => said.push(format!("Successfully set label {label} on")),
                Some(before) if before != *text && !overwrite => bail!(
                    "label {label} is {before:?} already; --overwrite replaces it by {text:?}"
                ),
                Some(_) => said.push(format!("Successfully updated label {label} on")),
            },
        }
    }
    value["metadata"]["labels"] = serde_json::to_value(labels)?;
    Ok((
        Object::decode(&stored.key(), &serde_json::to_vec(&value)?)?,
        said,
    ))
}
