//! What the environment says, with Calico's names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::install::kubeconfig::Secrets;
use crate::install::{InstallError, Places, template};

/// Below the host's directory of network configurations: copies of `TLS_ASSETS_DIR`.
pub(super) const TLS_DIRECTORY: &str = "calico-tls";

/// A variable with a wrong value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {value:?}; allowed: {allowed}")]
pub struct SettingError {
    /// Its name.
    pub variable: &'static str,
    /// What it says.
    pub value: String,
    /// What it may say.
    pub allowed: &'static str,
}

/// The installer's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `CNI_NET_DIR`: the host's directory of network configurations, as the host calls it.
    pub net_dir: PathBuf,
    /// `CNI_CONF_NAME`: the file to write there.
    pub conf_name: String,
    /// `CNI_OLD_CONF_NAME`: removed unless it is the same.
    pub old_conf_name: String,
    /// `KUBECONFIG_FILE_NAME`.
    pub kubeconfig_name: String,
    /// `CNI_NETWORK_CONFIG`: a template.
    pub network_config: Option<String>,
    /// `CNI_NETWORK_CONFIG_FILE`: a file that holds the template; goes before the text.
    pub network_config_file: Option<PathBuf>,
    /// `TLS_ASSETS_DIR`: copied to the host when it is there.
    pub tls_assets_dir: PathBuf,
    /// `SKIP_CNI_BINARIES`: plugins that are not installed.
    pub skip_binaries: BTreeSet<String>,
    /// `UPDATE_CNI_BINARIES`: plugins that are there are replaced.
    pub update_binaries: bool,
    /// `SLEEP`: stay until told to end.
    pub sleep: bool,
    /// `SKIP_TLS_VERIFY`: the kubeconfig checks no certificate.
    pub skip_tls_verify: bool,
    /// `TEST_FILE_PERMISSION`: mode of the network configuration.
    pub conf_mode: u32,
    /// `KUBERNETES_SERVICE_HOST`.
    pub service_host: Option<String>,
    /// `KUBERNETES_SERVICE_PORT`.
    pub service_port: Option<String>,
    /// Placeholders that are variables of the same name, with their values.
    plain: BTreeMap<&'static str, String>,
}

/// Placeholder, its variable, its value without the variable.
const PLAIN: [(&str, &str, &str); 15] = [
    ("__LOG_LEVEL__", "LOG_LEVEL", "info"),
    (
        "__LOG_FILE_PATH__",
        "LOG_FILE_PATH",
        "/var/log/calico/cni/cni.log",
    ),
    ("__LOG_FILE_MAX_SIZE__", "LOG_FILE_MAX_SIZE", "100"),
    ("__LOG_FILE_MAX_AGE__", "LOG_FILE_MAX_AGE", "30"),
    ("__LOG_FILE_MAX_COUNT__", "LOG_FILE_MAX_COUNT", "10"),
    ("__DATASTORE_TYPE__", "DATASTORE_TYPE", "kubernetes"),
    ("__CNI_MTU__", "CNI_MTU", "0"),
    ("__KUBERNETES_SERVICE_HOST__", "KUBERNETES_SERVICE_HOST", ""),
    ("__KUBERNETES_SERVICE_PORT__", "KUBERNETES_SERVICE_PORT", ""),
    (
        "__CALICO_API_GROUP__",
        "CALICO_API_GROUP",
        "crd.projectcalico.org/v1",
    ),
    ("__REQUIRE_MTU_FILE__", "REQUIRE_MTU_FILE", "false"),
    ("__ETCD_ENDPOINTS__", "ETCD_ENDPOINTS", ""),
    ("__ETCD_DISCOVERY_SRV__", "ETCD_DISCOVERY_SRV", ""),
    ("__KUBERNETES_NODE_NAME__", "KUBERNETES_NODE_NAME", ""),
    // Filled in from the service account; here so that its name is known outside a cluster, too.
    ("__SERVICEACCOUNT_TOKEN__", "", ""),
];

/// Placeholder, its variable, the file among the TLS assets that is meant without the variable.
const TLS_FILES: [(&str, &str, &str); 3] = [
    ("__ETCD_KEY_FILE__", "CNI_CONF_ETCD_KEY", "etcd-key"),
    ("__ETCD_CERT_FILE__", "CNI_CONF_ETCD_CERT", "etcd-cert"),
    ("__ETCD_CA_CERT_FILE__", "CNI_CONF_ETCD_CA", "etcd-ca"),
];

impl Settings {
    /// Reads the environment; an empty variable is as good as none. `host_name` is the node's name of last resort.
    ///
    /// # Errors
    /// Every variable with a wrong value.
    pub fn read(
        variable: &dyn Fn(&str) -> Option<String>,
        host_name: &str,
    ) -> Result<Self, Vec<SettingError>> {
        let mut errors = Vec::new();
        let mut reader = Reader {
            variable,
            errors: &mut errors,
        };
        let mut plain: BTreeMap<&'static str, String> = PLAIN
            .into_iter()
            .map(|(placeholder, name, default)| (placeholder, reader.text(name, default)))
            .collect();
        plain.extend(
            TLS_FILES
                .into_iter()
                .map(|(placeholder, name, _)| (placeholder, reader.text(name, ""))),
        );
        if let Some(name) = plain.get_mut("__KUBERNETES_NODE_NAME__")
            && name.is_empty()
        {
            *name = reader.text("NODENAME", &host_name.to_lowercase());
        }
        reader.check_mtu(&plain["__CNI_MTU__"]);
        let conf_name = reader.file_name("CNI_CONF_NAME", "10-calico.conflist");
        reader.check_extension(&conf_name);
        let settings = Self {
            net_dir: reader.path("CNI_NET_DIR", "/etc/cni/net.d"),
            conf_name,
            old_conf_name: reader.file_name("CNI_OLD_CONF_NAME", "10-calico.conflist"),
            kubeconfig_name: reader.file_name("KUBECONFIG_FILE_NAME", "calico-kubeconfig"),
            network_config: reader.given("CNI_NETWORK_CONFIG"),
            network_config_file: reader
                .given("CNI_NETWORK_CONFIG_FILE")
                .map(|_| reader.path("CNI_NETWORK_CONFIG_FILE", "/")),
            tls_assets_dir: reader.path("TLS_ASSETS_DIR", "/calico-secrets"),
            skip_binaries: reader
                .text("SKIP_CNI_BINARIES", "")
                .split(',')
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
            update_binaries: reader.boolean("UPDATE_CNI_BINARIES", true),
            sleep: reader.boolean("SLEEP", true),
            skip_tls_verify: reader.boolean("SKIP_TLS_VERIFY", false),
            conf_mode: reader.mode("TEST_FILE_PERMISSION", 0o600),
            service_host: reader.given("KUBERNETES_SERVICE_HOST"),
            service_port: reader.given("KUBERNETES_SERVICE_PORT"),
            plain,
        };
        if errors.is_empty() {
            Ok(settings)
        } else {
            Err(errors)
        }
    }

    /// The template: the file's, the variable's, or the list for a host that is given none.
    pub(super) fn template(&self, places: &Places) -> Result<String, InstallError> {
        if let Some(file) = &self.network_config_file {
            let path = places.at(file);
            return fs::read_to_string(&path).map_err(|source| InstallError::File {
                what: "read CNI_NETWORK_CONFIG_FILE",
                path,
                source,
            });
        }
        Ok(self
            .network_config
            .clone()
            .unwrap_or_else(|| template::DEFAULT.to_owned()))
    }

    /// Every placeholder with its value.
    pub(super) fn values(
        &self,
        places: &Places,
        secrets: &Secrets,
    ) -> BTreeMap<&'static str, String> {
        let mut values = self.plain.clone();
        let on_host = |path: PathBuf| path.display().to_string();
        values.insert(
            template::KUBECONFIG,
            on_host(self.net_dir.join(&self.kubeconfig_name)),
        );
        if let Some(token) = &secrets.token {
            values.insert("__SERVICEACCOUNT_TOKEN__", token.clone());
        }
        let assets = places.at(&self.tls_assets_dir);
        for (placeholder, _, file) in TLS_FILES {
            let given = values.entry(placeholder).or_default();
            if given.is_empty() && assets.join(file).is_file() {
                *given = on_host(self.net_dir.join(TLS_DIRECTORY).join(file));
            }
        }
        values
    }
}

/// Reads variables and collects what is wrong with them.
struct Reader<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    errors: &'a mut Vec<SettingError>,
}

impl Reader<'_> {
    fn given(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.trim().is_empty())
    }

    fn text(&self, name: &str, default: &str) -> String {
        self.given(name).unwrap_or_else(|| default.to_owned())
    }

    fn wrong(&mut self, variable: &'static str, value: &str, allowed: &'static str) {
        self.errors.push(SettingError {
            variable,
            value: value.to_owned(),
            allowed,
        });
    }

    fn path(&mut self, name: &'static str, default: &str) -> PathBuf {
        let value = self.text(name, default);
        if !value.starts_with('/') {
            self.wrong(name, &value, "an absolute path");
        }
        PathBuf::from(value)
    }

    fn file_name(&mut self, name: &'static str, default: &str) -> String {
        let value = self.text(name, default);
        if value.contains('/') || value == "." || value == ".." {
            self.wrong(name, &value, "a file's name, without a directory");
        }
        value
    }

    fn check_extension(&mut self, name: &str) {
        let extension = Path::new(name).extension().unwrap_or_default();
        if !["conf", "conflist", "json"]
            .iter()
            .any(|known| extension == *known)
        {
            self.wrong(
                "CNI_CONF_NAME",
                name,
                "a name that ends in .conflist (a list), .conf or .json (one plugin): runtimes read no others",
            );
        }
    }

    /// As Go's `strconv.ParseBool`, which Calico's installer reads them with.
    fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        let Some(value) = self.given(name) else {
            return default;
        };
        match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => {
                self.wrong(name, &value, "true, false");
                default
            }
        }
    }

    fn mode(&mut self, name: &'static str, default: u32) -> u32 {
        let Some(value) = self.given(name) else {
            return default;
        };
        match u32::from_str_radix(value.trim_start_matches("0o"), 8) {
            Ok(mode) if mode <= 0o777 => mode,
            Ok(_) | Err(_) => {
                self.wrong(name, &value, "an octal number up to 0777");
                default
            }
        }
    }

    fn check_mtu(&mut self, value: &str) {
        let is_mtu = value
            .parse::<u32>()
            .is_ok_and(|mtu| mtu == 0 || (68..=65_535).contains(&mtu));
        if !is_mtu {
            self.wrong("CNI_MTU", value, "0 (the agent decides), or 68 to 65535");
        }
    }
}
