//! Which skips are no failure in CI.

/// The list stands at the end of this page.
const TESTING: &str = include_str!("../../../docs/testing.md");
/// The heading above the list.
const HEADING: &str = "## Skips allowed in CI";

/// Whether a skip of `id` may pass here: anywhere but in CI, or when docs/testing.md lists it.
pub(crate) fn here(id: &str) -> bool {
    std::env::var("CI").as_deref() != Ok("true") || is_listed(TESTING, id)
}

/// Whether a line below the heading begins with the id, as a list item in backquotes.
fn is_listed(page: &str, id: &str) -> bool {
    let item = format!("- `{id}`: ");
    page.split_once(HEADING)
        .is_some_and(|(_, list)| list.lines().any(|line| line.starts_with(&item)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_below_the_heading_are_listed() {
        let page = format!("- `before`: no\n{HEADING}\n\n- `bird`: not packaged\n");
        assert!(is_listed(&page, "bird"));
        assert!(!is_listed(&page, "before"));
        assert!(!is_listed(&page, "bir"));
        assert!(TESTING.contains(HEADING), "the heading was renamed");
    }
}
