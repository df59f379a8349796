//! No test of a program with our harness stands below an attribute that knows the built-in one only: it would vanish without a word.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::sizes;

/// Stands in the root of a program with our harness.
const ROOT: &str = "extern crate harness;";
/// Attributes that end in the built-in `#[test]`, which such a program drops.
const FOREIGN: &[&str] = &["#[tokio::test", "#[core::prelude", "#[::core::prelude"];

/// Fails with every such attribute.
pub(crate) fn check() -> anyhow::Result<()> {
    let files = sizes::sources().context("listing the source files")?;
    let texts: Vec<(PathBuf, String)> = files
        .into_iter()
        .filter(|path| !path.starts_with("./xtask"))
        .map(|path| {
            let text =
                fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok((path, text))
        })
        .collect::<anyhow::Result<_>>()?;
    let lost = lost(&texts);
    ensure!(
        lost.is_empty(),
        "these tests never run; write #[test], also above an async function:\n{}",
        lost.join("\n")
    );
    Ok(())
}

fn lost(texts: &[(PathBuf, String)]) -> Vec<String> {
    let roots: Vec<&Path> = texts
        .iter()
        .filter(|(_, text)| text.contains(ROOT))
        .map(|(path, _)| path.as_path())
        .collect();
    let belongs = |path: &Path| {
        roots.iter().any(|root| {
            // The modules of `main.rs` lie beside it and below.
            let folder = root.parent().filter(|_| root.ends_with("main.rs"));
            *root == path || folder.is_some_and(|folder| path.starts_with(folder))
        })
    };
    let mut lost = Vec::new();
    for (path, text) in texts.iter().filter(|(path, _)| belongs(path)) {
        for (at, line) in text.lines().enumerate() {
            if FOREIGN
                .iter()
                .any(|word| line.trim_start().starts_with(word))
            {
                lost.push(format!("{}:{}: {}", path.display(), at + 1, line.trim()));
            }
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_that_our_harness_drops_is_named() {
        let file = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
        let texts = [
            file("a/tests/it/main.rs", "extern crate harness;\n"),
            file("a/tests/it/more.rs", "\n#[tokio::test]\nasync fn x() {}\n"),
            file("a/tests/other.rs", "#[tokio::test]\n"),
            file("b/tests/one.rs", "extern crate harness;\n#[test]\n"),
            file("b/tests/two.rs", "#[tokio::test]\n"),
        ];
        assert_eq!(lost(&texts), ["a/tests/it/more.rs:2: #[tokio::test]"]);
    }
}
