//! `tortiectl ipam`: how full pools are, who has which address, what nobody uses.

mod check;
mod configure;
mod release;
mod report;
mod show;
mod split;

use std::time::{SystemTime, UNIX_EPOCH};

use ::ipam::Timestamp;
use ::ipam::audit::Audit;
use anyhow::bail;
use api::cluster::ClusterInformationSpec;
use api::key::{Key, Kind};
use api::object::Object;

use crate::cli::{Ipam, IpamCommand};
use crate::objects::Objects;

/// What is compared. Blocks come before those who use them: an address that is given out meanwhile is then used and not
/// given out, rather than given out and used by nobody.
const KINDS: [Kind; 7] = [
    Kind::IPPool,
    Kind::IPReservation,
    Kind::BlockAffinity,
    Kind::IPAMBlock,
    Kind::IPAMHandle,
    Kind::Node,
    Kind::WorkloadEndpoint,
];

/// `tortiectl ipam …`.
pub(crate) async fn ipam(ipam: Ipam) -> anyhow::Result<()> {
    match ipam.command {
        IpamCommand::Show(show) => show::show(show).await,
        IpamCommand::Check(check) => check::check(check).await,
        IpamCommand::Release(release) => release::release(release).await,
        IpamCommand::Configure(configure) => configure::configure(configure).await,
        IpamCommand::Split(split) => split::split(split).await,
    }
}

async fn audit(objects: &Objects) -> anyhow::Result<Audit> {
    let mut items = Vec::new();
    for kind in KINDS {
        items.extend(objects.stored(kind).await?);
    }
    Ok(Audit::of(&items))
}

/// The cluster's own object and its version, if an agent has started with this datastore.
async fn cluster(objects: &Objects) -> anyhow::Result<(ClusterInformationSpec, String)> {
    let key = Key::new(Kind::ClusterInformation, "default");
    Ok(match objects.get(&key).await? {
        Some(Object::ClusterInformation(info)) => {
            let version = info.metadata.resource_version;
            (info.spec, version.unwrap_or_default())
        }
        _ => (ClusterInformationSpec::default(), String::new()),
    })
}

/// Now.
fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::from_unix(since_epoch.unwrap_or_default())
}

/// What agents do meanwhile is no matter while the datastore is locked.
async fn must_be_locked(objects: &Objects, what: &str) -> anyhow::Result<()> {
    if cluster(objects).await?.0.is_ready() {
        bail!("{what} needs the datastore locked; first: tortiectl datastore migrate lock");
    }
    Ok(())
}
