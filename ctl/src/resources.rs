//! apply, create, replace, delete, validate: what manifests do to the datastore.

use anyhow::bail;
use api::key::Kind;
use api::object::Object;

use crate::check;
use crate::cli::{Delete, Files};
use crate::in_use;
use crate::kinds::kind_of;
use crate::manifest::read_all;
use crate::objects::{Objects, Refused, key};
use crate::print::outln;

/// `tortiectl apply`.
pub(crate) async fn apply(files: Files) -> anyhow::Result<()> {
    write(files, Verb::Apply).await
}

/// `tortiectl create`.
pub(crate) async fn create(files: Files) -> anyhow::Result<()> {
    write(files, Verb::Create).await
}

/// `tortiectl replace`.
pub(crate) async fn replace(files: Files) -> anyhow::Result<()> {
    write(files, Verb::Replace).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Apply,
    Create,
    Replace,
}

/// The objects of the files, of which each is sound by itself.
fn read_checked(files: &Files) -> anyhow::Result<Vec<Object>> {
    let objects = read_all(&files.filename, &files.namespace)?;
    check::each_alone(&objects)?;
    for note in check::without_effect(&objects) {
        eprintln!("{note}");
    }
    Ok(objects)
}

async fn write(files: Files, verb: Verb) -> anyhow::Result<()> {
    let wanted = read_checked(&files)?;
    let objects = Objects::open(&files.datastore).await?;
    check::against_store(&objects, &wanted).await?;
    let mut report = Report::new(match verb {
        Verb::Apply => "applied",
        Verb::Create => "created",
        Verb::Replace => "replaced",
    });
    for object in &wanted {
        in_use::before_write(&objects, object).await?;
        let written = match verb {
            Verb::Apply => objects.apply(object).await,
            Verb::Create => objects.create(object).await,
            Verb::Replace => objects.replace(object).await,
        };
        match written {
            Ok(()) => report.done(object.kind()),
            Err(Refused::Exists) if files.skip_exists => {}
            Err(refused) => report.failed(refused.text(&object.key())),
        }
    }
    report.print()
}

/// `tortiectl validate`.
pub(crate) fn validate(files: &Files) -> anyhow::Result<()> {
    let objects = read_checked(files)?;
    outln!("{} resource(s) are valid", objects.len());
    Ok(())
}

/// `tortiectl delete`.
pub(crate) async fn delete(delete: Delete) -> anyhow::Result<()> {
    let keys: Vec<_> = match &delete.kind {
        Some(kind) => {
            let kind = kind_of(kind)?;
            if delete.names.is_empty() {
                bail!("name at least one {kind} to delete");
            }
            delete
                .names
                .iter()
                .map(|name| key(kind, &delete.namespace, name))
                .collect()
        }
        None => read_all(&delete.filename, &delete.namespace)?
            .iter()
            .map(Object::key)
            .collect(),
    };
    let objects = Objects::open(&delete.datastore).await?;
    let mut report = Report::new("deleted");
    for key in keys {
        in_use::before_delete(&objects, &key).await?;
        match objects.remove(&key).await {
            Ok(()) => report.done(key.kind),
            Err(Refused::Absent) if delete.skip_not_exists => {}
            Err(refused) => report.failed(refused.text(&key)),
        }
    }
    report.print()
}

/// Collects outcomes and says them as calicoctl does.
struct Report {
    verb: &'static str,
    done: Vec<Kind>,
    failed: Vec<String>,
}

impl Report {
    const fn new(verb: &'static str) -> Self {
        Self {
            verb,
            done: Vec::new(),
            failed: Vec::new(),
        }
    }

    fn done(&mut self, kind: Kind) {
        self.done.push(kind);
    }

    fn failed(&mut self, reason: String) {
        self.failed.push(reason);
    }

    fn print(self) -> anyhow::Result<()> {
        let count = self.done.len();
        let what = match self.done.first() {
            Some(first) if self.done.iter().all(|kind| kind == first) => {
                format!("{count} '{first}' resource(s)")
            }
            _ => format!("{count} resource(s)"),
        };
        if self.failed.is_empty() {
            outln!("Successfully {} {what}", self.verb);
            return Ok(());
        }
        if count > 0 {
            outln!("Partial success: {} {what}", self.verb);
        }
        bail!(self.failed.join("\n"))
    }
}
