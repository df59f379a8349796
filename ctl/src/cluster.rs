//! What is asked of, and done to, the cluster as a whole: its version, the lock of its datastore.

use anyhow::Context;
use api::cluster::{ClusterInformation, ClusterInformationSpec};
use api::key::{Key, Kind};
use api::object::Object;

use crate::cli::{Datastore, DatastoreCommand, DatastoreGroup, MigrateCommand, Version};
use crate::objects::Objects;
use crate::print::outln;
use crate::substitute;

fn key() -> Key {
    Key::new(Kind::ClusterInformation, "default")
}

/// `tortiectl version`.
pub(crate) async fn version(version: Version) -> anyhow::Result<()> {
    outln!("Client Version:    {}", env!("CARGO_PKG_VERSION"));
    if version.client {
        return Ok(());
    }
    let found = Objects::open(&version.datastore).await?.get(&key()).await;
    let info = match found.context("Unable to retrieve Cluster Version or Type")? {
        Some(Object::ClusterInformation(info)) => info.spec,
        _ => ClusterInformationSpec::default(),
    };
    let or_unknown = |text: &str| {
        if text.is_empty() {
            "unknown: no agent has started with this datastore".to_owned()
        } else {
            text.to_owned()
        }
    };
    outln!("Cluster Version:   {}", or_unknown(&info.calico_version));
    outln!("Cluster Type:      {}", or_unknown(&info.cluster_type));
    Ok(())
}

/// `tortiectl datastore …`.
pub(crate) async fn datastore(group: DatastoreGroup) -> anyhow::Result<()> {
    let migrate = match group.command {
        DatastoreCommand::Migrate(migrate) => migrate,
        DatastoreCommand::Accept(accept) => return crate::agent::accept_datastore(&accept),
    };
    match migrate.command {
        MigrateCommand::Lock(datastore) => set_ready(&datastore, false).await,
        MigrateCommand::Unlock(datastore) => set_ready(&datastore, true).await,
        MigrateCommand::Export(anything) => substitute::export(&anything),
        MigrateCommand::Import(anything) => substitute::import(&anything),
    }
}

async fn set_ready(datastore: &Datastore, ready: bool) -> anyhow::Result<()> {
    let key = key();
    Objects::open(datastore)
        .await?
        .write(&key, |stored| {
            let mut info = match stored {
                Some(Ok(Object::ClusterInformation(info))) => info,
                _ => ClusterInformation::new(&key, ClusterInformationSpec::default()),
            };
            info.spec.datastore_ready = Some(ready);
            Ok(Object::ClusterInformation(info))
        })
        .await
        .map_err(|refused| refused.error(&key))?;
    outln!("Datastore {}.", if ready { "unlocked" } else { "locked" });
    Ok(())
}
