//! The page for operators has each answer that the plugin may give.

use std::collections::BTreeSet;

use cni::spec::error::Code;

#[test]
fn docs_operating_has_a_row_for_each_code_that_says_what_to_do() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md");
    let text = std::fs::read_to_string(page).expect("part of the project");
    let (_, section) = text
        .split_once("## Answers of the plugin")
        .expect("a section of the page");
    let (section, _) = section.split_once("\n## ").unwrap_or((section, ""));
    let mut named = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [codes, meaning, advice] = cells[..] else {
            panic!("not three cells: {row}");
        };
        for code in codes.split(", ").filter_map(|code| code.parse().ok()) {
            assert!(!meaning.is_empty() && !advice.is_empty(), "{row}");
            assert!(named.insert(Code(code)), "{code} twice");
        }
    }
    assert_eq!(named, Code::ALL.into());
}
