//! Network namespaces as values, and work done inside them on threads of their own.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::netlink::{Connection, Netlink, NetlinkError, SockDiag};
use crate::sys::{self, Mounts};
use crate::wait;

/// A network namespace, held open by a descriptor; it ends with the last clone, unless a process, mount or socket holds it.
#[derive(Clone, Debug)]
pub struct NetNs {
    name: String,
    net: Arc<OwnedFd>,
    mount: Option<Arc<OwnedFd>>,
    /// Opened with the first question: sessions are looked at again and again.
    diag: Arc<Mutex<Option<SockDiag>>>,
}

impl NetNs {
    /// A new, empty network namespace with its loopback up. `name` is for messages only.
    ///
    /// # Errors
    /// What the kernel answers; EPERM outside [`crate::in_namespaces`] for an ordinary user.
    pub fn new(name: &str) -> io::Result<Self> {
        let net = on_fresh_thread(|| -> io::Result<OwnedFd> {
            sys::unshare_thread(UnshareFlags::NEWNET)?;
            let mut netlink = Netlink::open()?;
            netlink.set_up("lo").map_err(NetlinkError::into_io)?;
            current_net()
        })?;
        Ok(Self {
            name: name.to_owned(),
            net: Arc::new(net),
            mount: None,
            diag: Arc::default(),
        })
    }

    /// The calling thread's own network namespace.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn current(name: &str) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            net: Arc::new(current_net()?),
            mount: None,
            diag: Arc::default(),
        })
    }

    /// The network namespace of a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of_process(name: &str, pid: u32) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            net: Arc::new(File::open(format!("/proc/{pid}/ns/net"))?.into()),
            mount: None,
            diag: Arc::default(),
        })
    }

    /// Gives this namespace a mount namespace of its own: a copy of the caller's, in which `prepare` may mount what it likes.
    ///
    /// # Errors
    /// What the kernel answers, or `prepare` returns.
    pub fn with_mounts(
        mut self,
        prepare: impl FnOnce() -> io::Result<()> + Send,
    ) -> io::Result<Self> {
        let net = self.net.clone();
        let mount = on_fresh_thread(move || -> io::Result<OwnedFd> {
            sys::unshare_thread(UnshareFlags::NEWNS)?;
            move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))?;
            prepare()?;
            Ok(File::open("/proc/thread-self/ns/mnt")?.into())
        })?;
        self.mount = Some(Arc::new(mount));
        Ok(self)
    }

    /// The name given at creation.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace's descriptor, e.g. for a link's peer.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.net
    }

    pub(crate) fn mount_fd(&self) -> Option<&Arc<OwnedFd>> {
        self.mount.as_ref()
    }

    /// Runs `work` inside, on a thread made for it, and returns what it returns. Sockets opened by `work` stay in the namespace
    /// wherever they are used later.
    ///
    /// # Panics
    /// When the namespace cannot be entered, which only a closed descriptor or lost privilege can cause, or when `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_fresh_thread(|| {
            self.enter_this_thread()
                .expect("a held namespace can be entered");
            work()
        })
    }

    /// As [`NetNs::run`], but on a thread that goes on by itself.
    ///
    /// # Panics
    /// As [`NetNs::run`], on the new thread.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace
                .enter_this_thread()
                .expect("a held namespace can be entered");
            work()
        })
    }

    fn enter_this_thread(&self) -> io::Result<()> {
        move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network))?;
        if let Some(mount) = &self.mount {
            sys::unshare_thread(UnshareFlags::FS)?;
            move_into_link_name_space(mount.as_fd(), Some(LinkNameSpaceType::Mount))?;
        }
        Ok(())
    }

    /// A command that will run `program` inside (network, and mounts when the namespace has its own).
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.command_with(program, Mounts::Shared)
    }

    pub(crate) fn command_with(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        mounts: Mounts,
    ) -> Command {
        let mut command = Command::new(program);
        sys::in_namespaces(&mut command, &self.net, self.mount.as_deref(), mounts);
        command
    }

    /// A netlink socket inside.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn netlink(&self) -> io::Result<Netlink> {
        self.run(Netlink::open)
    }

    /// The established TCP connections inside.
    pub(crate) fn established(&self) -> io::Result<Vec<Connection>> {
        let mut diag = self.diag.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = match diag.take() {
            Some(open) => open,
            None => self.run(SockDiag::open)?,
        };
        // After an error the next question is asked on another socket.
        let asked = diag.insert(asked);
        let answer = asked.established();
        if answer.is_err() {
            *diag = None;
        }
        answer
    }

    /// Waits until a link is operationally up: what is sent earlier is lost, and TCP sends its SYN again only after a second.
    ///
    /// # Errors
    /// What the kernel answers; `TimedOut` when the link does not come up within `patience`.
    pub fn wait_link_up(&self, name: &str, patience: Duration) -> io::Result<()> {
        let mut netlink = self.netlink()?;
        let look = || match netlink.links() {
            Ok(links) => links
                .iter()
                .any(|link| link.name == name && link.up)
                .then_some(Ok(())),
            Err(error) => Some(Err(error.into_io())),
        };
        let timed_out = || {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{name} of {} is not up", self.name),
            ))
        };
        wait::until(Instant::now() + patience, look).unwrap_or_else(timed_out)
    }

    /// Writes a sysctl inside: `key` is the path below /proc/sys, e.g. `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// What the file system answers; EACCES for the few keys that only the machine's first namespace may write.
    pub fn set_sysctl(&self, key: &str, value: &str) -> io::Result<()> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(|| std::fs::write(format!("/proc/sys/{key}"), value))
    }
}

fn current_net() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Runs `work` on a thread that ends afterwards, so that what it does to itself is gone with it.
pub(crate) fn on_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
