//! Secrets of a cluster that hold passwords: each is followed as long as an object names it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bgp::config::Password;
use felix::calc::SecretRef;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Keys and values of a secret; or why there are none.
pub type Content = Result<BTreeMap<String, Vec<u8>>, Arc<str>>;

/// A cluster's secrets.
pub trait Secrets: Send + Sync {
    /// What the secret of this name holds, and each change of it. Does not end.
    fn follow(&self, name: &str) -> BoxStream<'static, Content>;
}

/// Those that are followed.
#[derive(Default)]
pub(super) struct Followed {
    known: Arc<Known>,
    /// One task each; all end with this.
    tasks: JoinSet<()>,
    by_name: BTreeMap<String, tokio::task::AbortHandle>,
}

#[derive(Default)]
pub(super) struct Known {
    contents: Mutex<BTreeMap<String, Content>>,
    news: Notify,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Content>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The password that stands there; `None` while nothing was answered.
    pub(super) fn password(&self, secret: &SecretRef) -> Option<Result<Password, Arc<str>>> {
        let known = self.lock();
        let content = match known.get(&secret.name)? {
            Ok(content) => content,
            Err(why) => return Some(Err(Arc::clone(why))),
        };
        let name = &secret.name;
        let Some(value) = content.get(&secret.key) else {
            let why = format!("Secret {name}: it has no key {}", secret.key);
            return Some(Err(why.into()));
        };
        Some(match std::str::from_utf8(value) {
            Ok("") => Err(format!("Secret {name}: {} is empty", secret.key).into()),
            Ok(text) => Ok(Password(text.into())),
            Err(_) => Err(format!("Secret {name}: {} is no text", secret.key).into()),
        })
    }

    /// Waits for the next change of any.
    pub(super) async fn changed(&self) {
        self.news.notified().await;
    }
}

impl Followed {
    pub(super) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known)
    }

    /// From now on follows the secrets of these names, and no others.
    pub(super) fn follow(&mut self, source: &Arc<dyn Secrets>, wanted: &BTreeSet<SecretRef>) {
        let names: BTreeSet<&str> = wanted.iter().map(|secret| secret.name.as_str()).collect();
        let gone = self
            .by_name
            .extract_if(.., |name, _| !names.contains(name.as_str()));
        for (name, task) in gone {
            task.abort();
            self.known.lock().remove(&name);
        }
        for name in names {
            if self.by_name.contains_key(name) {
                continue;
            }
            let (name, known, source) = (name.to_owned(), self.known(), Arc::clone(source));
            let task = self.tasks.spawn({
                let name = name.clone();
                async move {
                    let mut contents = source.follow(&name);
                    while let Some(content) = contents.next().await {
                        known.lock().insert(name.clone(), content);
                        known.news.notify_one();
                    }
                }
            });
            self.by_name.insert(name, task);
        }
    }
}
