//! Placeholders of a network configuration's template.

use std::collections::BTreeMap;

/// Where the host's kubeconfig is.
pub(super) const KUBECONFIG: &str = "__KUBECONFIG_FILEPATH__";

/// The list for a host that is given none. The agent decides the MTU unless `CNI_MTU` says otherwise.
pub(super) const DEFAULT: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "calico",
      "log_level": "__LOG_LEVEL__",
      "log_file_path": "__LOG_FILE_PATH__",
      "datastore_type": "__DATASTORE_TYPE__",
      "nodename": "__KUBERNETES_NODE_NAME__",
      "mtu": __CNI_MTU__,
      "ipam": { "type": "calico-ipam" },
      "policy": { "type": "k8s" }
    },
    {
      "type": "portmap",
      "snat": true,
      "capabilities": { "portMappings": true }
    }
  ]
}
"#;

/// Replaces each placeholder by its value. Values stand between the quotes of JSON texts, so they are escaped as these
/// want it. A placeholder that nobody knows stays, and is told.
pub(super) fn fill(
    template: &str,
    values: &BTreeMap<&'static str, String>,
    say: &mut dyn FnMut(&str),
) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, name, after)) = next_placeholder(rest) {
        filled.push_str(before);
        match values.get(name) {
            Some(value) => filled.push_str(&escaped(value)),
            None => {
                say(&format!(
                    "warning: the network configuration's template has {name}, which is no placeholder; known: {}",
                    values.keys().copied().collect::<Vec<_>>().join(" ")
                ));
                filled.push_str(name);
            }
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

/// What comes before, the placeholder, and what comes after it.
fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let start = from + text[from..].find("__")?;
        let inner = &text[start + 2..];
        let length = inner.find("__")?;
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with('_')
                && name.bytes().all(|octet| {
                    octet.is_ascii_uppercase() || octet.is_ascii_digit() || octet == b'_'
                })
        };
        if is_name(&inner[..length]) {
            let end = start + 2 + length + 2;
            return Some((&text[..start], &text[start..end], &text[end..]));
        }
        from = start + 1;
    }
}

fn escaped(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str) -> (String, Vec<String>) {
        let values = BTreeMap::from([
            ("__CNI_MTU__", "1450".to_owned()),
            ("__KUBERNETES_NODE_NAME__", "a\"b\\".to_owned()),
            ("__LOG_LEVEL__", "__CNI_MTU__".to_owned()),
        ]);
        let mut said = Vec::new();
        let text = fill(template, &values, &mut |line| said.push(line.to_owned()));
        (text, said)
    }

    #[test]
    fn values_are_escaped_and_not_looked_into() {
        let (text, said) = filled(
            r#"{"mtu":__CNI_MTU__,"node":"__KUBERNETES_NODE_NAME__","level":"__LOG_LEVEL__"}"#,
        );
        assert_eq!(
            text,
            r#"{"mtu":1450,"node":"a\"b\\","level":"__CNI_MTU__"}"#
        );
        assert!(said.is_empty(), "{said:?}");
    }

    #[test]
    fn an_unknown_placeholder_stays_and_is_told_and_other_underscores_are_text() {
        let (text, said) = filled("a__b __ _ __NODE__ ___CNI_MTU__");
        assert_eq!(text, "a__b __ _ __NODE__ _1450");
        assert_eq!(said.len(), 1);
        assert!(
            said[0].contains("__NODE__") && said[0].contains("__CNI_MTU__"),
            "{said:?}"
        );
    }
}
