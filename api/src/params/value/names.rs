//! Names, paths and places.

use std::net::IpAddr;

use super::{Read, is_none, no, port};

/// `text`, or `None` when it is empty.
pub(in crate::params) fn optional_text(text: &str) -> Read<Option<String>> {
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

pub(in crate::params) fn text(text: &str) -> Read<String> {
    Ok(text.to_owned())
}

pub(in crate::params) fn node_name(text: &str) -> Read<Option<String>> {
    if text.is_empty() || crate::validate::check_object_name(text).is_ok() {
        optional_text(text)
    } else {
        no()
    }
}

pub(in crate::params) fn path(text: &str) -> Read<String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        no()
    }
}

/// A path, or `none`.
pub(in crate::params) fn optional_path(text: &str) -> Read<Option<String>> {
    if is_none(text) {
        return Ok(None);
    }
    path(text).map(Some)
}

/// Where the API server is.
pub(in crate::params) fn url(text: &str) -> Read<Option<String>> {
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') => {
            optional_text(text)
        }
        None if text.is_empty() => Ok(None),
        _ => no(),
    }
}

/// A port, as text.
pub(in crate::params) fn optional_port(text: &str) -> Read<Option<String>> {
    if !text.is_empty() {
        port(text)?;
    }
    optional_text(text)
}

/// What a namespace may be called (RFC 1123 label).
pub(in crate::params) fn namespace(text: &str) -> Read<String> {
    let label = text.len() <= 63 && !text.contains('.');
    if label && crate::validate::check_object_name(text).is_ok() {
        Ok(text.to_owned())
    } else {
        no()
    }
}

/// What most objects may be called.
pub(in crate::params) fn object_name(text: &str) -> Read<String> {
    node_name(text).map(Option::unwrap_or_default)
}

/// An address, or the name of a host.
pub(in crate::params) fn listen_host(text: &str) -> Read<String> {
    let is_name = |text: &str| {
        text.len() <= 253
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && (text.bytes()).all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    if text.parse::<IpAddr>().is_ok() || is_name(text) {
        Ok(text.to_owned())
    } else {
        no()
    }
}

/// As [`listen_host`]; nothing and `none` are none.
pub(in crate::params) fn optional_listen_host(text: &str) -> Read<Option<String>> {
    if text.is_empty() || is_none(text) {
        return Ok(None);
    }
    listen_host(text).map(Some)
}

/// A regular expression.
pub(in crate::params) fn expression(text: &str) -> Read<String> {
    match regex::Regex::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(regex::Error::Syntax(why)) => {
            let last = why.lines().last().unwrap_or_default();
            Err(format!(
                "it is none: {}",
                last.trim_start_matches("error: ")
            ))
        }
        Err(why) => Err(format!("it is none: {why}")),
    }
}

/// One of the groups that Calico keeps its objects in.
pub(in crate::params) fn api_group(text: &str) -> Read<Option<String>> {
    match text {
        "" | "crd.projectcalico.org/v1" | "projectcalico.org/v3" => optional_text(text),
        _ => no(),
    }
}

/// The path of a Unix socket, given as `unix:/path` or `/path`.
pub(in crate::params) fn socket(text: &str) -> Read<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    path(text.strip_prefix("unix:").unwrap_or(text)).map(Some)
}
