//! `tortiectl get`: objects of the datastore, once or as they change.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::bail;
use api::key::{Key, Kind};
use api::object::Object;
use api::selector::Selector;
use serde_json::json;

use crate::cli::{Format, Get};
use crate::kinds::{kind_of, kinds_of_all};
use crate::labels;
use crate::objects::{Change, Objects, key};
use crate::output::{self, Group, Output};
use crate::print::outln;

/// `tortiectl get`.
pub(crate) async fn get(get: Get) -> anyhow::Result<()> {
    let objects = Objects::open(&get.datastore).await?;
    let selector = get.selector.as_deref().map(labels::selector).transpose()?;
    let request = Request {
        get: &get,
        selector,
    };
    if get.kind.eq_ignore_ascii_case("all") {
        return request.all(&objects).await;
    }
    let kind = kind_of(&get.kind)?;
    if get.watch {
        request.watch(&objects, kind).await
    } else if get.names.is_empty() {
        let (group, unreadable) = request.group(&objects, kind).await?;
        output::objects(&[group], &get.output, false)?;
        refuse(unreadable)
    } else {
        request.named(&objects, kind).await
    }
}

/// Names what could not be shown.
fn refuse(unreadable: Vec<String>) -> anyhow::Result<()> {
    if unreadable.is_empty() {
        Ok(())
    } else {
        bail!(unreadable.join("\n"))
    }
}

struct Request<'a> {
    get: &'a Get,
    selector: Option<Selector>,
}

impl Request<'_> {
    /// Every kind that people write, those without objects left out of tables.
    async fn all(&self, objects: &Objects) -> anyhow::Result<()> {
        if !self.get.names.is_empty() || self.get.watch {
            bail!(
                "`get all` takes neither names nor --watch; name a kind: tortiectl get KIND NAME"
            );
        }
        let mut groups = Vec::new();
        let mut unreadable = Vec::new();
        for kind in kinds_of_all() {
            let (group, faults) = self.group(objects, kind).await?;
            unreadable.extend(faults);
            if !group.objects.is_empty() {
                groups.push(group);
            }
        }
        if groups.is_empty() {
            eprintln!("No resources found");
        }
        match &self.get.output {
            Output::Table { wide } => {
                for group in &groups {
                    let (mut headings, mut rows) = group.table(*wide);
                    let kind = group.kind.to_string();
                    headings.insert(0, "KIND");
                    rows.iter_mut().for_each(|row| row.insert(0, kind.clone()));
                    outln!("{}", output::table(&headings, &rows));
                }
            }
            other => output::objects(&groups, other, false)?,
        }
        refuse(unreadable)
    }

    /// The objects of a kind that are wanted, and what is wrong with those that cannot be read.
    async fn group(&self, objects: &Objects, kind: Kind) -> anyhow::Result<(Group, Vec<String>)> {
        let (found, unreadable) = objects.list(kind).await?;
        let wanted = found.into_iter().filter(|object| self.wants(object));
        let group = self.of(objects, kind, wanted.collect()).await?;
        Ok((group, unreadable))
    }

    async fn named(&self, objects: &Objects, kind: Kind) -> anyhow::Result<()> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for name in &self.get.names {
            let key = key(kind, &self.get.namespace, name);
            match objects.get(&key).await? {
                Some(object) => found.push(object),
                None => missing.push(format!("resource does not exist: {key}")),
            }
        }
        if !found.is_empty() {
            let group = self.of(objects, kind, found).await?;
            output::objects(&[group], &self.get.output, self.get.names.len() == 1)?;
        }
        if missing.is_empty() {
            Ok(())
        } else {
            bail!(missing.join("\n"))
        }
    }

    async fn of(&self, store: &Objects, kind: Kind, objects: Vec<Object>) -> anyhow::Result<Group> {
        let default_asn = match kind {
            Kind::Node => store.default_asn().await?,
            _ => 0,
        };
        let objects = objects.into_iter().map(|object| self.exported(object));
        Ok(Group {
            kind,
            objects: objects.collect::<anyhow::Result<_>>()?,
            all_namespaces: self.get.all_namespaces,
            default_asn,
        })
    }

    /// Without what belongs to this cluster alone, if that is asked for.
    fn exported(&self, object: Object) -> anyhow::Result<Object> {
        if !self.get.export {
            return Ok(object);
        }
        let mut value = output::value(&object);
        if let Some(metadata) = value["metadata"].as_object_mut() {
            for field in ["resourceVersion", "uid", "creationTimestamp"] {
                metadata.remove(field);
            }
        }
        Ok(Object::decode(&object.key(), &serde_json::to_vec(&value)?)?)
    }

    fn wants(&self, object: &Object) -> bool {
        let metadata = object.metadata();
        self.here(&object.key())
            && self
                .selector
                .as_ref()
                .is_none_or(|selector| selector.matches(&metadata.labels))
    }

    fn here(&self, key: &Key) -> bool {
        let get = self.get;
        let namespace =
            get.all_namespaces || !key.kind.namespaced() || key.namespace == get.namespace;
        namespace && (get.names.is_empty() || get.names.contains(&key.name))
    }

    /// Shows what there is, and then each change as it comes.
    async fn watch(&self, objects: &Objects, kind: Kind) -> anyhow::Result<()> {
        let default_asn = match kind {
            Kind::Node => objects.default_asn().await?,
            _ => 0,
        };
        let mut shown = Shown {
            request: self,
            kind,
            default_asn,
            keys: BTreeSet::new(),
            widths: Vec::new(),
        };
        objects.watch(kind, |change| shown.change(change)).await
    }
}

/// What a watch has shown.
struct Shown<'a> {
    request: &'a Request<'a>,
    kind: Kind,
    default_asn: u32,
    keys: BTreeSet<Key>,
    widths: Vec<usize>,
}

impl Shown<'_> {
    fn change(&mut self, change: Change) -> anyhow::Result<()> {
        let (key, object) = match change {
            Change::Written(object) if self.request.wants(&object) => (object.key(), Some(object)),
            // It may have lost the labels that were asked for.
            Change::Written(object) => (object.key(), None),
            Change::Deleted(key) => (key, None),
            Change::Unreadable(fault) => {
                eprintln!("{fault}");
                return Ok(());
            }
        };
        match object {
            Some(object) => {
                let word = if self.keys.insert(key) {
                    "ADDED"
                } else {
                    "MODIFIED"
                };
                self.show(word, &self.request.exported(*object)?)
            }
            None if self.keys.remove(&key) => self.gone(&key),
            None => Ok(()),
        }
    }

    fn show(&mut self, word: &str, object: &Object) -> anyhow::Result<()> {
        let group = Group {
            kind: self.kind,
            objects: vec![object.clone()],
            all_namespaces: self.request.get.all_namespaces,
            default_asn: self.default_asn,
        };
        match &self.request.get.output {
            Output::Table { wide } => {
                let (mut headings, mut rows) = group.table(*wide);
                headings.insert(0, "EVENT");
                rows.iter_mut()
                    .for_each(|row| row.insert(0, word.to_owned()));
                let mut text = String::new();
                if self.widths.is_empty() {
                    self.widths = output::widths(&headings, &rows);
                    self.widths[0] = "MODIFIED".len();
                    text = output::line(&self.widths, headings.into_iter());
                }
                for row in &rows {
                    text += &output::line(&self.widths, row.iter().map(String::as_str));
                }
                print(&text)
            }
            Output::Data(format) => print_event(*format, word, &output::value(object)),
            other => output::objects(&[group], other, true),
        }
    }

    fn gone(&self, key: &Key) -> anyhow::Result<()> {
        match &self.request.get.output {
            Output::Data(format) => {
                let object = json!({"kind": key.kind.name(),
                    "metadata": {"name": key.name, "namespace": key.namespace}});
                print_event(*format, "DELETED", &object)
            }
            Output::Table { .. } if key.namespace.is_empty() => print(&output::line(
                &self.widths,
                ["DELETED", &key.name].into_iter(),
            )),
            Output::Table { .. } => print(&format!("DELETED   {}/{}\n", key.namespace, key.name)),
            _ => Ok(()),
        }
    }
}

fn print_event(format: Format, word: &str, object: &serde_json::Value) -> anyhow::Result<()> {
    let event = json!({"type": word, "object": object});
    print(&match format {
        Format::Yaml => format!("---\n{}", serde_saphyr::to_string(&event)?),
        _ => format!("{event}\n"),
    })
}

/// At once, and an error once nobody reads any more.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
