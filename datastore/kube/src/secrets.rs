//! Secrets by name: read once, then one watch each, so that the right to list all of a namespace's is not needed.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_core::stream::BoxStream;
use futures_util::stream::{self, StreamExt};
use k8s_openapi::ByteString;
use serde::Deserialize;

use crate::client::{Client, Error, with_jitter};
use crate::group::segment;
use crate::lines::{Versioned, Watch};

/// First and longest wait before a Secret that could not be read is asked for again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is known of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// Its keys and their values.
    Present(BTreeMap<String, Vec<u8>>),
    /// There is none of this name.
    Absent,
    /// Why it cannot be read now.
    Unreadable(String),
}

#[derive(Deserialize)]
struct List {
    metadata: Metadata,
    items: Option<Vec<Object>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, ByteString>,
}

impl Versioned for Object {
    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

struct Following {
    client: Client,
    /// With its field selector.
    path: String,
    watch: Option<Watch>,
    failures: u32,
}

impl Object {
    fn secret(self) -> Secret {
        let data = self.data.into_iter();
        Secret::Present(data.map(|(key, value)| (key, value.0)).collect())
    }
}

impl Client {
    /// What a Secret holds, and each change of it, until dropped.
    pub fn secret(&self, namespace: &str, name: &str) -> BoxStream<'static, Secret> {
        let selector = segment(&format!("metadata.name={name}"));
        let following = Following {
            client: self.clone(),
            path: format!(
                "/api/v1/namespaces/{}/secrets?fieldSelector={selector}",
                segment(namespace)
            ),
            watch: None,
            failures: 0,
        };
        stream::unfold(following, |mut following| async move {
            Some((following.next().await, following))
        })
        .boxed()
    }
}

impl Following {
    async fn next(&mut self) -> Secret {
        loop {
            if self.failures > 0 && self.watch.is_none() {
                let doubled = RETRY.0.saturating_mul(1 << (self.failures - 1).min(6));
                tokio::time::sleep(with_jitter(doubled.min(RETRY.1))).await;
            }
            let step = match self.watch.take() {
                Some(watch) => self.go_on(watch).await,
                None => self.read().await.map(Some),
            };
            match step {
                Ok(Some(secret)) => {
                    self.failures = 0;
                    return secret;
                }
                Ok(None) => {}
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    if self.failures == 1 {
                        return Secret::Unreadable(error.to_string());
                    }
                }
            }
        }
    }

    /// Reads it, and opens the watch from there.
    async fn read(&mut self) -> Result<Secret, Error> {
        let list = self.client.get(&self.path).await?.unwrap_or_default();
        let list: List = serde_json::from_value(list).map_err(|error| unreadable(&error))?;
        let version = list.metadata.resource_version;
        let path = format!("{}&", self.path);
        self.watch = Some(Watch::open(&self.client, &path, version).await?);
        let found = list.items.into_iter().flatten().next();
        Ok(found.map_or(Secret::Absent, Object::secret))
    }

    /// Waits for the next change; the watch stays where it was unless it is lost.
    async fn go_on(&mut self, mut watch: Watch) -> Result<Option<Secret>, Error> {
        // Where some were missed, what changed meanwhile is read.
        while let Some(event) = watch.next::<Object>().await? {
            let secret = match event.kind.as_str() {
                "ADDED" | "MODIFIED" => event.object.secret(),
                "DELETED" => Secret::Absent,
                _ => continue,
            };
            self.watch = Some(watch);
            return Ok(Some(secret));
        }
        Ok(None)
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::Unavailable(format!("a Secret that cannot be read: {error}"))
}
