//! What a reader of `cargo test` sees of each outcome.

use std::process::{Command, Output};

fn sample(arguments: &[&str], ci: bool) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness-sample"));
    command.args(arguments).env_remove("CI");
    if ci {
        command.env("CI", "true");
    }
    let output = command.output().expect("a program of this package");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn a_skipped_test_is_counted_as_ignored_and_its_reason_stands_at_the_end() {
    let (output, text) = sample(&["--exact", "inside::is_skipped"], false);
    assert!(output.status.success(), "{text}");
    let (_, end) = text
        .split_once("test result: ok. 0 passed; 0 failed; 1 ignored;")
        .expect(&text);
    assert!(
        end.contains("skipped here: 1 (1 sample)\n    sample: the sample has no such thing\n"),
        "{text}"
    );
}

#[test]
fn a_skip_inside_is_a_skip_outside() {
    let (output, text) = sample(&["--exact", "inside::starts_itself_again"], false);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 ignored;"), "{text}");
    assert!(
        text.contains("sample: the sample has no such thing"),
        "{text}"
    );
}

#[test]
fn a_skip_that_is_not_listed_fails_in_ci() {
    for test in ["inside::is_skipped", "inside::starts_itself_again"] {
        let (output, text) = sample(&["--exact", test], true);
        assert!(!output.status.success(), "{text}");
        assert!(
            text.contains("not listed in docs/testing.md: sample"),
            "{text}"
        );
    }
}

#[test]
fn an_inner_run_of_a_misspelt_name_fails() {
    let (output, text) = sample(&["--exact", "inside::has_a_wrong_name"], false);
    assert!(!output.status.success(), "{text}");
    assert!(
        text.contains("inside::nobody is not the name of this test"),
        "{text}"
    );
}

#[test]
fn a_failure_is_shown_with_its_place_and_an_error_fails() {
    let (output, text) = sample(&["fails", "--exact"], false);
    assert_eq!(output.status.code(), Some(101), "{text}");
    assert!(
        text.contains("src/bin/sample.rs:") && text.contains("arithmetic"),
        "{text}"
    );
    let (output, text) = sample(&["answers_an_error"], false);
    assert!(!output.status.success(), "{text}");
}

#[test]
fn plain_and_waiting_tests_pass_and_all_are_listed_by_libtests_names() {
    let (output, text) = sample(&["passes"], false);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    let (output, text) = sample(&["waits"], false);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    let (_, list) = sample(&["--list"], false);
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect();
    let all = [
        "answers_an_error",
        "fails",
        "inside::has_a_wrong_name",
        "inside::is_skipped",
        "inside::passes",
        "inside::starts_itself_again",
        "waits",
    ];
    assert_eq!(names, all);
}
