//! FRR's bgpd, without zebra: started with a configuration of the test's, asked through `vtysh`.

use std::io;
use std::path::PathBuf;

use lab::NetNs;
use serde_json::Value;

use crate::daemon::{self, Daemon};
use crate::eventually;

/// A running bgpd. It is killed when dropped.
#[derive(Debug)]
pub struct Frr {
    namespace: NetNs,
    directory: PathBuf,
    daemon: Daemon,
}

impl Frr {
    /// Whether bgpd and vtysh are installed.
    #[must_use]
    pub fn is_there() -> bool {
        bgpd().is_some() && daemon::find(&["vtysh"]).is_some()
    }

    /// Starts it in `namespace` and waits until it answers.
    ///
    /// # Errors
    /// When its files cannot be written or the program not be started.
    ///
    /// # Panics
    /// When it is not installed, or does not answer in time: with its log.
    pub fn start(namespace: &NetNs, config: &str) -> io::Result<Self> {
        let directory = Daemon::directory("frr", config)?;
        let program = bgpd().expect("the caller asked whether FRR is there");
        let mut command = namespace.command(program);
        // No zebra, no change of user: neither is there in a private world.
        command.args(["--no_zebra", "--skip_runas", "--vty_port", "0"]);
        for (flag, file) in [("-f", "conf"), ("-i", "pid"), ("-z", "zebra")] {
            command.arg(flag).arg(directory.join(file));
        }
        command.arg("--vty_socket").arg(&directory);
        let daemon = Daemon::spawn(command, directory.clone())?;
        let mut frr = Self {
            namespace: namespace.clone(),
            directory,
            daemon,
        };
        eventually("bgpd answers", || {
            frr.daemon.check()?;
            frr.ask("show version").map(drop)
        });
        Ok(frr)
    }

    /// What one command prints.
    ///
    /// # Errors
    /// vtysh's words.
    pub fn ask(&self, command: &str) -> Result<String, String> {
        let program = daemon::find(&["vtysh"]).ok_or("vtysh is not installed")?;
        daemon::output(
            self.namespace
                .command(program)
                .arg("--vty_socket")
                .arg(&self.directory)
                .args(["-d", "bgpd", "-c", command]),
        )
    }

    /// What one command prints as JSON; null when it prints something else.
    ///
    /// # Errors
    /// vtysh's words.
    pub fn ask_json(&self, command: &str) -> Result<Value, String> {
        let text = self.ask(&format!("{command} json"))?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Waits until its table has the prefix with a valid path from a peer, and returns that path as bgpd describes it.
    ///
    /// # Panics
    /// When it does not learn it in time: with what it says about its neighbours.
    #[track_caller]
    pub fn wait_path(&self, prefix: &str) -> Value {
        eventually(&format!("bgpd has {prefix}"), || {
            let detail = self.ask_json(&format!("show bgp ipv4 unicast {prefix}"))?;
            let paths = detail["paths"].as_array().cloned().unwrap_or_default();
            let valid = paths.into_iter().find(|path| path["valid"] == true);
            valid.ok_or_else(|| {
                let neighbours = self.ask("show bgp neighbors").unwrap_or_else(|error| error);
                format!("{neighbours}\n{}", self.daemon.log())
            })
        })
    }
}

fn bgpd() -> Option<PathBuf> {
    // Debian keeps FRR's daemons out of PATH.
    Some(PathBuf::from("/usr/lib/frr/bgpd"))
        .filter(|program| program.is_file())
        .or_else(|| daemon::find(&["bgpd"]))
}
