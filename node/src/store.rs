//! Which datastore it is.

use std::sync::Arc;

use anyhow::Context;
use api::params::{DatastoreType, Params};
use datastore::store::Store;
use datastore_local::RelayStore;
#[cfg(feature = "kube")]
use futures_util::stream::BoxStream;

#[cfg(feature = "kube")]
use crate::passwords::Content;
use crate::passwords::Secrets;

use crate::kubernetes::Kubernetes;

/// A datastore, not asked anything yet.
#[derive(Clone)]
pub struct Opened {
    /// Objects.
    pub store: Arc<dyn Store>,
    /// Where it is, for messages.
    pub place: String,
    /// The cluster's secrets; absent where the datastore is no cluster's.
    pub secrets: Option<Arc<dyn Secrets>>,
    /// The API server behind it, for what is no object of ours.
    #[cfg(feature = "kube")]
    pub kubernetes: Option<datastore_kube::Client>,
}

impl Opened {
    /// Kubernetes, where the datastore is its API server.
    ///
    /// # Errors
    /// When the files of the connection cannot be read.
    pub async fn kubernetes(&self) -> anyhow::Result<Option<Arc<dyn Kubernetes>>> {
        #[cfg(feature = "kube")]
        if let Some(client) = &self.kubernetes {
            let server = crate::kubernetes::api_server::ApiServer::new(client.clone());
            return Ok(Some(Arc::new(server)));
        }
        Ok(None)
    }
}

/// The datastore that DATASTORE_TYPE names.
///
/// # Errors
/// When the settings lead to none.
pub async fn open(params: &Params) -> anyhow::Result<Opened> {
    let named = match params.datastore_type {
        DatastoreType::Local => {
            let socket = params
                .store
                .as_deref()
                .context("TORTIE_STORE is not set; allowed: unix:PATH of the embedded store")?;
            return Ok(Opened {
                store: Arc::new(RelayStore::new(socket)),
                place: socket.to_owned(),
                secrets: None,
                #[cfg(feature = "kube")]
                kubernetes: None,
            });
        }
        #[cfg(feature = "kube")]
        DatastoreType::Kubernetes => return open_kubernetes(params).await,
        #[cfg(not(feature = "kube"))]
        DatastoreType::Kubernetes => "kubernetes",
        DatastoreType::Etcdv3 => "etcdv3",
    };
    let kubernetes = if cfg!(feature = "kube") {
        "`kubernetes`, or "
    } else {
        ""
    };
    anyhow::bail!(
        "DATASTORE_TYPE={named:?} is not in this build; allowed: {kubernetes}`local` with TORTIE_STORE=unix:PATH"
    )
}

#[cfg(feature = "kube")]
async fn open_kubernetes(params: &Params) -> anyhow::Result<Opened> {
    use crate::startup::files;

    let settings = datastore_kube::Settings::from_params(params);
    let place = settings.place();
    let client = datastore_kube::Client::new(settings)
        .await
        .context("DATASTORE_TYPE=\"kubernetes\"")?;
    let interface_prefix = params.interface_prefixes.first();
    let options = datastore_kube::Options {
        kept: Some(std::path::Path::new(files::RUN_DIRECTORY).join("tortie-endpoints")),
        interface_prefix: interface_prefix.cloned().unwrap_or_default(),
    };
    Ok(Opened {
        store: Arc::new(datastore_kube::KubeStore::new(client.clone(), options)),
        place,
        secrets: Some(Arc::new(ClusterSecrets {
            client: client.clone(),
            namespace: params.namespace.clone(),
        })),
        kubernetes: Some(client),
    })
}

/// Secrets of one namespace.
#[cfg(feature = "kube")]
struct ClusterSecrets {
    client: datastore_kube::Client,
    namespace: String,
}

#[cfg(feature = "kube")]
impl Secrets for ClusterSecrets {
    fn follow(&self, name: &str) -> BoxStream<'static, Content> {
        use datastore_kube::Secret;
        use futures_util::StreamExt;

        let secret = format!("Secret {}/{name}", self.namespace);
        let contents = self.client.secret(&self.namespace, name);
        let content = move |seen| match seen {
            Secret::Present(content) => Ok(content),
            Secret::Absent => Err(format!("{secret}: there is none").into()),
            Secret::Unreadable(why) => Err(format!("{secret}: {why}").into()),
        };
        contents.map(content).boxed()
    }
}
