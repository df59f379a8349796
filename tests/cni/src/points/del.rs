//! DEL.

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::result::{Kernel, addresses};
use crate::runtime::kind_of;
use crate::{Container, Room};

/// Whether the container's interface is gone.
pub(super) fn gone(container: &Container) -> anyhow::Result<()> {
    let inside = Kernel::read(&container.namespace)?;
    let ifname = &container.sandbox.ifname;
    ensure!(
        inside.link(ifname).is_none(),
        "{ifname} is still in the container"
    );
    Ok(())
}

pub(super) fn removes(room: &Room<'_>) -> anyhow::Result<()> {
    let before = room.host_devices()?;
    let container = room.container()?;
    room.add(&container)?;
    let with = room.host_devices()?;
    room.del(&container)?;
    // The device itself may follow the answer.
    room.becomes(|| gone(&container))?;
    room.becomes(|| {
        let after = room.host_devices()?;
        let made = with.iter().filter(|name| !before.contains(name));
        let left: Vec<_> = made.filter(|name| after.contains(name)).collect();
        ensure!(left.is_empty(), "the host still has {left:?}");
        Ok(())
    })
}

pub(super) fn again(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    room.del(&container).context("never added")?;
    room.add(&container)?;
    for time in ["first", "second", "third"] {
        room.del(&container).context(time)?;
    }
    Ok(())
}

pub(super) fn without_namespace(room: &Room<'_>) -> anyhow::Result<()> {
    let object = room.configuration();
    let kind = kind_of(&object)?;
    let stdin = Value::Object(object).to_string();
    // Each more often than there are addresses: they come back as well.
    for _ in 0..=room.subject.addresses {
        let container = room.container()?;
        room.add(&container)?;
        let mut variables = container.variables();
        variables.insert("CNI_NETNS", String::new());
        room.subject
            .network
            .call(&kind, "DEL", variables, &stdin)?
            .quiet()
            .context("without CNI_NETNS")?;
        // The next point's containers must not find it: its namespace is still held.
        room.del(&container)?;
    }
    for _ in 0..=room.subject.addresses {
        let container = room.container()?;
        room.add(&container)?;
        container.unbind(&room.subject.network.site)?;
        room.del(&container).context("CNI_NETNS is gone")?;
    }
    Ok(())
}

pub(super) fn previous_result(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let result = room.add(&container)?;
    let object = room.configuration_with("prevResult", result);
    room.call("DEL", &container, &object)?
        .quiet()
        .context("with prevResult")?;
    room.becomes(|| gone(&container))?;
    room.add(&container)?;
    room.del(&container).context("without prevResult")?;
    room.becomes(|| gone(&container))
}

pub(super) fn addresses_come_back(room: &Room<'_>) -> anyhow::Result<()> {
    for time in 0..=room.subject.addresses {
        let container = room.container()?;
        room.add(&container)
            .with_context(|| format!("after {time} times ADD and DEL"))?;
        room.del(&container)?;
    }
    Ok(())
}

pub(super) fn others_stay(room: &Room<'_>) -> anyhow::Result<()> {
    let (one, other) = (room.container()?, room.container()?);
    room.add(&one)?;
    let result = room.add(&other)?;
    room.del(&one)?;
    room.del(&one)?;
    room.becomes(|| gone(&one))?;
    let inside = Kernel::read(&other.namespace)?;
    let link = inside.link("eth0");
    ensure!(
        link.is_some_and(|link| link.up),
        "eth0 of the other is {link:?}"
    );
    for address in addresses(&result)? {
        ensure!(
            inside.addresses.contains(&address.addr()),
            "the other lacks {address}"
        );
    }
    Ok(())
}
