//! `tortiectl node checksystem`: whether this host's kernel has what an agent needs.
//!
//! Looked at, in this order: modules that are loaded or built in, the kernel's configuration, the modules on disk.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use flate2::read::GzDecoder;

use crate::cli::Kernel;
use crate::print::outln;

/// Something the kernel has or lacks.
struct Feature {
    option: &'static str,
    /// Empty when it cannot be a module.
    module: &'static str,
    /// What does not work without it.
    without: &'static str,
    needed: bool,
}

const FEATURES: [Feature; 8] = [
    feature("CONFIG_NET_NS", "", "pods", true),
    feature("CONFIG_VETH", "veth", "pods", true),
    feature(
        "CONFIG_IP_MULTIPLE_TABLES",
        "",
        "routes in tables of their own",
        false,
    ),
    feature(
        "CONFIG_IP_ROUTE_MULTIPATH",
        "",
        "several routers for one prefix",
        false,
    ),
    feature("CONFIG_VXLAN", "vxlan", "pools with vxlanMode", false),
    feature("CONFIG_NET_IPIP", "ipip", "pools with ipipMode", false),
    feature("CONFIG_TCP_MD5SIG", "", "BGP passwords", false),
    feature("CONFIG_IPV6", "ipv6", "IPv6", false),
];

const fn feature(
    option: &'static str,
    module: &'static str,
    without: &'static str,
    needed: bool,
) -> Feature {
    Feature {
        option,
        module,
        without,
        needed,
    }
}

/// What is known of a kernel.
#[derive(Default)]
struct Facts {
    /// Its configuration, as text.
    config: Option<String>,
    /// modules.builtin and modules.dep.
    modules: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Fail,
    Unknown,
}

/// `tortiectl node checksystem`.
pub(crate) fn check(kernel: &Kernel) -> anyhow::Result<()> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's release")?;
    let release = release.trim();
    outln!("Checking kernel version...\n{:<30}{release}\n", "");
    let facts = Facts {
        config: config(kernel.kernel_config.as_deref(), release)?,
        modules: modules(release),
    };
    outln!("Checking kernel features...");
    let mut missing = Vec::new();
    for feature in &FEATURES {
        let loaded =
            !feature.module.is_empty() && Path::new("/sys/module").join(feature.module).exists();
        let verdict = facts.verdict(feature, loaded);
        let word = match verdict {
            Verdict::Ok => "OK".to_owned(),
            Verdict::Fail => format!("FAIL: no {}", feature.without),
            Verdict::Unknown => format!(
                "unknown: the kernel's configuration was not found (--kernel-config names it); without it no {}",
                feature.without
            ),
        };
        outln!("{:<30}{word}", feature.option);
        if verdict == Verdict::Fail && feature.needed {
            missing.push(feature.option);
        }
    }
    if missing.is_empty() {
        outln!("\nSystem meets minimum system requirements to run an agent.");
        return Ok(());
    }
    bail!(
        "System doesn't meet minimum system requirements: the kernel lacks {}",
        missing.join(", ")
    )
}

impl Facts {
    fn verdict(&self, feature: &Feature, loaded: bool) -> Verdict {
        let file = format!("/{}.ko", feature.module);
        let on_disk = |modules: &String| !feature.module.is_empty() && modules.contains(&file);
        if loaded || self.modules.as_ref().is_some_and(on_disk) {
            return Verdict::Ok;
        }
        let set = |line: &str| {
            line.strip_prefix(feature.option)
                .is_some_and(|rest| rest == "=y" || rest == "=m")
        };
        match &self.config {
            Some(config) if config.lines().any(set) => Verdict::Ok,
            Some(_) => Verdict::Fail,
            None if self.modules.is_some() && !feature.module.is_empty() => Verdict::Fail,
            None => Verdict::Unknown,
        }
    }
}

/// The kernel's configuration: the file that is named, or where kernels and distributions leave it.
fn config(named: Option<&Path>, release: &str) -> anyhow::Result<Option<String>> {
    if let Some(path) = named {
        let text = read_config(path).with_context(|| format!("reading {}", path.display()))?;
        return Ok(Some(text));
    }
    let places = [
        "/proc/config.gz".to_owned(),
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
    ];
    Ok(places
        .iter()
        .find_map(|place| read_config(Path::new(place)).ok()))
}

fn read_config(path: &Path) -> std::io::Result<String> {
    let octets = fs::read(path)?;
    let mut text = String::new();
    if octets.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(octets.as_slice()).read_to_string(&mut text)?;
    } else {
        octets.as_slice().read_to_string(&mut text)?;
    }
    Ok(text)
}

fn modules(release: &str) -> Option<String> {
    let read = |name: &str| fs::read_to_string(format!("/lib/modules/{release}/{name}")).ok();
    match (read("modules.builtin"), read("modules.dep")) {
        (None, None) => None,
        (builtin, on_disk) => Some(builtin.unwrap_or_default() + &on_disk.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_is_loaded_or_on_disk_or_configured() {
        let [.., vxlan, _, md5, _] = &FEATURES;
        let facts = |config: Option<&str>, modules: Option<&str>| Facts {
            config: config.map(str::to_owned),
            modules: modules.map(str::to_owned),
        };
        let config = "CONFIG_VXLAN=m\n# CONFIG_TCP_MD5SIG is not set\nCONFIG_VXLAN_X=y\n";
        assert_eq!(facts(Some(config), None).verdict(vxlan, false), Verdict::Ok);
        assert_eq!(facts(Some(config), None).verdict(md5, false), Verdict::Fail);
        assert_eq!(
            facts(Some("CONFIG_VXLAN_X=y"), None).verdict(vxlan, false),
            Verdict::Fail
        );
        let modules = "kernel/drivers/net/vxlan/vxlan.ko.zst: kernel/net/ipv6/ip6_udp_tunnel.ko\n";
        assert_eq!(
            facts(None, Some(modules)).verdict(vxlan, false),
            Verdict::Ok
        );
        assert_eq!(facts(None, Some("")).verdict(vxlan, false), Verdict::Fail);
        assert_eq!(facts(None, Some("")).verdict(vxlan, true), Verdict::Ok);
        assert_eq!(facts(None, Some("")).verdict(md5, false), Verdict::Unknown);
        assert_eq!(facts(None, None).verdict(vxlan, false), Verdict::Unknown);
    }
}
