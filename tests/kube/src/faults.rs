//! What may befall a cluster: parts stopped and started on the same ports and data, history compacted, data lost or old, tokens and
//! certificates that no longer count.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::api_server::ApiServer;
use crate::certificates::{Authority, Validity};
use crate::error::Error;
use crate::process::Process;

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The database.
    Etcd,
    /// kube-apiserver.
    ApiServer,
}

/// A copy of etcd's data; it goes with the cluster.
#[derive(Clone, Debug)]
pub struct Copy(PathBuf);

impl ApiServer {
    /// Kills a part with SIGKILL and waits until it is gone: its clients' connections are closed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn kill(&mut self, part: Part) -> Result<(), Error> {
        match self.slot(part).take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Starts a part that was killed, on the same port and data, and waits until it answers.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start_part(&mut self, part: Part) -> Result<(), Error> {
        let process = self.spawn(part)?;
        *self.slot(part) = Some(process);
        self.wait_ready(part)
    }

    /// Kills a part and starts it again.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn restart(&mut self, part: Part) -> Result<(), Error> {
        self.kill(part)?;
        self.start_part(part)
    }

    /// Stops a part where it stands: connections stay, and nothing answers.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&mut self, part: Part) -> Result<(), Error> {
        self.part(part).signal(Signal::STOP)
    }

    /// Lets a frozen part go on.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&mut self, part: Part) -> Result<(), Error> {
        self.part(part).signal(Signal::CONT)
    }

    /// Drops all history up to now: who asks for changes since an earlier time is told 410 Gone. The API server holds a window of
    /// changes in its memory, so it is started anew.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn compact(&mut self) -> Result<(), Error> {
        let revision = self.revision()?;
        self.etcdctl(&["compaction", &revision.to_string()])?;
        self.restart(Part::ApiServer)
    }

    /// etcd's revision: the newest resource version.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn revision(&self) -> Result<u64, Error> {
        let status = self.etcdctl(&["endpoint", "status", "--write-out=json"])?;
        let parsed: Option<u64> =
            serde_json::from_str(&status)
                .ok()
                .and_then(|status: serde_json::Value| {
                    status[0]["Status"]["header"]["revision"].as_u64()
                });
        parsed.ok_or_else(|| Error::Command {
            command: "etcdctl endpoint status".to_owned(),
            said: format!("no revision in {status}"),
        })
    }

    /// Copies etcd's data as it is now. etcd is away for a moment.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn copy_data(&mut self) -> Result<Copy, Error> {
        let copy = (1..)
            .map(|number| self.folder().join(format!("etcd-copy-{number}")))
            .find(|path| !path.exists())
            .unwrap_or_default();
        self.kill(Part::Etcd)?;
        copy_folder(&self.data(), &copy).map_err(Error::system("copy etcd's data"))?;
        self.start_part(Part::Etcd)?;
        self.wait_ready(Part::ApiServer)?;
        Ok(Copy(copy))
    }

    /// Puts a copy in the place of etcd's data, as an operator who restores a backup: the API server is stopped meanwhile.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn restore(&mut self, copy: &Copy) -> Result<(), Error> {
        self.replace_data(|data| copy_folder(&copy.0, data))
    }

    /// Removes all of etcd's data: afterwards it is another cluster, at the same address and with the same certificates.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn empty(&mut self) -> Result<(), Error> {
        self.replace_data(|_| Ok(()))
    }

    fn replace_data(&mut self, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Error> {
        self.kill(Part::ApiServer)?;
        self.kill(Part::Etcd)?;
        let data = self.data();
        fs::remove_dir_all(&data)
            .and_then(|()| fill(&data))
            .map_err(Error::system("replace etcd's data"))?;
        self.start_part(Part::Etcd)?;
        self.start_part(Part::ApiServer)
    }

    /// Gives every user but the administrator a new token; the old ones are refused (401) from now on.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn renew_tokens(&mut self) -> Result<(), Error> {
        self.draw_tokens()?;
        self.restart(Part::ApiServer)
    }

    /// Gives the API server another certificate. It is not waited for: kubectl refuses one that is not valid now.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn renew_certificate(&mut self, validity: Validity) -> Result<(), Error> {
        self.kill(Part::ApiServer)?;
        self.options.validity = validity;
        self.sign_certificate(self.authority())?;
        if validity == Validity::Now {
            return self.start_part(Part::ApiServer);
        }
        self.api = Some(self.spawn(Part::ApiServer)?);
        Ok(())
    }

    /// Gives the API server a certificate of another authority, until [`ApiServer::renew_certificate`]. It is not waited for either.
    /// Clients' certificates are those of the cluster's authority all the same.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn take_certificate_of(&mut self, authority: &Authority) -> Result<(), Error> {
        self.kill(Part::ApiServer)?;
        self.options.validity = Validity::Now;
        self.sign_certificate(authority)?;
        self.api = Some(self.spawn(Part::ApiServer)?);
        Ok(())
    }

    /// The process of a part.
    ///
    /// # Panics
    /// When it does not run.
    pub fn part(&mut self, part: Part) -> &mut Process {
        self.slot(part).as_mut().expect("this part was killed")
    }

    fn slot(&mut self, part: Part) -> &mut Option<Process> {
        match part {
            Part::Etcd => &mut self.etcd,
            Part::ApiServer => &mut self.api,
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    // etcd refuses a folder that others may read.
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
