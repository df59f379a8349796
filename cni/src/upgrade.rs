//! `calico-ipam -upgrade`, the init container `upgrade-ipam` of Calico's manifest: there it moves the addresses that host-local gave
//! out into Calico's blocks. Here nothing is moved: where host-local still holds addresses the start of the new agent is refused, so
//! that none of them is given out twice.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;

/// Where host-local keeps what it gave out to the network of Calico's manifests, below a root.
const HELD: &str = "var/lib/cni/networks/k8s-pod-network";

/// What is to be said when nothing stands in the way of Calico's IPAM.
///
/// # Errors
/// What does, for the operator.
pub fn upgrade(root: &Path) -> Result<String, String> {
    let directory = root.join(HELD);
    let shown = directory.display();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(format!(
                "{shown} does not exist: host-local gave out no address, nothing is to be done"
            ));
        }
        Err(error) => return Err(format!("reading {shown}: {error}")),
    };
    let mut held: Vec<IpAddr> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("reading {shown}: {error}"))?;
        // Beside an address' file stand its lock and the last one that was given.
        held.extend(entry.file_name().to_string_lossy().parse::<IpAddr>().ok());
    }
    held.sort();
    match held.first() {
        None => Ok(format!(
            "{shown} holds no address of host-local, nothing is to be done"
        )),
        Some(first) => Err(format!(
            "{shown}: host-local holds {} addresses ({first} …), which are not converted; go on with it (ipam.type host-local in the \
             network configuration, USE_POD_CIDR=true), or drain the node and remove this directory",
            held.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_host_local_holds_are_refused_and_nothing_else_is() {
        let root = std::env::temp_dir().join(format!("tortie-upgrade-{}", std::process::id()));
        assert!(upgrade(&root).unwrap().contains("does not exist"));
        let held = root.join(HELD);
        fs::create_dir_all(&held).unwrap();
        for file in ["lock", "last_reserved_ip.0"] {
            fs::write(held.join(file), "10.77.1.9").unwrap();
        }
        assert!(upgrade(&root).unwrap().contains("no address"));
        for file in ["10.77.1.9", "fd00::9"] {
            fs::write(held.join(file), "4f1c0de\r\neth0").unwrap();
        }
        let why = upgrade(&root).unwrap_err();
        for word in ["2 addresses", "10.77.1.9", "USE_POD_CIDR", HELD] {
            assert!(why.contains(word), "{word}: {why}");
        }
        assert!(held.join("10.77.1.9").exists());
        fs::remove_dir_all(&root).unwrap();
    }
}
