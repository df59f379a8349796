//! The environment a runtime calls a plugin with.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::protocol::{Command, Pod};
use crate::spec::error::{CniError, Code};

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Something for the agent.
    Call(Command),
    /// Which versions the plugin speaks.
    Version,
}

/// A checked environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub operation: Operation,
    /// `CNI_CONTAINERID`; empty for STATUS, GC and VERSION.
    pub container_id: String,
    /// `CNI_IFNAME`; empty for STATUS, GC and VERSION.
    pub ifname: String,
    /// `CNI_NETNS`; on DEL it may be absent.
    pub netns: Option<String>,
    /// `CNI_ARGS`, not checked yet.
    pub args: String,
    /// `CNI_NETNS_OVERRIDE`: do not refuse the plugin's own namespace.
    pub own_netns_allowed: bool,
}

const NAMES: &str = "ADD, CHECK, DEL, GC, STATUS, VERSION";

impl Environment {
    /// Reads the variables through `variable`. All missing ones are named in one error (code 4). `None`: `CNI_COMMAND`
    /// is not set, so this is no runtime's call.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, CniError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let Some(command) = set("CNI_COMMAND") else {
            return Ok(None);
        };
        let (operation, required): (_, &[&str]) = match command.as_str() {
            "ADD" => (
                Operation::Call(Command::Add),
                &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            ),
            "CHECK" => (
                Operation::Call(Command::Check),
                &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            ),
            "DEL" => (
                Operation::Call(Command::Del),
                &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            ),
            "GC" => (Operation::Call(Command::Gc), &["CNI_PATH"]),
            "STATUS" => (Operation::Call(Command::Status), &["CNI_PATH"]),
            "VERSION" => (Operation::Version, &[]),
            _ => {
                let msg = format!("CNI_COMMAND: \"{command}\" is not known; allowed: {NAMES}");
                return Err(invalid(msg));
            }
        };
        let missing: Vec<&str> = required
            .iter()
            .copied()
            .filter(|name| set(name).is_none())
            .collect();
        if !missing.is_empty() {
            return Err(invalid(format!(
                "environment variables missing for {command}: {}",
                missing.join(", ")
            )));
        }
        let named = |name: &str| {
            let wanted = required.contains(&name);
            set(name).filter(|_| wanted).unwrap_or_default()
        };
        let read = Self {
            operation,
            container_id: named("CNI_CONTAINERID"),
            ifname: named("CNI_IFNAME"),
            netns: set("CNI_NETNS"),
            args: set("CNI_ARGS").unwrap_or_default(),
            own_netns_allowed: set("CNI_NETNS_OVERRIDE")
                .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true")),
        };
        if required.contains(&"CNI_CONTAINERID") {
            check_container_id(&read.container_id)?;
            check_ifname(&read.ifname)?;
        }
        Ok(Some(read))
    }
}

fn invalid(msg: String) -> CniError {
    CniError::new(Code::INVALID_ENVIRONMENT, msg)
}

/// Whether `text` is a name as the specification has them: first alphanumeric, then also `_`, `.` and `-`.
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn check_container_id(id: &str) -> Result<(), CniError> {
    if is_identifier(id) {
        return Ok(());
    }
    Err(invalid(format!(
        "CNI_CONTAINERID: \"{id}\"; allowed: a letter or digit, then letters, digits, '_', '.', '-'"
    )))
}

fn check_ifname(name: &str) -> Result<(), CniError> {
    let bad = name.len() > 15
        || matches!(name, "." | "..")
        || name.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace());
    if bad {
        return Err(invalid(format!(
            "CNI_IFNAME: \"{name}\"; allowed: 1 to 15 octets without '/', ':' and white space, not '.' or '..'"
        )));
    }
    Ok(())
}

/// `CNI_ARGS`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// The Kubernetes pod, if both `K8S_POD_NAMESPACE` and `K8S_POD_NAME` are there; `K8S_POD_UID` where it is.
    pub pod: Option<Pod>,
    /// `IP`.
    pub ip: Option<IpAddr>,
}

impl Args {
    /// Reads `K=V;K=V`. Keys that are not known here are passed over, as Calico's plugin does, whatever `IgnoreUnknown`
    /// says.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let mut pairs = BTreeMap::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    pairs.insert(key.to_owned(), value.to_owned());
                }
                _ => {
                    return Err(invalid(format!(
                        "CNI_ARGS: \"{pair}\" is no pair; allowed: KEY=VALUE, separated by ';'"
                    )));
                }
            }
        }
        let mut filled = |key: &str| pairs.remove(key).filter(|value| !value.is_empty());
        let ip = match filled("IP") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                invalid(format!(
                    "CNI_ARGS: IP=\"{text}\"; allowed: an IPv4 or IPv6 address"
                ))
            })?),
        };
        let (namespace, name) = (filled("K8S_POD_NAMESPACE"), filled("K8S_POD_NAME"));
        let uid = filled("K8S_POD_UID");
        let pod = namespace.zip(name).map(|(namespace, name)| Pod {
            namespace,
            name,
            uid,
        });
        Ok(Self { pod, ip })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Environment>, CniError> {
        let pairs: BTreeMap<String, String> = pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        Environment::read(&|name| pairs.get(name).cloned())
    }

    #[test]
    fn every_missing_variable_is_named_in_one_error() {
        let cases: [(&str, &[&str]); 5] = [
            (
                "ADD",
                &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            ),
            (
                "CHECK",
                &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            ),
            ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
            ("GC", &["CNI_PATH"]),
            ("STATUS", &["CNI_PATH"]),
        ];
        for (command, names) in cases {
            let error = read(&[("CNI_COMMAND", command)]).expect_err("all are missing");
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
            for name in names {
                assert!(error.msg.contains(name), "{command}: {}", error.msg);
            }
        }
        assert!(read(&[("CNI_COMMAND", "VERSION")]).is_ok_and(|read| read.is_some()));
        assert_eq!(read(&[]), Ok(None));
        let error = read(&[("CNI_COMMAND", "add")]).expect_err("unknown");
        assert!(
            error.msg.contains("\"add\"") && error.msg.contains("STATUS"),
            "{}",
            error.msg
        );
    }

    #[test]
    fn the_plugins_own_namespace_is_allowed_where_the_runtime_says_so() {
        let allowed = |text: &str| {
            let variables = [
                ("CNI_COMMAND", "DEL"),
                ("CNI_CONTAINERID", "a"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_PATH", "/opt/cni/bin"),
                ("CNI_NETNS_OVERRIDE", text),
            ];
            let read = read(&variables).ok().flatten();
            read.map(|read| read.own_netns_allowed)
        };
        for text in ["1", "TRUE", "true"] {
            assert_eq!(allowed(text), Some(true), "{text}");
        }
        for text in ["", "0", "yes"] {
            assert_eq!(allowed(text), Some(false), "{text}");
        }
    }

    #[test]
    fn ids_and_interface_names_are_checked() {
        let with = |id: &str, ifname: &str| {
            read(&[
                ("CNI_COMMAND", "DEL"),
                ("CNI_CONTAINERID", id),
                ("CNI_IFNAME", ifname),
                ("CNI_PATH", "/opt/cni/bin"),
            ])
        };
        assert!(with("4f1c_A.b-c", "eth0").is_ok());
        for id in ["-a", "a b", "a/b", ".a", "ä"] {
            let error = with(id, "eth0").expect_err(id);
            assert!(error.msg.contains("CNI_CONTAINERID") && error.msg.contains(id));
        }
        for name in [".", "..", "a/b", "a:b", "a b", "sixteen-octets-x"] {
            let error = with("a", name).expect_err(name);
            assert!(error.msg.contains("CNI_IFNAME") && error.msg.contains(name));
        }
    }

    #[test]
    fn args_name_the_pod_and_unknown_keys_are_passed_over() {
        let text =
            "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=7-a;X=y;IgnoreUnknown=maybe;";
        let args = Args::parse(text).expect("unknown keys are passed over");
        let pod = args.pod.expect("namespace and name are there");
        assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("ns", "web-0"));
        assert_eq!(pod.uid.as_deref(), Some("7-a"));
        assert_eq!(Args::parse("K8S_POD_NAME=a").map(|args| args.pod), Ok(None));
        for text in ["novalue", "=x", "IP=10.0.0"] {
            let error = Args::parse(text).expect_err(text);
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
            assert!(error.msg.starts_with("CNI_ARGS: "), "{}", error.msg);
        }
        let args = Args::parse("IP=10.0.0.9").expect("an address");
        assert_eq!(args.ip, Some(IpAddr::from([10, 0, 0, 9])));
    }
}
