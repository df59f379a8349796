//! etcd and the API server: their files, their flags, their start.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::certificates::{
    Authority, Credentials, Subject, Validity, random_token, signing_key, write_secret,
};
use crate::directory::Directory;
use crate::error::Error;
use crate::faults::Part;
use crate::options::{Options, Place, Ports, User};
use crate::process::{Keeper, Process};
use crate::programs::{Programs, available};
use crate::tokens;

/// How often free ports are drawn anew when somebody else took one meanwhile.
const ATTEMPTS: u32 = 5;
/// Between two questions whether a server answers.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(100);
/// The Services' range and its first address, which clients in pods use: of the family of the API server's address.
const SERVICES: (&str, &str) = ("10.96.0.0/16", "10.96.0.1");
const SERVICES_V6: (&str, &str) = ("fd00:10:96::/112", "fd00:10:96::1");

/// A running API server with its etcd. Both end when it is dropped, and their files go.
pub struct ApiServer {
    pub(crate) programs: Programs,
    pub(crate) options: Options,
    pub(crate) ports: Ports,
    pub(crate) etcd: Option<Process>,
    pub(crate) api: Option<Process>,
    keeper: Keeper,
    authority: Authority,
    /// Another authority: who may ask the API server must not ask etcd.
    etcd_credentials: (PathBuf, Credentials),
    tokens: Vec<(User, String)>,
    /// Signs service accounts' tokens.
    accounts_key: KeyPair,
    // Last: it goes when nobody writes to it any more.
    directory: Directory,
}

impl ApiServer {
    /// Starts both and waits until the API server is ready and has its first namespaces.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(options: Options) -> Result<Self, Error> {
        let mut attempt = 1;
        loop {
            let mut server = Self::prepare(options.clone())?;
            let started = server
                .start_part(Part::Etcd)
                .and_then(|()| server.start_part(Part::ApiServer));
            match started {
                Ok(()) => return Ok(server),
                Err(Error::Program { log, .. })
                    if options.ports.is_none()
                        && attempt < ATTEMPTS
                        && log.contains("address already in use") =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes all files; starts nothing.
    fn prepare(options: Options) -> Result<Self, Error> {
        let programs = available()?;
        let parent = options.parent.clone().unwrap_or_else(std::env::temp_dir);
        let directory =
            Directory::new(&parent).map_err(Error::system("make the cluster's directory"))?;
        let ports = match options.ports {
            Some(ports) => ports,
            None => Ports::free(options.address).map_err(Error::system("find free ports"))?,
        };
        let folder = directory.path();
        let authority = Authority::new(folder, "ca")?;
        let accounts_key = signing_key(folder)?;
        // With it the API server asks kubelets for logs, and runs commands in pods.
        let client = Subject::user("kube-apiserver-kubelet-client", "system:masters");
        authority.sign("kubelet-client", &client, crate::Validity::Now)?;
        let etcd_authority = Authority::new(folder, "etcd-ca")?;
        let etcd = Subject::server("etcd", &["127.0.0.1"]);
        let credentials = etcd_authority.sign("etcd", &etcd, crate::Validity::Now)?;
        let mut server = Self {
            programs,
            ports,
            etcd: None,
            api: None,
            keeper: Keeper::new(),
            authority,
            etcd_credentials: (etcd_authority.file(), credentials),
            tokens: Vec::new(),
            accounts_key,
            directory,
            options,
        };
        server.sign_certificate(&server.authority)?;
        server.draw_tokens()?;
        let kubeconfig = server.kubeconfig_with(&server.url(), server.admin_token());
        write_secret(&server.kubeconfig(), &kubeconfig)?;
        Ok(server)
    }

    /// Has an authority sign the API server's certificate anew, with the validity of the options.
    pub(crate) fn sign_certificate(&self, authority: &Authority) -> Result<(), Error> {
        let address = self.options.address.to_string();
        let mut hosts = vec![
            "localhost",
            "127.0.0.1",
            self.services().1,
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            &address,
        ];
        hosts.extend(self.options.hosts.iter().map(String::as_str));
        let subject = Subject::server("kube-apiserver", &hosts);
        let validity = self.options.validity;
        let signed = authority.sign("apiserver", &subject, validity)?;
        let folder = self.folder();
        for (from, name) in [
            (signed.certificate, "apiserver.crt"),
            (signed.key, "apiserver.key"),
        ] {
            let text = fs::read_to_string(&from)
                .map_err(Error::system(format!("read {}", from.display())))?;
            write_secret(&folder.join(name), &text)?;
        }
        Ok(())
    }

    /// Gives every user a new token. The API server reads them when it starts.
    pub(crate) fn draw_tokens(&mut self) -> Result<(), Error> {
        let users = [User::admin()]
            .into_iter()
            .chain(self.options.users.clone());
        let mut text = String::new();
        let mut tokens = Vec::new();
        for (number, user) in users.enumerate() {
            // The administrator keeps the first: the kubeconfig file has it.
            let token = match self.tokens.first() {
                Some((_, token)) if number == 0 => token.clone(),
                _ => random_token()?,
            };
            let groups = user.groups.join(",");
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{token},{},{number},\"{groups}\"", user.name);
            tokens.push((user, token));
        }
        self.tokens = tokens;
        write_secret(&self.folder().join("tokens.csv"), &text)
    }

    pub(crate) fn spawn(&self, part: Part) -> Result<Process, Error> {
        let (program, flags) = match part {
            Part::Etcd => ("etcd", self.etcd_flags()),
            Part::ApiServer => ("kube-apiserver", self.api_flags()),
        };
        let mut command = self.options.place.command(&self.programs.path(program)?);
        command.args(flags);
        Process::spawn(&self.keeper, program, command, self.folder())
    }

    fn etcd_flags(&self) -> Vec<String> {
        let (client, peer) = (
            self.etcd_url(),
            format!("https://127.0.0.1:{}", self.ports.peer),
        );
        let (authority, own) = &self.etcd_credentials;
        let (authority, certificate, key) = (
            authority.display(),
            own.certificate.display(),
            own.key.display(),
        );
        vec![
            "--name=kube".to_owned(),
            format!("--data-dir={}", self.data().display()),
            // A machine that crashes takes the test with it.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=kube={peer}"),
            "--client-cert-auth".to_owned(),
            format!("--trusted-ca-file={authority}"),
            format!("--cert-file={certificate}"),
            format!("--key-file={key}"),
            "--peer-client-cert-auth".to_owned(),
            format!("--peer-trusted-ca-file={authority}"),
            format!("--peer-cert-file={certificate}"),
            format!("--peer-key-file={key}"),
        ]
    }

    fn services(&self) -> (&'static str, &'static str) {
        match self.options.address {
            IpAddr::V4(_) => SERVICES,
            IpAddr::V6(_) => SERVICES_V6,
        }
    }

    fn api_flags(&self) -> Vec<String> {
        let file = |name: &str| self.folder().join(name).display().to_string();
        let (etcd_authority, etcd) = &self.etcd_credentials;
        let mut flags = vec![
            format!("--etcd-servers={}", self.etcd_url()),
            format!("--etcd-cafile={}", etcd_authority.display()),
            format!("--etcd-certfile={}", etcd.certificate.display()),
            format!("--etcd-keyfile={}", etcd.key.display()),
            format!("--bind-address={}", self.options.address),
            format!("--advertise-address={}", self.options.address),
            format!("--secure-port={}", self.ports.api),
            format!("--cert-dir={}", self.folder().display()),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--service-account-key-file={}", file("service-account.pub")),
            format!(
                "--service-account-signing-key-file={}",
                file("service-account.key")
            ),
            format!("--service-account-issuer={}", tokens::ISSUER),
            format!("--service-cluster-ip-range={}", self.services().0),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!(
                "--kubelet-client-certificate={}",
                file("kubelet-client.crt")
            ),
            format!("--kubelet-client-key={}", file("kubelet-client.key")),
        ];
        if !self.options.service_accounts {
            // No controller makes each namespace's default account.
            flags.push("--disable-admission-plugins=ServiceAccount".to_owned());
        }
        if self.options.address.is_loopback() {
            // Endpoints on loopback are refused, and logged every ten seconds.
            flags.push("--endpoint-reconciler-type=none".to_owned());
        }
        flags.extend(self.options.flags.iter().cloned());
        flags
    }

    /// Asks until the part answers, or its process ends, or the patience does.
    pub(crate) fn wait_ready(&mut self, part: Part) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.patience;
        loop {
            let answer = match part {
                Part::Etcd => self.etcdctl(&["endpoint", "health"]).map(drop),
                // The namespaces are made after it says that it is ready.
                Part::ApiServer => self
                    .kubectl(&["get", "--raw", "/readyz"])
                    .and_then(|_| self.kubectl(&["get", "namespace", "default", "kube-system"]))
                    .map(drop),
            };
            let Err(error) = answer else { return Ok(()) };
            let process = self.part(part);
            process.check()?;
            if Instant::now() >= deadline {
                return Err(process.fault(format!("does not answer: {error}")));
            }
            thread::sleep(ASK_AGAIN);
        }
    }

    /// Base URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.socket_address())
    }

    /// Where it listens.
    #[must_use]
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.options.address, self.ports.api)
    }

    pub(crate) fn etcd_url(&self) -> String {
        format!("https://{}:{}", Ipv4Addr::LOCALHOST, self.ports.etcd)
    }

    /// The authority of its certificate, which also signs clients' certificates.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The file of the authority's certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.authority.file()
    }

    /// With it one may do everything. It stays the same.
    ///
    /// # Panics
    /// Never: the administrator has one from the start.
    #[must_use]
    pub fn admin_token(&self) -> &str {
        &self.tokens.first().expect("drawn before the start").1
    }

    /// The present token of a user of the options.
    ///
    /// # Panics
    /// When the options name no such user.
    #[must_use]
    pub fn token_of(&self, user: &str) -> &str {
        let found = self.tokens.iter().find(|(known, _)| known.name == user);
        &found
            .unwrap_or_else(|| panic!("{user} is no user of the options"))
            .1
    }

    /// The administrator's kubeconfig file.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    /// A token of a service account's object, good at other times than now, or now.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn service_account_token(
        &self,
        namespace: &str,
        account: &str,
        validity: Validity,
    ) -> Result<String, Error> {
        let namespace_option = format!("--namespace={namespace}");
        let path = "--output=jsonpath={.metadata.uid}";
        let uid = self.kubectl(&["get", "serviceaccount", account, &namespace_option, path])?;
        tokens::sign(&self.accounts_key, (namespace, account, &uid), validity)
    }

    /// The text of a kubeconfig file for another token, or another way to the server (a [`crate::Proxy`]'s URL).
    #[must_use]
    pub fn kubeconfig_with(&self, url: &str, token: &str) -> String {
        self.kubeconfig_of(url, &json!({"token": token}))
    }

    /// The same for any `user` (`{"tokenFile": …}`, `{"client-certificate": …, "client-key": …}`).
    #[must_use]
    pub fn kubeconfig_of(&self, url: &str, user: &Value) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": {"server": url, "certificate-authority": self.ca_file()}}],
            "users": [{"name": "tests", "user": user}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
            "current-context": "tests",
        })
        .to_string()
    }

    /// The cluster's directory; tests may put their own files there.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder().join("etcd")
    }

    pub(crate) fn etcd_credentials(&self) -> &(PathBuf, Credentials) {
        &self.etcd_credentials
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    pub(crate) fn place(&self) -> &Place {
        &self.options.place
    }

    pub(crate) fn patience(&self) -> Duration {
        self.options.patience
    }

    /// The programs.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The log of a part, as far as it has come.
    #[must_use]
    pub fn log(&self, part: Part) -> String {
        let name = match part {
            Part::Etcd => "etcd",
            Part::ApiServer => "kube-apiserver",
        };
        let text = fs::read(self.folder().join(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer")
            .field("folder", &self.folder())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // The API server first: without etcd it would only complain.
        drop(self.api.take());
        drop(self.etcd.take());
    }
}
