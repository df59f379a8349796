//! What an API server is asked to be.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::certificates::Validity;

/// Where programs run: here, or e.g. in another network namespace.
#[derive(Clone)]
pub struct Place(Arc<dyn Fn(&Path) -> Command + Send + Sync>);

impl Place {
    /// Where the caller is.
    #[must_use]
    pub fn here() -> Self {
        Self::of(|program| Command::new(program))
    }

    /// Where `command` makes programs run.
    #[must_use]
    pub fn of(command: impl Fn(&Path) -> Command + Send + Sync + 'static) -> Self {
        Self(Arc::new(command))
    }

    /// A command that will run a program there.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        (self.0)(program)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

/// The TCP ports of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Of the API server.
    pub api: u16,
    /// Of etcd, for the API server.
    pub etcd: u16,
    /// Of etcd, for other members, of which there are none.
    pub peer: u16,
}

impl Ports {
    /// The usual ones, for a network namespace in which nothing else listens.
    pub const USUAL: Self = Self {
        api: 6443,
        etcd: 2379,
        peer: 2380,
    };

    /// Three that are free on an address of this network namespace now.
    pub(crate) fn free(address: IpAddr) -> io::Result<Self> {
        // Held together, so that they are three.
        let bound = [(); 3].map(|()| TcpListener::bind((address, 0)));
        let [api, etcd, peer] = bound.map(|listener| listener?.local_addr());
        Ok(Self {
            api: api?.port(),
            etcd: etcd?.port(),
            peer: peer?.port(),
        })
    }
}

/// A user whom the API server knows by a token.
#[derive(Clone, Debug)]
pub struct User {
    /// Its name to RBAC, e.g. `system:serviceaccount:kube-system:calico-node`.
    pub name: String,
    /// Its groups, besides `system:authenticated`.
    pub groups: Vec<String>,
}

impl User {
    /// May everything.
    #[must_use]
    pub fn admin() -> Self {
        Self {
            name: "admin".to_owned(),
            groups: vec!["system:masters".to_owned()],
        }
    }

    /// What a pod of this service account is; it may what a test's RBAC objects grant that account.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ],
        }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Below which the cluster's own directory is made; the machine's temporary one when none is given.
    pub parent: Option<PathBuf>,
    /// Where the servers and kubectl run.
    pub place: Place,
    /// Where the API server listens; etcd is always on 127.0.0.1.
    pub address: IpAddr,
    /// `None`: free ones of the calling thread's network namespace.
    pub ports: Option<Ports>,
    /// More names and addresses for the API server's certificate, e.g. its Service's.
    pub hosts: Vec<String>,
    /// Of the API server's certificate.
    pub validity: Validity,
    /// Known besides the administrator.
    pub users: Vec<User>,
    /// Pods get their namespace's service account and its token, as in every real cluster; needs [`crate::Controllers`].
    pub service_accounts: bool,
    /// More flags for the API server; a later one of the same name wins.
    pub flags: Vec<String>,
    /// How long a server may take until it answers.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parent: None,
            place: Place::here(),
            address: Ipv4Addr::LOCALHOST.into(),
            ports: None,
            hosts: Vec::new(),
            validity: Validity::Now,
            users: vec![User::service_account("kube-system", "calico-node")],
            service_accounts: false,
            flags: Vec::new(),
            patience: Duration::from_secs(120),
        }
    }
}
