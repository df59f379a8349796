//! `tortiectl node drain`: an annotation of the Node object, which the node's agent follows.

use std::time::Duration;

use api::key::Kind;
use api::node::{DRAIN, Drain};
use api::object::Object;

use crate::cli;
use crate::objects::{Objects, Refused, key};
use crate::print::outln;

pub(crate) async fn drain(asked: &cli::Drain) -> anyhow::Result<()> {
    let objects = Objects::open(&asked.datastore).await?;
    let name = &asked.name;
    if asked.undo {
        set(&objects, name, None).await?;
        outln!("Node {name} announces its routes as before.");
        return Ok(());
    }
    set(&objects, name, Some(Drain::LastResort)).await?;
    outln!("Node {name}: its routes are the last resort of others (GRACEFUL_SHUTDOWN, RFC 8326).");
    if asked.last_resort_only {
        return Ok(());
    }
    if asked.after > Duration::ZERO {
        outln!("Withdrawing what others have as well in {:?}.", asked.after);
        tokio::time::sleep(asked.after).await;
    }
    set(&objects, name, Some(Drain::Withdrawn)).await?;
    outln!("Node {name}: only pods that are still there keep their routes.");
    Ok(())
}

async fn set(objects: &Objects, name: &str, drain: Option<Drain>) -> anyhow::Result<()> {
    let key = key(Kind::Node, "", name);
    let written = objects.write(&key, |stored| {
        let mut object = stored.ok_or(Refused::Absent)?.map_err(Refused::Other)?;
        if let Object::Node(node) = &mut object {
            let annotations = &mut node.metadata.annotations;
            match drain {
                Some(drain) => annotations.insert(DRAIN.to_owned(), drain.word().to_owned()),
                None => annotations.remove(DRAIN),
            };
        }
        Ok(object)
    });
    written.await.map_err(|refused| refused.error(&key))
}
