//! TCP MD5 passwords: objects name a secret and a key in it; what it holds is a fact from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use api::bgp::{BGPConfigurationSpec, BGPPeerSpec};
use api::key::{Key, Kind};
use bgp::config::Password;
use serde_json::Value;

use super::super::problem::Reason;
use super::{Builder, Peer, Refusal, problem, refusal};

/// Longest key of the kernel's TCP_MD5SIG.
const LENGTH_MAX: usize = 80;
const PEER_FIELD: &str = "spec.password.secretKeyRef";
const MESH_FIELD: &str = "spec.nodeMeshPassword.secretKeyRef";

/// Where a password stands: the content of a `secretKeyRef`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretRef {
    /// The secret.
    pub name: String,
    /// The key in it.
    pub key: String,
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:?} of secret {:?}", self.key, self.name)
    }
}

impl SecretRef {
    /// Reads `{secretKeyRef: {name, key}}`.
    fn of(value: &Value) -> Option<Self> {
        let reference = value.get("secretKeyRef")?;
        let text = |field| {
            reference
                .get(field)?
                .as_str()
                .filter(|text| !text.is_empty())
        };
        Some(Self {
            name: text("name")?.to_owned(),
            key: text("key")?.to_owned(),
        })
    }
}

/// What is known of a secret's key: never read yet is the lack of this fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The password; the last known one while it cannot be read. `None` when it was never readable.
    pub password: Option<Password>,
    /// Why it cannot be read now, and where it was looked for.
    pub unreadable: Option<Arc<str>>,
}

impl From<Password> for Secret {
    fn from(password: Password) -> Self {
        Self {
            password: Some(password),
            unreadable: None,
        }
    }
}

/// Every secret that an object names.
pub(in super::super) fn wanted(
    configs: &BTreeMap<String, BGPConfigurationSpec>,
    peers: &BTreeMap<Key, Peer>,
) -> BTreeSet<SecretRef> {
    let mesh = configs
        .get("default")
        .and_then(|config| config.extra.get("nodeMeshPassword"));
    let explicit = peers
        .values()
        .filter_map(|peer| peer.spec.extra.get("password"));
    mesh.into_iter()
        .chain(explicit)
        .filter_map(SecretRef::of)
        .collect()
}

impl Builder<'_> {
    /// `key` is the BGPPeer.
    pub(super) fn password(
        &mut self,
        key: &Key,
        spec: &BGPPeerSpec,
    ) -> Result<Option<Password>, Refusal> {
        self.password_at(key, PEER_FIELD, spec.extra.get("password"))
    }

    pub(super) fn mesh_password(&mut self) -> Result<Option<Password>, Refusal> {
        let config = self.inputs.global();
        let value = config.and_then(|config| config.extra.get("nodeMeshPassword"));
        let key = Key::new(Kind::BGPConfiguration, "default");
        self.password_at(&key, MESH_FIELD, value)
    }

    /// A session that asks for a password never goes without it. While it cannot be read the last known one counts: an
    /// outage of the file is none of the session.
    fn password_at(
        &mut self,
        key: &Key,
        field: &'static str,
        value: Option<&Value>,
    ) -> Result<Option<Password>, Refusal> {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let Some(secret) = SecretRef::of(value) else {
            let why = "must have a name and a key, both not empty";
            return Err(refusal(field, Reason::Invalid(why.into())));
        };
        let known = self.inputs.passwords.get(&secret);
        let why = known.and_then(|known| known.unreadable.clone());
        match known.and_then(|known| known.password.as_ref()) {
            None => Err(refusal(field, Reason::PasswordMissing { secret, why })),
            Some(password) if (1..=LENGTH_MAX).contains(&password.0.len()) => {
                if let Some(why) = why {
                    let stale = problem(key, field, Reason::PasswordStale { secret, why });
                    // One for all sessions of the object.
                    if !self.problems.contains(&stale) {
                        self.problems.push(stale);
                    }
                }
                Ok(Some(password.clone()))
            }
            Some(password) => {
                let why = format!(
                    "{secret} holds {} bytes: a password has 1 to {LENGTH_MAX}",
                    password.0.len()
                );
                Err(refusal(field, Reason::Invalid(why.into())))
            }
        }
    }
}
