//! `tortie-rr`: a BGP route reflector (RFC 4456). The node's watch, calculation and speaker, without kernel routes and
//! without pods.
//!
//! ```text
//! datastore ─► watch ─┐
//!                     ├─► calc: configuration ─► bgp ─► peers
//! files ─► resources ─┘
//! ```

mod files;
mod reflector;
mod resources;

use std::path::PathBuf;
use std::process::ExitCode;

use api::params::Params;
use clap::Parser;

/// BGP route reflector. Who it is, what it reflects and to whom stands in Calico's resources: a Node with
/// routeReflectorClusterID, BGPConfiguration, BGPPeer, BGPFilter.
#[derive(Debug, Parser)]
#[command(name = "tortie-rr", version)]
struct Arguments {
    /// Read the resources from this YAML or JSON file, or from all such files of this folder, instead of a datastore.
    /// Changes are seen within a second. It listens on its Node's addresses only, and passes on routes outside pools,
    /// too.
    #[arg(long, value_name = "PATH")]
    resources: Option<PathBuf>,
    /// Name of the Node that it is: by default NODENAME; with --resources, else the only Node with a
    /// routeReflectorClusterID.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where `tortiectl` finds it.
    #[arg(long, value_name = "PATH", default_value = api::admin::SOCKET_PATH)]
    admin_socket: PathBuf,
}

fn main() -> ExitCode {
    node::process::abort_on_panic();
    let arguments = Arguments::parse();
    let params = match Params::from_env(std::env::vars()) {
        Ok(params) => params,
        Err(errors) => {
            for error in errors {
                eprintln!("tortie-rr: {error}");
            }
            return ExitCode::FAILURE;
        }
    };
    let ended = node::process::run(params, |params, cancel| {
        reflector::run(params, arguments, cancel)
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tortie-rr: {error:#}");
            ExitCode::FAILURE
        }
    }
}
