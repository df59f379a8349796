//! Service accounts' tokens as the API server issues them (JSON Web Tokens, RFC 7519, signed by ES256 of RFC 7518), for any time.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};

use crate::certificates::Validity;
use crate::error::Error;

/// Who issues them and whom they are for: the API server's `--service-account-issuer`.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";
/// Octets of each of the two numbers of a signature by P-256.
const NUMBER: usize = 32;

/// A token of an account whose object has this UID.
pub(crate) fn sign(
    key: &KeyPair,
    (namespace, account, uid): (&str, &str, &str),
    validity: Validity,
) -> Result<String, Error> {
    let (from, to) = validity.bounds();
    let seconds = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    let claims = json!({
        "iss": ISSUER,
        "aud": [ISSUER],
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "iat": seconds(from),
        "nbf": seconds(from),
        "exp": seconds(to),
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": {"name": account, "uid": uid},
        },
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "ES256"})), part(&claims));
    let signature = key
        .sign(signed.as_bytes())
        .ok()
        .and_then(|der| numbers(&der));
    let signature = signature.ok_or_else(|| Error::Command {
        command: "sign a token".to_owned(),
        said: "the key is none of P-256".to_owned(),
    })?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The two numbers of an ECDSA signature one after the other (RFC 7518 §3.4), from DER (RFC 3279 §2.2.3).
fn numbers(der: &[u8]) -> Option<Vec<u8>> {
    // SEQUENCE, and its length, which is below 128.
    let mut rest = der.strip_prefix(&[0x30])?.get(1..)?;
    let mut both = Vec::new();
    for _ in 0..2 {
        let (length, more) = rest.strip_prefix(&[0x02])?.split_first()?;
        let (number, more) = more.split_at_checked(usize::from(*length))?;
        // A leading zero keeps the number positive; leading zeros of its own are left out.
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        both.resize(both.len() + NUMBER.checked_sub(number.len())?, 0);
        both.extend_from_slice(number);
        rest = more;
    }
    Some(both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_of_one_length_whatever_their_leading_octets() {
        // r = 0x80, with the zero that makes it positive; s = 1.
        let der = [0x30, 7, 2, 2, 0, 0x80, 2, 1, 1];
        let mut wanted = [0; 2 * NUMBER];
        wanted[NUMBER - 1] = 0x80;
        wanted[2 * NUMBER - 1] = 1;
        assert_eq!(numbers(&der).as_deref(), Some(&wanted[..]));
        assert_eq!(numbers(&[0x30, 2, 2, 9]), None);
    }
}
