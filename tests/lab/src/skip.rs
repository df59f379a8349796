//! Tests that this machine cannot run say so, and count as failed in CI (docs/testing.md).

/// Says that the test `id` is skipped, and why. Return from the test afterwards.
///
/// # Panics
/// When the environment variable CI is `true`: there a skip is a failure.
pub fn skipped(id: &str, reason: &str) {
    println!("skipped: {id}: {reason}");
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "skipped in CI: {id}: {reason}"
    );
}
