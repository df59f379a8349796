//! The CNI plugin: one request to the node's agent, one result.
//!
//! Installed as `calico` and, for configurations that look for it, as `calico-ipam`.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use cni::plugin;

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let started_as = arguments.next().unwrap_or_default();
    let program = Path::new(&started_as)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let variable =
        |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    // A person who tries the plugin out types no configuration.
    let mut stdin: Box<dyn Read> = if io::stdin().is_terminal() {
        Box::new(io::empty())
    } else {
        Box::new(io::stdin().lock())
    };
    let output = plugin::run(
        &program,
        &arguments.collect::<Vec<_>>(),
        &variable,
        &mut stdin,
    );
    let said = io::stderr()
        .write_all(output.stderr.as_bytes())
        .and_then(|()| io::stdout().write_all(output.stdout.as_bytes()))
        .and_then(|()| io::stdout().flush());
    match said {
        Ok(()) => ExitCode::from(output.exit_code),
        // The runtime did not get the result: it must not take the call for done.
        Err(_) => ExitCode::FAILURE,
    }
}
