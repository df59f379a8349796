//! ADD and its result.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::{Value, json};

use crate::Room;
use crate::result::{Kernel, addresses, agrees, shape_fault};

/// How many containers are added at once.
const AT_ONCE: usize = 3;

pub(super) fn result_is_the_kernels(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let result = room.add(&container)?;
    let netns = container.sandbox.netns_path.display().to_string();
    agrees(
        &result,
        &Kernel::read(&container.namespace)?,
        "eth0",
        &netns,
    )
}

pub(super) fn every_version(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let netns = container.sandbox.netns_path.display().to_string();
    for version in room.versions {
        let object = room.configuration_in(version);
        let result = room.call("ADD", &container, &object)?.result();
        let result = result.with_context(|| (*version).to_owned())?;
        if let Some(fault) = shape_fault(&result, version) {
            bail!("{version}: {fault}");
        }
        agrees(
            &result,
            &Kernel::read(&container.namespace)?,
            "eth0",
            &netns,
        )
        .with_context(|| (*version).to_owned())?;
        room.call("DEL", &container, &object)?
            .quiet()
            .with_context(|| format!("{version}: DEL"))?;
        room.becomes(|| super::del::gone(&container))?;
    }
    Ok(())
}

pub(super) fn existing_interface(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let mut netlink = container.namespace.netlink()?;
    netlink.add_plain_link("eth0", "bridge")?;
    let before = netlink.links()?;
    room.call("ADD", &container, &room.configuration())?
        .error()?;
    ensure!(
        netlink.links()? == before,
        "the interface was {before:?} and is {:?}",
        netlink.links()?
    );
    Ok(())
}

pub(super) fn second_interface(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let further = container.interface("net1");
    let first = addresses(&room.add(&container)?)?;
    let second = addresses(&room.add(&further).context("net1")?)?;
    ensure!(
        first.iter().all(|address| !second.contains(address)),
        "both interfaces have {first:?}"
    );
    room.del(&further)?;
    let inside = Kernel::read(&container.namespace)?;
    ensure!(
        first
            .iter()
            .all(|net| inside.addresses.contains(&net.addr())),
        "DEL of net1 took {first:?} away"
    );
    Ok(())
}

pub(super) fn at_once(room: &Room<'_>) -> anyhow::Result<()> {
    let containers = (0..AT_ONCE).map(|_| room.container());
    let containers = containers.collect::<anyhow::Result<Vec<_>>>()?;
    let (network, object) = (&room.subject.network, room.configuration());
    let call = |container| network.run("ADD", &object, container)?.result();
    let call = &call;
    let results: Vec<anyhow::Result<Value>> = std::thread::scope(|scope| {
        let calls: Vec<_> = containers
            .iter()
            .map(|container| scope.spawn(move || call(container)))
            .collect();
        let joined = calls.into_iter().map(|call| call.join());
        joined
            .map(|call| call.unwrap_or_else(|_| Err(anyhow!("a call's thread panicked"))))
            .collect()
    });
    let mut seen = BTreeSet::new();
    for result in results {
        for address in addresses(&result?)? {
            ensure!(seen.insert(address.addr()), "{address} was given twice");
        }
    }
    Ok(())
}

pub(super) fn failure_leaves_nothing(room: &Room<'_>) -> anyhow::Result<()> {
    let before = room.host_devices()?;
    // More often than there are addresses.
    for _ in 0..=room.subject.addresses {
        let container = room.container()?;
        container
            .namespace
            .netlink()?
            .add_plain_link("eth0", "bridge")?;
        room.call("ADD", &container, &room.configuration())?
            .error()?;
        room.del(&container)?;
    }
    room.becomes(|| {
        let after = room.host_devices()?;
        let left: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
        ensure!(left.is_empty(), "the host has {left:?}");
        Ok(())
    })?;
    let container = room.container()?;
    room.add(&container)
        .context("once as many ADDs have failed as there are addresses")
        .map(drop)
}

/// Section 5: a plugin that is given a prevResult must output it, with its own changes.
pub(super) fn previous_result(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let version = room.newest();
    let earlier = json!({
        "cniVersion": version,
        "interfaces": [{"name": "earlier0", "mac": "02:00:00:00:00:01", "sandbox": "/elsewhere"}],
        "ips": [{"address": "198.51.100.7/24", "interface": 0}],
        "routes": [],
        "dns": {"nameservers": ["198.51.100.1"]},
    });
    let object = room.configuration_with("prevResult", earlier);
    let result = room.call("ADD", &container, &object)?.result()?;
    let fault = shape_fault(&result, version);
    ensure!(fault.is_none(), "{fault:?}");
    ensure!(
        result["interfaces"][0]["name"] == "earlier0",
        "interfaces does not begin with the earlier ones: {result}"
    );
    ensure!(
        result["ips"][0]["address"] == "198.51.100.7/24",
        "ips does not begin with the earlier ones: {result}"
    );
    ensure!(
        result["dns"]["nameservers"][0] == "198.51.100.1",
        "dns is not the earlier one: {result}"
    );
    let own = &result["ips"][1];
    let index = own["interface"]
        .as_u64()
        .and_then(|index| usize::try_from(index).ok());
    let named = index.map(|index| &result["interfaces"][index]["name"]);
    ensure!(
        named.is_some_and(|name| name == "eth0"),
        "interface of {own} is not eth0: {result}"
    );
    Ok(())
}
