//! The system calls that have no safe wrapper: forking into new namespaces, and joining given ones before an exec.
#![expect(
    unsafe_code,
    reason = "fork, unshare and setns between fork and exec; one place, each with its proof"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

/// Whether the new namespaces hang below a new user namespace, which is what an ordinary user needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserNamespace {
    /// The caller has the privilege already.
    Keep,
    /// A new one, with the caller's user and group mapped to 0.
    New,
}

/// What to do with the mount namespace that a command joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// Work in the joined mount namespace itself.
    Shared,
    /// Work in a copy of it: later mounts of the original stay invisible, as for a container.
    Copied,
}

/// Makes `command` run as process 1 of new network, mount and PID namespaces.
///
/// The direct child stays outside as a guard: it waits for process 1, passes its exit code on (128 + signal when killed), dies with
/// the calling thread, and takes process 1, hence the whole PID namespace, with it.
pub(crate) fn as_namespace_init(command: &mut Command, user: UserNamespace) {
    let uid_map = format!("0 {} 1\n", rustix::process::geteuid().as_raw());
    let gid_map = format!("0 {} 1\n", rustix::process::getegid().as_raw());
    let parent = rustix::process::getpid();
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed: it makes plain system calls on
    // data prepared above, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            die_with_parent()?;
            if rustix::process::getppid() != Some(parent) {
                // The launcher died before the line above took effect.
                exit_now(128 + libc::SIGKILL);
            }
            let mut flags = UnshareFlags::NEWNET
                | UnshareFlags::NEWNS
                | UnshareFlags::NEWPID
                | UnshareFlags::NEWIPC;
            if user == UserNamespace::New {
                flags |= UnshareFlags::NEWUSER;
            }
            // No descriptor table is shared with another thread: this process is a fresh fork.
            rustix::thread::unshare_unsafe(flags)?;
            if user == UserNamespace::New {
                write_file(c"/proc/self/setgroups", b"deny")?;
                write_file(c"/proc/self/uid_map", uid_map.as_bytes())?;
                write_file(c"/proc/self/gid_map", gid_map.as_bytes())?;
            }
            fork_guarded()
        });
    }
}

/// Forks once more: the child returns and goes on to exec, the parent guards it and never returns.
fn fork_guarded() -> io::Result<()> {
    let (alive, guard) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the process has one thread (it is between fork and exec), so the child's memory is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(guard);
            die_with_parent()?;
            // The guard holds the only other end: a hang-up here means that it died before the line above took effect.
            let mut poll = [rustix::event::PollFd::new(
                &alive,
                rustix::event::PollFlags::IN,
            )];
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            if rustix::event::poll(&mut poll, Some(&now))? > 0 {
                exit_now(128 + libc::SIGKILL);
            }
            // A session of its own: a terminal's ctrl-C reaches the launcher and the guard, and through them everything here.
            rustix::process::setsid()?;
            Ok(())
        }
        child => guard_child(child, guard.as_raw_fd()),
    }
}

/// Waits for `child` and ends with its exit code. Keeps only the standard descriptors and `keep` open, so that neither the caller's
/// pipes nor std's exec-error pipe wait for this process.
fn guard_child(child: libc::pid_t, keep: RawFd) -> ! {
    const KEPT: RawFd = 3;
    // SAFETY: plain system calls on descriptor numbers; nothing in this process uses the closed descriptors again.
    unsafe {
        if keep != KEPT {
            libc::dup2(keep, KEPT);
        }
        libc::syscall(libc::SYS_close_range, 4u32, u32::MAX, 0u32);
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the result.
        let done = unsafe { libc::waitpid(child, &raw mut status, 0) };
        if done == child {
            break;
        }
        if done == -1 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            exit_now(127);
        }
    }
    if libc::WIFEXITED(status) {
        exit_now(libc::WEXITSTATUS(status));
    }
    exit_now(128 + libc::WTERMSIG(status))
}

fn exit_now(code: i32) -> ! {
    // SAFETY: _exit runs no handlers and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

fn write_file(path: &std::ffi::CStr, bytes: &[u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes)?;
    Ok(())
}

/// Makes `command` run in the given network and mount namespaces, and die with the calling process.
pub(crate) fn in_namespaces(
    command: &mut Command,
    net: &OwnedFd,
    mount: Option<&OwnedFd>,
    mounts: Mounts,
) {
    let net = net.as_raw_fd();
    let mount = mount.map(AsRawFd::as_raw_fd);
    // SAFETY: only system calls between fork and exec. The descriptors are open in the caller, which keeps them until spawn returns;
    // fork copied them.
    unsafe {
        command.pre_exec(move || {
            enter_raw(net, libc::CLONE_NEWNET)?;
            if let Some(mount) = mount {
                enter_raw(mount, libc::CLONE_NEWNS)?;
            }
            if mounts == Mounts::Copied {
                rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)?;
            }
            Ok(())
        });
    }
}

/// Makes `command` run inside a kept lab: joins `outer` in order, forks so that the PID namespace takes effect, then opens and joins
/// the namespaces under the paths in `inner`, which are looked up in the joined mount namespace.
pub(crate) fn in_kept_lab(command: &mut Command, outer: Vec<File>, inner: Vec<std::ffi::CString>) {
    // SAFETY: only system calls between fork and exec on data moved into the closure.
    unsafe {
        command.pre_exec(move || {
            for namespace in &outer {
                enter_raw(namespace.as_raw_fd(), 0)?;
            }
            fork_guarded()?;
            for path in &inner {
                let fd = rustix::fs::open(
                    path.as_c_str(),
                    OFlags::RDONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                enter_raw(fd.as_raw_fd(), 0)?;
            }
            Ok(())
        });
    }
}

fn enter_raw(fd: RawFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: setns takes a descriptor number and a flag; a wrong one is refused with an error.
    if unsafe { libc::setns(fd, kind) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives the calling thread namespaces of its own. The thread must end afterwards: it no longer belongs to its process's.
pub(crate) fn unshare_thread(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the flags used here (FS, NEWNET, NEWNS, NEWCGROUP) never unshare the descriptor table, which is what makes unshare unsafe.
    unsafe {
        rustix::thread::unshare_unsafe(
            flags
                & (UnshareFlags::FS
                    | UnshareFlags::NEWNET
                    | UnshareFlags::NEWNS
                    | UnshareFlags::NEWCGROUP),
        )
    }?;
    Ok(())
}

/// Borrows a descriptor by number, for calls on foreign socket types that only give their number.
pub(crate) fn borrow<'a>(fd: RawFd) -> std::os::fd::BorrowedFd<'a> {
    // SAFETY: callers pass the number of a socket that they hold by reference for the duration of the poll.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

/// Takes over an inherited descriptor.
pub(crate) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the launcher made this descriptor for this process and nothing else here knows its number; a wrong number leads to
    // errors of the calls on it, not to memory faults.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}

/// Stays as process 1 and buries the dead, until killed.
pub(crate) fn stay_as_init() -> ! {
    loop {
        // SAFETY: waitpid with a null status writes nothing; pause takes no argument.
        unsafe {
            if libc::waitpid(-1, std::ptr::null_mut(), 0) == -1 {
                libc::pause();
            }
        }
    }
}

/// Makes `file` standard input, output and error.
pub(crate) fn replace_standard_descriptors(file: &File) -> io::Result<()> {
    for standard in 0..=2 {
        // SAFETY: dup2 on descriptor numbers; std holds 0 to 2 only by number.
        if unsafe { libc::dup2(file.as_raw_fd(), standard) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
