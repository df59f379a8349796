//! Taking away what was installed.

use std::fs;
use std::path::Path;

use crate::install::{InstallError, NAMES, Places, Settings, remove};

/// A text that every release of this program has in it, and no other plugin.
const SIGN: &[u8] = b"Tortie's CNI plugin";

/// Takes the network configuration away, then the kubeconfig, then the plugin under its names. A plugin of another project
/// under the same name stays, and so do the plugins of others: configurations may call them.
///
/// Runtimes need the plugin to end pods that it connected: the node should have none left.
///
/// # Errors
/// [`InstallError::File`] for the first file that cannot be removed.
pub fn uninstall(
    places: &Places,
    settings: &Settings,
    say: &mut dyn FnMut(&str),
) -> Result<(), InstallError> {
    remove(&places.net.join(&settings.conf_name), say)?;
    remove(&places.net.join(&settings.kubeconfig_name), say)?;
    for directory in [&places.bin, &places.secondary_bin] {
        for name in NAMES {
            let path = directory.join(name);
            if is_ours(&path) {
                remove(&path, say)?;
            } else if path.exists() {
                say(&format!("left {}: it is another plugin", path.display()));
            }
        }
    }
    Ok(())
}

fn is_ours(path: &Path) -> bool {
    fs::read(path).is_ok_and(|content| content.windows(SIGN.len()).any(|part| part == SIGN))
}
