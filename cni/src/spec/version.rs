//! Versions of the CNI specification.

use std::fmt;

use crate::spec::error::{CniError, Code};

/// A version this plugin speaks. Later versions are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is its number")]
pub enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// What is answered when the caller's version is not known.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As written in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Reads `cniVersion`; the empty text is 0.2.0, as Calico's plugin reads it. Any other version is code 1.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        if text.is_empty() {
            return Ok(Self::V0_2_0);
        }
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| {
                let allowed = Self::ALL.map(Self::as_str).join(", ");
                CniError::new(
                    Code::INCOMPATIBLE_VERSION,
                    format!("cniVersion: \"{text}\" is not supported; allowed: {allowed}"),
                )
            })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_reads_back_as_itself_and_no_other_text_is_one() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.as_str()), Ok(version));
            assert_eq!(version.to_string(), version.as_str());
        }
        assert_eq!(Version::parse(""), Ok(Version::V0_2_0));
        for text in ["1.0", "v1.0.0", "1.2.0", "0.3.2", " 1.0.0"] {
            let error = Version::parse(text).expect_err("not a version");
            assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
            assert!(
                error.msg.contains(text) && error.msg.contains("1.1.0"),
                "{}",
                error.msg
            );
        }
    }
}
