//! What is asked of an API server, and told to it, beside the objects of the store.

use std::time::{Duration, SystemTime};

use api::without_effect::Resource;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::client::{Client, Error, Patch};
use crate::settings::SettingsError;

/// Namespace of the events of what has none.
const EVENTS: &str = "/api/v1/namespaces/default/events";

/// As much of a listing as counts its objects.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    metadata: ListMetadata,
    /// `null` where there are none.
    items: Option<Vec<IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMetadata {
    remaining_item_count: Option<u64>,
    #[serde(rename = "continue")]
    more: String,
}

impl Listed {
    /// At least: not every listing says how many there are beyond it.
    fn count(&self) -> u64 {
        let more = u64::from(!self.metadata.more.is_empty());
        let here = self.items.as_ref().map_or(0, Vec::len) as u64;
        here + self.metadata.remaining_item_count.unwrap_or(more)
    }
}

/// Where an API server is, for the kubeconfig of somebody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://10.96.0.1:443`
    pub server: String,
    /// PEM certificates of who signs the server's; empty when nothing says.
    pub certificate_authority: String,
}

#[derive(Deserialize)]
struct TokenRequest {
    status: TokenStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenStatus {
    token: String,
    expiration_timestamp: Timestamp,
}

impl Client {
    /// Where the API server is.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub async fn endpoint(&self) -> Result<Endpoint, SettingsError> {
        let config = self.settings().load().await?;
        let certificates = config.root_cert.unwrap_or_default();
        let pem = |der: &Vec<u8>| {
            let text = BASE64_STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        Ok(Endpoint {
            server: config
                .cluster_url
                .to_string()
                .trim_end_matches('/')
                .to_owned(),
            certificate_authority: certificates.iter().map(pem).collect(),
        })
    }

    /// A token of a service account, and from when on it is not valid any more.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn token(
        &self,
        namespace: &str,
        service_account: &str,
        validity: Duration,
    ) -> Result<(String, SystemTime), Error> {
        let path =
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": validity.as_secs()},
        });
        let answer = self.create(&path, &request).await?;
        let TokenRequest { status } = serde_json::from_value(answer)
            .map_err(|error| Error::Unavailable(format!("POST {path}: {error}")))?;
        Ok((status.token, status.expiration_timestamp.into()))
    }

    /// Sets one condition of a Kubernetes Node, and leaves the others alone.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn set_condition(
        &self,
        node: &str,
        condition: &str,
        status: bool,
        reason: &str,
        message: &str,
    ) -> Result<(), Error> {
        let now = now().1;
        let fields = json!({"status": {"conditions": [{
            "type": condition,
            "status": if status { "True" } else { "False" },
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }]}});
        let path = format!("/api/v1/nodes/{node}/status");
        self.patch(&path, Patch::Strategic, &fields).await.map(drop)
    }

    /// How many objects a resource has, in the first of its groups that the cluster has. One is asked for, of which the
    /// metadata alone are sent.
    ///
    /// # Errors
    /// [`Error`]; one that is refused is so for lack of rights.
    pub async fn count(&self, resource: &Resource) -> Result<u64, Error> {
        for group_version in resource.group_versions {
            let path = format!("/apis/{group_version}/{}?limit=1", resource.plural);
            let body = match self.metadata_of_all(&path).await {
                Ok(body) => body,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let listed: Listed = serde_json::from_slice(&body)
                .map_err(|error| Error::Unavailable(format!("GET {path}: {error}")))?;
            return Ok(listed.count());
        }
        Ok(0)
    }

    /// Writes an event of type Warning about a Kubernetes Node: `kubectl describe node` shows it.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn warn_of_node(&self, node: &str, reason: &str, message: &str) -> Result<(), Error> {
        let (nanoseconds, time) = now();
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": format!("{node}.{nanoseconds:x}"), "namespace": "default"},
            // As a kubelet names its Node.
            "involvedObject": {"kind": "Node", "name": node, "uid": node},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": "tortie-node", "host": node},
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        });
        self.create(EVENTS, &event).await.map(drop)
    }
}

/// Nanoseconds since 1970, and the second as the API writes it.
fn now() -> (u128, String) {
    let now = SystemTime::now();
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let time = Timestamp::try_from(now).unwrap_or_default();
    let text = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    (since.as_nanos(), text)
}
