//! What tests look with: kubectl, and etcdctl for etcd itself.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use crate::api_server::ApiServer;
use crate::error::Error;

impl ApiServer {
    /// Runs kubectl as the administrator; what it prints.
    ///
    /// # Errors
    /// [`Error::Command`] when it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, Error> {
        self.kubectl_reading(arguments, "")
    }

    /// As [`ApiServer::kubectl`], with `input` as its standard input.
    ///
    /// # Errors
    /// As [`ApiServer::kubectl`].
    pub fn kubectl_reading(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        let mut command = self.kubectl_command()?;
        command.args(arguments);
        run(command, "kubectl", arguments, input)
    }

    /// kubectl as the administrator, without arguments.
    ///
    /// # Errors
    /// When there is none.
    pub fn kubectl_command(&self) -> Result<Command, Error> {
        let program = self.programs.path("kubectl")?;
        let mut command = self.options.place.command(&program);
        // What it learns of the server's resources lies with the server's own files, and goes with them.
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", self.folder().join("kubectl"));
        Ok(command)
    }

    /// Applies manifests (YAML or JSON) server-side, strictly: an unknown field is an error.
    ///
    /// # Errors
    /// [`Error::Command`] with the API server's words.
    pub fn apply(&self, manifests: &str) -> Result<String, Error> {
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--validate=strict",
            "--filename=-",
        ];
        self.kubectl_reading(&arguments, manifests)
    }

    /// Runs etcdctl.
    ///
    /// # Errors
    /// [`Error::Command`] when it fails.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String, Error> {
        let (authority, own) = self.etcd_credentials();
        let mut command = self.options.place.command(&self.programs.path("etcdctl")?);
        command
            .env("ETCDCTL_ENDPOINTS", self.etcd_url())
            .env("ETCDCTL_CACERT", authority)
            .env("ETCDCTL_CERT", &own.certificate)
            .env("ETCDCTL_KEY", &own.key)
            .args(arguments);
        run(command, "etcdctl", arguments, "")
    }
}

fn run(mut command: Command, name: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let named = format!("{name} {}", arguments.join(" "));
    let mut talk = || -> io::Result<Output> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        // Beside reading: one that writes much before it has read all would wait for us, and we for it.
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || match stdin {
                Some(mut stdin) => stdin.write_all(input.as_bytes()),
                None => Ok(()),
            });
            let output = child.wait_with_output();
            match writing.join() {
                // It did not want to read all of it; its own words say why.
                Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Ok(written) => written?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
            output
        })
    };
    let output = talk().map_err(Error::system(format!("run {named}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Command {
        command: named,
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_read_while_much_is_written() {
        // Far more than a pipe holds, both ways at once.
        let input = "line\n".repeat(1 << 18);
        let said = run(Command::new("cat"), "cat", &[], &input).unwrap();
        assert_eq!(said.len(), input.len());
    }

    #[test]
    fn one_that_reads_nothing_says_why_it_failed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no >&2; exit 1"]);
        let input = "line\n".repeat(1 << 18);
        let error = run(command, "sh", &[], &input).unwrap_err();
        assert!(
            matches!(&error, Error::Command { said, .. } if said == "no"),
            "{error}"
        );
    }
}
