//! Install mode: the plugin puts itself and its network configuration on the host, as the DaemonSet's init container
//! `install-cni`, and takes them away again.
//!
//! ```text
//! environment ─► Settings ─► plugins (rename over) ─► kubeconfig ─► network configuration (rename over) ─► stay and renew, or end
//! ```
//!
//! The configuration comes last: a runtime that finds it calls the plugin at once. Every file appears under its name
//! whole or not at all, so that pods may start meanwhile. All that can be checked is checked before the first file is
//! written. The plugin itself needs no API server; a kubeconfig is written only for a configuration that names one.
//!
//! Source: Calico, "Configure the Calico CNI plugins"; CNI specification 1.1.0, "Network configuration format".

mod binaries;
mod configuration;
mod files;
mod kubeconfig;
mod settings;
mod stay;
mod template;
mod uninstall;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use binaries::PluginError;
pub use configuration::ConfigurationError;
pub use settings::{SettingError, Settings};
pub use stay::Stay;
pub use uninstall::uninstall;

use crate::install::files::Change;

/// Names under which the plugin itself is installed. `calico` is what configurations name.
pub const NAMES: [&str; 3] = ["calico", "calico-ipam", "tortie-cni"];

/// Where things are, inside the container.
#[derive(Clone, Debug)]
pub struct Places {
    /// This program.
    pub program: PathBuf,
    /// The host's plugin directory.
    pub bin: PathBuf,
    /// One more plugin directory, used when it is there.
    pub secondary_bin: PathBuf,
    /// The host's directory of network configurations.
    pub net: PathBuf,
    /// The pod's service account: `token` and `ca.crt`.
    pub service_account: PathBuf,
    /// Prefix of every other path that the environment names.
    pub root: PathBuf,
}

impl Places {
    /// Calico's places, below `root`.
    #[must_use]
    pub fn below(root: &Path, program: PathBuf) -> Self {
        Self {
            program,
            bin: root.join("host/opt/cni/bin"),
            secondary_bin: root.join("host/secondary-bin-dir"),
            net: root.join("host/etc/cni/net.d"),
            service_account: root.join("var/run/secrets/kubernetes.io/serviceaccount"),
            root: root.to_path_buf(),
        }
    }

    /// A path of the environment, below the root.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Why the installation stopped.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Variables with wrong values, all of them.
    #[error("{}", list(.0))]
    Settings(Vec<SettingError>),
    /// The network configuration would not work.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// A plugin could not be put in place.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A file could not be read or written.
    #[error("{what} {}", .path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn list(errors: &[SettingError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// What the environment and the pod's service account make of the template.
struct Planned {
    configuration: String,
    /// Types of the plugins that it names.
    types: Vec<String>,
    /// For a configuration that names one.
    kubeconfig: Option<String>,
}

impl Planned {
    fn read(
        places: &Places,
        settings: &Settings,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self, InstallError> {
        let secrets = kubeconfig::Secrets::read(&places.service_account)?;
        let template = settings.template(places)?;
        let configuration = template::fill(&template, &settings.values(places, &secrets), say);
        let types = configuration::check(&configuration, &settings.conf_name)?;
        let kubeconfig = if template.contains(template::KUBECONFIG) {
            Some(kubeconfig::make(settings, &secrets)?)
        } else {
            None
        };
        Ok(Self {
            configuration,
            types,
            kubeconfig,
        })
    }

    /// TLS assets, kubeconfig, network configuration.
    fn write(
        &self,
        places: &Places,
        settings: &Settings,
        say: &mut dyn FnMut(&str, Change),
    ) -> Result<(), InstallError> {
        copy_tls_assets(places, settings, say)?;
        if let Some(text) = &self.kubeconfig {
            let path = places.net.join(&settings.kubeconfig_name);
            write(&path, text.as_bytes(), 0o600, say)?;
        }
        let path = places.net.join(&settings.conf_name);
        let text = self.configuration.as_bytes();
        write(&path, text, settings.conf_mode, say)
    }
}

/// Puts plugins, kubeconfig and network configuration in place. `say` gets one line for each thing done, and each
/// thing that an operator should look at.
///
/// # Errors
/// See [`InstallError`]. What was put in place before stays: the next run goes on there.
pub fn install(
    places: &Places,
    settings: &Settings,
    say: &mut dyn FnMut(&str),
) -> Result<(), InstallError> {
    let planned = Planned::read(places, settings, say)?;
    let directories = binaries::install(places, settings, say)?;
    for missing in planned.types.iter().filter(|name| {
        !directories
            .iter()
            .any(|directory| directory.join(name).exists())
    }) {
        say(&format!(
            "warning: the network configuration names the plugin {missing:?}, which is not in {}: pods will not start until it is there",
            directories[0].display()
        ));
    }
    planned.write(places, settings, &mut |line, _| say(line))?;
    remove_old(places, settings, say)?;
    for first in configuration::before(&places.net, &settings.conf_name) {
        say(&format!(
            "warning: {} comes before {} in the alphabet: runtimes use it, and not this one; remove it, or set CNI_CONF_NAME",
            places.net.join(first).display(),
            settings.conf_name
        ));
    }
    Ok(())
}

/// Writes again what the pod's service account and the TLS assets are in. `say` gets one line for each file that was
/// not as it should be.
///
/// # Errors
/// See [`InstallError`]. What was installed before stays.
pub fn renew(
    places: &Places,
    settings: &Settings,
    say: &mut dyn FnMut(&str),
) -> Result<(), InstallError> {
    // What is to be said of the template was said when it was installed.
    let planned = Planned::read(places, settings, &mut |_| ())?;
    planned.write(places, settings, &mut |line, change| {
        if change == Change::Written {
            say(line);
        }
    })
}

fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    say: &mut dyn FnMut(&str, Change),
) -> Result<(), InstallError> {
    let change = files::put(path, content, mode).map_err(|source| InstallError::File {
        what: "write",
        path: path.to_path_buf(),
        source,
    })?;
    let line = match change {
        Change::Written => format!("wrote {}", path.display()),
        Change::Unchanged => format!("{} is as it should be", path.display()),
    };
    say(&line, change);
    Ok(())
}

fn copy_tls_assets(
    places: &Places,
    settings: &Settings,
    say: &mut dyn FnMut(&str, Change),
) -> Result<(), InstallError> {
    let from = places.at(&settings.tls_assets_dir);
    let Ok(entries) = fs::read_dir(&from) else {
        return Ok(());
    };
    let failed = |what, path: &Path| {
        let path = path.to_path_buf();
        move |source| InstallError::File { what, path, source }
    };
    let to = places.net.join(settings::TLS_DIRECTORY);
    for entry in entries {
        let path = entry.map_err(failed("list", &from))?.path();
        // A mounted Secret has links to its files beside folders of its own.
        if !path.is_file() {
            continue;
        }
        let Some(name) = path.file_name() else {
            continue;
        };
        let content = fs::read(&path).map_err(failed("read", &path))?;
        fs::create_dir_all(&to).map_err(failed("make the directory", &to))?;
        write(&to.join(name), &content, 0o600, say)?;
    }
    Ok(())
}

fn remove_old(
    places: &Places,
    settings: &Settings,
    say: &mut dyn FnMut(&str),
) -> Result<(), InstallError> {
    if settings.old_conf_name == settings.conf_name {
        return Ok(());
    }
    remove(&places.net.join(&settings.old_conf_name), say)
}

fn remove(path: &Path, say: &mut dyn FnMut(&str)) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Ok(()) => {
            say(&format!("removed {}", path.display()));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(InstallError::File {
            what: "remove",
            path: path.to_path_buf(),
            source,
        }),
    }
}
