//! manifests/crds: written from the types of `api`, and checked to be what these say.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use api::crd;

const FOLDER: &str = "manifests/crds";
const NOTE: &str = "# Made from the types of `api` by `cargo xtask manifests`: change those.\n";

/// Writes every file.
pub(crate) fn write() -> anyhow::Result<()> {
    let folder = Path::new(FOLDER);
    let wanted = files()?;
    fs::create_dir_all(folder).with_context(|| format!("making {FOLDER}"))?;
    for name in found(folder)?
        .keys()
        .filter(|name| !wanted.contains_key(*name))
    {
        fs::remove_file(folder.join(name)).with_context(|| format!("removing {name}"))?;
    }
    for (name, text) in wanted {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Fails when a definition is not what would be written, and when a manifest is not YAML: two changes that were merged may
/// have given an object one key twice.
pub(crate) fn check() -> anyhow::Result<()> {
    parse_all(Path::new("manifests"))?;
    let stale = stale(&files()?, &found(Path::new(FOLDER))?);
    ensure!(
        stale.is_empty(),
        "{FOLDER} is not what the types say: {}; run `cargo xtask manifests`",
        stale.join(", ")
    );
    Ok(())
}

fn parse_all(folder: &Path) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            parse_all(&path)?;
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            let text = fs::read_to_string(&path)?;
            serde_saphyr::from_multiple::<serde_json::Value>(&text)
                .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// Files by name, with their text.
type Files = BTreeMap<String, String>;

fn files() -> anyhow::Result<Files> {
    let mut files = Files::new();
    let mut list = format!(
        "{NOTE}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
    );
    for (plural, definition) in crd::definitions() {
        let name = format!("{}_{plural}.yaml", crd::GROUP);
        list.push_str(&format!("- {name}\n"));
        let text = serde_saphyr::to_string(&definition).context("writing YAML")?;
        files.insert(name, format!("{NOTE}{text}"));
    }
    files.insert("kustomization.yaml".to_owned(), list);
    Ok(files)
}

fn found(folder: &Path) -> anyhow::Result<Files> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    entries
        .map(|entry| {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            let text = fs::read_to_string(&path)?;
            Ok((name.to_string_lossy().into_owned(), text))
        })
        .collect()
}

fn stale(wanted: &Files, found: &Files) -> Vec<String> {
    let names = wanted.keys().chain(found.keys());
    let mut stale: Vec<String> = names
        .filter(|name| wanted.get(*name) != found.get(*name))
        .cloned()
        .collect();
    stale.sort();
    stale.dedup();
    stale
}

#[cfg(test)]
mod tests {
    use api::params::TABLE;

    use super::*;

    /// The variables of a workload's container, by its place below manifests/.
    fn variables(file: &str) -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../manifests")
            .join(file);
        let text = fs::read_to_string(path).expect("the manifest is there");
        let workload: serde_json::Value = serde_saphyr::from_str(&text).expect("it is YAML");
        let variables = &workload["spec"]["template"]["spec"]["containers"][0]["env"];
        let variables = variables.as_array().expect("it has variables").iter();
        variables
            .map(|variable| variable["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn every_variable_of_the_manifests_is_one_that_the_programs_read() {
        let known = |name: &String| TABLE.iter().any(|row| row.names.contains(&name.as_str()));
        for file in ["base/daemonset.yaml", "route-reflector/deployment.yaml"] {
            let all = variables(file);
            assert!(all.contains(&"DATASTORE_TYPE".to_owned()), "{file}");
            let unknown: Vec<&String> = all.iter().filter(|name| !known(name)).collect();
            assert!(unknown.is_empty(), "{file}: {unknown:?}");
        }
    }

    #[test]
    fn a_manifest_with_one_key_twice_is_named() {
        let folder = std::env::temp_dir().join(format!("xtask-manifests-{}", std::process::id()));
        fs::create_dir_all(folder.join("base")).expect("a folder");
        let file = folder.join("base/twice.yaml");
        fs::write(&file, "a: 1\nb: 2\n").expect("it is written");
        let good = parse_all(&folder);
        fs::write(&file, "a: 1\na: 2\n").expect("it is written");
        let said = parse_all(&folder).map_err(|error| error.to_string());
        fs::remove_dir_all(&folder).expect("it goes");
        assert!(good.is_ok(), "{good:?}");
        let said = said.expect_err("a key stands twice");
        assert!(said.contains("twice.yaml"), "{said}");
    }

    #[test]
    fn a_file_that_differs_is_missing_or_is_too_many_is_named() {
        let files = |pairs: &[(&str, &str)]| -> Files {
            let pairs = pairs.iter();
            pairs
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                .collect()
        };
        let wanted = files(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let found = files(&[("a", "1"), ("b", "x"), ("d", "4")]);
        assert_eq!(stale(&wanted, &found), ["b", "c", "d"]);
        assert!(stale(&wanted, &wanted).is_empty());
    }
}
