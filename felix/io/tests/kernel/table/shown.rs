//! What iproute2, nft and /proc/sys say, and how it differs from what a row expects.

use std::process::Command;

use serde_json::Value;

use super::place::Place;

/// What a row's program prints. `[]` when it fails: what it asks for does not exist then.
pub(super) fn shown(place: &Place, show: &str) -> Value {
    match show.strip_prefix("pod ") {
        Some(inside) => {
            let inside = inside.to_owned();
            place.inside(move || printed(&inside))
        }
        None => printed(show),
    }
}

pub(super) fn printed(show: &str) -> Value {
    let (program, rest) = show.split_once(' ').unwrap();
    match program {
        "ip" => json(
            Command::new("ip")
                .args(["-N", "-j", "-d"])
                .args(rest.split(' ')),
        ),
        "bridge" => json(
            Command::new("bridge")
                .args(["-j", "-d"])
                .args(rest.split(' ')),
        ),
        "nft" => rules(
            Command::new("nft")
                .args(["-s", "-y", "-p"])
                .args(rest.split(' ')),
        ),
        "sysctl" => {
            let value = std::fs::read_to_string(path_of(rest));
            value.map_or(Value::Null, |value| Value::from(value.trim()))
        }
        other => panic!("no program {other}: {show}"),
    }
}

/// The file of a sysctl. A dot in a device's name is written as a slash, as sysctl(8) has it.
pub(super) fn path_of(name: &str) -> String {
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let path: String = name.chars().map(swapped).collect();
    format!("/proc/sys/{path}")
}

fn json(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    if !output.status.success() || output.stdout.is_empty() {
        return Value::Array(Vec::new());
    }
    let mut value: Value = serde_json::from_slice(&output.stdout).unwrap();
    drop_empty(&mut value);
    value
}

/// iproute2 prints `{}` for what its filter left out.
fn drop_empty(value: &mut Value) {
    let is_empty = |entry: &Value| entry.as_object().is_some_and(serde_json::Map::is_empty);
    match value {
        Value::Array(entries) => {
            entries.retain(|entry| !is_empty(entry));
            entries.iter_mut().for_each(drop_empty);
        }
        Value::Object(members) => members.values_mut().for_each(drop_empty),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The lines of a chain or set, without braces and comments; elements in one line.
fn rules(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let rule = line
            .split_once(" comment \"cali:")
            .map_or(line, |(rule, _)| rule)
            .trim();
        match lines.last_mut() {
            Some(elements) if elements.starts_with("elements = {") && !elements.ends_with('}') => {
                elements.push(' ');
                elements.push_str(rule);
            }
            _ if rule.is_empty() || rule == "}" || rule.ends_with('{') => {}
            _ => lines.push(rule.to_owned()),
        }
    }
    Value::from(lines)
}

/// How what is printed differs from what is expected.
pub(super) fn difference(place: &Place, show: &str, expect: &str) -> Option<String> {
    let expected: Value =
        serde_json::from_str(expect).unwrap_or_else(|error| panic!("{expect}: {error}"));
    let printed = shown(place, show);
    (!is_like(&printed, &expected)).then(|| format!("`{show}` prints {printed}, not {expected}"))
}

/// Whether anything is printed, and it is as expected.
pub(super) fn is_there(place: &Place, show: &str, expect: &str) -> bool {
    difference(place, show, expect).is_none()
}

fn is_like(printed: &Value, expected: &Value) -> bool {
    match (printed, expected) {
        (Value::Array(printed), Value::Array(expected)) => {
            printed.len() == expected.len()
                && expected
                    .iter()
                    .all(|expected| printed.iter().any(|printed| is_like(printed, expected)))
        }
        (Value::Object(printed), Value::Object(expected)) => {
            expected
                .iter()
                .all(|(name, expected)| match printed.get(name) {
                    Some(printed) => is_like(printed, expected),
                    None => expected.is_null(),
                })
        }
        (printed, expected) => printed == expected,
    }
}
