//! The plugins: this program under its names, and whatever others lie beside it in the image.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::install::files::{self, Change};
use crate::install::{NAMES, Places, Settings};

/// Names of this program in the image that no configuration calls.
const NOT_PLUGINS: [&str; 2] = ["install", "tortie-cni"];

/// Why a plugin is not in place.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// A directory of the host is not mounted.
    #[error(
        "{} is not there; mount the host's plugin directory (/opt/cni/bin) on it, or set --root", .0.display()
    )]
    NoDirectory(PathBuf),
    /// A plugin of the image cannot be read.
    #[error("read the plugin {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A plugin cannot be put in place.
    #[error(
        "put the plugin {} in place (UPDATE_CNI_BINARIES=false keeps what is there, SKIP_CNI_BINARIES=NAME leaves one out)", .path.display()
    )]
    Write {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Installs into every plugin directory that is there; answers which those are, the main one first.
pub(super) fn install(
    places: &Places,
    settings: &Settings,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<PathBuf>, PluginError> {
    if !places.bin.is_dir() {
        return Err(PluginError::NoDirectory(places.bin.clone()));
    }
    let directories: Vec<PathBuf> = [&places.bin, &places.secondary_bin]
        .into_iter()
        .filter(|directory| directory.is_dir())
        .cloned()
        .collect();
    let plugins = plugins(&places.program)?;
    for directory in &directories {
        for (name, source) in &plugins {
            let path = directory.join(name);
            if settings.skip_binaries.contains(name) {
                say(&format!("left out {} (SKIP_CNI_BINARIES)", path.display()));
                continue;
            }
            if !settings.update_binaries && path.exists() {
                say(&format!("kept {} (UPDATE_CNI_BINARIES)", path.display()));
                continue;
            }
            put(&path, source, say)?;
        }
    }
    Ok(directories)
}

fn put(path: &Path, source: &Path, say: &mut dyn FnMut(&str)) -> Result<(), PluginError> {
    let content = fs::read(source).map_err(|error| PluginError::Read {
        path: source.to_path_buf(),
        source: error,
    })?;
    let change = files::put(path, &content, 0o755).map_err(|source| PluginError::Write {
        path: path.to_path_buf(),
        source,
    })?;
    if change == Change::Written {
        say(&format!("installed {}", path.display()));
    }
    Ok(())
}

/// Name on the host → file of the image. Plugins of other projects lie beside this program when an image has them.
fn plugins(program: &Path) -> Result<BTreeMap<String, PathBuf>, PluginError> {
    let mut found = BTreeMap::new();
    if let Some(directory) = program.parent()
        && directory.ends_with("opt/cni/bin")
    {
        let failed = |source| PluginError::Read {
            path: directory.to_path_buf(),
            source,
        };
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_file() && !NOT_PLUGINS.contains(&&*name) {
                found.insert(name.into_owned(), path);
            }
        }
    }
    for name in NAMES {
        found.insert(name.to_owned(), program.to_path_buf());
    }
    Ok(found)
}
