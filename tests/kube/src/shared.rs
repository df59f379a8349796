//! One API server for all tests of a program.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api_server::ApiServer;
use crate::options::Options;
use crate::programs::required;

static SHARED: Mutex<Option<Arc<ApiServer>>> = Mutex::new(None);

/// The program's own server, started by the first that asks. Where it cannot run, the test is skipped.
///
/// # Panics
/// When it does not start.
#[must_use]
pub fn shared() -> Arc<ApiServer> {
    let _ = required(&[]);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let server = shared.get_or_insert_with(|| {
        let started = ApiServer::start(Options::default());
        Arc::new(started.unwrap_or_else(|error| panic!("{error}")))
    });
    server.clone()
}

/// As [`harness::run`], and ends the shared server afterwards: what a static holds is never dropped.
#[must_use]
pub fn run() -> ExitCode {
    let code = harness::run();
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
    code
}
