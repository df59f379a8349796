//! Lists, a page at a time.

use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::scope::Scope;
use datastore::store::{KeyValue, Listing, StoreError};
use datastore::version::{Cursor, Version};
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::warn;

use super::{Shared, failed_kind, is_kubernetes, unreadable};
use crate::client::Error;
use crate::group::{Group, segment};

/// Objects asked for at once.
const PAGE: usize = 500;

/// A list as the API server gives it.
#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMetadata,
    /// `null` where there are none.
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    more: String,
}

/// Of an object of which nothing but the name is asked for.
#[derive(Deserialize)]
struct Named {
    metadata: Name,
}

#[derive(Deserialize)]
struct Name {
    name: String,
    #[serde(default)]
    namespace: String,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Ask {
    Objects,
    Names,
}

impl Shared {
    pub(super) async fn list(&self, kind: Kind, scope: &Scope) -> Result<Listing, StoreError> {
        let cluster = self.cluster().await?;
        let group = self.group(kind).await?;
        let Some(path) = self.all(kind, scope).await? else {
            let (cluster, number) = self.standing().await?;
            return Ok(Listing {
                items: Vec::new(),
                cursor: Cursor::of(number, &cluster),
            });
        };
        let (pages, number) = self.pages(kind, &path, Ask::Objects).await?;
        let mut items = self.objects(group, kind, &pages)?;
        if kind == Kind::WorkloadEndpoint {
            self.add_files(&mut items, scope);
        }
        items.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(Listing {
            items,
            cursor: Cursor::of(number, &cluster),
        })
    }

    pub(super) async fn names(&self, kind: Kind) -> Result<Vec<Key>, StoreError> {
        if kind == Kind::WorkloadEndpoint {
            let items = self.list(kind, &Scope::All).await?.items;
            return Ok(items.into_iter().map(|item| item.key).collect());
        }
        let path = self.all(kind, &Scope::All).await?.unwrap_or_default();
        let (pages, _) = self.pages(kind, &path, Ask::Names).await?;
        named(kind, &pages)
    }

    pub(super) async fn list_since(
        &self,
        kind: Kind,
        seen: &[Version],
    ) -> Result<Listing, StoreError> {
        let Some(page) = self.page_since(kind, seen, Ask::Objects).await? else {
            return self.list(kind, &Scope::All).await;
        };
        let group = self.group(kind).await?;
        let number = numbered(kind, &parsed(kind, &page)?.metadata)?;
        let mut items = self.objects(group, kind, &[page])?;
        items.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(Listing {
            items,
            cursor: Cursor::of(number, &self.cluster().await?),
        })
    }

    pub(super) async fn names_since(
        &self,
        kind: Kind,
        seen: &[Version],
    ) -> Result<Vec<Key>, StoreError> {
        match self.page_since(kind, seen, Ask::Names).await? {
            Some(page) => named(kind, &[page]),
            None => self.names(kind).await,
        }
    }

    /// A whole list that is no older than what was seen. The API server has it in its cache of the kind: for the latest it
    /// would wait until it knows how far etcd has come, which it asks every 100 ms. `None`: it does not answer so.
    async fn page_since(
        &self,
        kind: Kind,
        seen: &[Version],
        ask: Ask,
    ) -> Result<Option<Bytes>, StoreError> {
        // Calico's API server, which may serve the other group, has lists of its own.
        if is_kubernetes(kind) || self.group(kind).await? != Group::Crd {
            return Ok(None);
        }
        let path = self.all(kind, &Scope::All).await?.unwrap_or_default();
        let number = seen.iter().filter_map(Version::number).max().unwrap_or(0);
        let path = format!("{path}resourceVersion={number}&resourceVersionMatch=NotOlderThan");
        let answer = match ask {
            Ask::Objects => self.client.request(Method::GET, &path, None).await,
            Ask::Names => self.client.metadata_of_all(&path).await,
        };
        Ok(answer.ok())
    }

    fn objects(
        &self,
        group: Group,
        kind: Kind,
        pages: &[Bytes],
    ) -> Result<Vec<KeyValue>, StoreError> {
        let mut items = Vec::new();
        for page in pages {
            for item in parsed(kind, page)?.items.into_iter().flatten() {
                match self.read(group, kind, item.get().as_bytes()) {
                    Ok(seen) => items.extend(seen.object),
                    Err(error) => warn!(%kind, %error, "object left out"),
                }
            }
        }
        Ok(items)
    }

    /// All pages of a list, of one moment, and when that was.
    async fn pages(
        &self,
        kind: Kind,
        path: &str,
        ask: Ask,
    ) -> Result<(Vec<Bytes>, u64), StoreError> {
        let mut pages = Vec::new();
        let mut more = String::new();
        loop {
            let mut path = format!("{path}limit={PAGE}");
            if !more.is_empty() {
                path.push_str("&continue=");
                path.push_str(&segment(&more));
            }
            let answer = match ask {
                Ask::Objects => self.client.request(Method::GET, &path, None).await,
                Ask::Names => self.client.metadata_of_all(&path).await,
            };
            let body = match answer {
                Ok(body) => body,
                // The list that was begun is too old to go on with.
                Err(Error::Refused(status)) if status.code == 410 && !more.is_empty() => {
                    pages.clear();
                    more.clear();
                    continue;
                }
                Err(error) => return Err(failed_kind(kind, error)),
            };
            let metadata = parsed(kind, &body)?.metadata;
            let number = numbered(kind, &metadata)?;
            pages.push(body);
            more = metadata.more;
            if more.is_empty() {
                return Ok((pages, number));
            }
        }
    }
}

/// When a list was.
fn numbered(kind: Kind, page: &PageMetadata) -> Result<u64, StoreError> {
    let number = page.resource_version.parse();
    number.map_err(|_| unreadable(&format!("{kind} list has no resourceVersion")))
}

/// The names of a list's objects, in order.
fn named(kind: Kind, pages: &[Bytes]) -> Result<Vec<Key>, StoreError> {
    let mut names = Vec::new();
    for page in pages {
        for item in parsed(kind, page)?.items.into_iter().flatten() {
            let named: Named = serde_json::from_str(item.get())
                .map_err(|error| unreadable(&format!("{kind}: {error}")))?;
            let Name { name, namespace } = named.metadata;
            names.push(Key::namespaced(kind, namespace, name));
        }
    }
    names.sort();
    Ok(names)
}

fn parsed(kind: Kind, page: &Bytes) -> Result<Page<'_>, StoreError> {
    serde_json::from_slice(page).map_err(|error| unreadable(&format!("{kind} list: {error}")))
}
