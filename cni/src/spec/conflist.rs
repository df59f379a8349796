//! The list a runtime reads from `/etc/cni/net.d`, and what it makes of it for each plugin.

use serde_json::{Map, Value};

use crate::spec::environment::is_identifier;
use crate::spec::error::{CniError, Code};
use crate::spec::version::Version;

/// A network configuration list.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflist {
    /// Version results must have.
    pub cni_version: Version,
    /// Name of the network.
    pub name: String,
    /// The runtime must not call CHECK.
    pub disable_check: bool,
    /// The runtime must not call GC.
    pub disable_gc: bool,
    /// The plugins, in the order of ADD.
    pub plugins: Vec<Map<String, Value>>,
}

impl Conflist {
    /// Reads a `.conflist` file. Of `cniVersion` and `cniVersions` the newest version known here counts.
    pub fn parse(json: &[u8]) -> Result<Self, CniError> {
        let decode = |msg: String| CniError::new(Code::DECODE, msg);
        let wrong = |msg: &str| CniError::new(Code::INVALID_CONFIG, msg);
        let value: Value = serde_json::from_slice(json)
            .map_err(|error| decode(format!("network configuration list is no JSON: {error}")))?;
        let object = value
            .as_object()
            .ok_or_else(|| decode("network configuration list is no JSON object".to_owned()))?;
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let others = object.get("cniVersions").and_then(Value::as_array);
        let newest = others
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter_map(|text| Version::parse(text).ok())
            .max();
        let cni_version = match (Version::parse(text("cniVersion").unwrap_or("")), newest) {
            (Ok(version), Some(newest)) => version.max(newest),
            (Ok(version), None) => version,
            (Err(_), Some(newest)) => newest,
            (Err(error), None) => return Err(error),
        };
        let name = text("name")
            .filter(|name| is_identifier(name))
            .ok_or_else(|| {
                wrong("name: required; allowed: a letter or digit, then letters, digits, '_', '.', '-'")
            })?;
        let mut plugins = Vec::new();
        let list = object
            .get("plugins")
            .and_then(Value::as_array)
            .filter(|list| !list.is_empty())
            .ok_or_else(|| wrong("plugins: required; allowed: a list of at least one object"))?;
        for (index, plugin) in list.iter().enumerate() {
            let plugin = plugin.as_object().filter(|plugin| {
                let program = plugin.get("type").and_then(Value::as_str);
                program.is_some_and(|program| !program.is_empty() && !program.contains('/'))
            });
            let plugin = plugin.ok_or_else(|| {
                let msg = "type: required; allowed: the name of a program, without '/'";
                CniError::new(Code::INVALID_CONFIG, format!("plugins[{index}].{msg}"))
            })?;
            plugins.push(plugin.clone());
        }
        let boolean = |key: &str| match object.get(key) {
            Some(Value::Bool(value)) => *value,
            Some(Value::String(text)) => text == "true",
            _ => false,
        };
        Ok(Self {
            cni_version,
            name: name.to_owned(),
            disable_check: boolean("disableCheck"),
            disable_gc: boolean("disableGC"),
            plugins,
        })
    }

    /// The program of the plugin at `index`.
    pub fn program(&self, index: usize) -> Option<&str> {
        self.plugins.get(index)?.get("type")?.as_str()
    }

    /// What the plugin at `index` gets on its standard input: its object with the list's name and version,
    /// `runtime_config` cut down to its capabilities, and the result so far.
    pub fn execution_config(
        &self,
        index: usize,
        runtime_config: &Map<String, Value>,
        prev_result: Option<&Value>,
    ) -> Option<Map<String, Value>> {
        let mut config = self.plugins.get(index)?.clone();
        config.insert("name".to_owned(), self.name.clone().into());
        config.insert("cniVersion".to_owned(), self.cni_version.as_str().into());
        let capabilities = config.remove("capabilities");
        let wants = |key: &str| {
            let wanted = capabilities.as_ref().and_then(|wanted| wanted.get(key));
            wanted.and_then(Value::as_bool).unwrap_or(false)
        };
        let granted: Map<String, Value> = runtime_config
            .iter()
            .filter(|(key, _)| wants(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !granted.is_empty() {
            config.insert("runtimeConfig".to_owned(), Value::Object(granted));
        }
        if let Some(result) = prev_result {
            config.insert("prevResult".to_owned(), result.clone());
        }
        Some(config)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_plugin_gets_its_object_with_name_version_and_granted_capabilities() {
        let list = json!({
            "cniVersion": "0.3.1", "cniVersions": ["1.0.0", "9.0.0"], "name": "net", "disableCheck": "true",
            "plugins": [
                {"type": "calico", "mtu": 1400},
                {"type": "portmap", "capabilities": {"portMappings": true, "mac": false}},
            ],
        });
        let list = Conflist::parse(list.to_string().as_bytes()).expect("valid");
        assert_eq!(list.cni_version, Version::V1_0_0);
        assert!(list.disable_check && !list.disable_gc);
        let runtime = json!({"portMappings": [], "mac": "x", "dns": {}});
        let runtime = runtime.as_object().expect("an object");
        let result = json!({"ips": []});
        assert_eq!(list.program(1), Some("portmap"));
        assert_eq!(
            list.execution_config(0, runtime, None).map(Value::Object),
            Some(json!({"type": "calico", "mtu": 1400, "name": "net", "cniVersion": "1.0.0"}))
        );
        assert_eq!(
            list.execution_config(1, runtime, Some(&result))
                .map(Value::Object),
            Some(json!({
                "type": "portmap", "name": "net", "cniVersion": "1.0.0",
                "runtimeConfig": {"portMappings": []}, "prevResult": {"ips": []},
            }))
        );
        assert_eq!(list.execution_config(2, runtime, None), None);
    }

    #[test]
    fn a_malformed_list_names_the_field() {
        for (list, what) in [
            (json!({"plugins": [{"type": "x"}]}), "name: required"),
            (json!({"name": "n"}), "plugins: required"),
            (json!({"name": "n", "plugins": []}), "plugins: required"),
            (
                json!({"name": "n", "plugins": [{"type": "x"}, {}]}),
                "plugins[1].type",
            ),
            (
                json!({"name": "n", "plugins": [{"type": "../x"}]}),
                "plugins[0].type",
            ),
            (
                json!({"name": "n", "cniVersion": "7", "plugins": [{"type": "x"}]}),
                "cniVersion",
            ),
        ] {
            let error = Conflist::parse(list.to_string().as_bytes()).expect_err("malformed");
            assert!(error.msg.contains(what), "{list}: {}", error.msg);
        }
        assert!(Conflist::parse(b"{").is_err());
    }
}
