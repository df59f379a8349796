//! The configuration file of Felix: `Name = value` lines, sections and comments left out.

use super::notices::without_effect;
use super::{Notice, TABLE};
use crate::felix::Given;

/// The settings that a file gives, and what is passed over.
pub(super) fn read(path: &str, text: &str) -> (Vec<Given>, Vec<Notice>) {
    let mut settings: Vec<Given> = Vec::new();
    let mut notices = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let comment = line.starts_with(['#', ';']);
        let section = line.starts_with('[') && line.ends_with(']');
        if line.is_empty() || comment || section {
            continue;
        }
        let place = |name: &str| format!("{path}:{}: {name}", number + 1);
        let Some((name, value)) = line.split_once('=') else {
            notices.push(Notice {
                variable: place("line"),
                value: line.to_owned(),
                message: "ignored: allowed: `Name = value`, `[section]`, `# comment`".to_owned(),
            });
            continue;
        };
        let (name, value) = (name.trim(), value.trim());
        let variable = format!("FELIX_{}", name.to_ascii_uppercase());
        let known = TABLE.iter().flat_map(|row| row.names);
        match known.copied().find(|known| **known == variable) {
            Some(variable) => {
                // As in an INI file, the last line of a name counts.
                settings.retain(|before| before.variable != variable);
                settings.push(Given {
                    place: place(name),
                    variable,
                    text: value.to_owned(),
                });
            }
            None => notices.extend(without_effect(&variable, value).map(|message| Notice {
                variable: place(name),
                value: value.to_owned(),
                message,
            })),
        }
    }
    (settings, notices)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::felix::{FelixConfiguration, given_to};
    use crate::params::Params;

    #[test]
    fn a_file_counts_before_objects_and_after_the_environment() {
        let text = "[global]\n# a comment\n; another\n\nVXLANPort = 1000\nvxlanvni=2000\n\
                    VXLANMTU =\nBPFEnabled = true\nnonsense\nIpInIpMtu = 1300\nIpInIpMtu = 1301\nHealthPort = x\n";
        let variables = [("FELIX_VXLANVNI", "3000"), ("TORTIE_STORE", "unix:/x")];
        let owned = variables.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let object: FelixConfiguration = serde_json::from_value(json!({
            "metadata": {"name": "default"},
            "spec": {"vxlanPort": 4000, "vxlanVNI": 4000, "vxlanMTU": 1400},
        }))
        .unwrap();
        let given = given_to(&[object], "n1", &std::collections::BTreeMap::new());
        let params = Params::from_env(owned)
            .unwrap()
            .with_file("/etc/calico/felix.cfg", text)
            .with(&given);
        assert_eq!(params.vxlan_port, 1000);
        assert_eq!(params.vxlan_vni, 3000);
        assert_eq!(params.vxlan_mtu_bytes, 1400, "an empty value is none");
        assert_eq!(params.ipip_mtu_bytes, 1301);
        let mut shown = params.settings().iter();
        let port = shown.find(|setting| setting.row.field == "vxlan_port");
        let origin = port.unwrap().origin.to_string();
        assert_eq!(origin, "/etc/calico/felix.cfg:5: VXLANPort");
        let rejected = params.rejected()[0].to_string();
        assert!(rejected.contains("felix.cfg:12: HealthPort"), "{rejected}");
        let first = Params::from_env([]).unwrap().with_file("f", text);
        let notices: Vec<String> = first.notices().iter().map(ToString::to_string).collect();
        assert_eq!(notices.len(), 2, "{notices:?}");
        assert!(notices[0].starts_with("f:8: BPFEnabled"), "{notices:?}");
        assert!(notices[1].starts_with("f:9: line"), "{notices:?}");
    }
}
