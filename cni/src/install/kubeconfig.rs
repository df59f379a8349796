//! `calico-kubeconfig`: access to the API server for programs on the host that the network configuration gives it to.
//! Tortie's own plugin needs none.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::install::{ConfigurationError, InstallError, Settings};

/// What the service account's directory holds.
#[derive(Default)]
pub(super) struct Secrets {
    pub(super) token: Option<String>,
    certificate_authority: Option<Vec<u8>>,
}

impl Secrets {
    /// Outside a cluster there are none.
    pub(super) fn read(directory: &Path) -> Result<Self, InstallError> {
        let file = |name| {
            let path = directory.join(name);
            match fs::read(&path) {
                Ok(content) => Ok(Some(content)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(InstallError::File {
                    what: "read",
                    path,
                    source,
                }),
            }
        };
        Ok(Self {
            token: file("token")?.map(|token| String::from_utf8_lossy(&token).trim().to_owned()),
            certificate_authority: file("ca.crt")?,
        })
    }
}

/// The file's text. JSON is YAML, and needs no escaping by hand.
pub(super) fn make(settings: &Settings, secrets: &Secrets) -> Result<String, ConfigurationError> {
    let missing = |what| ConfigurationError::NoKubeconfig { what };
    let host = settings
        .service_host
        .as_deref()
        .ok_or(missing("KUBERNETES_SERVICE_HOST is not set"))?;
    let port = settings
        .service_port
        .as_deref()
        .ok_or(missing("KUBERNETES_SERVICE_PORT is not set"))?;
    let token = secrets
        .token
        .as_deref()
        .ok_or(missing("the pod has no service account token"))?;
    let host = if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let mut cluster = json!({"server": format!("https://{host}:{port}")});
    if settings.skip_tls_verify {
        cluster["insecure-skip-tls-verify"] = json!(true);
    } else if let Some(authority) = &secrets.certificate_authority {
        cluster["certificate-authority-data"] = json!(STANDARD.encode(authority));
    }
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": cluster}],
        "users": [{"name": "calico", "user": {"token": token}}],
        "contexts": [{"name": "calico-context", "context": {"cluster": "local", "user": "calico"}}],
        "current-context": "calico-context",
    });
    Ok(format!("{config:#}\n"))
}
