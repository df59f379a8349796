//! Tunnel devices: made as wanted, repaired in place where the kernel allows it, else made anew.

use std::os::fd::AsFd;
use std::sync::Arc;

use felix::desired::{Checksums, IfName, LinkSpec, Mac, Parent};
use felix::kernel::OpError;

use super::decode::{self, Link, Vxlan};
use super::encode;
use super::socket::{Failure, Requests};
use super::uapi::*;
use crate::sys;

/// The device of this name, if there is one.
pub(crate) fn find(requests: &mut Requests, name: &IfName) -> Result<Option<Link>, Failure> {
    let answer = requests.query(
        RTM_GETLINK,
        |writer| {
            writer.ifinfo(AF_UNSPEC, 0, 0, 0);
            writer.attr_str(IFLA_IFNAME, &name.0);
            writer.attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        },
        |message| decode::link(&message),
    );
    match answer {
        Err(failure) if failure.errno == libc::ENODEV => Ok(None),
        answer => answer,
    }
}

/// All devices.
pub(crate) fn list(requests: &mut Requests) -> Result<Vec<Link>, Failure> {
    requests.dump(
        RTM_GETLINK,
        |writer| {
            writer.ifinfo(AF_UNSPEC, 0, 0, 0);
            writer.attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        },
        |message, links| links.extend(decode::link(&message)),
    )
}

/// Removes a tunnel device if it is of the kind that `spec` describes: another one of the name is somebody else's.
pub(crate) fn remove(
    requests: &mut Requests,
    name: &IfName,
    spec: &LinkSpec,
) -> Result<(), Failure> {
    let kind = match spec {
        LinkSpec::Vxlan { .. } => "vxlan",
        LinkSpec::Ipip { .. } => "ipip",
    };
    match find(requests, name)? {
        Some(link) if link.state.kind.as_deref() == Some(kind) => {
            gone(requests.request(RTM_DELLINK, 0, |writer| {
                writer.ifinfo(AF_UNSPEC, link.state.ifindex, 0, 0);
            }))
        }
        Some(_) | None => Ok(()),
    }
}

/// Deletes the device of this name, whatever it is; no such device is success.
pub(crate) fn delete(requests: &mut Requests, name: &IfName) -> Result<(), Failure> {
    gone(requests.request(RTM_DELLINK, 0, |writer| {
        writer.ifinfo(AF_UNSPEC, 0, 0, 0);
        writer.attr_str(IFLA_IFNAME, &name.0);
    }))
}

fn gone(answer: Result<(), Failure>) -> Result<(), Failure> {
    match answer {
        Err(failure) if failure.errno == libc::ENODEV => Ok(()),
        answer => answer,
    }
}

/// Makes the tunnel device what `spec` says.
pub(crate) fn set(requests: &mut Requests, name: &IfName, spec: &LinkSpec) -> Result<(), OpError> {
    match spec {
        LinkSpec::Vxlan {
            vni,
            port,
            local,
            parent,
            mac,
            mtu_bytes,
            checksums,
        } => {
            let wanted = Vxlan {
                vni: *vni,
                port: *port,
                local: Some(*local),
                parent: parent_index(requests, name, parent)?,
            };
            set_vxlan(requests, name, &wanted, *mac, *mtu_bytes)
                .map_err(|failure| vxlan_refused(failure, name))?;
            set_checksums(requests, name, *checksums)
        }
        LinkSpec::Ipip { mtu_bytes } => set_ipip(requests, name, *mtu_bytes),
    }
}

/// The kernel's number for the device below a VXLAN device; 0 for none.
fn parent_index(requests: &mut Requests, name: &IfName, parent: &Parent) -> Result<u32, OpError> {
    let parent = match parent {
        Parent::Device(parent) => parent,
        Parent::Routed => return Ok(0),
        Parent::Unknown => unreachable!("the reconciler gives no operation that leaves it open"),
    };
    find(requests, parent)
        .map_err(|failure| refused(failure, name))?
        .map(|link| link.state.ifindex)
        .ok_or_else(|| OpError::NoDevice(parent.clone()))
}

fn set_vxlan(
    requests: &mut Requests,
    name: &IfName,
    wanted: &Vxlan,
    mac: Mac,
    mtu_bytes: Option<u32>,
) -> Result<(), Failure> {
    if let Some(link) = find(requests, name)? {
        if link.vxlan.as_ref() == Some(wanted) && link.state.mac == Some(mac) {
            return repair(requests, &link, mtu_bytes);
        }
        delete(requests, name)?;
    }
    requests.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |writer| {
        encode::vxlan_device(writer, name, wanted, mac, mtu_bytes);
    })
}

/// Who computes the checksums of what a device sends, as far as it can be asked.
pub(crate) fn checksums(socket: impl AsFd, name: &IfName) -> Checksums {
    match sys::computes_checksums(socket.as_fd(), &name.0) {
        Ok(false) => Checksums::Kernel,
        Ok(true) | Err(_) => Checksums::AsIs,
    }
}

fn set_checksums(requests: &Requests, name: &IfName, wanted: Checksums) -> Result<(), OpError> {
    if wanted == Checksums::AsIs || checksums(requests, name) == wanted {
        return Ok(());
    }
    sys::leave_no_checksums(requests.as_fd(), &name.0).map_err(|error| OpError::Kernel {
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        text: Arc::from(format!(
            "{name} cannot be kept from leaving checksums to hardware, which gets them wrong (ChecksumOffloadBroken): {error}"
        )),
    })
}

/// `tunl0` comes into being when the ipip module is loaded, which asking for one does.
fn set_ipip(requests: &mut Requests, name: &IfName, mtu_bytes: Option<u32>) -> Result<(), OpError> {
    let found = find(requests, name).map_err(|failure| refused(failure, name))?;
    let found = match found {
        Some(link) => Some(link),
        None => {
            let created = requests.request(RTM_NEWLINK, NLM_F_CREATE, |writer| {
                encode::ipip_device(writer, name);
            });
            let found = find(requests, name).map_err(|failure| refused(failure, name))?;
            // The kernel refuses to change the fallback device that its own loading has just made.
            if let (None, Err(failure)) = (&found, created) {
                return Err(ipip_refused(failure, name));
            }
            found
        }
    };
    let link = found.ok_or_else(|| OpError::NoDevice(name.clone()))?;
    if link.state.kind.as_deref() != Some("ipip") {
        return Err(OpError::Kernel {
            errno: libc::EEXIST,
            text: Arc::from(format!(
                "device {name} exists with kind {}, and must be of kind ipip",
                link.state.kind.as_deref().unwrap_or("none")
            )),
        });
    }
    repair(requests, &link, mtu_bytes).map_err(|failure| refused(failure, name))
}

/// MTU and state of an existing device, written only where they differ.
fn repair(requests: &mut Requests, link: &Link, mtu_bytes: Option<u32>) -> Result<(), Failure> {
    let mtu = mtu_bytes.filter(|mtu| *mtu != link.state.mtu_bytes);
    if mtu.is_none() && link.admin_up {
        return Ok(());
    }
    requests.request(RTM_NEWLINK, 0, |writer| {
        encode::raised_device(writer, link.state.ifindex, mtu);
    })
}

/// A refusal in the reconciler's terms, for an operation on this device.
pub(crate) fn refused(failure: Failure, name: &IfName) -> OpError {
    match failure.errno {
        libc::ENODEV | libc::ENXIO => OpError::NoDevice(name.clone()),
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN => OpError::Unreachable,
        _ => other(failure),
    }
}

/// A refusal that is not about a device.
pub(crate) fn other(failure: Failure) -> OpError {
    match failure.errno {
        libc::EPERM | libc::EACCES => OpError::Unsupported(Arc::from(format!(
            "the kernel does not let this process write it ({}): the agent needs CAP_NET_ADMIN in the host's network namespace, as \
             root or a privileged container has it",
            failure.text
        ))),
        errno => OpError::Kernel {
            errno,
            text: Arc::from(failure.text),
        },
    }
}

fn vxlan_refused(failure: Failure, name: &IfName) -> OpError {
    if failure.errno == libc::EOPNOTSUPP {
        return OpError::Unsupported(Arc::from(format!(
            "cannot create {name}: the kernel has no VXLAN devices; load the module on this node \
             with `modprobe vxlan`"
        )));
    }
    refused(failure, name)
}

fn ipip_refused(failure: Failure, name: &IfName) -> OpError {
    if failure.errno == libc::EOPNOTSUPP {
        return OpError::Unsupported(Arc::from(format!(
            "cannot create {name}: the kernel has no IPIP devices; load the module on this node \
             with `modprobe ipip`, or set the pool's vxlanMode instead of ipipMode"
        )));
    }
    refused(failure, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_kind_of_tunnel_is_told_with_the_device_and_its_module() {
        let name = IfName::from("tunnel0");
        let lacking = || Failure::from_errno(libc::EOPNOTSUPP);
        for (told, module) in [
            (vxlan_refused(lacking(), &name), "modprobe vxlan"),
            (ipip_refused(lacking(), &name), "modprobe ipip"),
        ] {
            let said = told.to_string();
            assert!(said.contains("tunnel0") && said.contains(module), "{said}");
        }
        for told in [vxlan_refused, ipip_refused] {
            let said = told(Failure::from_errno(libc::EPERM), &name).to_string();
            assert!(said.contains("needs CAP_NET_ADMIN"), "{said}");
        }
    }
}
