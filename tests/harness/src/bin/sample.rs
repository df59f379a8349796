//! Tests of every outcome, for the tests of the harness itself.

#[macro_use]
extern crate harness;

fn main() -> std::process::ExitCode {
    harness::run()
}

mod inside {
    #[test]
    fn passes() {}

    #[test]
    fn is_skipped() {
        harness::skip("sample", "the sample has no such thing");
    }

    #[test]
    fn starts_itself_again() {
        let inner = harness::Inner::of("inside::is_skipped");
        inner.conclude(
            &inner
                .command()
                .output()
                .expect("this program can be started"),
        );
    }

    #[test]
    fn has_a_wrong_name() {
        let inner = harness::Inner::of("inside::nobody");
        inner.conclude(
            &inner
                .command()
                .output()
                .expect("this program can be started"),
        );
    }
}

#[test]
async fn waits() {
    tokio::task::yield_now().await;
}

#[test]
fn fails() {
    assert_eq!(1 + 1, 3, "arithmetic");
}

#[test]
fn answers_an_error() -> Result<(), String> {
    Err("no".to_owned())
}
