//! Files under `/proc/sys`. Those of `net/` belong to the calling thread's network namespace.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use felix::desired::{IfName, SysctlKey};
use felix::kernel::OpError;

const ROOT: &str = "/proc/sys";

/// A sysctl that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// The key would leave `/proc/sys`.
    #[error("sysctl `{0}` is not a path below /proc/sys: parts must be names joined by `/`")]
    Path(Arc<str>),
    /// The file could not be read.
    #[error("cannot read /proc/sys/{key}")]
    Read {
        /// Path below `/proc/sys`.
        key: Arc<str>,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write `{value}` to /proc/sys/{key}")]
    Write {
        /// Path below `/proc/sys`.
        key: Arc<str>,
        /// Value.
        value: Arc<str>,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Reads a value without its line end.
pub fn read(key: &SysctlKey) -> Result<String, SysctlError> {
    let path = path(key)?;
    fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| SysctlError::Read {
            key: key.0.clone(),
            source,
        })
}

/// Writes a value if the file does not hold it already.
pub fn write(key: &SysctlKey, value: &Arc<str>) -> Result<(), SysctlError> {
    let path = path(key)?;
    // A file that cannot be read (mode 0200) is just written.
    if holds(&path, value.as_bytes()).is_ok_and(|holds| holds) {
        return Ok(());
    }
    put(key, path, value)
}

/// Whether a file has this value. A pod's settings are read on its way to its first packet: no size is asked for, and no end.
fn holds(path: &Path, value: &[u8]) -> io::Result<bool> {
    // Longer ones are written again.
    let mut room = [0; 128];
    let length = File::open(path)?.read(&mut room)?;
    Ok(room[..length].trim_ascii_end() == value)
}

/// Writes a value whatever the file holds: for a device that was just made.
pub(crate) fn overwrite(key: &SysctlKey, value: &str) -> Result<(), SysctlError> {
    put(key, path(key)?, value)
}

fn put(key: &SysctlKey, path: PathBuf, value: &str) -> Result<(), SysctlError> {
    fs::write(path, value).map_err(|source| SysctlError::Write {
        key: key.0.clone(),
        value: Arc::from(value),
        source,
    })
}

/// The error in the reconciler's terms: a missing per-device directory is a missing device.
pub(crate) fn refused(error: &SysctlError) -> OpError {
    let (key, source) = match error {
        SysctlError::Read { key, source } | SysctlError::Write { key, source, .. } => (key, source),
        SysctlError::Path(_) => {
            return OpError::Kernel {
                errno: libc::EINVAL,
                text: Arc::from(error.to_string()),
            };
        }
    };
    let parts: Vec<&str> = key.split('/').collect();
    if let ["net", _, "conf" | "neigh", device, _] = parts.as_slice()
        && source.kind() == io::ErrorKind::NotFound
        && !PathBuf::from(format!("{ROOT}/{}", parts[..4].join("/"))).exists()
    {
        return OpError::NoDevice(IfName::from(*device));
    }
    let errno = source.raw_os_error().unwrap_or(libc::EIO);
    OpError::Kernel {
        errno,
        text: Arc::from(format!("{error}: {source}")),
    }
}

fn path(key: &SysctlKey) -> Result<PathBuf, SysctlError> {
    let escapes = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0');
    if key.0.split('/').any(escapes) {
        return Err(SysctlError::Path(key.0.clone()));
    }
    Ok(PathBuf::from(format!("{ROOT}/{}", key.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_leaves_proc_sys_is_refused() {
        for key in [
            "",
            "/etc/passwd",
            "net/../../etc/passwd",
            "net//ipv4",
            "net/./ipv4",
            "net/",
        ] {
            let error = path(&SysctlKey(Arc::from(key))).unwrap_err();
            assert!(matches!(error, SysctlError::Path(_)), "{key}: {error}");
        }
        path(&SysctlKey(Arc::from("net/ipv4/conf/eth0.5/proxy_arp"))).unwrap();
    }
}
