//! What plugin and agent say to each other.
//!
//! One connection carries one request and one reply, each a frame: a 4-octet big-endian length, then that many octets
//! of JSON. The descriptor of the pod's network namespace rides with the first octet of the request (`SCM_RIGHTS`).
//! Fields that one side does not know are ignored and missing ones take their default, so that plugin and agent can be
//! upgraded one after the other.
//!
//! ```text
//!  0                   4                              4 + length
//! +-------------------+--------------------------------+
//! | length, octets    | JSON of Request or Reply       |
//! +-------------------+--------------------------------+
//! ```

use std::net::IpAddr;

use api::attachment::AttachmentId;
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::spec::error::CniError;
use crate::spec::result::AddResult;

/// Where the agent listens unless the network configuration's `agent_socket` names another path.
pub const SOCKET_PATH: &str = "/var/run/calico/tortie-cni.sock";

/// The longest JSON of a frame, in octets. A GC of 5,000 attachments takes about 500,000.
pub const FRAME_MAX_BYTES: usize = 1 << 20;

/// Length of a frame's head, in octets.
pub const FRAME_HEAD_BYTES: usize = 4;

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    /// Connect a pod. Comes with the namespace's descriptor.
    Add,
    /// Undo ADD. Without a descriptor when the namespace is gone. Must succeed when there is nothing to undo.
    Del,
    /// Compare what stands in the kernel with `prev_result`. Comes with the namespace's descriptor.
    Check,
    /// Say whether ADD would be served now.
    Status,
    /// Undo every ADD of this network that is not in `valid_attachments`.
    Gc,
    /// Say which ranges Kubernetes gave this node. Asked by the plugin itself, for an IPAM plugin that gives out from them.
    PodCidrs,
    /// Give a pod that another plugin connects its addresses (`calico-ipam` as that plugin's IPAM). Comes without a descriptor.
    Assign,
    /// Take back what ASSIGN gave. Must succeed when there is nothing to take back.
    Release,
    /// Compare what ASSIGN gave with `prev_result`.
    Verify,
}

impl Command {
    /// What the runtime's command is for an IPAM plugin: it is about the addresses alone.
    #[must_use]
    pub const fn of_ipam(self) -> Self {
        match self {
            Self::Add => Self::Assign,
            Self::Del => Self::Release,
            Self::Check => Self::Verify,
            other => other,
        }
    }

    /// The runtime's command that it serves, for messages.
    #[must_use]
    pub const fn of_runtime(self) -> Self {
        match self {
            Self::Assign => Self::Add,
            Self::Release => Self::Del,
            Self::Verify => Self::Check,
            other => other,
        }
    }
}

/// A runtime's call, checked by the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// `name` of the network, see [`Request::attachment`].
    pub network: String,
    /// Sandbox id; empty for STATUS and GC.
    #[serde(default)]
    pub container_id: String,
    /// Device name inside the pod; empty for STATUS and GC.
    #[serde(default)]
    pub ifname: String,
    /// `CNI_NETNS`, for the result's `sandbox` and for messages: the agent must use the descriptor.
    #[serde(default)]
    pub netns_path: Option<String>,
    /// The Kubernetes pod; absent outside Kubernetes.
    #[serde(default)]
    pub pod: Option<Pod>,
    /// An explicit address (`IP` in `CNI_ARGS`).
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// Node name if the configuration sets one (`nodename`): it must be the agent's own.
    #[serde(default)]
    pub nodename: Option<String>,
    /// MTU of the pod's device in bytes; 0: the agent decides.
    #[serde(default)]
    pub mtu_bytes: u32,
    /// Queues of the pod's pair (`num_queues`); 0 is 1.
    #[serde(default)]
    pub queues: u32,
    /// Whether the pod may forward packets (`container_settings.allow_ip_forwarding`).
    #[serde(default)]
    pub allow_ip_forwarding: bool,
    /// Address management.
    #[serde(default)]
    pub ipam: IpamSettings,
    /// Addresses that another IPAM plugin gave; empty: the agent is to give one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<IpNet>,
    /// What is routed to the host instead of everything (routes of another IPAM plugin); empty: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<IpNet>,
    /// Explicit addresses (`ips` of the runtime), at most one a family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// MAC of the pod's end (`mac` of the runtime).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<[u8; 6]>,
    /// What annotations of pods may ask for (`feature_control`).
    #[serde(default)]
    pub features: Features,
    /// `type` of the plugin that connects the pod, where that is not this one (ASSIGN).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plugin: String,
    /// Result of ADD, for CHECK.
    #[serde(default)]
    pub prev_result: Option<AddResult>,
    /// What GC must keep.
    #[serde(default)]
    pub valid_attachments: Vec<Attachment>,
}

/// What annotations of pods may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    /// Addresses that IPAM does not know (`ipAddrsNoIpam`).
    pub ip_addrs_no_ipam: bool,
    /// `floatingIPs`.
    pub floating_ips: bool,
}

/// A Kubernetes pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID of the Pod object, when the runtime says it: another Pod of the name is another pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// The `ipam` part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamSettings {
    /// Give an IPv4 address.
    pub assign_ipv4: bool,
    /// Give an IPv6 address.
    pub assign_ipv6: bool,
    /// Names or CIDRs of the only IPv4 pools to use; empty: the pools that select the node.
    #[serde(default)]
    pub ipv4_pools: Vec<String>,
    /// The same for IPv6.
    #[serde(default)]
    pub ipv6_pools: Vec<String>,
}

impl Default for IpamSettings {
    fn default() -> Self {
        Self {
            assign_ipv4: true,
            assign_ipv6: false,
            ipv4_pools: Vec::new(),
            ipv6_pools: Vec::new(),
        }
    }
}

/// One interface of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// Sandbox id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Device name inside the pod.
    pub ifname: String,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// ADD is done: the route is in the FIB and both ends of the pair are up. Of ASSIGN: the addresses alone.
    Added(AddResult),
    /// This node's ranges.
    PodCidrs(Vec<IpNet>),
    /// Any other command is done.
    Done,
    /// It was not done; the plugin prints this.
    Failed(CniError),
}

impl Request {
    /// What the call is about; its container and interface are empty for STATUS and GC.
    pub fn attachment(&self) -> AttachmentId {
        AttachmentId {
            network: self.network.clone(),
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
        }
    }

    /// `k8s` for a Kubernetes pod, else `cni`.
    pub const fn orchestrator(&self) -> &'static str {
        if self.pod.is_some() { "k8s" } else { "cni" }
    }
}

/// Why octets are no frame, or a message makes none.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is above [`FRAME_MAX_BYTES`].
    #[error("frame of {length} octets; allowed: at most {FRAME_MAX_BYTES}")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// The JSON is not that of the message.
    #[error("frame holds no valid message")]
    Json(#[source] serde_json::Error),
}

/// A message as a frame.
pub fn encode_frame<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; FRAME_HEAD_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Json)?;
    let length = frame.len() - FRAME_HEAD_BYTES;
    match u32::try_from(length) {
        Ok(head) if length <= FRAME_MAX_BYTES => {
            frame[..FRAME_HEAD_BYTES].copy_from_slice(&head.to_be_bytes());
            Ok(frame)
        }
        _ => Err(FrameError::TooLong { length }),
    }
}

/// Collects octets, in whatever pieces they arrive, until they make one frame.
#[derive(Debug, Default)]
pub struct FrameReader {
    octets: Vec<u8>,
}

impl FrameReader {
    /// Takes octets off the socket.
    pub fn push(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    /// Whether nothing has arrived yet: distinguishes an unused connection from a cut one when it is closed.
    pub const fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// The message, once it is all there. A too long frame is refused as soon as its head is there.
    pub fn message<T: DeserializeOwned>(&self) -> Result<Option<T>, FrameError> {
        let Some((head, rest)) = self.octets.split_first_chunk::<FRAME_HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if length > FRAME_MAX_BYTES {
            return Err(FrameError::TooLong { length });
        }
        match rest.get(..length) {
            None => Ok(None),
            Some(json) => serde_json::from_slice(json)
                .map(Some)
                .map_err(FrameError::Json),
        }
    }
}
