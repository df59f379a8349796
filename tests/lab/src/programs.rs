//! The product's programs: building them beside the lab, and finding them.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::options::Store;

/// Package and program, in the order in which they are named to cargo.
const PROGRAMS: [(&str, &str); 5] = [
    ("node", "tortie-node"),
    ("route-reflector", "tortie-rr"),
    ("cni", "tortie-cni"),
    ("ctl", "tortiectl"),
    ("datastore-local", "tortie-store"),
];

/// Names a directory of programs built elsewhere (e.g. a release to be tried); nothing is built then.
pub(crate) const PREBUILT: &str = "TORTIE_LAB_PROGRAMS";

/// Where the built programs lie.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
}

/// Why the programs are not there.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// The running program lies outside a cargo target directory.
    #[error("{} does not lie in a cargo target directory, so the product's programs cannot be found beside it", .0.display())]
    NoTargetDirectory(PathBuf),
    /// cargo could not be started.
    #[error(
        "cannot start `{cargo}`; cargo must be in PATH, or named by the environment variable CARGO"
    )]
    NoCargo {
        /// What was tried.
        cargo: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// cargo ran and failed; it has said why on standard error.
    #[error("building the product's programs failed")]
    BuildFailed,
    /// A program is not there although the build succeeded.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
}

impl Programs {
    /// Builds all programs with the profile of the running one, into its target directory. `cargo run` and `cargo test` of one package
    /// build no programs of others. Must be called before any namespace is entered.
    ///
    /// In the release profile, which a user waits for, the programs are without the datastore over an API server, which doubles what is
    /// built, unless the lab's objects are there. Tests have one set of programs for all.
    ///
    /// # Errors
    /// See [`ProgramsError`].
    pub fn build(store: Store) -> Result<Self, ProgramsError> {
        let programs = Self::beside_this_one()?;
        if std::env::var_os(PREBUILT).is_some() {
            return programs.check();
        }
        let target = programs
            .directory
            .parent()
            .expect("a profile directory has a parent");
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut command = Command::new(&cargo);
        command
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .args(["build", "--target-dir"])
            .arg(target);
        if programs.directory.ends_with("release") {
            command.arg("--release");
            if store == Store::Local {
                command.arg("--no-default-features");
            }
        }
        for (package, _) in PROGRAMS {
            command.args(["--package", package]);
        }
        if !io::stderr().is_terminal() {
            command.arg("--quiet");
        }
        // What cargo tells a test of its package, build scripts take for a change of theirs: `ring` and all above it would be built anew,
        // now and again when cargo is called from a shell.
        for (name, _) in std::env::vars_os() {
            let is_of_package =
                |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
            if name.to_str().is_some_and(is_of_package) {
                command.env_remove(name);
            }
        }
        // Standard output is for the lab's own report.
        command.stdout(io::stderr());
        let status = command
            .status()
            .map_err(|source| ProgramsError::NoCargo { cargo, source })?;
        if !status.success() {
            return Err(ProgramsError::BuildFailed);
        }
        programs.check()
    }

    /// Where they lie.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The programs that were built before.
    ///
    /// # Errors
    /// See [`ProgramsError`].
    pub fn find() -> Result<Self, ProgramsError> {
        Self::beside_this_one()?.check()
    }

    fn beside_this_one() -> Result<Self, ProgramsError> {
        if let Some(directory) = std::env::var_os(PREBUILT) {
            // The programs are started from other places than this one.
            let directory = std::path::absolute(&directory).unwrap_or_else(|_| directory.into());
            return Ok(Self { directory });
        }
        let program = std::env::current_exe().unwrap_or_default();
        let directory = program.parent().map(Path::to_path_buf);
        // Test programs lie one directory deeper.
        let directory = match directory {
            Some(directory) if directory.ends_with("deps") => {
                directory.parent().map(Path::to_path_buf)
            }
            other => other,
        };
        directory
            .map(|directory| Self { directory })
            .ok_or(ProgramsError::NoTargetDirectory(program))
    }

    fn check(self) -> Result<Self, ProgramsError> {
        match PROGRAMS
            .iter()
            .map(|(_, program)| self.path(program))
            .find(|path| !path.exists())
        {
            Some(missing) => Err(ProgramsError::Missing(missing)),
            None => Ok(self),
        }
    }

    fn path(&self, program: &str) -> PathBuf {
        self.directory.join(program)
    }

    /// The folder they lie in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.directory
    }

    /// The node agent.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.path("tortie-node")
    }

    /// The route reflector.
    #[must_use]
    pub fn reflector(&self) -> PathBuf {
        self.path("tortie-rr")
    }

    /// The CNI plugin.
    #[must_use]
    pub fn cni(&self) -> PathBuf {
        self.path("tortie-cni")
    }

    /// The operator's tool.
    #[must_use]
    pub fn ctl(&self) -> PathBuf {
        self.path("tortiectl")
    }

    /// The embedded store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path("tortie-store")
    }
}
