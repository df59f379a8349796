//! Checks of a network configuration before a runtime sees it.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::install::NAMES;
use crate::protocol::Command;
use crate::spec::error::CniError;
use crate::spec::netconf::{NetConf, read_object};

/// Why a network configuration would not work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// Not JSON, or not of the right shape.
    #[error("network configuration for {name}: {fault}")]
    Shape {
        /// The file's name.
        name: String,
        /// Field, value, what is allowed.
        fault: String,
    },
    /// This plugin would refuse what it would be given.
    #[error("network configuration for {name}: plugins[{index}] of type {kind:?}")]
    Refused {
        /// The file's name.
        name: String,
        /// Place in the list.
        index: usize,
        /// The plugin's type.
        kind: String,
        /// The plugin's answer.
        #[source]
        source: CniError,
    },
    /// The configuration names a kubeconfig, and there is nothing to make one from.
    #[error(
        "network configuration has __KUBECONFIG_FILEPATH__, but {what}; run it as a pod with a service account, or leave the kubeconfig out: Tortie's plugin needs none"
    )]
    NoKubeconfig {
        /// What is missing.
        what: &'static str,
    },
}

/// Checks the text and answers which plugins it names. Elements of this plugin's type are checked as it would check
/// them for ADD.
pub(super) fn check(text: &str, file: &str) -> Result<Vec<String>, ConfigurationError> {
    let wrong = |fault: String| ConfigurationError::Shape {
        name: file.to_owned(),
        fault,
    };
    let (object, version) =
        read_object(text.as_bytes()).map_err(|error| wrong(error.msg.clone()))?;
    let elements = match (object.get("plugins"), file.ends_with(".conflist")) {
        (Some(Value::Array(list)), true) if !list.is_empty() => list.clone(),
        (Some(other), true) => {
            return Err(wrong(format!(
                "plugins: {other}; allowed: a list of plugins"
            )));
        }
        (None, true) => return Err(wrong("plugins: required in a .conflist".to_owned())),
        (None, false) => vec![Value::Object(object.clone())],
        (Some(_), false) => {
            return Err(wrong(format!(
                "plugins: {file} is for one plugin; allowed: a name that ends in .conflist"
            )));
        }
    };
    let mut types = Vec::new();
    for (index, element) in elements.iter().enumerate() {
        let (Some(fields), Some(kind)) = (element.as_object(), element["type"].as_str()) else {
            return Err(wrong(format!(
                "plugins[{index}]: {element}; allowed: an object with the text \"type\""
            )));
        };
        if NAMES.contains(&kind) {
            NetConf::check(&as_given(fields, &object), version, Command::Add).map_err(
                |source| ConfigurationError::Refused {
                    name: file.to_owned(),
                    index,
                    kind: kind.to_owned(),
                    source,
                },
            )?;
        }
        types.push(kind.to_owned());
    }
    Ok(types)
}

/// What a runtime gives to a plugin: its element with the list's name and version.
fn as_given(element: &Map<String, Value>, list: &Map<String, Value>) -> Map<String, Value> {
    let mut given = element.clone();
    for key in ["name", "cniVersion"] {
        if let Some(value) = list.get(key) {
            given.insert(key.to_owned(), value.clone());
        }
    }
    given
}

/// Configurations that runtimes take in place of `file`: they use the first in the alphabet.
pub(super) fn before(directory: &Path, file: &str) -> Vec<String> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| {
            let extension = Path::new(name).extension().unwrap_or_default();
            ["conf", "conflist", "json"]
                .iter()
                .any(|known| extension == *known)
                && name.as_str() < file
        })
        .collect();
    names.sort();
    names
}
