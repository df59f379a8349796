//! The network configuration a plugin gets on its standard input: the specification's keys and Calico's.

mod beside;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::gates::Gate;
use crate::protocol::{Attachment, Command, Features, IpamSettings, SOCKET_PATH};
use crate::spec::environment::is_identifier;
use crate::spec::error::{CniError, Code};
use crate::spec::netconf::beside::Beside;
use crate::spec::result::AddResult;
use crate::spec::version::Version;

/// Where Calico's agent writes the node's name once it is ready.
pub const NODENAME_FILE: &str = "/var/lib/calico/nodename";

/// Where the agent writes a file for each pod that is connected.
const STATUS_DIRECTORY: &str = "/var/run/calico/endpoint-status";

/// The kernel's most: `VETH` devices have at most 4096 queues (`rtnl_create_link`).
const QUEUES_MAX: u32 = 4096;

/// The keys of the specification and of Calico; what is not used here, as of Windows or of a datastore that the agent reads for
/// itself, is among them.
const KNOWN: &[&str] = &[
    "agent_socket",
    "args",
    "burst",
    "calico_api_group",
    "capabilities",
    "cniVersion",
    "container_settings",
    "dataplane_options",
    "datastore_type",
    "device_type",
    "dns",
    "endpoint_status_dir",
    "etcd_authority",
    "etcd_ca_cert_file",
    "etcd_cert_file",
    "etcd_discovery_srv",
    "etcd_endpoints",
    "etcd_key_file",
    "etcd_scheme",
    "feature_control",
    "hostname",
    "include_default_routes",
    "ipMasq",
    "ipam",
    "ipam_lock_file",
    "kubernetes",
    "log_file_max_age",
    "log_file_max_count",
    "log_file_max_size",
    "log_file_path",
    "log_level",
    "mode",
    "mtu",
    "name",
    "nodename",
    "nodename_file",
    "nodename_file_optional",
    "num_queues",
    "policy",
    "policy_setup_timeout_seconds",
    "prevResult",
    "qps",
    "readiness_gates",
    "require_mtu_file",
    "runtimeConfig",
    "type",
    "vxlan_mac_prefix",
    "vxlan_vni",
    "windows_disable_default_deny_all_policy",
    "windows_loopback_DSR",
    "windows_pod_deletion_timestamp_timeout",
    "windows_use_single_network",
];

/// The IPAM that is the agent's own.
const CALICO_IPAM: &str = "calico-ipam";

/// A checked configuration. Keys that are not here are accepted and not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConf {
    /// Version the result must have.
    pub cni_version: Version,
    /// Name of the network.
    pub name: String,
    /// `agent_socket`: where the agent listens.
    pub agent_socket: PathBuf,
    /// `nodename`.
    pub nodename: Option<String>,
    /// `nodename_file`.
    pub nodename_file: PathBuf,
    /// `mtu` in bytes, 0 when the agent is to decide.
    pub mtu_bytes: u32,
    /// `num_queues`: queues of both ends of the pod's pair.
    pub queues: u32,
    /// `readiness_gates`: what must answer before a pod is added.
    pub gates: Vec<Gate>,
    /// `policy_setup_timeout_seconds`: how long an ADD waits for the pod's file in `endpoint_status_dir`; it succeeds without.
    pub status_patience: Duration,
    /// `endpoint_status_dir`.
    pub status_directory: PathBuf,
    /// `log_level` is `debug`: keys that are not known are named on standard error.
    pub unknown_keys: Vec<String>,
    /// `container_settings.allow_ip_forwarding`.
    pub allow_ip_forwarding: bool,
    /// `ipam`.
    pub ipam: IpamSettings,
    /// `ipam.type`, where it is another plugin than Calico's.
    pub ipam_plugin: Option<String>,
    /// `include_default_routes`: everything is routed to the host also where another IPAM plugin names routes.
    pub include_default_routes: bool,
    /// `runtimeConfig.ips`, else `args.cni.ips`: what the runtime wants instead of any address.
    pub ips: Vec<IpAddr>,
    /// `runtimeConfig.mac`.
    pub mac: Option<[u8; 6]>,
    /// `feature_control`.
    pub features: Features,
    /// `type`, for an IPAM plugin: that of the plugin which connects the pod.
    pub plugin: String,
    /// What an IPAM plugin's result has beside addresses.
    pub beside: Beside,
    /// `prevResult`.
    pub prev_result: Option<AddResult>,
    /// `cni.dev/valid-attachments`.
    pub valid_attachments: Vec<Attachment>,
}

/// Reads the object and its version, which later errors are printed with.
pub fn read_object(json: &[u8]) -> Result<(Map<String, Value>, Version), CniError> {
    let decode = |msg: String| CniError::new(Code::DECODE, msg);
    let value: Value = serde_json::from_slice(json).map_err(|error| {
        decode(format!(
            "network configuration on stdin is no JSON: {error}"
        ))
    })?;
    let Value::Object(object) = value else {
        return Err(decode(
            "network configuration on stdin is no JSON object".to_owned(),
        ));
    };
    let version = match object.get("cniVersion") {
        None => Version::parse("")?,
        Some(Value::String(text)) => Version::parse(text)?,
        Some(other) => return Err(decode(format!("cniVersion: {other}; allowed: text"))),
    };
    Ok((object, version))
}

impl NetConf {
    /// Checks the keys `command` needs. DEL and GC must work with what is left of a configuration: they need a name
    /// only.
    pub fn check(
        object: &Map<String, Value>,
        cni_version: Version,
        command: Command,
    ) -> Result<Self, CniError> {
        let needed = match command {
            Command::Add
            | Command::Del
            | Command::PodCidrs
            | Command::Assign
            | Command::Release => Version::V0_1_0,
            Command::Check | Command::Verify => Version::V0_4_0,
            Command::Status | Command::Gc => Version::V1_1_0,
        };
        if cni_version < needed {
            let name = serde_json::to_string(&command.of_runtime()).unwrap_or_default();
            return Err(CniError::new(
                Code::INCOMPATIBLE_VERSION,
                format!(
                    "cniVersion: \"{cni_version}\" has no command {name}; allowed: {needed} and later"
                ),
            ));
        }
        if object.contains_key("plugins") {
            return Err(wrong(
                "plugins: this is a network configuration list; a plugin gets one element of it, with name and cniVersion"
                    .to_owned(),
            ));
        }
        let fields = Fields { object, path: "" };
        let of_ipam = matches!(
            command,
            Command::Assign | Command::Release | Command::Verify
        );
        let strict = !of_ipam && !matches!(command, Command::Del | Command::Gc);
        let mut conf = Self {
            cni_version,
            name: network_name(fields)?,
            agent_socket: fields.path("agent_socket", SOCKET_PATH)?,
            nodename: fields.text("nodename")?.filter(|name| !name.is_empty()),
            nodename_file: fields.path("nodename_file", NODENAME_FILE)?,
            mtu_bytes: 0,
            queues: 1,
            gates: Vec::new(),
            status_patience: Duration::ZERO,
            status_directory: fields.path("endpoint_status_dir", STATUS_DIRECTORY)?,
            unknown_keys: unknown_keys(object),
            allow_ip_forwarding: false,
            ipam: IpamSettings::default(),
            ipam_plugin: ipam_plugin(object).filter(|_| !of_ipam),
            include_default_routes: false,
            ips: Vec::new(),
            mac: None,
            features: Features::default(),
            plugin: String::new(),
            beside: Beside::default(),
            prev_result: None,
            valid_attachments: Vec::new(),
        };
        if strict {
            conf.mtu_bytes = mtu(fields)?;
            let most = u64::from(QUEUES_MAX);
            let queues = fields.number("num_queues", 0..=most, "1 to 4096")?;
            conf.queues = u32::try_from(queues.unwrap_or(1).max(1)).unwrap_or(1);
            conf.gates = gates(fields)?;
            let seconds = fields.number("policy_setup_timeout_seconds", 0..=3600, "0 to 3600")?;
            conf.status_patience = Duration::from_secs(seconds.unwrap_or(0));
            supported_policy(fields)?;
            let settings = fields.object("container_settings")?;
            conf.allow_ip_forwarding = match settings {
                Some(settings) => settings.boolean("allow_ip_forwarding")?.unwrap_or(false),
                None => false,
            };
            conf.ipam = ipam(fields)?;
            let default_routes = fields.boolean("include_default_routes")?;
            conf.include_default_routes = default_routes.unwrap_or(false);
            conf.features = features(fields)?;
            if let Some(runtime) = fields.object("runtimeConfig")? {
                conf.ips = wanted_ips(runtime, "runtimeConfig.ips")?;
                conf.mac = wanted_mac(runtime)?;
            }
            conf.add_older_wishes(fields)?;
            supported_devices(fields)?;
        }
        // The other keys are the calling plugin's, which knows what they mean.
        if command == Command::Assign {
            conf.ipam = ipam(fields)?;
            if let Some(runtime) = fields.object("runtimeConfig")? {
                conf.ips = wanted_ips(runtime, "runtimeConfig.ips")?;
            }
            conf.add_older_wishes(fields)?;
            let kind = fields.text("type")?.filter(|kind| !kind.is_empty());
            conf.plugin = kind.unwrap_or_else(|| "unknown".to_owned());
            conf.beside = Beside::read(fields, &conf.plugin)?;
        }
        conf.prev_result = prev_result(object, cni_version, command)?;
        if command == Command::Gc {
            conf.valid_attachments = valid_attachments(object)?;
        }
        Ok(conf)
    }

    /// What is older goes behind what `runtimeConfig` says.
    fn add_older_wishes(&mut self, fields: Fields<'_>) -> Result<(), CniError> {
        if let Some(args) = fields.object("args")?
            && let Some(args) = args.object("cni")?
            && self.ips.is_empty()
        {
            self.ips = wanted_ips(args, "args.cni.ips")?;
        }
        Ok(())
    }
}

/// The earlier result, which CHECK needs, and which ADD passes on. DEL works without it, so a broken one must not stop it.
fn prev_result(
    object: &Map<String, Value>,
    version: Version,
    command: Command,
) -> Result<Option<AddResult>, CniError> {
    let value = object.get("prevResult").filter(|value| !value.is_null());
    match (command, value) {
        (Command::Check | Command::Verify, None) => {
            Err(wrong("prevResult: required for CHECK".to_owned()))
        }
        (Command::Check | Command::Verify | Command::Add, Some(value)) => {
            AddResult::from_json(value, version).map(Some)
        }
        (Command::Add, None)
        | (
            Command::Del
            | Command::Status
            | Command::Gc
            | Command::PodCidrs
            | Command::Assign
            | Command::Release,
            _,
        ) => Ok(None),
    }
}

fn wrong(msg: String) -> CniError {
    CniError::new(Code::INVALID_CONFIG, msg)
}

fn network_name(fields: Fields<'_>) -> Result<String, CniError> {
    let allowed = "allowed: a letter or digit, then letters, digits, '_', '.', '-'";
    match fields.text("name")? {
        Some(name) if is_identifier(&name) => Ok(name),
        Some(name) => Err(wrong(format!("name: \"{name}\"; {allowed}"))),
        None => Err(wrong(format!("name: required; {allowed}"))),
    }
}

fn mtu(fields: Fields<'_>) -> Result<u32, CniError> {
    let allowed = "allowed: 0 (the agent decides), or 68 to 65535";
    match fields.object.get("mtu") {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value
            .as_u64()
            .and_then(|mtu| u32::try_from(mtu).ok())
            .filter(|mtu| *mtu == 0 || (68..=65_535).contains(mtu))
            .ok_or_else(|| wrong(format!("mtu: {value}; {allowed}"))),
    }
}

fn supported_policy(fields: Fields<'_>) -> Result<(), CniError> {
    let Some(policy) = fields.object("policy")? else {
        return Ok(());
    };
    match policy.text("type")?.unwrap_or_default() {
        text if text.is_empty() || text == "k8s" => Ok(()),
        other => Err(unsupported("policy.type", &other, "k8s, or none")),
    }
}

fn ipam(fields: Fields<'_>) -> Result<IpamSettings, CniError> {
    let Some(ipam) = fields.object("ipam")? else {
        return Err(wrong(
            "ipam.type: required; allowed: calico-ipam".to_owned(),
        ));
    };
    match ipam.text("type")? {
        Some(text) if text == CALICO_IPAM => {}
        // What the keys below it are the other plugin knows.
        Some(other) if is_identifier(&other) => return Ok(IpamSettings::default()),
        Some(other) if !other.is_empty() => {
            let allowed = "calico-ipam, or the name of an IPAM plugin in CNI_PATH";
            return Err(unsupported("ipam.type", &other, allowed));
        }
        _ => {
            return Err(wrong(
                "ipam.type: required; allowed: calico-ipam, or the name of an IPAM plugin in CNI_PATH"
                    .to_owned(),
            ));
        }
    }
    let settings = IpamSettings {
        assign_ipv4: ipam.boolean("assign_ipv4")?.unwrap_or(true),
        assign_ipv6: ipam.boolean("assign_ipv6")?.unwrap_or(false),
        ipv4_pools: ipam.pools("ipv4_pools", |net| matches!(net, IpNet::V4(_)))?,
        ipv6_pools: ipam.pools("ipv6_pools", |net| matches!(net, IpNet::V6(_)))?,
    };
    if !settings.assign_ipv4 && !settings.assign_ipv6 {
        return Err(wrong(
            "ipam.assign_ipv4 and ipam.assign_ipv6: both false; allowed: at least one true"
                .to_owned(),
        ));
    }
    Ok(settings)
}

fn gates(fields: Fields<'_>) -> Result<Vec<Gate>, CniError> {
    let allowed = "allowed: a list of http URLs";
    let Some(value) = fields.value("readiness_gates") else {
        return Ok(Vec::new());
    };
    let refused = |what: &Value| wrong(format!("readiness_gates: {what}; {allowed}"));
    let list = value.as_array().ok_or_else(|| refused(value))?;
    list.iter()
        .map(|entry| {
            let gate = entry.as_str().and_then(Gate::parse);
            gate.ok_or_else(|| refused(entry))
        })
        .collect()
}

/// Keys that are not known, where somebody wants to hear of them. Those that begin with `cni.dev/` are the runtime's.
fn unknown_keys(object: &Map<String, Value>) -> Vec<String> {
    if object.get("log_level").and_then(Value::as_str) != Some("debug") {
        return Vec::new();
    }
    let known = |key: &str| KNOWN.contains(&key) || key.starts_with("cni.dev/");
    object.keys().filter(|key| !known(key)).cloned().collect()
}

fn features(fields: Fields<'_>) -> Result<Features, CniError> {
    let Some(control) = fields.object("feature_control")? else {
        return Ok(Features::default());
    };
    Ok(Features {
        ip_addrs_no_ipam: control.boolean("ip_addrs_no_ipam")?.unwrap_or(false),
        floating_ips: control.boolean("floating_ips")?.unwrap_or(false),
    })
}

/// CNI conventions, `ips`: addresses with or without their lengths.
fn wanted_ips(holder: Fields<'_>, name: &str) -> Result<Vec<IpAddr>, CniError> {
    let allowed = "allowed: a list of at most one IPv4 and one IPv6 address";
    let Some(value) = holder.value("ips") else {
        return Ok(Vec::new());
    };
    let refused = || wrong(format!("{name}: {value}; {allowed}"));
    let parse = |entry: &Value| {
        let text = entry.as_str()?;
        let net = text.parse::<IpNet>().map(|net| net.addr());
        net.ok().or_else(|| text.parse().ok())
    };
    let list = value.as_array().ok_or_else(refused)?;
    let ips: Option<Vec<IpAddr>> = list.iter().map(parse).collect();
    let mut ips = ips.ok_or_else(refused)?;
    let of_ipv4 = ips.iter().filter(|ip| ip.is_ipv4()).count();
    if of_ipv4 > 1 || ips.len() - of_ipv4 > 1 {
        return Err(refused());
    }
    ips.sort_by_key(IpAddr::is_ipv6);
    Ok(ips)
}

fn wanted_mac(runtime: Fields<'_>) -> Result<Option<[u8; 6]>, CniError> {
    let Some(text) = runtime.text("mac")?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let allowed = api::pod::MAC;
    let mac = api::pod::parse_mac(&text);
    mac.map(Some)
        .ok_or_else(|| wrong(format!("runtimeConfig.mac: \"{text}\"; allowed: {allowed}")))
}

/// For DEL, too, which must work with what is left of a configuration.
fn ipam_plugin(object: &Map<String, Value>) -> Option<String> {
    let name = object.get("ipam")?.get("type")?.as_str()?;
    (name != CALICO_IPAM && is_identifier(name)).then(|| name.to_owned())
}

fn supported_devices(fields: Fields<'_>) -> Result<(), CniError> {
    match fields.text("device_type")?.unwrap_or_default() {
        text if text.is_empty() || text == "veth" => {}
        other => return Err(unsupported("device_type", &other, "veth")),
    }
    let Some(options) = fields.object("dataplane_options")? else {
        return Ok(());
    };
    match options.text("type")?.unwrap_or_default() {
        text if text.is_empty() => Ok(()),
        other => Err(unsupported("dataplane_options.type", &other, "none")),
    }
}

fn unsupported(field: &str, value: &str, allowed: &str) -> CniError {
    CniError::new(
        Code::UNSUPPORTED_FIELD,
        format!("{field}: \"{value}\" is not supported; allowed: {allowed}"),
    )
}

/// libcni writes the older key too; either will do. Without any nothing can be told apart, and nothing is deleted.
fn valid_attachments(object: &Map<String, Value>) -> Result<Vec<Attachment>, CniError> {
    const KEY: &str = "cni.dev/valid-attachments";
    let list = object
        .get(KEY)
        .or_else(|| object.get("cni.dev/attachments"));
    match list {
        Some(list) => serde_json::from_value(list.clone()).map_err(|error| {
            wrong(format!(
                "{KEY}: {error}; allowed: a list of {{containerID, ifname}}"
            ))
        }),
        None => Err(wrong(format!("{KEY}: required for GC"))),
    }
}

/// An object and where it stands, so that errors can name fields.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: &'static str,
}

impl<'a> Fields<'a> {
    fn name(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<String>, CniError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(wrong(format!("{}: {other}; allowed: text", self.name(key)))),
        }
    }

    fn number(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        allowed: &str,
    ) -> Result<Option<u64>, CniError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let number = value.as_u64().filter(|number| range.contains(number));
        number
            .map(Some)
            .ok_or_else(|| wrong(format!("{}: {value}; allowed: {allowed}", self.name(key))))
    }

    fn path(&self, key: &str, default: &str) -> Result<PathBuf, CniError> {
        match self.text(key)?.filter(|text| !text.is_empty()) {
            None => Ok(PathBuf::from(default)),
            Some(text) if text.starts_with('/') => Ok(PathBuf::from(text)),
            Some(text) => Err(wrong(format!(
                "{}: \"{text}\"; allowed: an absolute path",
                self.name(key)
            ))),
        }
    }

    /// Calico's booleans are text in some places.
    fn boolean(&self, key: &str) -> Result<Option<bool>, CniError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::String(text)) => match text.as_str() {
                "" => Ok(None),
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => Err(wrong(format!(
                    "{}: \"{text}\"; allowed: true, false",
                    self.name(key)
                ))),
            },
            Some(other) => Err(wrong(format!(
                "{}: {other}; allowed: true, false",
                self.name(key)
            ))),
        }
    }

    fn object(&self, key: &'static str) -> Result<Option<Fields<'a>>, CniError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { object, path: key })),
            Some(other) => Err(wrong(format!(
                "{}: {other}; allowed: an object",
                self.name(key)
            ))),
        }
    }

    fn pools(&self, key: &str, is_right: fn(&IpNet) -> bool) -> Result<Vec<String>, CniError> {
        let allowed = "allowed: names of IPPools or their CIDRs, of this family";
        let field = self.name(key);
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let Value::Array(list) = value else {
            return Err(wrong(format!("{field}: {value}; {allowed}")));
        };
        list.iter()
            .map(|entry| match entry {
                Value::String(text) if !text.contains('/') && !text.is_empty() => Ok(text.clone()),
                Value::String(text) if text.parse().as_ref().is_ok_and(is_right) => {
                    Ok(text.clone())
                }
                other => Err(wrong(format!("{field}: {other}; {allowed}"))),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
