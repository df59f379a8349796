//! Calico's two API groups, and where objects are in them.

use api::key::{Key, Kind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::client::{Client, Error};
use crate::settings::SettingsError;

/// What stands in a path as it is.
const NAME: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The group a cluster keeps Calico's objects in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// `crd.projectcalico.org/v1`: what Calico's own clients keep, metadata in an annotation.
    Crd,
    /// `projectcalico.org/v3`: the API's own form.
    V3,
}

impl Group {
    pub(crate) fn read(name: &str) -> Result<Self, SettingsError> {
        [Self::Crd, Self::V3]
            .into_iter()
            .find(|group| group.name() == name)
            .ok_or_else(|| SettingsError::ApiGroup(name.to_owned()))
    }

    /// With its version.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Crd => "crd.projectcalico.org/v1",
            Self::V3 => "projectcalico.org/v3",
        }
    }

    /// The one that has IPAM's kinds: Calico's API server serves the second without them, beside the first.
    pub(crate) async fn discover(client: &Client) -> Result<Self, Error> {
        for group in [Self::Crd, Self::V3] {
            let found = client.get(&format!("/apis/{}", group.name())).await?;
            let resources = found
                .as_ref()
                .and_then(|found| found["resources"].as_array());
            let has_blocks = resources.is_some_and(|resources| {
                resources
                    .iter()
                    .any(|resource| resource["name"] == "ipamblocks")
            });
            if has_blocks {
                return Ok(group);
            }
        }
        Err(Error::Unavailable(
            "neither crd.projectcalico.org/v1 nor projectcalico.org/v3 has `ipamblocks`: Calico's CRDs are not installed"
                .to_owned(),
        ))
    }

    /// The kind's name there.
    pub(crate) fn kind(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::V3, Kind::IPAMConfig) => "IPAMConfiguration",
            _ => kind.name(),
        }
    }

    fn plural(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::V3, Kind::IPAMConfig) => "ipamconfigurations",
            _ => kind.plural(),
        }
    }

    /// Path of all objects of a kind that is a custom resource.
    pub(crate) fn all(self, kind: Kind) -> String {
        format!("/apis/{}/{}", self.name(), self.plural(kind))
    }

    /// Path of one.
    pub(crate) fn one(self, key: &Key) -> String {
        format!("{}/{}", self.all(key.kind), segment(&key.name))
    }
}

/// A name as a segment of a path.
pub(crate) fn segment(name: &str) -> String {
    utf8_percent_encode(name, NAME).to_string()
}
