//! STATUS and GC.

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

use crate::result::Kernel;
use crate::runtime::kind_of;
use crate::{Container, Room, Said};

/// Calls a command that is about no container.
fn call(room: &Room<'_>, command: &str, object: Map<String, Value>) -> anyhow::Result<Said> {
    let kind = kind_of(&object)?;
    let stdin = Value::Object(object).to_string();
    let network = &room.subject.network;
    network.call(&kind, command, [].into(), &stdin)
}

fn listed(containers: &[&Container]) -> Value {
    let named = containers.iter().map(|container| {
        let sandbox = &container.sandbox;
        json!({"containerID": sandbox.container_id, "ifname": sandbox.ifname})
    });
    named.collect()
}

pub(super) fn status(room: &Room<'_>) -> anyhow::Result<()> {
    call(room, "STATUS", room.configuration())?.quiet()
}

pub(super) fn gc(room: &Room<'_>) -> anyhow::Result<()> {
    let (stale, valid) = (room.container()?, room.container()?);
    room.add(&stale)?;
    room.add(&valid)?;
    let list = listed(&[&valid]);
    call(
        room,
        "GC",
        room.configuration_with("cni.dev/valid-attachments", list),
    )?
    .quiet()?;
    room.becomes(|| super::del::gone(&stale))?;
    let inside = Kernel::read(&valid.namespace)?;
    ensure!(
        inside.link("eth0").is_some_and(|link| link.up),
        "what was listed has lost its interface: {:?}",
        inside.links
    );
    // Addresses come back, too.
    for time in 0..=room.subject.addresses {
        room.add(&stale)
            .with_context(|| format!("after {time} times ADD and GC"))?;
        let list = listed(&[&valid]);
        let object = room.configuration_with("cni.dev/valid-attachments", list);
        call(room, "GC", object)?.quiet()?;
        room.becomes(|| super::del::gone(&stale))?;
    }
    Ok(())
}

pub(super) fn old_version(room: &Room<'_>) -> anyhow::Result<()> {
    for version in room.versions.iter().filter(|version| **version < "1.1.0") {
        for command in ["STATUS", "GC"] {
            let mut object = room.configuration_in(version);
            object.insert("cni.dev/valid-attachments".to_owned(), json!([]));
            call(room, command, object)?
                .error_of(1)
                .with_context(|| format!("{command} of {version}"))?;
        }
    }
    Ok(())
}
