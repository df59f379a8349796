//! A result of ADD beside its version's shape and beside the kernel.

use std::net::IpAddr;

use anyhow::{Context, anyhow, bail, ensure};
use ipnet::IpNet;
use lab::{Link, NetNs, Route};
use serde_json::Value;

/// What the kernel of a network namespace has, read by netlink.
#[derive(Debug)]
pub struct Kernel {
    /// Devices.
    pub links: Vec<Link>,
    /// Addresses of all devices.
    pub addresses: Vec<IpAddr>,
    /// The main table.
    pub routes: Vec<Route>,
}

impl Kernel {
    /// Reads it.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn read(namespace: &NetNs) -> anyhow::Result<Self> {
        let mut netlink = namespace.netlink()?;
        Ok(Self {
            links: netlink.links()?,
            addresses: netlink.addresses()?,
            routes: netlink.routes()?,
        })
    }

    /// A device by name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// The addresses of a result, whatever its version.
pub(crate) fn addresses(result: &Value) -> anyhow::Result<Vec<IpNet>> {
    let old = ["ip4", "ip6"].map(|key| &result[key]["ip"]);
    let new = result["ips"].as_array();
    let texts = old
        .into_iter()
        .chain(new.into_iter().flatten().map(|ip| &ip["address"]))
        .filter(|text| !text.is_null());
    texts
        .map(|text| {
            let net = text.as_str().and_then(|text| text.parse().ok());
            net.ok_or_else(|| anyhow!("address {text} is not in CIDR notation"))
        })
        .collect()
}

/// Why a result has not the shape of its version, if so.
#[must_use]
pub fn shape_fault(result: &Value, version: &str) -> Option<String> {
    shape(result, version)
        .err()
        .map(|error| format!("{error:#}"))
}

fn shape(result: &Value, version: &str) -> anyhow::Result<()> {
    ensure!(result.is_object(), "it is no object: {result}");
    ensure!(
        result["cniVersion"] == version,
        "cniVersion is {}; expected: {version:?}, the configuration's",
        result["cniVersion"]
    );
    ensure!(!addresses(result)?.is_empty(), "no address");
    if matches!(version, "0.1.0" | "0.2.0") {
        for key in ["interfaces", "ips", "routes"] {
            ensure!(
                result.get(key).is_none(),
                "{key} came with version 0.3.0: {result}"
            );
        }
        return Ok(());
    }
    let interfaces = list(result, "interfaces")?;
    for interface in interfaces {
        let name = interface["name"].as_str().unwrap_or_default();
        ensure!(!name.is_empty(), "an interface without name: {interface}");
    }
    for ip in list(result, "ips")? {
        let before_1 = version.starts_with('0');
        let family = if ip["address"]
            .as_str()
            .is_some_and(|text| text.contains(':'))
        {
            "6"
        } else {
            "4"
        };
        match ip.get("version") {
            Some(said) if before_1 => {
                ensure!(said == family, "version {said} of {ip}; expected: {family}");
            }
            None if before_1 => bail!("ips: no version in {ip}, which 0.3.0 to 0.4.0 have"),
            Some(_) => bail!("ips: version in {ip}, which 1.0.0 has no more"),
            None => {}
        }
        if let Some(index) = ip.get("interface").filter(|index| !index.is_null()) {
            let index = index.as_u64().and_then(|index| usize::try_from(index).ok());
            ensure!(
                index.is_some_and(|index| index < interfaces.len()),
                "ips: interface of {ip} is no index into interfaces"
            );
        }
    }
    for route in list(result, "routes")? {
        let destination = route["dst"].as_str().unwrap_or_default();
        destination
            .parse::<IpNet>()
            .with_context(|| format!("routes: dst of {route}"))?;
    }
    Ok(())
}

fn list<'a>(result: &'a Value, key: &str) -> anyhow::Result<&'a [Value]> {
    match result.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => bail!("{key} is {other}; expected: a list"),
    }
}

/// Whether the container has what the result says of it.
pub(crate) fn agrees(
    result: &Value,
    inside: &Kernel,
    ifname: &str,
    netns: &str,
) -> anyhow::Result<()> {
    let link = inside
        .link(ifname)
        .ok_or_else(|| anyhow!("no device {ifname} in the container: {:?}", inside.links))?;
    for address in addresses(result)? {
        ensure!(
            inside.addresses.contains(&address.addr()),
            "the container lacks {address}: {:?}",
            inside.addresses
        );
    }
    let interfaces = list(result, "interfaces")?;
    if let Some(own) = interfaces
        .iter()
        .find(|interface| interface["sandbox"] == netns && interface["name"] == ifname)
    {
        let mac = own["mac"].as_str().unwrap_or_default();
        ensure!(
            mac.eq_ignore_ascii_case(&link.mac),
            "mac of {ifname} is {mac:?}; the kernel says {}",
            link.mac
        );
    } else if result
        .get("cniVersion")
        .is_some_and(|version| version != "0.1.0" && version != "0.2.0")
    {
        bail!("interfaces names no {ifname} with sandbox {netns}: {result}");
    }
    for route in list(result, "routes")? {
        let wanted: IpNet = route["dst"].as_str().unwrap_or_default().parse()?;
        ensure!(
            inside
                .routes
                .iter()
                .any(|route| route.destination == wanted),
            "the container lacks the route to {wanted}: {:?}",
            inside.routes
        );
    }
    Ok(())
}
