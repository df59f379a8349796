//! BGP passwords from the environment, from files or from a cluster's secrets, by the secret and the key that an object names.
//!
//! A variable counts before a file, a file before a secret of the cluster, which is followed by name. A file is `<directory>/<secret>/<key>`, as Kubernetes mounts a secret; one line end
//! after the password is no part of it. Files are looked at anew every few seconds, by a task of their own: what is known of
//! each goes to the calculation when it changes. The last password that was read is kept while its file cannot be read.

mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::params::Params;
use bgp::config::Password;
use felix::calc::{Secret, SecretRef};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::task::calc::Inbox;
pub use secrets::{Content, Secrets};
use secrets::{Followed, Known as KnownSecrets};

/// `TORTIE_BGP_PASSWORD_<secret>_<key>`, with `_` for whatever is neither letter nor digit.
const PREFIX: &str = "TORTIE_BGP_PASSWORD_";

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// Where passwords are found.
#[derive(Clone)]
struct Passwords {
    directory: PathBuf,
    environment: BTreeMap<String, String>,
    /// Absent outside of a cluster.
    cluster: Option<Arc<KnownSecrets>>,
}

impl Passwords {
    /// `variables` is the environment.
    fn from_env(directory: &str, variables: impl Iterator<Item = (String, String)>) -> Self {
        Self {
            directory: PathBuf::from(directory),
            environment: variables
                .filter(|(name, _)| name.starts_with(PREFIX))
                .collect(),
            cluster: None,
        }
    }

    /// What stands there now, or where it was looked for and why there is none; `None` while the cluster has not said.
    /// Reads files, so it may block.
    fn read(&self, secret: &SecretRef) -> Option<Result<Password, Arc<str>>> {
        match (self.read_here(secret), &self.cluster) {
            (Err(_), Some(cluster)) => cluster.password(secret),
            (found, _) => Some(found),
        }
    }

    fn read_here(&self, secret: &SecretRef) -> Result<Password, Arc<str>> {
        if let Some(text) = self.environment.get(&variable(secret)) {
            return Ok(Password(text.as_str().into()));
        }
        let plain =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('/');
        if !plain(&secret.name) || !plain(&secret.key) {
            return Err(
                "a file cannot have this name: `.`, `..` and names with `/` are not allowed".into(),
            );
        }
        read_file(&self.directory.join(&secret.name).join(&secret.key))
    }
}

fn read_file(path: &Path) -> Result<Password, Arc<str>> {
    let at = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{at}: {error}"))?;
    match text.strip_suffix('\n').unwrap_or(&text) {
        // As a file looks that is being written.
        "" => Err(format!("{at}: the file is empty").into()),
        password => Ok(Password(password.into())),
    }
}

fn variable(secret: &SecretRef) -> String {
    let name = format!("{PREFIX}{}_{}", secret.name, secret.key);
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

/// Looks at what objects name, and passes on what is known of it.
pub struct PasswordTask {
    passwords: Passwords,
    /// The cluster's secrets; absent outside of one.
    secrets: Option<Arc<dyn Secrets>>,
    /// The secrets that objects name.
    wanted: watch::Receiver<BTreeSet<SecretRef>>,
    calc: Inbox,
    cancel: CancellationToken,
}

impl PasswordTask {
    /// The task that looks where the settings and this process's environment say, and where to say for what.
    pub fn new(
        params: &Params,
        secrets: Option<Arc<dyn Secrets>>,
        calc: Inbox,
        cancel: CancellationToken,
    ) -> (Self, watch::Sender<BTreeSet<SecretRef>>) {
        let (wanted_in, wanted) = watch::channel(BTreeSet::new());
        let task = Self {
            passwords: Passwords::from_env(&params.bgp_password_directory, std::env::vars()),
            secrets,
            wanted,
            calc,
            cancel,
        };
        (task, wanted_in)
    }

    /// Runs until the token is cancelled. Files are read on a thread that may block.
    pub async fn run(mut self) {
        let mut followed = Followed::default();
        let cluster = followed.known();
        self.passwords.cluster = self.secrets.is_some().then(|| followed.known());
        let passwords = Arc::new(self.passwords.clone());
        let mut known = Known::default();
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() {
                    // Its writer has ended, which ends the process or follows from its end.
                    self.cancel.cancelled().await;
                    return;
                },
                _ = tick.tick() => {}
                () = cluster.changed() => {}
                () = self.cancel.cancelled() => return,
            }
            let wanted = self.wanted.borrow_and_update().clone();
            for secret in known.forget_all_but(&wanted) {
                self.calc.password(secret, None);
            }
            if let Some(secrets) = &self.secrets {
                followed.follow(secrets, &wanted);
            }
            if wanted.is_empty() {
                continue;
            }
            let passwords = Arc::clone(&passwords);
            let reading = tokio::task::spawn_blocking(move || {
                let read = |secret: SecretRef| Some((passwords.read(&secret)?, secret));
                wanted.into_iter().filter_map(read).collect::<Vec<_>>()
            });
            let read = tokio::select! {
                read = reading => read,
                () = self.cancel.cancelled() => return,
            };
            let Ok(read) = read else {
                warn!("reading BGP passwords ended early and is done again");
                continue;
            };
            for (found, secret) in read {
                if let Some(changed) = known.update(&secret, found) {
                    self.calc.password(secret, Some(changed));
                }
            }
        }
    }
}

/// What is known of each secret that is wanted.
#[derive(Default)]
struct Known(BTreeMap<SecretRef, Secret>);

impl Known {
    /// The secrets that are not wanted any more.
    fn forget_all_but(&mut self, wanted: &BTreeSet<SecretRef>) -> Vec<SecretRef> {
        let gone = self.0.extract_if(.., |secret, _| !wanted.contains(secret));
        gone.map(|(secret, _)| secret).collect()
    }

    /// What is known now, when that is news.
    fn update(&mut self, secret: &SecretRef, found: Result<Password, Arc<str>>) -> Option<Secret> {
        let before = self.0.get(secret);
        let now = match found {
            Ok(password) => Secret::from(password),
            Err(why) => Secret {
                password: before.and_then(|before| before.password.clone()),
                unreadable: Some(why),
            },
        };
        if before == Some(&now) {
            return None;
        }
        match &now.unreadable {
            Some(why) => warn!(%secret, %why, "reading a BGP password"),
            None if before.is_some_and(|before| before.unreadable.is_some()) => {
                info!(%secret, "the BGP password can be read again");
            }
            None => {}
        }
        self.0.insert(secret.clone(), now.clone());
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::calc::{Input, InputKey};

    fn secret(name: &str, key: &str) -> SecretRef {
        SecretRef {
            name: name.to_owned(),
            key: key.to_owned(),
        }
    }

    fn read(passwords: &Passwords, name: &str, key: &str) -> Option<String> {
        let found = passwords.read(&secret(name, key))?;
        found.ok().map(|password| password.0.to_string())
    }

    #[test]
    fn a_variable_counts_before_a_file_and_nothing_outside_the_directory_is_read() {
        let directory =
            std::env::temp_dir().join(format!("tortie-passwords-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("bgp-secrets")).unwrap();
        std::fs::write(directory.join("bgp-secrets/tor.1"), "from file\n").unwrap();
        std::fs::write(directory.join("outside"), "x").unwrap();
        let path = directory.to_str().unwrap();
        let none = Passwords::from_env(path, std::iter::empty());
        assert_eq!(
            read(&none, "bgp-secrets", "tor.1").as_deref(),
            Some("from file")
        );
        assert_eq!(read(&none, "bgp-secrets", "other"), None);
        assert_eq!(read(&none, "bgp-secrets", "../outside"), None);
        assert_eq!(read(&none, "..", "outside"), None);
        let variable = (
            "TORTIE_BGP_PASSWORD_bgp_secrets_tor_1".to_owned(),
            " a\"b".to_owned(),
        );
        let one = Passwords::from_env(path, [variable].into_iter());
        assert_eq!(read(&one, "bgp-secrets", "tor.1").as_deref(), Some(" a\"b"));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_vanishes_leaves_its_password_in_use_and_is_named_until_it_is_back() {
        let directory =
            std::env::temp_dir().join(format!("tortie-passwords-gone-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("bgp")).unwrap();
        let file = directory.join("bgp/tor");
        let (wanted_in, wanted) = watch::channel(BTreeSet::new());
        let (calc, mut facts) = Inbox::new();
        let cancel = CancellationToken::new();
        let task = PasswordTask {
            passwords: Passwords::from_env(directory.to_str().unwrap(), std::iter::empty()),
            secrets: None,
            wanted,
            calc,
            cancel: cancel.clone(),
        };
        let running = tokio::spawn(task.run());
        let tor = secret("bgp", "tor");
        // The clock goes on as long as everybody waits, so this returns with the next change only.
        let mut next = async || match facts.take(9).await.unwrap().as_slice() {
            [(InputKey::Password(about), Input::Password(known))] => {
                assert_eq!(*about, tor);
                known.clone()
            }
            other => panic!("{other:?}"),
        };
        let known = |text: &str| Some(Secret::from(Password(text.into())));
        let stale = |text: Option<&str>, why: &str| {
            Some(Secret {
                password: text.map(|text| Password(text.into())),
                unreadable: Some(format!("{}: {why}", file.display()).into()),
            })
        };
        let missing = "No such file or directory (os error 2)";

        wanted_in.send_replace(BTreeSet::from([tor.clone()]));
        assert_eq!(next().await, stale(None, missing), "never there");
        std::fs::write(&file, "first\n").unwrap();
        let mut now = next().await;
        if now == stale(None, "the file is empty") {
            now = next().await;
        }
        assert_eq!(now, known("first"));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(next().await, stale(Some("first"), missing));
        let fresh = directory.join("fresh");
        std::fs::write(&fresh, "\n").unwrap();
        std::fs::rename(&fresh, &file).unwrap();
        assert_eq!(next().await, stale(Some("first"), "the file is empty"));
        std::fs::write(&fresh, "second").unwrap();
        std::fs::rename(&fresh, &file).unwrap();
        assert_eq!(next().await, known("second"));
        wanted_in.send_replace(BTreeSet::new());
        assert_eq!(next().await, None, "nobody asks any more");
        std::fs::remove_file(&file).unwrap();
        wanted_in.send_replace(BTreeSet::from([tor.clone()]));
        assert_eq!(
            next().await,
            stale(None, missing),
            "what was forgotten is not used"
        );

        cancel.cancel();
        running.await.unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// A cluster in which a test says what a secret holds.
    struct Cluster(watch::Receiver<Content>);

    impl Secrets for Cluster {
        fn follow(&self, name: &str) -> futures_util::stream::BoxStream<'static, Content> {
            use futures_util::StreamExt;

            assert_eq!(name, "bgp");
            let told = futures_util::stream::unfold(self.0.clone(), async |mut told| {
                told.changed().await.ok()?;
                let content = told.borrow_and_update().clone();
                Some((content, told))
            });
            told.boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clusters_secret_counts_where_there_is_no_file() {
        let directory =
            std::env::temp_dir().join(format!("tortie-passwords-cluster-{}", std::process::id()));
        let (wanted_in, wanted) = watch::channel(BTreeSet::new());
        let (calc, mut facts) = Inbox::new();
        let cancel = CancellationToken::new();
        let (holds, told) = watch::channel(Err("never read".into()));
        let task = PasswordTask {
            passwords: Passwords::from_env(directory.to_str().unwrap(), std::iter::empty()),
            secrets: Some(Arc::new(Cluster(told))),
            wanted,
            calc,
            cancel: cancel.clone(),
        };
        let running = tokio::spawn(task.run());
        let tor = secret("bgp", "tor");
        let mut next = async || match facts.take(9).await.unwrap().as_slice() {
            [(InputKey::Password(about), Input::Password(Some(known)))] => {
                assert_eq!(*about, tor);
                let password = known.password.as_ref();
                let password = password.map(|password| password.0.to_string());
                (password, known.unreadable.as_ref().map(ToString::to_string))
            }
            other => panic!("{other:?}"),
        };
        let text = |text: &str| Some(text.to_owned());
        let content = |value: &[u8]| Ok(BTreeMap::from([("tor".to_owned(), value.to_vec())]));
        wanted_in.send_replace(BTreeSet::from([tor.clone()]));
        // Nothing is said before the cluster has answered.
        for (holding, password, why) in [
            (content(b"first"), text("first"), None),
            (content(b"second"), text("second"), None),
            (
                Err("there is none".into()),
                text("second"),
                text("there is none"),
            ),
            (
                content(b"\xff"),
                text("second"),
                text("Secret bgp: tor is no text"),
            ),
            (
                Ok(BTreeMap::new()),
                text("second"),
                text("Secret bgp: it has no key tor"),
            ),
        ] {
            holds.send(holding).unwrap();
            assert_eq!(next().await, (password, why));
        }
        std::fs::create_dir_all(directory.join("bgp")).unwrap();
        std::fs::write(directory.join("bgp/tor"), "of the file").unwrap();
        assert_eq!(next().await, (text("of the file"), None));
        cancel.cancel();
        running.await.unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
