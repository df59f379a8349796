//! What the cluster asks of its network and this version does not do, for `tortiectl node checksystem`: said before there is
//! an agent.

use anyhow::Context;
use api::admin::Problem;
use api::key::Kind;
use api::object::Object;
use api::without_effect::{RESOURCES, settings};

use crate::cli::Datastore;
use crate::objects::Objects;
use crate::print::outln;

/// Looks, and prints what it found.
pub(crate) async fn check(datastore: &Datastore) -> anyhow::Result<()> {
    outln!("\nChecking what in the cluster has no effect...");
    let client = Objects::kubernetes().await?;
    let mut problems = Vec::new();
    for resource in &RESOURCES {
        let count = client
            .count(resource)
            .await
            .with_context(|| format!("counting objects of kind {}", resource.kind))?;
        problems.extend(resource.problem(count));
    }
    match felix_configurations(datastore).await {
        Ok(found) => problems.extend(found),
        // Before the first installation there is no such kind.
        Err(error) => outln!("FelixConfigurations are not to be had: {error:#}"),
    }
    for Problem { subject, reason } in &problems {
        outln!("WARNING: {subject}: {reason}");
    }
    if problems.is_empty() {
        outln!("Nothing found.");
    }
    Ok(())
}

async fn felix_configurations(datastore: &Datastore) -> anyhow::Result<Vec<Problem>> {
    let objects = Objects::open(datastore).await?;
    let (configs, _) = objects.list(Kind::FelixConfiguration).await?;
    let problems = configs.iter().flat_map(|object| match object {
        Object::FelixConfiguration(config) => settings(config),
        _ => Vec::new(),
    });
    Ok(problems.collect())
}
