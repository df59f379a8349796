//! A fresh network namespace around a test: the test program runs itself again, inside.
#![expect(
    unsafe_code,
    reason = "unshare(2) between fork and exec, and on a thread of its own"
)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::thread;

use rustix::process::{getegid, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

const MARK: &str = "FELIX_IO_TEST_INSIDE";

/// Defines a test whose body, an async block, runs on one thread in a namespace of its own.
macro_rules! kernel_test {
    ($name:ident, $body:expr) => {
        #[test]
        fn $name() {
            crate::namespace::run(concat!(module_path!(), "::", stringify!($name)), $body);
        }
    };
}
pub(crate) use kernel_test;

pub(crate) fn run(path: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(MARK).is_some() {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(body);
        return;
    }
    let (_crate, name) = path.split_once("::").unwrap();
    let inner = harness::Inner::of(name);
    let mut command = inner.command();
    command.env(MARK, "1");
    let (uid, gid) = (geteuid(), getegid());
    let flags = if uid.is_root() {
        UnshareFlags::NEWNET
    } else {
        UnshareFlags::NEWUSER | UnshareFlags::NEWNET
    };
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {} 1", uid.as_raw())),
        ("/proc/self/gid_map", format!("0 {} 1", gid.as_raw())),
    ];
    // SAFETY: after fork the child has one thread and makes system calls only; opening the files
    // allocates nothing that another thread of the parent could hold a lock of.
    unsafe {
        command.pre_exec(move || {
            unshare_unsafe(flags)?;
            if flags.contains(UnshareFlags::NEWUSER) {
                for (path, content) in &maps {
                    std::fs::write(path, content)?;
                }
            }
            Ok(())
        });
    }
    match command.output() {
        Ok(output) => inner.conclude(&output),
        Err(error) if may_be_forbidden(&error) => {
            harness::skip(
                "namespaces",
                &format!("this user may make none here: {error}"),
            );
        }
        Err(error) => panic!("cannot run {name} in a namespace: {error}"),
    }
}

/// A further network namespace, alive as long as the descriptor or a socket in it.
pub(crate) fn new() -> OwnedFd {
    let made = thread::spawn(|| {
        // SAFETY: NEWNET does not touch the descriptor table, and this thread ends here.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    made.join().unwrap().into()
}

/// The namespace of the calling thread.
pub(crate) fn own() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

fn may_be_forbidden(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENOSPC | libc::ENOSYS | libc::EINVAL)
    )
}
