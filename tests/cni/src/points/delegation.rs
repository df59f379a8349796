//! Delegation, seen from an IPAM plugin that records its calls.

use std::path::PathBuf;

use anyhow::{Context, anyhow, ensure};
use serde_json::{Map, Value, json};

use crate::{Container, Room};

/// The plugin's configuration with the recording IPAM plugin, and where that one writes.
struct Delegating {
    object: Map<String, Value>,
    record: PathBuf,
}

impl Delegating {
    fn new(room: &Room<'_>, container: &Container) -> anyhow::Result<Self> {
        let delegate = room.subject.delegate.as_ref();
        let delegate = delegate.ok_or_else(|| anyhow!("the subject has no delegate"))?;
        let record = container.sandbox.netns_path.with_extension("calls");
        let ipam = json!({"type": delegate.kind, "address": delegate.address, "gateway": delegate.gateway, "record": record});
        let mut object = room.configuration_with("ipam", ipam);
        object.insert("somebodysKey".to_owned(), json!({"a": [1, 2]}));
        Ok(Self { object, record })
    }

    /// The recorded calls so far: `{command, variables, configuration}` each.
    fn calls(&self, room: &Room<'_>) -> anyhow::Result<Vec<Value>> {
        let read = || std::fs::read_to_string(&self.record).unwrap_or_default();
        let text = room.subject.network.site.namespace.run(read);
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    fn commands(&self, room: &Room<'_>) -> anyhow::Result<Vec<String>> {
        let calls = self.calls(room)?;
        let command = |call: &Value| call["command"].as_str().unwrap_or_default().to_owned();
        Ok(calls.iter().map(command).collect())
    }

    fn add(&self, room: &Room<'_>, container: &Container) -> anyhow::Result<Value> {
        let said = room.call("ADD", container, &self.object)?;
        said.result().context("ADD")
    }
}

pub(super) fn input(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let delegating = Delegating::new(room, &container)?;
    let result = delegating.add(room, &container)?;
    let calls = delegating.calls(room)?;
    let call = calls.first().ok_or_else(|| anyhow!("it was not called"))?;
    for (name, value) in container.variables() {
        ensure!(
            call["variables"][name] == value.as_str(),
            "{name} is {}; the plugin got {value:?}",
            call["variables"][name]
        );
    }
    for (key, value) in &delegating.object {
        ensure!(
            call["configuration"][key] == *value,
            "{key} of its configuration is {}; the plugin got {value}",
            call["configuration"][key]
        );
    }
    let given = room.subject.delegate.as_ref().map(|given| given.address);
    let given = given
        .and_then(|given| given.split('/').next())
        .unwrap_or_default();
    let text = result.to_string();
    ensure!(text.contains(given), "{given} is not in the result: {text}");
    Ok(())
}

pub(super) fn del(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let delegating = Delegating::new(room, &container)?;
    delegating.add(room, &container)?;
    room.call("DEL", &container, &delegating.object)?.quiet()?;
    let commands = delegating.commands(room)?;
    ensure!(commands == ["ADD", "DEL"], "it was called for {commands:?}");
    room.becomes(|| super::del::gone(&container))?;
    delegating.add(room, &container)?;
    container.unbind(&room.subject.network.site)?;
    room.call("DEL", &container, &delegating.object)?
        .quiet()
        .context("without namespace")?;
    let commands = delegating.commands(room)?;
    ensure!(
        commands == ["ADD", "DEL", "ADD", "DEL"],
        "without namespace: it was called for {commands:?}"
    );
    Ok(())
}

pub(super) fn check(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let delegating = Delegating::new(room, &container)?;
    let result = delegating.add(room, &container)?;
    let mut object = delegating.object.clone();
    object.insert("prevResult".to_owned(), result);
    room.call("CHECK", &container, &object)?.quiet()?;
    let commands = delegating.commands(room)?;
    room.call("DEL", &container, &delegating.object)?.quiet()?;
    ensure!(
        commands == ["ADD", "CHECK"],
        "it was called for {commands:?}"
    );
    Ok(())
}

pub(super) fn failed_add(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let delegating = Delegating::new(room, &container)?;
    container
        .namespace
        .netlink()?
        .add_plain_link("eth0", "bridge")?;
    room.call("ADD", &container, &delegating.object)?.error()?;
    let commands = delegating.commands(room)?;
    // One that looks first need not call it.
    ensure!(
        commands.is_empty() || commands == ["ADD", "DEL"],
        "it was called for {commands:?}"
    );
    Ok(())
}

pub(super) fn status_and_gc(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let delegating = Delegating::new(room, &container)?;
    room.call("STATUS", &container, &delegating.object)?
        .quiet()?;
    let mut object = delegating.object.clone();
    object.insert("cni.dev/valid-attachments".to_owned(), json!([]));
    room.call("GC", &container, &object)?.quiet()?;
    let commands = delegating.commands(room)?;
    ensure!(
        commands == ["STATUS", "GC"],
        "it was called for {commands:?}"
    );
    Ok(())
}
