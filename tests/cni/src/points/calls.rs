//! Variables, configurations and versions.

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

use crate::Room;
use crate::runtime::kind_of;

/// The specification's rule: each of these must be there, and an absent one is an invalid environment.
pub(super) fn missing_variables(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let object = room.configuration();
    let kind = kind_of(&object)?;
    let stdin = Value::Object(object).to_string();
    for (command, names) in [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"][..]),
    ] {
        for name in names {
            let mut variables = container.variables();
            variables.insert(name, String::new());
            let said = room
                .subject
                .network
                .call(&kind, command, variables, &stdin)?;
            said.error_of(4)
                .with_context(|| format!("{command} without {name}"))?;
        }
    }
    let said = room
        .subject
        .network
        .call(&kind, "TURN", container.variables(), &stdin)?;
    said.error_of(4).context("CNI_COMMAND=TURN")
}

pub(super) fn bad_names(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let object = room.configuration();
    let kind = kind_of(&object)?;
    let stdin = Value::Object(object).to_string();
    let cases = [
        ("CNI_CONTAINERID", "-a"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "sixteen-octets-x"),
    ];
    for (name, value) in cases {
        let mut variables = container.variables();
        variables.insert(name, value.to_owned());
        let said = room.subject.network.call(&kind, "ADD", variables, &stdin)?;
        said.error_of(4)
            .with_context(|| format!("{name}={value:?}"))?;
    }
    Ok(())
}

pub(super) fn unknown_args(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let object = room.configuration();
    let kind = kind_of(&object)?;
    let stdin = Value::Object(object).to_string();
    let mut variables = container.variables();
    let args = variables.entry("CNI_ARGS").or_default();
    *args = format!("{args};SomebodysKey=1;Another=x.y/z");
    let said = room.subject.network.call(&kind, "ADD", variables, &stdin)?;
    said.result().map(drop)
}

pub(super) fn unknown_keys(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let mut object: Map<String, Value> = room.configuration();
    object.insert("args".to_owned(), json!({"somebody": {"key": [1]}}));
    object.insert(
        "runtimeConfig".to_owned(),
        json!({"somebodysCapability": {"a": 1}}),
    );
    room.call("ADD", &container, &object)?.result().map(drop)
}

pub(super) fn no_json(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let kind = kind_of(&room.configuration())?;
    for stdin in ["", "{", "[]", "\"text\""] {
        let variables = container.variables();
        let said = room.subject.network.call(&kind, "ADD", variables, stdin)?;
        said.error_of(6)
            .with_context(|| format!("standard input {stdin:?}"))?;
    }
    Ok(())
}

pub(super) fn bad_network_name(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    let mut object = room.configuration();
    object.insert("name".to_owned(), json!("-not a name/"));
    let said = room.call("ADD", &container, &object)?;
    said.error_of(7).context("name \"-not a name/\"")?;
    object.remove("name");
    let said = room.call("ADD", &container, &object)?;
    said.error_of(7).context("no name")
}

pub(super) fn unknown_version(room: &Room<'_>) -> anyhow::Result<()> {
    let container = room.container()?;
    for version in ["0.0.9", "9.0.0"] {
        let said = room.call("ADD", &container, &room.configuration_in(version))?;
        said.error_of(1)
            .with_context(|| format!("cniVersion {version}"))?;
    }
    Ok(())
}

pub(super) fn version(room: &Room<'_>) -> anyhow::Result<()> {
    let kind = kind_of(&room.configuration())?;
    let network = &room.subject.network;
    let said = network.call(&kind, "VERSION", [].into(), r#"{"cniVersion":"1.0.0"}"#)?;
    let answer = said.result()?;
    ensure!(
        answer["cniVersion"].is_string(),
        "no cniVersion in {answer}"
    );
    let offered = answer["supportedVersions"].as_array();
    ensure!(
        offered.is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string)),
        "supportedVersions is no list of versions: {answer}"
    );
    Ok(())
}
