//! Tests that this machine cannot run say so, and count as failed in CI unless docs/testing.md allows it.

/// The list of skips that CI accepts stands at the end of this page.
const TESTING: &str = include_str!("../../../docs/testing.md");
/// The heading above the list.
const ALLOWED: &str = "## Skips allowed in CI";

/// Says that the test `id` is skipped, and why. Return from the test afterwards.
///
/// # Panics
/// When the environment variable CI is `true` and docs/testing.md does not list `id`: there a skip is a failure.
pub fn skipped(id: &str, reason: &str) {
    println!("skipped: {id}: {reason}");
    let in_ci = std::env::var("CI").as_deref() == Ok("true");
    assert!(
        !in_ci || is_listed(TESTING, id),
        "skipped in CI, but not listed in docs/testing.md: {id}: {reason}"
    );
}

/// Whether a line below the heading begins with the id, as a list item in backquotes.
fn is_listed(page: &str, id: &str) -> bool {
    let item = format!("- `{id}`: ");
    page.split_once(ALLOWED)
        .is_some_and(|(_, list)| list.lines().any(|line| line.starts_with(&item)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_below_the_heading_are_listed() {
        let page = format!("- `before`: no\n{ALLOWED}\n\n- `bird`: not packaged\n");
        assert!(is_listed(&page, "bird"));
        assert!(!is_listed(&page, "before"));
        assert!(!is_listed(&page, "bir"));
        assert!(TESTING.contains(ALLOWED), "the heading was renamed");
    }
}
