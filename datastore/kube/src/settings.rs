//! Where the API server is, and who we are to it.

use std::path::{Path, PathBuf};

use api::params::Params;
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo,
    NamedCluster, NamedContext,
};

/// Where a pod finds its service account's token and the server's certificate authority.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the entry for the API server is called where no kubeconfig names it.
const ENTRY: &str = "tortie";

/// Calico's settings of the connection. All empty: those of the pod we run in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `KUBECONFIG`: file.
    pub kubeconfig: Option<PathBuf>,
    /// `K8S_CURRENT_CONTEXT`: context of that file.
    pub context: Option<String>,
    /// `K8S_API_ENDPOINT`: URL; counts before the file's.
    pub endpoint: Option<String>,
    /// `K8S_CA_FILE`: who signs the server's certificate.
    pub ca_file: Option<PathBuf>,
    /// `K8S_CERT_FILE`: our certificate.
    pub cert_file: Option<PathBuf>,
    /// `K8S_KEY_FILE`: its key.
    pub key_file: Option<PathBuf>,
    /// Our token, where no file has one.
    pub token: Option<String>,
    /// `K8S_INSECURE_SKIP_TLS_VERIFY`: take any certificate of the server's.
    pub skip_tls_verify: bool,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`: where a pod finds the API server.
    pub service: Option<(String, String)>,
    /// Folder of the pod's service account; [`SERVICE_ACCOUNT`] where nothing is said.
    pub service_account: Option<PathBuf>,
    /// `CALICO_API_GROUP`; found out where nothing is said.
    pub api_group: Option<String>,
}

/// Why there is no connection to be made.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Nothing says where the API server is.
    #[error(
        "nothing says where the API server is: set KUBECONFIG, or K8S_API_ENDPOINT, or run in a pod of the cluster \
         (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT)"
    )]
    NoServer,
    /// A file or an entry of a kubeconfig.
    #[error("credentials for the API server")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// Keys, certificates, tokens.
    #[error("credentials for the API server")]
    Credentials(#[source] Box<kube::Error>),
    /// `CALICO_API_GROUP` names none of Calico's.
    #[error(
        "CALICO_API_GROUP={0:?} is not allowed; allowed: `crd.projectcalico.org/v1` or `projectcalico.org/v3`"
    )]
    ApiGroup(String),
}

impl From<KubeconfigError> for SettingsError {
    fn from(error: KubeconfigError) -> Self {
        Self::Kubeconfig(Box::new(error))
    }
}

impl From<kube::Error> for SettingsError {
    fn from(error: kube::Error) -> Self {
        Self::Credentials(Box::new(error))
    }
}

impl Settings {
    /// As the parameters say.
    pub fn from_params(params: &Params) -> Self {
        let path = |text: &Option<String>| text.as_ref().map(PathBuf::from);
        let port = params.kubernetes_service_port.as_ref();
        Self {
            kubeconfig: path(&params.kubeconfig),
            context: params.k8s_current_context.clone(),
            endpoint: params.k8s_api_endpoint.clone(),
            ca_file: path(&params.k8s_ca_file),
            cert_file: path(&params.k8s_cert_file),
            key_file: path(&params.k8s_key_file),
            token: None,
            skip_tls_verify: params.k8s_insecure_skip_tls_verify,
            service: params.kubernetes_service_host.clone().zip(port.cloned()),
            service_account: None,
            api_group: params.api_group.clone(),
        }
    }

    /// Where the API server is, for messages.
    pub fn place(&self) -> String {
        match (&self.endpoint, &self.kubeconfig, &self.service) {
            (Some(endpoint), _, _) => endpoint.clone(),
            (None, Some(path), _) => format!("API server of {}", path.display()),
            (None, None, Some((host, port))) => format!("https://{host}:{port}"),
            (None, None, None) => "API server".to_owned(),
        }
    }

    /// Reads the files that are named. What stands there may be another thing later: then it is read anew.
    pub(crate) async fn load(&self) -> Result<kube::Config, SettingsError> {
        let mut kubeconfig = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path)?,
            None => self.in_cluster()?,
        };
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        self.put_over(&mut kubeconfig);
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        // Read again when it changes.
        config.root_cert_file = self.root_file();
        Ok(config)
    }

    fn service_account(&self) -> &Path {
        self.service_account
            .as_deref()
            .unwrap_or(Path::new(SERVICE_ACCOUNT))
    }

    fn root_file(&self) -> Option<PathBuf> {
        if self.skip_tls_verify {
            return None;
        }
        self.ca_file.clone().or_else(|| {
            let in_pod = self.kubeconfig.is_none() && self.endpoint.is_none();
            in_pod.then(|| self.service_account().join("ca.crt"))
        })
    }

    /// The connection of a pod, or to the endpoint that is named.
    fn in_cluster(&self) -> Result<Kubeconfig, SettingsError> {
        let account = self.service_account();
        let mut cluster = Cluster::default();
        let mut user = AuthInfo::default();
        match (&self.endpoint, &self.service) {
            (Some(_), _) => {}
            (None, Some((host, port))) => {
                let host = if host.contains(':') {
                    format!("[{host}]")
                } else {
                    host.clone()
                };
                cluster.server = Some(format!("https://{host}:{port}"));
                let file = |name: &str| account.join(name).to_string_lossy().into_owned();
                cluster.certificate_authority = Some(file("ca.crt"));
                user.token_file = Some(file("token"));
            }
            (None, None) => return Err(SettingsError::NoServer),
        }
        Ok(Kubeconfig {
            clusters: vec![NamedCluster {
                name: ENTRY.to_owned(),
                cluster: Some(cluster),
                ..NamedCluster::default()
            }],
            auth_infos: vec![NamedAuthInfo {
                name: ENTRY.to_owned(),
                auth_info: Some(user),
                ..NamedAuthInfo::default()
            }],
            contexts: vec![NamedContext {
                name: ENTRY.to_owned(),
                context: Some(Context {
                    cluster: ENTRY.to_owned(),
                    user: Some(ENTRY.to_owned()),
                    ..Context::default()
                }),
                ..NamedContext::default()
            }],
            current_context: Some(ENTRY.to_owned()),
            ..Kubeconfig::default()
        })
    }

    /// Single settings count before what the file says.
    fn put_over(&self, kubeconfig: &mut Kubeconfig) {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        for cluster in kubeconfig
            .clusters
            .iter_mut()
            .filter_map(|named| named.cluster.as_mut())
        {
            if let Some(endpoint) = &self.endpoint {
                cluster.server = Some(endpoint.clone());
            }
            if let Some(path) = &self.ca_file {
                cluster.certificate_authority = Some(text(path));
                cluster.certificate_authority_data = None;
            }
            if self.skip_tls_verify {
                cluster.insecure_skip_tls_verify = Some(true);
            }
        }
        for user in kubeconfig
            .auth_infos
            .iter_mut()
            .filter_map(|named| named.auth_info.as_mut())
        {
            if let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) {
                user.client_certificate = Some(text(cert));
                user.client_key = Some(text(key));
                (user.client_certificate_data, user.client_key_data) = (None, None);
            }
            if let Some(token) = &self.token {
                user.token = Some(token.clone().into());
                user.token_file = None;
            }
        }
    }
}
