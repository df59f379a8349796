//! Entering a private world: new user (for an ordinary user), network, mount and PID namespaces, in which everything that the lab makes
//! dies with process 1, whatever ends the launcher.
//!
//! ```text
//! launcher ── fork ── guard ── unshare, fork ── process 1: the same program again, told by its environment
//!    dies  ──SIGKILL──► dies ────SIGKILL────► dies, and with it every process, namespace, mount and file inside
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::Inner;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};

use crate::sys::{self, UserNamespace};

/// Everything that the lab writes lies below this directory of the private /run.
pub const BASE: &str = "/run/tortie-lab";

/// Set in the environment of process 1.
const INSIDE: &str = "TORTIE_LAB_INSIDE";

/// Directories of the machine that get a private copy of symbolic links, and the entries that the lab makes itself in them.
const SHADOWED: [(&str, &[&str]); 3] = [
    ("/run", &["bird", "calico", "netns", "tortie-lab"]),
    ("/var/lib", &["calico"]),
    ("/etc", &["cni"]),
];

/// Whether this process is process 1 of a private world.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Makes `command` run as process 1 of a private world; it must call [`prepare`] first thing.
pub fn as_init(command: &mut Command) {
    command.env(INSIDE, "1");
    let user = if rustix::process::geteuid().is_root() && may_unshare() {
        UserNamespace::Keep
    } else {
        UserNamespace::New
    };
    sys::as_namespace_init(command, user);
}

/// Root of a container may lack the privilege; then it goes the ordinary user's way.
fn may_unshare() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| {
        sets.effective
            .contains(rustix::thread::CapabilitySet::SYS_ADMIN)
    })
}

/// Runs `body` in a private world of its own; for tests. `name` is the test's own name, as `cargo test` prints it.
///
/// The first call re-executes the test program for this one test as process 1 of new namespaces and waits for it; the second, inside,
/// runs `body`. Works as root and as an ordinary user. Where the machine refuses the namespaces the test is skipped (id `namespaces`), and
/// the reason says what to allow.
///
/// # Panics
/// When `body` panics, or when `name` is not the test's.
pub fn in_namespaces(name: &str, body: impl FnOnce()) {
    if is_inside() {
        match prepare() {
            Ok(_) => body(),
            Err(error) if is_refusal(&error) => harness::skip(REFUSED, &error.to_string()),
            Err(error) => panic!("preparing the private world: {error}"),
        }
        return;
    }
    let inner = Inner::of(name);
    let mut command = inner.command();
    as_init(&mut command);
    match command.output() {
        Ok(output) => inner.conclude(&output),
        Err(error) if is_refusal(&error) => {
            harness::skip(REFUSED, &format!("{error}. {}", refusal_advice(&error)));
        }
        Err(error) => panic!("new namespaces: {error}"),
    }
}

/// Id of the skip where the machine refuses the namespaces.
const REFUSED: &str = "namespaces";

/// Whether the machine does not allow it, or its kernel cannot: nothing that a test could be wrong about.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, StorageFull, Unsupported};
    matches!(error.kind(), PermissionDenied | StorageFull | Unsupported)
        || error.raw_os_error() == Some(libc::EINVAL)
}

/// What an operator can do when the kernel refuses the namespaces.
#[must_use]
pub fn refusal_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "This machine does not let an ordinary user make user namespaces: run as root, or set the sysctl \
             user.max_user_namespaces above 0 (on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0)."
        }
        Some(libc::ENOSPC) => "The sysctl user.max_user_namespaces is 0 or used up: raise it.",
        _ => "The kernel needs CONFIG_USER_NS, CONFIG_NET_NS and CONFIG_PID_NS.",
    }
}

/// The facts about process 1 that only it can tell.
#[derive(Clone, Debug)]
pub struct Inside {
    /// The PID that the launcher's side sees.
    pub host_pid: u32,
}

/// First thing in process 1: private mounts, fresh /proc and /sys, and private copies of the directories that the lab writes to.
///
/// # Errors
/// The first refusal, with what was being mounted.
pub fn prepare() -> io::Result<Inside> {
    // The old /proc still shows the outer PID namespace.
    let host_pid = std::fs::read_link("/proc/self")?
        .to_str()
        .and_then(|pid| pid.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self does not name a process"))?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|error| doing("make mounts private", error))?;
    mount_new("proc", Path::new("/proc")).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{error}: a container's masked /proc forbids it; run the lab outside, or with an unmasked /proc"),
        )
    })?;
    // Only tools that a user starts by hand read /sys; a container may forbid the mount.
    let _ = mount_new("sysfs", Path::new("/sys"));
    for (directory, own) in SHADOWED {
        shadow(Path::new(directory), own)?;
    }
    if Path::new("/var/run")
        .canonicalize()
        .is_ok_and(|real| real != Path::new("/run"))
    {
        shadow(Path::new("/var/run"), &["calico"])?;
    }
    for directory in [
        BASE,
        "/run/netns",
        "/run/bird",
        "/run/calico",
        "/var/run/calico",
        "/var/lib/calico",
        "/etc/cni/net.d",
    ] {
        std::fs::create_dir_all(directory)?;
    }
    Ok(Inside { host_pid })
}

/// Lays a tmpfs over `directory` whose entries are symbolic links to the former ones, except those named in `own`.
fn shadow(directory: &Path, own: &[&str]) -> io::Result<()> {
    // A detached copy taken before the tmpfs covers the original.
    let former = rustix::mount::open_tree(
        rustix::fs::CWD,
        directory,
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .map_err(|error| doing(&format!("copy the mount of {}", directory.display()), error))?;
    let names: Vec<_> = std::fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    mount_new("tmpfs", directory)?;
    let saved = PathBuf::from(format!("{BASE}/machine{}", directory.display()));
    std::fs::create_dir_all(&saved)?;
    rustix::mount::move_mount(
        &former,
        "",
        rustix::fs::CWD,
        &saved,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|error| doing(&format!("keep {}", directory.display()), error))?;
    for name in names {
        if !own.iter().any(|own| name == *own) {
            std::os::unix::fs::symlink(saved.join(&name), directory.join(&name))?;
        }
    }
    Ok(())
}

/// Mounts a new file system of `kind` on `target`.
pub(crate) fn mount_new(kind: &str, target: &Path) -> io::Result<()> {
    let flags = match kind {
        "tmpfs" => MountFlags::NOSUID | MountFlags::NODEV,
        _ => MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
    };
    let options = if kind == "tmpfs" {
        Some(c"mode=755")
    } else {
        None
    };
    rustix::mount::mount(kind, target, kind, flags, options)
        .map_err(|error| doing(&format!("mount {kind} on {}", target.display()), error))
}

pub(crate) fn doing(what: &str, error: rustix::io::Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
