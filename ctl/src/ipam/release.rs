//! `ipam release`: frees an address, or what several looks found to be nobody's.

use std::net::IpAddr;
use std::path::PathBuf;

use ::ipam::Ipam;
use ::ipam::request::ReleaseAddress;
use anyhow::bail;
use api::key::{Key, Kind};

use super::report::Report;
use super::{cluster, must_be_locked};
use crate::cli::IpamRelease;
use crate::objects::Objects;
use crate::print::outln;

/// As whom this program looks at blocks: no node has the name.
const ASKER: &str = "";

pub(super) async fn release(release: IpamRelease) -> anyhow::Result<()> {
    let objects = Objects::open(&release.datastore).await?;
    match release.ip {
        Some(address) => one(&objects, address).await,
        None => from_reports(&objects, &release.from_report, release.force).await,
    }
}

async fn one(objects: &Objects, address: IpAddr) -> anyhow::Result<()> {
    let wanted = ReleaseAddress {
        address,
        handle_id: None,
        sequence_number: None,
    };
    let ipam = Ipam::new(objects.store(), ASKER);
    let done = ipam.release_ips(&[wanted], super::now()).await?.outcome;
    if done.released.is_empty() {
        bail!("IP address {address} is not assigned");
    }
    outln!("Successfully released IP address {address}");
    Ok(())
}

async fn from_reports(objects: &Objects, files: &[PathBuf], force: bool) -> anyhow::Result<()> {
    if !force {
        must_be_locked(objects, "a release by reports").await?;
    }
    let mut reports = Vec::new();
    for file in files {
        reports.push((file, Report::read(file)?));
    }
    let (info, revision) = cluster(objects).await?;
    for (file, report) in &reports {
        if report.cluster_guid != info.cluster_guid {
            bail!(
                "{} is of cluster {:?}, this is {:?}",
                file.display(),
                report.cluster_guid,
                info.cluster_guid
            );
        }
        if report.version != env!("CARGO_PKG_VERSION") && !force {
            bail!(
                "{} is of version {:?}, this is {:?}; check anew, or use --force",
                file.display(),
                report.version,
                env!("CARGO_PKG_VERSION")
            );
        }
    }
    let is_current = |report: &Report| report.cluster_information_revision == revision;
    if !force && !reports.iter().any(|(_, report)| is_current(report)) {
        bail!(
            "no report is of the time since the datastore was locked; write one: tortiectl ipam check -o FILE"
        );
    }
    // What one of them calls used, or does not know, stays.
    let mut wanted: Option<Vec<ReleaseAddress>> = None;
    let mut handles: Option<Vec<String>> = None;
    for (_, report) in &reports {
        let leaked = report.leaked()?;
        let ids = report.leaked_handles.iter();
        let ids: Vec<String> = ids
            .filter_map(|handle| handle["id"].as_str().map(str::to_owned))
            .collect();
        match &mut wanted {
            None => wanted = Some(leaked),
            Some(wanted) => wanted.retain(|one| leaked.contains(one)),
        }
        match &mut handles {
            None => handles = Some(ids),
            Some(handles) => handles.retain(|one| ids.contains(one)),
        }
    }
    let ipam = Ipam::new(objects.store(), ASKER);
    let done = ipam
        .release_ips(&wanted.unwrap_or_default(), super::now())
        .await?
        .outcome;
    let handles = remove_handles(objects, &handles.unwrap_or_default()).await?;
    outln!("Released {} IPs successfully", done.released.len());
    outln!("Released {handles} handles successfully");
    for address in &done.unallocated {
        outln!("  {address} was free already");
    }
    if done.refused.is_empty() {
        return Ok(());
    }
    let refused = done.refused.iter();
    let refused: Vec<String> = refused
        .map(|(address, why)| format!("{address} is left alone: {why}"))
        .collect();
    bail!(refused.join("\n"))
}

/// Deletes handles that still have no address.
async fn remove_handles(objects: &Objects, ids: &[String]) -> anyhow::Result<usize> {
    let now = super::audit(objects).await?.leaked_handles;
    let mut removed = 0;
    for id in ids.iter().filter(|id| now.contains(id)) {
        let key = Key::new(Kind::IPAMHandle, id.to_lowercase());
        match objects.remove(&key).await {
            Ok(()) => removed += 1,
            Err(crate::objects::Refused::Absent) => {}
            Err(refused) => return Err(refused.error(&key)),
        }
    }
    Ok(removed)
}
