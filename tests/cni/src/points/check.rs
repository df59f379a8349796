//! CHECK.

use anyhow::{Context, anyhow};
use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;

use crate::result::{Kernel, addresses};
use crate::{Container, Room, Said};

fn check(room: &Room<'_>, container: &Container, result: &Value) -> anyhow::Result<Said> {
    let object = room.configuration_with("prevResult", result.clone());
    room.call("CHECK", container, &object)
}

pub(super) fn quiet(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let result = room.add(&container)?;
    check(room, &container, &result)?.quiet()
}

pub(super) fn needs_previous_result(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    room.add(&container)?;
    let said = room.call("CHECK", &container, &room.configuration())?;
    said.error().map(drop)
}

pub(super) fn interface_gone(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let result = room.add(&container)?;
    container.namespace.netlink()?.delete_link("eth0")?;
    check(room, &container, &result)?.error().map(drop)
}

pub(super) fn address_gone(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let result = room.add(&container)?;
    let given = addresses(&result)?.into_iter().find_map(|net| match net {
        IpNet::V4(net) => Some(net),
        IpNet::V6(_) => None,
    });
    let given: Ipv4Net = given.ok_or_else(|| anyhow!("no IPv4 address in {result}"))?;
    container
        .namespace
        .netlink()?
        .delete_address("eth0", given)?;
    check(room, &container, &result)?.error().map(drop)
}

pub(super) fn route_gone(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let result = room.add(&container)?;
    let default = Ipv4Net::default();
    container.namespace.netlink()?.delete_route(default)?;
    check(room, &container, &result)?.error().map(drop)
}

pub(super) fn later_plugins(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let result = room.add(&container)?;
    let inside = Kernel::read(&container.namespace)?;
    let default = IpNet::from(Ipv4Net::default());
    let gateway = inside
        .routes
        .iter()
        .find(|route| route.destination == default)
        .and_then(|route| route.hops.first()?.gateway)
        .ok_or_else(|| anyhow!("no default route: {:?}", inside.routes))?;
    let further: Ipv4Net = "203.0.113.0/24".parse()?;
    container.namespace.netlink()?.add_route(further, gateway)?;
    let said = check(room, &container, &result)?;
    said.quiet().context("with a further route")
}

pub(super) fn old_version(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let result = room.add(&container)?;
    for version in room.versions.iter().filter(|version| **version < "0.4.0") {
        let mut object = room.configuration_in(version);
        object.insert("prevResult".to_owned(), result.clone());
        let said = room.call("CHECK", &container, &object)?;
        said.error_of(1).with_context(|| (*version).to_owned())?;
    }
    Ok(())
}
