//! Threads that serve pods one after the other.
//!
//! A thread of its own for every call would be made and ended as often: on a virtual machine of two processors that takes as long as
//! the kernel needs for half a pair. Runtime workers never leave the host's namespace; these threads do for a moment, come back, and
//! end instead of taking more work when they cannot.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::WorkloadError;
use crate::netlink::socket::Requests;
use crate::netns;

/// Threads at most; more work waits.
const THREADS_MAX: usize = 64;
/// Threads that are kept while there is nothing to do.
const IDLE_MAX: usize = 4;

/// Threads in one network namespace, the host's. They end with the last handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Threads(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.more.notify_all();
    }
}

type Job = Box<dyn FnOnce(&mut Host) + Send>;

#[derive(Debug)]
struct Shared {
    home: Home,
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("jobs", &self.jobs.len())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// The host's namespace.
#[derive(Debug)]
struct Home {
    netns: OwnedFd,
    identity: (u64, u64),
}

impl Home {
    /// Threads are made by whoever needs one, wherever that is. Who is there already needs no right to go anywhere.
    fn go(&self) -> io::Result<()> {
        if netns::identity(netns::current()?.as_fd())? == self.identity {
            return Ok(());
        }
        netns::enter(self.netns.as_fd())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Threads {
    /// For the calling thread's network namespace. No thread is made yet.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn open() -> io::Result<Self> {
        let netns = netns::current()?;
        let identity = netns::identity(netns.as_fd())?;
        let shared = Shared {
            home: Home { netns, identity },
            state: Mutex::default(),
            more: Condvar::new(),
        };
        Ok(Self(Arc::new(Handle(Arc::new(shared)))))
    }

    /// Does `work` on one of the threads and awaits its value. It is done, too, when nobody awaits it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Host) -> Result<T, WorkloadError> + Send + 'static,
    ) -> Result<T, WorkloadError> {
        let (reply, answer) = oneshot::channel();
        // Nobody waits any more: the value is dropped, as a cancelled future's would be.
        self.submit(Box::new(move |host| drop(reply.send(work(host)))))
            .map_err(WorkloadError::Thread)?;
        answer.await.map_err(|_| {
            WorkloadError::Thread(io::Error::other("the thread ended before it was done"))
        })?
    }

    /// Leaves work to one of the threads.
    pub(super) fn submit(&self, job: Job) -> io::Result<()> {
        let shared = &self.0.0;
        let mut state = shared.state();
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle || state.threads >= THREADS_MAX {
            drop(state);
            shared.more.notify_one();
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let serving = Arc::clone(shared);
        let made = thread::Builder::new()
            .name("felix-pods".to_owned())
            .spawn(move || serve(&serving));
        let Err(error) = made else { return Ok(()) };
        let mut state = shared.state();
        state.threads -= 1;
        if state.threads > 0 {
            // One of those that there are will come to it.
            return Ok(());
        }
        state.jobs.clear();
        Err(error)
    }
}

/// The life of a thread.
fn serve(shared: &Shared) {
    let _count = Count(shared);
    if let Err(error) = shared.home.go() {
        tracing::error!(%error, "a thread could not go to the host's network namespace");
        // Whoever waits is told, instead of waiting for ever.
        shared.state().jobs.clear();
        return;
    }
    let mut host = Host {
        shared,
        requests: None,
        away: false,
    };
    while let Some(job) = next(shared) {
        job(&mut host);
        if host.away {
            tracing::error!(
                "a thread could not come back to the host's network namespace, and ends"
            );
            return;
        }
    }
}

/// Waits for work; none when the thread is to end.
fn next(shared: &Shared) -> Option<Job> {
    let mut state = shared.state();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            return Some(job);
        }
        if state.closed || state.idle >= IDLE_MAX {
            return None;
        }
        state.idle += 1;
        let waited = shared.more.wait(state);
        state = waited.unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
    }
}

/// Counts a thread out, also when its work panicked.
struct Count<'a>(&'a Shared);

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.state().threads -= 1;
    }
}

/// What work on a thread finds: the thread is in the host's namespace.
pub(super) struct Host<'a> {
    shared: &'a Shared,
    requests: Option<Requests>,
    away: bool,
}

impl Host<'_> {
    /// The thread's socket in the host's namespace.
    pub(super) fn requests(&mut self) -> Result<&mut Requests, WorkloadError> {
        match &mut self.requests {
            Some(requests) => Ok(requests),
            none => Ok(none.insert(super::requests()?)),
        }
    }

    /// Refuses a descriptor that is no network namespace's, and the host's own.
    pub(super) fn check(&self, netns: &OwnedFd) -> Result<(), WorkloadError> {
        netns::check(netns.as_fd()).map_err(WorkloadError::Namespace)?;
        let identity = netns::identity(netns.as_fd()).map_err(WorkloadError::Namespace)?;
        if identity == self.shared.home.identity {
            return Err(WorkloadError::HostNamespace);
        }
        Ok(())
    }

    /// Does `work` within a namespace, and comes back.
    pub(super) fn within<T>(
        &mut self,
        netns: &OwnedFd,
        work: impl FnOnce() -> Result<T, WorkloadError>,
    ) -> Result<T, WorkloadError> {
        netns::enter(netns.as_fd()).map_err(WorkloadError::Namespace)?;
        self.away = true;
        let done = work();
        if netns::enter(self.shared.home.netns.as_fd()).is_ok() {
            self.away = false;
        }
        done
    }
}
