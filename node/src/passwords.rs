//! BGP passwords from the environment or from files, by the secret and the key that an object names.
//!
//! A variable counts before a file. A file is `<directory>/<secret>/<key>`, as Kubernetes mounts a secret; one line end
//! after the password is no part of it. Files are looked at anew every few seconds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bgp::config::Password;
use felix::calc::SecretRef;
use tracing::warn;

/// `TORTIE_BGP_PASSWORD_<secret>_<key>`, with `_` for whatever is neither letter nor digit.
const PREFIX: &str = "TORTIE_BGP_PASSWORD_";

/// Where passwords are found.
pub struct Passwords {
    directory: PathBuf,
    environment: BTreeMap<String, String>,
}

impl Passwords {
    /// `variables` is the environment.
    pub fn from_env(directory: &str, variables: impl Iterator<Item = (String, String)>) -> Self {
        Self {
            directory: PathBuf::from(directory),
            environment: variables
                .filter(|(name, _)| name.starts_with(PREFIX))
                .collect(),
        }
    }

    /// What stands there now. A file that cannot be read is told.
    pub fn read(&self, secret: &SecretRef) -> Option<Password> {
        if let Some(text) = self.environment.get(&variable(secret)) {
            return Some(Password(text.as_str().into()));
        }
        let plain =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('/');
        if !plain(&secret.name) || !plain(&secret.key) {
            return None;
        }
        let path = self.directory.join(&secret.name).join(&secret.key);
        read_file(&path)
    }
}

fn read_file(path: &Path) -> Option<Password> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(Password(text.strip_suffix('\n').unwrap_or(&text).into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!(path = %path.display(), %error, "reading a BGP password");
            None
        }
    }
}

fn variable(secret: &SecretRef) -> String {
    let name = format!("{PREFIX}{}_{}", secret.name, secret.key);
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, key: &str) -> SecretRef {
        SecretRef {
            name: name.to_owned(),
            key: key.to_owned(),
        }
    }

    fn read(passwords: &Passwords, name: &str, key: &str) -> Option<String> {
        let found = passwords.read(&secret(name, key));
        found.map(|password| password.0.to_string())
    }

    #[test]
    fn a_variable_counts_before_a_file_and_nothing_outside_the_directory_is_read() {
        let directory =
            std::env::temp_dir().join(format!("tortie-passwords-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("bgp-secrets")).unwrap();
        std::fs::write(directory.join("bgp-secrets/tor.1"), "from file\n").unwrap();
        std::fs::write(directory.join("outside"), "x").unwrap();
        let path = directory.to_str().unwrap();
        let none = Passwords::from_env(path, std::iter::empty());
        assert_eq!(
            read(&none, "bgp-secrets", "tor.1").as_deref(),
            Some("from file")
        );
        assert_eq!(read(&none, "bgp-secrets", "other"), None);
        assert_eq!(read(&none, "bgp-secrets", "../outside"), None);
        assert_eq!(read(&none, "..", "outside"), None);
        let variable = (
            "TORTIE_BGP_PASSWORD_bgp_secrets_tor_1".to_owned(),
            " a\"b".to_owned(),
        );
        let one = Passwords::from_env(path, [variable].into_iter());
        assert_eq!(read(&one, "bgp-secrets", "tor.1").as_deref(), Some(" a\"b"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
