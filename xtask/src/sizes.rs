//! Long files and functions, as a report: each is a place to look for a missing border.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 70;

/// Prints the report; never fails for a size.
pub(crate) fn report() -> anyhow::Result<()> {
    let files = sources().context("listing the source files")?;
    for path in &files {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let lines = text.lines().count();
        if lines > FILE_LINES {
            println!(
                "sizes: {} has {lines} lines (over {FILE_LINES})",
                path.display()
            );
        }
        for (name, at, length) in long_functions(&text) {
            println!(
                "sizes: {}:{at} fn {name} has {length} lines (over {FUNCTION_LINES})",
                path.display()
            );
        }
    }
    println!("sizes: {} files read", files.len());
    Ok(())
}

/// Every source file that people write, sorted.
pub(crate) fn sources() -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(Path::new("."), &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            if !matches!(name, "target" | ".git" | "generated" | "corpus") {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Name, line and length of functions over the limit, found by indentation: rustfmt closes a function at the column it
/// began in.
fn long_functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = function_name(code) else {
            continue;
        };
        let indent = line.len() - code.len();
        let close = format!("{}}}", " ".repeat(indent));
        let end = lines[at..].iter().position(|line| *line == close);
        if let Some(length) = end
            .map(|end| end + 1)
            .filter(|length| *length > FUNCTION_LINES)
        {
            found.push((name.to_owned(), at + 1, length));
        }
    }
    found
}

fn function_name(code: &str) -> Option<&str> {
    const QUALIFIERS: &[&str] = &[
        "pub(crate) ",
        "pub(super) ",
        "pub ",
        "const ",
        "async ",
        "unsafe ",
    ];
    let mut rest = code;
    while let Some(shorter) = QUALIFIERS.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = shorter;
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

#[cfg(test)]
mod tests {
    use super::long_functions;

    #[test]
    fn a_long_function_is_found_and_a_short_one_is_not() {
        let body = "    x();\n".repeat(80);
        let text = format!("fn short() {{\n}}\n\npub async fn long(a: u8) {{\n{body}}}\n");
        assert_eq!(long_functions(&text), [("long".to_owned(), 4, 82)]);
    }
}
