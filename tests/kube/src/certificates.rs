//! Keys and certificates: an authority of the cluster's own, and what it signs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

use crate::error::Error;

/// From when to when a certificate is good, both seen from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From an hour ago, for a day.
    Now,
    /// It ended an hour ago.
    Expired,
    /// It begins in an hour.
    NotYet,
}

impl Validity {
    pub(crate) fn bounds(self) -> (SystemTime, SystemTime) {
        const HOUR: Duration = Duration::from_secs(3600);
        let now = SystemTime::now();
        match self {
            Self::Now => (now - HOUR, now + 24 * HOUR),
            Self::Expired => (now - 24 * HOUR, now - HOUR),
            Self::NotYet => (now + HOUR, now + 24 * HOUR),
        }
    }
}

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Common name: to the API server the user's name.
    pub name: String,
    /// Organisation: to the API server the user's group.
    pub group: Option<String>,
    /// Host names and addresses of a server.
    pub hosts: Vec<String>,
}

impl Subject {
    /// A client of the API server, e.g. `system:node:n1` of the group `system:nodes`.
    #[must_use]
    pub fn user(name: &str, group: &str) -> Self {
        Self {
            name: name.to_owned(),
            group: Some(group.to_owned()),
            hosts: Vec::new(),
        }
    }

    /// A server at these names and addresses.
    #[must_use]
    pub fn server(name: &str, hosts: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            group: None,
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        }
    }
}

/// Files of a certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A certificate authority whose files lie in one folder.
pub struct Authority {
    folder: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("file", &self.file())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one; its certificate is `<name>.crt` in the folder, its key stays in memory.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(folder: &Path, name: &str) -> Result<Self, Error> {
        let failed = |source| Error::Certificate {
            name: name.to_owned(),
            source,
        };
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.distinguished_name = distinguished(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, Validity::Now);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let authority = Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            issuer: Issuer::new(params, key),
        };
        write_secret(&authority.file(), &certificate.pem())?;
        Ok(authority)
    }

    /// The file of its own certificate.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.crt", self.name))
    }

    /// Signs a new key for a subject, good as a server's and as a client's. Its files are `<file>.crt` and `<file>.key` in the
    /// authority's folder; those of that name before are replaced.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn sign(
        &self,
        file: &str,
        subject: &Subject,
        validity: Validity,
    ) -> Result<Credentials, Error> {
        let failed = |source| Error::Certificate {
            name: subject.name.clone(),
            source,
        };
        let mut params = CertificateParams::new(subject.hosts.clone()).map_err(failed)?;
        params.distinguished_name = distinguished(&subject.name, subject.group.as_deref());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        set_validity(&mut params, validity);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let credentials = Credentials {
            certificate: self.folder.join(format!("{file}.crt")),
            key: self.folder.join(format!("{file}.key")),
        };
        write_secret(&credentials.certificate, &certificate.pem())?;
        write_secret(&credentials.key, &key.serialize_pem())?;
        Ok(credentials)
    }
}

/// A key with which the API server signs service accounts' tokens. Its parts are `service-account.key` and `service-account.pub`.
pub(crate) fn signing_key(folder: &Path) -> Result<KeyPair, Error> {
    let key = KeyPair::generate().map_err(|source| Error::Certificate {
        name: "service accounts".to_owned(),
        source,
    })?;
    write_secret(&folder.join("service-account.key"), &key.serialize_pem())?;
    write_secret(&folder.join("service-account.pub"), &key.public_key_pem())?;
    Ok(key)
}

fn distinguished(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    if let Some(group) = group {
        distinguished.push(DnType::OrganizationName, group);
    }
    distinguished
}

fn set_validity(params: &mut CertificateParams, validity: Validity) {
    let (from, to) = validity.bounds();
    params.not_before = time::OffsetDateTime::from(from);
    params.not_after = time::OffsetDateTime::from(to);
}

/// Writes a file that only its owner reads.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        // A new file: a program that reads the former one meanwhile sees all of it.
        let fresh = path.with_extension("new");
        let mut file = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&fresh, path)
    };
    write().map_err(Error::system(format!("write {}", path.display())))
}

/// 32 hexadecimal digits that nobody can guess.
pub(crate) fn random_token() -> Result<String, Error> {
    let mut bytes = [0_u8; 16];
    let read = File::open("/dev/urandom")
        .and_then(|mut source| io::Read::read_exact(&mut source, &mut bytes));
    read.map_err(Error::system("read /dev/urandom"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
