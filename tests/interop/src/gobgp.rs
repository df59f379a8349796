//! GoBGP: started with a configuration of the test's, asked through `gobgp`.

use std::io;

use lab::NetNs;
use serde_json::Value;

use crate::daemon::{self, Daemon};
use crate::eventually;

/// A running gobgpd. It is killed when dropped.
#[derive(Debug)]
pub struct GoBgp {
    namespace: NetNs,
    daemon: Daemon,
}

impl GoBgp {
    /// Whether gobgpd and gobgp are installed.
    #[must_use]
    pub fn is_there() -> bool {
        daemon::find(&["gobgpd"]).is_some() && daemon::find(&["gobgp"]).is_some()
    }

    /// Starts it in `namespace` with a configuration in TOML and waits until it answers. Only one fits into a namespace.
    ///
    /// # Errors
    /// When its files cannot be written or the program not be started.
    ///
    /// # Panics
    /// When it is not installed, or does not answer in time: with its log.
    pub fn start(namespace: &NetNs, config: &str) -> io::Result<Self> {
        let directory = Daemon::directory("gobgp", config)?;
        let program = daemon::find(&["gobgpd"]).expect("the caller asked whether GoBGP is there");
        let mut command = namespace.command(program);
        command.arg("-f").arg(directory.join("conf"));
        let mut gobgp = Self {
            namespace: namespace.clone(),
            daemon: Daemon::spawn(command, directory)?,
        };
        eventually("gobgpd answers", || {
            gobgp.daemon.check()?;
            gobgp.ask("global").map(drop)
        });
        Ok(gobgp)
    }

    /// What `gobgp` prints for these words.
    ///
    /// # Errors
    /// Its words.
    pub fn ask(&self, words: &str) -> Result<String, String> {
        let program = daemon::find(&["gobgp"]).ok_or("gobgp is not installed")?;
        daemon::output(
            self.namespace
                .command(program)
                .args(words.split_whitespace()),
        )
    }

    /// Waits until its table has the prefix, and returns the first path as gobgp describes it.
    ///
    /// # Panics
    /// When it does not learn it in time: with its log.
    #[track_caller]
    pub fn wait_path(&self, prefix: &str) -> Value {
        eventually(&format!("gobgpd has {prefix}"), || {
            let text = self.ask("global rib -j")?;
            let table: Value = serde_json::from_str(&text).unwrap_or_default();
            match &table[prefix][0] {
                Value::Null => Err(format!("{text}\n{}", self.daemon.log())),
                path => Ok(path.clone()),
            }
        })
    }
}
