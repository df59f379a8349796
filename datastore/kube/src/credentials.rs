//! Who we are to the API server, in words for the operator whose API server does not know us (401).

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::jiff::Timestamp;
use kube::config::AuthInfo;
use secrecy::ExposeSecret;
use serde::Deserialize;

/// What the credentials say of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// `the token in /path`, `the client certificate in /path`, …
    what: String,
    claims: Claims,
}

/// From when to when a token counts, in seconds of Unix time (RFC 7519 §4.1.4, §4.1.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Claims {
    #[serde(default)]
    nbf: Option<u64>,
    #[serde(default)]
    exp: Option<u64>,
}

impl Credentials {
    /// What a connection is opened with.
    pub(crate) fn of(user: &AuthInfo) -> Self {
        let given = user
            .token
            .as_ref()
            .map(|token| token.expose_secret().to_owned());
        let read = || {
            // One that cannot be read is told of where it is used.
            std::fs::read_to_string(user.token_file.as_ref()?).ok()
        };
        Self::new(user, given.or_else(read).as_deref())
    }

    /// `token`: its text.
    fn new(user: &AuthInfo, token: Option<&str>) -> Self {
        let certificate = user.client_certificate.as_deref();
        let what = match (&user.token, &user.token_file, certificate) {
            (Some(_), _, _) => "the token".to_owned(),
            (None, Some(path), _) => format!("the token in {path}"),
            (None, None, Some(path)) => format!("the client certificate in {path}"),
            (None, None, None) if user.client_certificate_data.is_some() => {
                "the client certificate".to_owned()
            }
            (None, None, None) => "a request without token and client certificate".to_owned(),
        };
        Self {
            what,
            claims: token.and_then(claims).unwrap_or_default(),
        }
    }

    /// Why the API server may refuse them; the same words each time, so that who tries again says it once.
    pub(crate) fn refused(&self, now: SystemTime) -> String {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let why = match (self.claims.nbf, self.claims.exp) {
            (_, Some(end)) if end <= now => format!("the token has expired at {}", time(end)),
            (Some(start), _) if start > now => format!(
                "the token is not valid yet, but from {}; is this machine's clock right?",
                time(start)
            ),
            _ => "it has expired, is not valid yet, or is another cluster's".to_owned(),
        };
        format!("the API server does not take {}: {why}", self.what)
    }
}

/// Seconds of Unix time as RFC 3339 has them.
fn time(seconds: u64) -> String {
    let shown = i64::try_from(seconds).ok();
    let shown = shown.and_then(|seconds| Timestamp::from_second(seconds).ok());
    shown.map_or_else(|| format!("{seconds} s"), |shown| shown.to_string())
}

/// What a JSON Web Token says; it is not verified, which is the API server's business.
fn claims(token: &str) -> Option<Claims> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(claims))
    }

    fn said(user: &AuthInfo, token: Option<&str>) -> String {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        Credentials::new(user, token).refused(now)
    }

    #[test]
    fn a_tokens_time_is_told() {
        let user = AuthInfo {
            token_file: Some("/t".to_owned()),
            ..AuthInfo::default()
        };
        let of = |claims: &str| said(&user, Some(&token(claims)));
        let expired = of("{\"nbf\":1,\"exp\":990,\"sub\":\"x\"}");
        let wanted = "the API server does not take the token in /t: the token has expired at 1970-01-01T00:16:30Z";
        assert_eq!(expired, wanted);
        let early = of("{\"nbf\":1007,\"exp\":9000}");
        assert!(
            early.contains("not valid yet, but from 1970-01-01T00:16:47Z"),
            "{early}"
        );
        for other in [
            of("{\"exp\":9000}"),
            of("not JSON"),
            said(&user, Some("opaque")),
        ] {
            assert!(other.ends_with("or is another cluster's"), "{other}");
        }
    }

    #[test]
    fn what_else_says_who_we_are_is_named() {
        let certificate = AuthInfo {
            client_certificate: Some("/c".to_owned()),
            ..AuthInfo::default()
        };
        let given = AuthInfo {
            token: Some("opaque".to_owned().into()),
            token_file: Some("/t".to_owned()),
            ..AuthInfo::default()
        };
        for (user, token, named) in [
            (&certificate, None, "the client certificate in /c"),
            (&given, Some("opaque"), "the token: "),
            (
                &AuthInfo::default(),
                None,
                "without token and client certificate",
            ),
        ] {
            let said = said(user, token);
            assert!(said.contains(named), "{said}");
        }
    }
}
