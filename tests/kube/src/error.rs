//! Why something of the cluster could not be done.

use std::io;

use crate::programs::Missing;

/// Why something of the cluster could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not there: the test is skipped then, see [`crate::required`].
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The system refused something.
    #[error("{what}")]
    System {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A key or certificate could not be made.
    #[error("make the certificate of {name}")]
    Certificate {
        /// Whose.
        name: String,
        /// Why it failed.
        #[source]
        source: rcgen::Error,
    },
    /// A program ended by itself, or never became ready.
    #[error("{program}: {what}\n{log}")]
    Program {
        /// `etcd`, `kube-apiserver`, …
        program: String,
        /// What it did.
        what: String,
        /// The end of its log.
        log: String,
    },
    /// kubectl or etcdctl answered an error.
    #[error("{command}: {said}")]
    Command {
        /// The command line.
        command: String,
        /// Its standard error.
        said: String,
    },
}

impl Error {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
