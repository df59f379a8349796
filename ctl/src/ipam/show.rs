//! `ipam show`: how full pools and blocks are, who has an address.

use std::net::IpAddr;

use ::ipam::audit::{Allocation, Audit, Fill, Usage};
use anyhow::bail;
use api::ipam::IPAMConfigSpec;
use api::key::{Key, Kind};
use api::object::Object;
use serde_json::{Value, json};

use crate::cli::{Format, IpamShow};
use crate::objects::Objects;
use crate::output;
use crate::print::{out, outln};

/// Cells of a bar.
const BAR: u128 = 20;
/// From here on numbers are rounded.
const LARGE: u128 = 1 << 53;

pub(super) async fn show(show: IpamShow) -> anyhow::Result<()> {
    let objects = Objects::open(&show.datastore).await?;
    if show.show_configuration {
        return configuration(&objects, show.output).await;
    }
    let audit = super::audit(&objects).await?;
    for fault in &audit.faults {
        eprintln!("warning: {}: {}", fault.key, fault.what);
    }
    if let Some(address) = show.ip {
        return one(&audit, address, show.output);
    }
    if show.show_borrowed {
        return borrowed(&audit, show.output);
    }
    if is_data(show.output) {
        return output::data(&as_data(&audit), show.output);
    }
    let mut rows = Vec::new();
    for (pool, blocks) in &audit.pools {
        rows.push(row("IP Pool", pool));
        if show.show_blocks {
            rows.extend(blocks.iter().map(|block| row("Block", block)));
        }
    }
    if show.show_blocks {
        let others = audit.other_blocks.iter();
        rows.extend(others.map(|block| row("Block (no pool)", block)));
    }
    let headings = [
        "GROUPING",
        "CIDR",
        "IPS TOTAL",
        "IPS IN USE",
        "IPS RESERVED",
        "IPS FREE",
        "UTILISATION",
        if show.show_blocks { "AFFINITY" } else { "NAME" },
    ];
    out!("{}", output::table(&headings, &rows));
    Ok(())
}

fn is_data(format: Format) -> bool {
    matches!(format, Format::Json | Format::Yaml)
}

fn row(grouping: &str, fill: &Fill) -> Vec<String> {
    vec![
        grouping.to_owned(),
        fill.cidr.to_string(),
        number(fill.total),
        share(fill.in_use, fill.total),
        share(fill.reserved, fill.total),
        share(fill.free, fill.total),
        bar(fill.in_use, fill.total),
        fill.name.clone(),
    ]
}

/// `1024`; of what is beyond what anybody counts, `1.2089e24`.
fn number(count: u128) -> String {
    if count < LARGE {
        return count.to_string();
    }
    #[expect(clippy::cast_precision_loss, reason = "five digits are shown")]
    let rounded = count as f64;
    format!("{rounded:.4e}")
}

/// `5 (8%)`.
fn share(part: u128, whole: u128) -> String {
    format!("{} ({}%)", number(part), percent(part, whole))
}

/// Rounded to the nearest.
fn percent(part: u128, whole: u128) -> u128 {
    // Both lose the same octets where they are too large to be multiplied.
    let shift = u32::from(whole > u128::MAX / 400) * 16;
    let (part, whole) = (part >> shift, (whole >> shift).max(1));
    (part * 200 + whole) / (whole * 2)
}

/// What is used of a range, as a picture: anything used has a cell, and only a full one has all.
fn bar(part: u128, whole: u128) -> String {
    let shift = u32::from(whole > u128::MAX / BAR) * 16;
    let cells = match part {
        0 => 0,
        part if part >= whole => BAR,
        part => ((part >> shift) * BAR / (whole >> shift).max(1)).clamp(1, BAR - 1),
    };
    let full = usize::try_from(cells).unwrap_or_default();
    let all = usize::try_from(BAR).unwrap_or_default();
    format!("[{}{}]", "#".repeat(full), ".".repeat(all - full))
}

fn as_data(audit: &Audit) -> Value {
    let fill = |fill: &Fill| {
        json!({
            "cidr": fill.cidr, "total": number(fill.total), "inUse": number(fill.in_use),
            "reserved": number(fill.reserved), "free": number(fill.free),
        })
    };
    let block = |found: &Fill| {
        let mut value = fill(found);
        value["affinity"] = found.name.as_str().into();
        value
    };
    let pools = audit.pools.iter().map(|(pool, blocks)| {
        let mut value = fill(pool);
        value["name"] = pool.name.as_str().into();
        value["blocks"] = blocks.iter().map(block).collect();
        value
    });
    let others = audit.other_blocks.iter().map(block);
    json!({"pools": pools.collect::<Vec<_>>(), "blocksOfNoPool": others.collect::<Vec<_>>()})
}

fn one(audit: &Audit, address: IpAddr, format: Format) -> anyhow::Result<()> {
    let found = audit
        .allocations
        .iter()
        .find(|found| found.address == address);
    if is_data(format) {
        let value = found.map_or_else(
            || json!({"ip": address, "assigned": false}),
            super::report::allocation,
        );
        return output::data(&value, format);
    }
    let Some(found) = found else {
        outln!("IP {address} is not assigned");
        return Ok(());
    };
    outln!("IP {address} is in use");
    outln!(
        "Handle ID: {}",
        found.holder.handle_id.as_deref().unwrap_or("<none>")
    );
    outln!("Attributes:");
    for (name, value) in &found.holder.secondary {
        outln!("  {name}: {value}");
    }
    outln!("Block: {}", found.block);
    outln!("Used by: {}", used_by(found));
    Ok(())
}

/// Who uses an address, in words.
pub(super) fn used_by(found: &Allocation) -> String {
    match &found.usage {
        Usage::By(users) => users.join(", "),
        Usage::Cooling => "nobody; it cools down".to_owned(),
        Usage::NotLookedAt => "not known: what would say so is not looked at".to_owned(),
        Usage::Nobody => "nobody".to_owned(),
    }
}

fn borrowed(audit: &Audit, format: Format) -> anyhow::Result<()> {
    let rows = audit.borrowed().map(|(found, node, owner)| {
        let secondary = &found.holder.secondary;
        let text = |name: &str| secondary.get(name).map_or("", String::as_str);
        let (kind, to) = match text("pod") {
            "" => (text("type"), node.to_owned()),
            pod => ("wep", format!("{}/{pod}", text("namespace"))),
        };
        [
            found.address.to_string(),
            node.to_owned(),
            found.block.to_string(),
            owner.to_owned(),
            kind.to_owned(),
            to,
        ]
    });
    if is_data(format) {
        let names = [
            "ip",
            "borrowingNode",
            "block",
            "blockOwner",
            "type",
            "allocatedTo",
        ];
        let values: Vec<Value> = rows
            .map(|row| {
                names
                    .iter()
                    .map(|name| (*name).to_owned())
                    .zip(row.map(Value::from))
                    .collect()
            })
            .collect();
        return output::data(&values, format);
    }
    let rows: Vec<Vec<String>> = rows.map(Vec::from).collect();
    let headings = [
        "IP",
        "BORROWING-NODE",
        "BLOCK",
        "BLOCK OWNER",
        "TYPE",
        "ALLOCATED-TO",
    ];
    out!("{}", output::table(&headings, &rows));
    Ok(())
}

async fn configuration(objects: &Objects, format: Format) -> anyhow::Result<()> {
    let key = Key::new(Kind::IPAMConfig, "default");
    let spec = match objects.get(&key).await? {
        Some(Object::IPAMConfig(config)) => config.spec,
        Some(other) => bail!("{key}: it is a {}", other.kind()),
        None => IPAMConfigSpec::default(),
    };
    if is_data(format) {
        return output::data(&spec, format);
    }
    let rows = [
        ("StrictAffinity", spec.strict_affinity.to_string()),
        ("AutoAllocateBlocks", spec.auto_allocate_blocks.to_string()),
        ("MaxBlocksPerHost", spec.max_blocks_per_host.to_string()),
        ("IPCooldownSeconds", spec.ip_cooldown_seconds.to_string()),
    ];
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
    out!("{}", output::table(&["PROPERTY", "VALUE"], &rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_bars_of_any_size_are_readable() {
        assert_eq!(share(5, 64), "5 (8%)");
        assert_eq!(bar(5, 64), "[#...................]");
        assert_eq!(bar(63, 64), "[###################.]");
        assert_eq!(bar(64, 64), format!("[{}]", "#".repeat(20)));
        assert_eq!(bar(0, 64), format!("[{}]", ".".repeat(20)));
        let ipv6 = u128::MAX;
        assert_eq!(share(ipv6 / 2, ipv6), "1.7014e38 (50%)");
        assert_eq!(bar(ipv6 / 2, ipv6).matches('#').count(), 9);
        assert_eq!(share(0, 0), "0 (0%)");
        assert_eq!(bar(1, ipv6).matches('#').count(), 1);
    }
}
