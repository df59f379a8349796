//! The kubeconfig of CNI plugins that ask the API server themselves, with a token that is renewed before it ends. This
//! project's own plugin does not need it; it asks the agent.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::kubernetes::{Endpoint, Kubernetes, Token};

/// Where the container has the host's directory of network configurations.
pub const DIRECTORY: &str = "/host/etc/cni/net.d";
/// Where a pod's service account is mounted.
pub const OWN_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Name of the kubeconfig in it.
const FILE: &str = "calico-kubeconfig";
/// How long a token is asked to be valid.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// How often the files of the own service account are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After a failure, and never sooner than this.
const RETRY: Duration = Duration::from_secs(5);

/// What the task is made of.
pub struct TokenTask {
    /// Who gives tokens.
    pub kubernetes: Arc<dyn Kubernetes>,
    /// CALICO_CNI_SERVICE_ACCOUNT.
    pub service_account: String,
    /// CNI_TOKEN_REFRESH_INTERVAL.
    pub refresh: Option<Duration>,
    /// Where the kubeconfig is written.
    pub directory: PathBuf,
    /// The agent's own service account: when its files change, who signs the API server's certificate may be another.
    pub own_account: PathBuf,
    /// End of the process.
    pub cancel: CancellationToken,
}

impl TokenTask {
    /// Runs until the token is cancelled. Without the directory there is nobody to write for.
    pub async fn run(self) {
        tokio::select! {
            () = self.renew() => {}
            () = self.cancel.cancelled() => {}
        }
    }

    async fn renew(&self) {
        if !self.directory.is_dir() {
            info!(
                directory = %self.directory.display(),
                "no kubeconfig for CNI plugins is written: the directory is not there"
            );
            return std::future::pending().await;
        }
        let mut failed: Option<String> = None;
        loop {
            let account = self.account();
            let wait = match self.renew_once().await {
                Ok(wait) => {
                    if failed.take().is_some() {
                        info!("the CNI plugins' token is renewed again");
                    }
                    wait
                }
                Err(error) => {
                    if failed.as_ref() != Some(&error) {
                        warn!(
                            error,
                            "the CNI plugins' kubeconfig stays as it is; trying again"
                        );
                    }
                    failed = Some(error);
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.other_than(account) => debug!("the service account's files have changed"),
            }
        }
    }

    /// What the files of the own service account hold; nothing outside of a pod.
    fn account(&self) -> [Option<Vec<u8>>; 2] {
        ["ca.crt", "token"].map(|file| fs::read(self.own_account.join(file)).ok())
    }

    /// Waits until they hold something else. A mounted volume changes as a whole.
    async fn other_than(&self, before: [Option<Vec<u8>>; 2]) {
        while self.account() == before {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How long the new token may stay.
    async fn renew_once(&self) -> Result<Duration, String> {
        let asked = self.kubernetes.token(&self.service_account, VALIDITY).await;
        let token = asked.map_err(|error| {
            format!(
                "a token of service account {}: {error}",
                self.service_account
            )
        })?;
        let path = self.directory.join(FILE);
        let endpoint = self.kubernetes.endpoint().await;
        let endpoint = endpoint.map_err(|error| error.to_string())?;
        let text = kubeconfig(&endpoint, &token.text);
        replace(&path, &text).map_err(|error| format!("writing {}: {error}", path.display()))?;
        debug!(file = %path.display(), "kubeconfig of CNI plugins written");
        Ok(self.stays(&token, SystemTime::now()))
    }

    /// A quarter of what is left of the token's life, unless CNI_TOKEN_REFRESH_INTERVAL says otherwise.
    fn stays(&self, token: &Token, now: SystemTime) -> Duration {
        let left = token.expires.duration_since(now).unwrap_or_default();
        self.refresh.unwrap_or(left / 4).max(RETRY)
    }
}

fn kubeconfig(endpoint: &Endpoint, token: &str) -> String {
    let authority = if endpoint.certificate_authority.is_empty() {
        String::new()
    } else {
        format!(
            "\n    certificate-authority-data: \"{}\"",
            endpoint.certificate_authority
        )
    };
    format!(
        "# Kubeconfig of CNI plugins; its token is renewed by tortie-node.\n\
         apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: local\n  cluster:\n    server: {}{authority}\n\
         users:\n\
         - name: calico\n  user:\n    token: \"{token}\"\n\
         contexts:\n\
         - name: calico-context\n  context:\n    cluster: local\n    user: calico\n\
         current-context: calico-context\n",
        endpoint.server
    )
}

/// Replaces a file that only its owner may read as a whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::kubernetes::fake::Fake;
    use crate::scratch::Scratch;

    fn task(fake: &Arc<Fake>, scratch: &Scratch) -> TokenTask {
        TokenTask {
            kubernetes: Arc::clone(fake) as _,
            service_account: "calico-cni-plugin".to_owned(),
            refresh: None,
            directory: scratch.path().to_owned(),
            own_account: scratch.path().join("serviceaccount"),
            cancel: CancellationToken::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_kubeconfig_is_renewed_at_a_quarter_of_the_tokens_life_and_kept_over_failures() {
        let scratch = Scratch::new();
        let fake = Arc::new(Fake::default());
        let task = task(&fake, &scratch);
        let path = scratch.path().join(FILE);
        let token = || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let found = text.split("token: \"").nth(1);
            found.and_then(|rest| Some(rest.split('"').next()?.to_owned()))
        };
        let stays = task.renew_once().await.unwrap();
        assert!(stays <= VALIDITY / 4 && stays > VALIDITY / 4 - Duration::from_secs(60));
        assert_eq!(token().as_deref(), Some("token-1"));
        assert_eq!(fake.tokens(), ["calico-cni-plugin for 86400 s"]);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        for line in [
            "    server: https://10.96.0.1:443\n",
            "    certificate-authority-data: \"Y2E=\"\n",
            "current-context: calico-context\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
        fake.fail(2);
        for _ in 0..2 {
            let error = task.renew_once().await.unwrap_err();
            assert!(error.contains("calico-cni-plugin"), "{error}");
            assert_eq!(token().as_deref(), Some("token-1"));
        }
        task.renew_once().await.unwrap();
        assert_eq!(token().as_deref(), Some("token-2"));
    }

    #[test]
    fn the_interval_that_is_given_replaces_the_quarter_and_five_seconds_are_the_least() {
        let scratch = Scratch::new();
        let mut task = task(&Arc::new(Fake::default()), &scratch);
        let now = SystemTime::UNIX_EPOCH;
        let token = |seconds| Token {
            text: String::new(),
            expires: now + Duration::from_secs(seconds),
        };
        assert_eq!(task.stays(&token(400), now), Duration::from_secs(100));
        assert_eq!(task.stays(&token(0), now), RETRY);
        task.refresh = Some(Duration::from_secs(7));
        assert_eq!(task.stays(&token(400), now), Duration::from_secs(7));
        task.refresh = Some(Duration::from_secs(1));
        assert_eq!(task.stays(&token(400), now), RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn the_kubeconfig_is_written_anew_when_the_files_of_the_own_account_change() {
        let scratch = Scratch::new();
        let fake = Arc::new(Fake::default());
        let task = task(&fake, &scratch);
        let (account, cancel) = (task.own_account.clone(), task.cancel.clone());
        fs::create_dir(&account).unwrap();
        fs::write(account.join("ca.crt"), "first").unwrap();
        let running = tokio::spawn(task.run());
        let renewed = async |times: usize| {
            while fake.tokens().len() < times {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        renewed(1).await;
        let started = tokio::time::Instant::now();
        fs::write(account.join("ca.crt"), "second").unwrap();
        renewed(2).await;
        assert!(started.elapsed() < VALIDITY / 8, "not at the token's time");
        // As long as nothing changes, nothing is asked.
        tokio::time::sleep(VALIDITY / 8).await;
        assert_eq!(fake.tokens().len(), 2);
        cancel.cancel();
        running.await.unwrap();
    }
}
