//! `ipam check`: what is given out beside what is used.

use ::ipam::audit::{Audit, Usage};
use anyhow::Context;

use super::report::Report;
use super::show::used_by;
use crate::cli::IpamCheck;
use crate::objects::Objects;
use crate::print::outln;

pub(super) async fn check(check: IpamCheck) -> anyhow::Result<()> {
    let objects = Objects::open(&check.datastore).await?;
    outln!("Checking IPAM for inconsistencies...\n");
    let audit = super::audit(&objects).await?;
    say_what_was_looked_at(&audit);
    if check.show_all_ips {
        outln!("\nAddresses that are given out:");
        for found in &audit.allocations {
            outln!("  {} in use by: {}", found.address, used_by(found));
        }
    }
    outln!("\nScanning for problems...");
    say_problems(&audit, check.show_problem_ips || check.show_all_ips);
    if let Some(file) = &check.output {
        let report = Report::of(&audit, &objects).await?;
        let text = serde_json::to_vec_pretty(&report)?;
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
        outln!("\nReport written to {}.", file.display());
    }
    outln!("\nCheck complete; found {} problems.", audit.problems());
    Ok(())
}

fn say_what_was_looked_at(audit: &Audit) {
    let seen = audit.looked_at;
    outln!("Loading all IPAM blocks: found {}.", seen.blocks);
    outln!("Loading all IPAM pools: found {}.", audit.pools.len());
    outln!("Loading all nodes: found {}.", seen.nodes);
    outln!("Loading all workload endpoints: found {}.", seen.endpoints);
    outln!("Loading all handles: found {}.", seen.handles);
    let used = |found: &&::ipam::audit::Allocation| matches!(found.usage, Usage::By(_));
    let used = audit.allocations.iter().filter(used).count();
    let all = audit.allocations.len();
    outln!("Addresses given out: {all}, of which {used} are used.");
}

fn say_problems(audit: &Audit, each: bool) {
    let leaked: Vec<String> = audit
        .leaked()
        .map(|found| {
            let handle = found.holder.handle_id.as_deref().unwrap_or("no handle");
            let of = |name: &str| found.holder.secondary.get(name).map(String::as_str);
            let of = match (of("namespace"), of("pod"), of("node")) {
                (Some(namespace), Some(pod), _) => format!(", of pod {namespace}/{pod}"),
                (_, _, Some(node)) => format!(", of node {node}"),
                _ => String::new(),
            };
            format!("{} ({handle}{of})", found.address)
        })
        .collect();
    let used = |found: &[(std::net::IpAddr, String)]| -> Vec<String> {
        found
            .iter()
            .map(|(address, who)| format!("{address} ({who})"))
            .collect()
    };
    let faults = audit.faults.iter();
    let faults = faults.map(|fault| format!("{}: {}", fault.key, fault.what));
    let all = [
        ("addresses are given out and used by nobody", leaked),
        (
            "addresses are used and not given out",
            used(&audit.not_allocated),
        ),
        ("addresses are used and in no pool", used(&audit.outside)),
        ("handles have no address", audit.leaked_handles.clone()),
        (
            "objects cannot be read or contradict others",
            faults.collect(),
        ),
    ];
    for (what, found) in all {
        outln!("Found {} {what}.", found.len());
        for one in found.iter().filter(|_| each) {
            outln!("  {one}");
        }
    }
    let left = &audit.leftovers;
    outln!(
        "Found {} objects that were left half done, which the next claim or release puts right.",
        left.len()
    );
    for one in left.iter().filter(|_| each) {
        outln!("  {}: {}", one.key, one.what);
    }
}
