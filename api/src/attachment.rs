//! One interface of one container in one network: what CNI calls an attachment, and what everything that an ADD makes is
//! known by.
//!
//! Calico knows one interface a pod, so its names leave things out: the handle the interface, the device of a pod the
//! interface and the device of other containers all but 11 characters of the id. For the first interface of a pod its
//! names are kept, so that either product finds what the other made; where they would be the names of another attachment
//! too, a digest of all parts stands in them.

use std::fmt;

use sha1::{Digest, Sha1};

use crate::endpoint::WorkloadEndpoint;

/// Name of a pod's first interface, the one that Kubernetes knows of.
pub const FIRST_INTERFACE: &str = "eth0";

/// Hex digits of the digest in a device's name.
const DEVICE_DIGITS: usize = 11;
/// Hex digits of the digest in a handle.
const HANDLE_DIGITS: usize = 16;
/// The longest part of a name that stands before the digest in a handle: object names have at most 253 octets.
const HANDLE_PART_MAX: usize = 64;

/// An attachment (CNI specification, section "Overview": container, network, interface).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId {
    /// `name` of the network configuration.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

impl AttachmentId {
    /// Whether it is the container's first interface: the pod's addresses, its default routes and its settings are those
    /// of this one.
    pub fn is_first(&self) -> bool {
        self.ifname == FIRST_INTERFACE
    }

    /// IPAM handle. Calico's `<network>.<container>` for a first interface where no other attachment has the same: it
    /// names neither the interface nor where the network's name ends, and the handle's object has it in lower case.
    pub fn handle_id(&self) -> String {
        if self.has_calicos_handle() {
            return self.calicos_handle_id();
        }
        format!(
            "{}-{}-{}-{}",
            object_name(&self.network),
            object_name(&self.container_id),
            object_name(&self.ifname),
            digest(
                &[&self.network, &self.container_id, &self.ifname],
                HANDLE_DIGITS
            )
        )
    }

    /// The handle under which Calico has this container's address, whatever its interface.
    pub fn calicos_handle_id(&self) -> String {
        format!("{}.{}", self.network, self.container_id)
    }

    fn has_calicos_handle(&self) -> bool {
        let upper = |text: &str| text.contains(|c: char| c.is_ascii_uppercase());
        self.is_first()
            && !self.container_id.contains('.')
            && !upper(&self.container_id)
            && !upper(&self.network)
    }

    /// The container of a handle of Calico's form, if it is one of `network`. Names of networks may have dots, ids in
    /// such handles have none.
    pub fn container_of_handle<'a>(network: &str, handle_id: &'a str) -> Option<&'a str> {
        let (of, container) = handle_id.rsplit_once('.')?;
        (of == network && !container.is_empty()).then_some(container)
    }

    /// Host side device of a Kubernetes pod: `prefix` and 11 hex digits, for the first interface those of the SHA-1 of
    /// `<namespace>.<pod>`, as Calico has it: a pod made anew under its name gets the same device name.
    /// `prefix` is the first element of `FELIX_INTERFACEPREFIX`, at most 4 octets, `cali` by default.
    pub fn pod_interface_name(&self, prefix: &str, namespace: &str, pod: &str) -> String {
        let digits = if self.is_first() && !namespace.contains('.') {
            hex(&Sha1::digest(format!("{namespace}.{pod}")), DEVICE_DIGITS)
        } else {
            digest(&[namespace, pod, &self.ifname], DEVICE_DIGITS)
        };
        format!("{prefix}{digits}")
    }

    /// Host side device of a container outside Kubernetes: `prefix` and 11 hex digits. Calico takes the beginning of the
    /// container id, which another container may share.
    pub fn container_interface_name(&self, prefix: &str) -> String {
        let digits = digest(&[&self.container_id, &self.ifname], DEVICE_DIGITS);
        format!("{prefix}{digits}")
    }
}

/// All parts in one text, which no other attachment has: none of them can have a `/`.
impl AttachmentId {
    /// `<network>/<container>/<interface>`.
    pub fn path(&self) -> String {
        format!("{}/{}/{}", self.network, self.container_id, self.ifname)
    }

    /// The reverse of [`path`](Self::path).
    pub fn of_path(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let mut part = || parts.next().filter(|part| !part.is_empty());
        let id = Self {
            network: part()?.to_owned(),
            container_id: part()?.to_owned(),
            ifname: part()?.to_owned(),
        };
        parts.next().is_none().then_some(id)
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "interface {} of container {} in network {}",
            self.ifname, self.container_id, self.network
        )
    }
}

/// What no part of an endpoint's specification holds is kept in annotations, which Calico leaves as they are.
impl WorkloadEndpoint {
    const NETWORK: &str = "networking.tortie.dev/network";
    const HANDLE: &str = "networking.tortie.dev/ipam-handle";

    /// Name of the network that the endpoint is in; `None` for one that Calico wrote.
    pub fn network(&self) -> Option<&str> {
        self.metadata
            .annotations
            .get(Self::NETWORK)
            .map(String::as_str)
    }

    /// IPAM handle of its addresses; `None` for one that Calico wrote.
    pub fn handle_id(&self) -> Option<&str> {
        self.metadata
            .annotations
            .get(Self::HANDLE)
            .map(String::as_str)
    }

    /// Notes which attachment it is.
    pub fn set_attachment(&mut self, attachment: &AttachmentId) {
        self.spec.container_id.clone_from(&attachment.container_id);
        self.spec.endpoint.clone_from(&attachment.ifname);
        let annotations = &mut self.metadata.annotations;
        annotations.insert(Self::NETWORK.to_owned(), attachment.network.clone());
        annotations.insert(Self::HANDLE.to_owned(), attachment.handle_id());
    }

    /// Whether it is this attachment's. One that Calico wrote says nothing of its network, and is in the only one that
    /// the container's interface can be in.
    pub fn is_of(&self, attachment: &AttachmentId) -> bool {
        self.spec.container_id == attachment.container_id
            && self.spec.endpoint == attachment.ifname
            && self.network().is_none_or(|name| name == attachment.network)
    }
}

/// Digits of the digest of all parts, kept apart by an octet that none of them can have.
fn digest(parts: &[&str], digits: usize) -> String {
    let mut sha1 = Sha1::new();
    for part in parts {
        sha1.update(part);
        sha1.update([0]);
    }
    hex(&sha1.finalize(), digits)
}

/// The first `digits` hex digits of a digest.
pub(crate) fn hex(octets: &[u8], digits: usize) -> String {
    let mut text: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    text.truncate(digits);
    text
}

/// A part as an object's name may have it (RFC 1123).
fn object_name(part: &str) -> String {
    let lower = part.chars().take(HANDLE_PART_MAX).map(|c| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_lowercase(),
        _ => '-',
    });
    lower.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(network: &str, container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId {
            network: network.to_owned(),
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
        }
    }

    #[test]
    fn a_first_interface_has_the_names_that_calico_gives_it() {
        let first = id("k8s-pod-network", "4f1c0de", "eth0");
        assert_eq!(first.handle_id(), "k8s-pod-network.4f1c0de");
        // `printf default.web-0 | sha1sum`
        assert_eq!(
            first.pod_interface_name("cali", "default", "web-0"),
            "cali0d7763386da"
        );
    }

    #[test]
    fn containers_whose_ids_begin_alike_have_devices_of_their_own() {
        let device = |container: &str| id("n", container, "eth0").container_interface_name("cali");
        assert_ne!(device("my-container-a"), device("my-container-b"));
        assert_ne!(device("0123456789abcdef"), device("0123456789abcdee"));
        assert_eq!(device("my-container-a").len(), 15);
    }

    #[test]
    fn a_handle_leads_to_its_container_in_the_network_it_is_of_and_in_no_other() {
        let container = AttachmentId::container_of_handle;
        assert_eq!(container("a.b", "a.b.c"), Some("c"));
        assert_eq!(container("a", "a.b.c"), None);
        assert_eq!(container("a", "a."), None);
        assert_eq!(container("a", "a-c-net1-0123456789abcdef"), None);
    }

    /// Few letters, so that names come close to each other.
    fn name() -> impl Strategy<Value = String> {
        "[aA1][aA1._-]{0,4}"
    }

    fn any_id() -> impl Strategy<Value = AttachmentId> {
        let ifname = prop_oneof![Just("eth0"), Just("net1"), Just("ETH0"), Just("a.b")];
        (name(), name(), ifname)
            .prop_map(|(network, container, ifname)| id(&network, &container, ifname))
    }

    proptest! {
        #[test]
        fn different_attachments_have_different_handles_also_in_lower_case(
            one in any_id(), other in any_id()
        ) {
            prop_assume!(one != other);
            prop_assert_ne!(one.handle_id().to_lowercase(), other.handle_id().to_lowercase());
        }

        #[test]
        fn handles_of_unequal_splits_differ(
            parts in prop::collection::vec("[a1]{1,2}", 3..5), at in 1_usize..4, to in 1_usize..4
        ) {
            let split = |at: usize| {
                let at = at.min(parts.len() - 1);
                id(&parts[..at].join("."), &parts[at..].join("."), "eth0")
            };
            prop_assume!(split(at) != split(to));
            prop_assert_ne!(split(at).handle_id(), split(to).handle_id());
        }

        #[test]
        fn interfaces_of_a_host_that_may_stand_side_by_side_have_different_devices(
            one in any_id(), other in any_id(), pods in prop::array::uniform2("[a1][a1.-]{0,3}")
        ) {
            let interface = |id: &AttachmentId| (id.container_id.clone(), id.ifname.clone());
            if interface(&one) != interface(&other) {
                prop_assert_ne!(
                    one.container_interface_name("cali"),
                    other.container_interface_name("cali")
                );
            }
            if (&pods[0], &one.ifname) != (&pods[1], &other.ifname) {
                prop_assert_ne!(
                    one.pod_interface_name("cali", "default", &pods[0]),
                    other.pod_interface_name("cali", "default", &pods[1])
                );
            }
        }

        #[test]
        fn a_path_leads_back(one in any_id()) {
            let path = one.path();
            prop_assert_eq!(AttachmentId::of_path(&path), Some(one));
            prop_assert_eq!(AttachmentId::of_path(&path[1..].replace('/', "")), None);
        }

        #[test]
        fn a_digested_handle_can_be_an_objects_name(one in any_id()) {
            let handle = one.handle_id();
            if handle != one.calicos_handle_id() {
                prop_assert!(handle.len() <= 253);
                prop_assert!(handle.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
                prop_assert!(handle.starts_with(|c: char| c.is_ascii_alphanumeric()));
                prop_assert!(handle.ends_with(|c: char| c.is_ascii_alphanumeric()));
            }
        }

        #[test]
        fn an_endpoint_is_of_the_attachment_it_was_written_for_and_of_no_other(
            one in any_id(), other in any_id()
        ) {
            let key = crate::key::Key::namespaced(crate::key::Kind::WorkloadEndpoint, "default", "e");
            let mut endpoint = WorkloadEndpoint::new(&key, crate::endpoint::WorkloadEndpointSpec::default());
            endpoint.set_attachment(&one);
            prop_assert!(endpoint.is_of(&one));
            let handle = one.handle_id();
            prop_assert_eq!(endpoint.handle_id(), Some(handle.as_str()));
            prop_assert_eq!(endpoint.is_of(&other), one == other);
        }
    }
}
