//! Only licences that let Tortie be Apache-2.0.

use anyhow::bail;

use crate::metadata::Tree;

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    // A list of certificates that kube's TLS has on systems other than Linux: named in the lock file, never built here.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Fails with every package none of whose alternatives is allowed.
pub(crate) fn check(tree: &Tree) -> anyhow::Result<()> {
    let faults: Vec<String> = tree
        .packages
        .iter()
        .filter(|package| !allowed(package.license.as_deref().unwrap_or("none stated")))
        .map(|package| {
            format!(
                "{} {}: {}",
                package.name,
                package.version,
                package.license.as_deref().unwrap_or("none stated")
            )
        })
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    bail!(
        "licences that are not on the list in xtask/src/licences.rs:\n  {}",
        faults.join("\n  ")
    )
}

/// Every part joined by AND needs one allowed alternative.
fn allowed(expression: &str) -> bool {
    expression.split(" AND ").all(|part| {
        let part = part.trim_matches(['(', ')', ' ']);
        part.split(" OR ")
            .flat_map(|alternative| alternative.split('/'))
            .any(|licence| ALLOWED.contains(&licence.trim_matches(['(', ')', ' '])))
    })
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn one_allowed_alternative_is_enough_and_every_conjunct_needs_one() {
        assert!(allowed("MIT OR GPL-3.0"));
        assert!(allowed("MIT/Apache-2.0"));
        assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!allowed("GPL-2.0"));
        assert!(!allowed("MIT AND GPL-2.0"));
    }
}
