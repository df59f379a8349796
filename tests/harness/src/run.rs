//! Running all tests of a program.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::process::{ExitCode, Termination};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::allowed;
use crate::inner::is_inner;
use crate::record::{self, Skipped};
use crate::skip::Skip;

/// A test, as `#[test]` submits it.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    module: &'static str,
    function: &'static str,
    body: fn(),
}

impl Test {
    /// Of a function in a module, by the module's full path.
    pub const fn new(module: &'static str, function: &'static str, body: fn()) -> Self {
        Self {
            module,
            function,
            body,
        }
    }

    /// As libtest names it: without the program's own name.
    fn name(&self) -> String {
        match self.module.split_once("::") {
            Some((_, modules)) => format!("{modules}::{}", self.function),
            None => self.function.to_owned(),
        }
    }
}

inventory::collect!(Test);

/// What a test function answered must mean success.
///
/// # Panics
/// When it does not.
pub fn plain(answer: impl Termination) {
    assert!(
        answer.report() == ExitCode::SUCCESS,
        "the test answered an error"
    );
}

/// Runs an async test function to its end, on this thread.
///
/// # Panics
/// When there can be no runtime, or as [`plain`].
pub fn waits<T: Termination>(body: impl Future<Output = T>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime on one thread can be made");
    plain(runtime.block_on(body));
}

type Skips = Arc<Mutex<Vec<Skipped>>>;

/// Runs the tests of this program as the command line says, with libtest's options. The program's `main` answers what this answers.
pub fn run() -> ExitCode {
    run_with(None)
}

/// As [`run`], with so many tests side by side unless the command line or `RUST_TEST_THREADS` says another number: for programs whose
/// tests wait more than they work.
pub fn run_side_by_side(tests: usize) -> ExitCode {
    run_with(Some(tests))
}

fn run_with(side_by_side: Option<usize>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.test_threads.is_none() {
        let threads = std::env::var("RUST_TEST_THREADS").ok();
        let threads = threads.and_then(|threads| threads.parse().ok());
        arguments.test_threads = threads.or(side_by_side);
    }
    keep_panics_of_tests();
    let skips = Skips::default();
    let mut tests: Vec<&Test> = inventory::iter::<Test>().collect();
    tests.sort_by_key(|test| test.name());
    let trials = tests.into_iter().map(|test| trial(*test, &skips)).collect();
    let code = libtest_mimic::run(&arguments, trials).exit_code();
    if !arguments.list {
        close(&skips.lock().unwrap_or_else(PoisonError::into_inner));
    }
    code
}

/// Below the `test result:` line: what was skipped.
fn close(skips: &[Skipped]) {
    if is_inner() {
        for skipped in skips {
            println!("{skipped}");
        }
    } else if !skips.is_empty() {
        println!("{}", record::summary(skips, "here"));
        if let Err(error) = record::leave(skips) {
            eprintln!("harness: the run's last lines will not count these: {error}");
        }
    }
}

fn trial(test: Test, skips: &Skips) -> Trial {
    let skips = skips.clone();
    let name = test.name();
    Trial::ignorable_test(name.clone(), move || {
        let ended = on_a_thread_of_its_own(&name, test.body);
        ended.or_else(|failure| match failure.payload.downcast::<Skip>() {
            Ok(skip) if allowed::here(&skip.id) => {
                let skipped = Skipped {
                    id: skip.id.clone(),
                    reason: skip.reason,
                    test: name,
                };
                skips
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(skipped);
                Ok(Completion::ignored_with(skip.id))
            }
            Ok(skip) => Err(Failed::from(format!(
                "skipped in CI, but not listed in docs/testing.md: {}: {}",
                skip.id, skip.reason
            ))),
            Err(_) => Err(Failed::from(failure.said)),
        })
    })
}

/// How a test ended other than by its end.
struct Failure {
    payload: Box<dyn Any + Send>,
    said: String,
}

/// In an inner run it stays on the main thread: a place may belong to the thread that made it.
fn on_a_thread_of_its_own(name: &str, body: fn()) -> Result<Completion, Failure> {
    let guarded = move || {
        PANIC.set(Some(String::new()));
        let ended = panic::catch_unwind(AssertUnwindSafe(body));
        let said = PANIC.take().unwrap_or_default();
        ended.map_err(|payload| Failure { payload, said })
    };
    let ended = if is_inner() {
        guarded()
    } else {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(guarded);
        let joined = thread.map(thread::JoinHandle::join);
        joined
            .expect("a thread can be started")
            .expect("the body's panic is caught inside")
    };
    ended.map(|()| Completion::Completed)
}

thread_local! {
    /// On the thread of a test: what its panic said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A backtrace without what called the test.
fn of_the_test(trace: &str) -> String {
    let own = trace
        .lines()
        .take_while(|line| !line.contains("harness::run::"));
    own.map(|line| format!("{line}\n")).collect()
}

/// A test's panic is shown once, where failures are listed, and with its place. Those of other threads are printed as they come.
fn keep_panics_of_tests() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let kept = PANIC.with_borrow_mut(|said| match said {
            None => false,
            Some(said) => {
                said.push_str(&info.to_string());
                let trace = Backtrace::capture();
                if trace.status() == BacktraceStatus::Captured {
                    said.push('\n');
                    said.push_str(&of_the_test(&trace.to_string()));
                }
                true
            }
        });
        if !kept {
            before(info);
        }
    }));
}
