//! kube-controller-manager and kube-scheduler: what makes service accounts, places pods, and marks nodes that fell silent.

use std::thread;
use std::time::Instant;

use crate::api_server::{ASK_AGAIN, ApiServer};
use crate::error::Error;
use crate::process::Process;

/// The two processes; they end when this is dropped, or with the test.
#[derive(Debug)]
pub struct Controllers {
    processes: [Process; 2],
}

impl Controllers {
    /// Starts both and waits until the first thing that pods need of them is there: the account `default`. The API server's options
    /// must ask for `service_accounts`. `flags` are the controller manager's, e.g. `--cluster-cidr`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(server: &ApiServer, flags: &[&str]) -> Result<Self, Error> {
        let file = |name: &str| server.folder().join(name).display().to_string();
        let kubeconfig = format!("--kubeconfig={}", file("kubeconfig"));
        // They serve nothing that a test asks for: no port.
        let own = [
            kubeconfig.as_str(),
            "--leader-elect=false",
            "--secure-port=0",
        ];
        let key = format!(
            "--service-account-private-key-file={}",
            file("service-account.key")
        );
        let authority = format!("--root-ca-file={}", file("ca.crt"));
        let more = [
            key.as_str(),
            authority.as_str(),
            "--use-service-account-credentials",
        ];
        let spawn = |program: &str, flags: &[&[&str]]| {
            let path = server.programs().path(program)?;
            let mut command = server.place().command(&path);
            command.args(flags.concat());
            Process::spawn(server.keeper(), program, command, server.folder())
        };
        let manager = spawn("kube-controller-manager", &[&own, &more, flags])?;
        let scheduler = spawn("kube-scheduler", &[&own])?;
        let mut controllers = Self {
            processes: [manager, scheduler],
        };
        controllers.wait_ready(server)?;
        Ok(controllers)
    }

    fn wait_ready(&mut self, server: &ApiServer) -> Result<(), Error> {
        let deadline = Instant::now() + server.patience();
        while let Err(error) = server.kubectl(&["get", "serviceaccount", "default"]) {
            self.check()?;
            if Instant::now() >= deadline {
                return Err(self.processes[0].fault(format!("makes no account: {error}")));
            }
            thread::sleep(ASK_AGAIN);
        }
        Ok(())
    }

    /// An error when one of them has ended.
    ///
    /// # Errors
    /// [`Error::Program`] with the end of its log.
    pub fn check(&mut self) -> Result<(), Error> {
        self.processes.iter_mut().try_for_each(Process::check)
    }
}
