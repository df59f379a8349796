//! The tests that pages for readers name as proof exist: what a page says about behaviour must not outlive its test.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

/// Pages whose references are followed.
const PAGES: [&str; 4] = [
    "README.md",
    "docs/contract.md",
    "docs/features.md",
    "docs/operating.md",
];

/// Fails and lists every reference `path/file.rs::test` whose file or test does not exist.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut count = 0;
    let mut broken = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(page).with_context(|| format!("reading {page}"))?;
        for (line, reference) in references(&text) {
            count += 1;
            if let Err(reason) = follow(Path::new("."), reference) {
                broken.push(format!("{page}:{line}: {reference}: {reason}"));
            }
        }
    }
    ensure!(
        broken.is_empty(),
        "pages name tests that do not exist; name the test that shows it now, or take the claim back:\n{}",
        broken.join("\n")
    );
    println!("contract: {count} references to tests followed");
    Ok(())
}

/// Line number and text of everything in backticks that names a test.
fn references(page: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, line) in page.lines().enumerate() {
        let quoted = line.split('`').skip(1).step_by(2);
        found.extend(
            quoted
                .filter(|text| text.contains(".rs::"))
                .map(|text| (at + 1, text)),
        );
    }
    found
}

fn follow(root: &Path, reference: &str) -> Result<(), String> {
    let (file, test) = reference
        .split_once("::")
        .ok_or("is no file::test".to_owned())?;
    let text = fs::read_to_string(root.join(file)).map_err(|error| error.to_string())?;
    if has_test(&text, test) {
        Ok(())
    } else {
        Err("the file has no test of this name".to_owned())
    }
}

/// Whether the source defines the test: a function below a test attribute, or a name given to a macro that makes one.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let function = format!("fn {name}(");
    let named = format!("{name},");
    let in_macro = format!("_test!({named}");
    lines.iter().enumerate().any(|(at, line)| {
        let before = &lines[..at];
        if line.contains(&in_macro) {
            true
        } else if *line == named {
            before.last().is_some_and(|line| line.ends_with("_test!("))
        } else if line.starts_with(&function) || line.starts_with(&format!("async {function}")) {
            // Its attributes: back to the end of what stands before it.
            let own = before
                .iter()
                .rev()
                .take_while(|line| !line.is_empty() && !line.ends_with('}'));
            own.into_iter().any(|line| is_test_attribute(line))
        } else {
            false
        }
    })
}

fn is_test_attribute(line: &str) -> bool {
    line.strip_prefix("#[").is_some_and(|attribute| {
        let path = attribute.split([']', '(']).next().unwrap_or_default();
        path == "test" || path.ends_with("::test")
    })
}

#[cfg(test)]
mod tests {
    use super::{has_test, references};

    const SOURCE: &str = "
#[test]
fn plain() {
}

#[tokio::test]
async fn waiting() {
}

#[test]
#[expect(unused, reason = \"an attribute of several words\")]
fn with_more() {
}

fn helper() {
}

kernel_test!(short, async {});

kernel_test!(
    long,
    async {}
);
";

    #[test]
    fn a_test_is_found_in_each_form_and_a_helper_is_none() {
        for name in ["plain", "waiting", "with_more", "short", "long"] {
            assert!(has_test(SOURCE, name), "{name}");
        }
        for name in ["helper", "plai", "gone", "async"] {
            assert!(!has_test(SOURCE, name), "{name}");
        }
    }

    #[test]
    fn only_quoted_names_of_tests_are_references() {
        let page = "a.rs::x\n| `a` | `b/c.rs::one`, `d.rs::two` |\n`b/c.rs` `e::f`\n";
        assert_eq!(references(page), [(2, "b/c.rs::one"), (2, "d.rs::two")]);
    }
}
