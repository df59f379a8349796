//! The Kubernetes programs on this machine.

use std::path::{Path, PathBuf};

/// Names another folder than `~/.cache/tortie/kube`.
const FOLDER: &str = "TORTIE_KUBE";
/// What every API server needs.
const NEEDED: [&str; 4] = ["etcd", "etcdctl", "kube-apiserver", "kubectl"];

/// The folder that holds the programs.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

/// A program that is not there.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "no {program} in {}: .ci/setup builds it, given Go; {FOLDER} names another folder", folder.display()
)]
pub struct Missing {
    /// Its name.
    program: String,
    /// Where it was looked for.
    folder: PathBuf,
}

impl Programs {
    /// The path of a program by its name, e.g. `kubectl`.
    ///
    /// # Errors
    /// When there is none.
    pub fn path(&self, program: &str) -> Result<PathBuf, Missing> {
        let path = self.folder.join(program);
        if path.is_file() {
            Ok(path)
        } else {
            Err(Missing {
                program: program.to_owned(),
                folder: self.folder.clone(),
            })
        }
    }

    /// The folder, e.g. to be put on a user's PATH.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The programs, when all that an API server needs are there.
///
/// # Errors
/// The first that is missing.
pub fn available() -> Result<Programs, Missing> {
    let folder = std::env::var_os(FOLDER).map_or_else(
        || {
            let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
            Path::new(&home).join(".cache/tortie/kube")
        },
        PathBuf::from,
    );
    let programs = Programs { folder };
    for program in NEEDED {
        programs.path(program)?;
    }
    Ok(programs)
}

/// The programs; where one is missing, the running test is skipped (id `kube`). `more` are needed besides those of every API server.
#[must_use]
pub fn required(more: &[&str]) -> Programs {
    let found = available().and_then(|programs| {
        more.iter()
            .try_for_each(|program| programs.path(program).map(drop))?;
        Ok(programs)
    });
    match found {
        Ok(programs) => programs,
        Err(missing) => harness::skip("kube", &missing.to_string()),
    }
}
