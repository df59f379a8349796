//! `tortie-store` as a process.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use datastore::store::Store;
use datastore_local::RelayStore;
use futures_util::StreamExt;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use super::{Folder, events, pool, pools, put, seen, wrote};

fn command(file: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tortie-store"));
    command.arg("--data").arg(file).arg("--listen").arg(listen);
    command
}

/// A running store, killed when the test ends early.
struct Running(Child);

impl Running {
    /// Starts it and waits for its line that it is ready.
    fn start(file: &Path, socket: &Path) -> Self {
        Self::ready(command(file, &format!("unix:{}", socket.display())))
    }

    fn ready(mut command: Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is built");
        let stderr = child.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(stderr);
        let mut line = String::new();
        lines.read_line(&mut line).expect("a pipe can be read");
        assert!(line.contains("ready"), "the first line was: {line}");
        Self(child)
    }

    /// Starts it such that a file which must not grow is an error of writing, as a full disk is, and not a signal.
    fn start_limited(file: &Path, socket: &Path) -> Self {
        let shell = "trap '' XFSZ; exec \"$@\"";
        let program = command(file, &format!("unix:{}", socket.display()));
        let mut limited = Command::new("sh");
        limited.args(["-c", shell, "sh"]).arg(program.get_program());
        limited.args(program.get_args());
        Self::ready(limited)
    }

    fn limit_file_size(&self, bytes: Option<u64>) {
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        let pid = Pid::from_child(&self.0);
        prlimit(Some(pid), Resource::Fsize, limit).expect("it is our child");
    }

    fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it is our child");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_kill_9() {
    let folder = Folder::new("kill");
    let (file, socket) = (folder.next("redb"), folder.next("sock"));
    let client = RelayStore::new(&socket);
    let mut cursors = Vec::new();
    for round in 0..3 {
        let process = Running::start(&file, &socket);
        for number in 0..10 {
            let name = format!("p{round}-{number}");
            let cursor = wrote(&client, &name, "x").await;
            cursors.push(cursor.expect("it is ready"));
        }
        process.kill();
        assert!(
            client.get(&pool("p0-0")).await.is_err(),
            "the store is dead"
        );
    }
    let _process = Running::start(&file, &socket);
    assert_eq!(pools(&client).await.items.len(), 30);
    for cursor in &cursors {
        assert_eq!(client.contains(cursor).await, Ok(true));
    }
    let missed = events(&client, &cursors[19]).next().await;
    assert_eq!(seen(missed).0, pool("p2-0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_by_name_and_is_forgotten_when_there_is_room() {
    let folder = Folder::new("full");
    let (file, socket) = (folder.next("redb"), folder.next("sock"));
    let process = Running::start_limited(&file, &socket);
    let client = RelayStore::new(&socket);
    let start = wrote(&client, "before", "1").await.expect("there is room");
    let mut watch = events(&client, &start);
    process.limit_file_size(Some(std::fs::metadata(&file).expect("it is there").len()));
    let large = "x".repeat(1 << 20);
    let mut answered = vec!["before".to_owned()];
    let refused = loop {
        let name = format!("p{}", answered.len());
        match client.write(put(&name, &large)).await {
            Ok(_) => answered.push(name),
            Err(error) => break error,
        }
    };
    assert!(
        refused.to_string().contains(file.to_str().unwrap()),
        "{refused}"
    );
    process.limit_file_size(None);
    // The file is opened again by itself.
    while client.get(&pool("before")).await.is_err() {
        tokio::task::yield_now().await;
    }
    let after = client.write(put("after", "1")).await;
    after.expect("there is room again");
    answered.push("after".to_owned());
    answered.sort();
    let listing = pools(&client).await;
    let mut names: Vec<String> = listing.items.into_iter().map(|i| i.key.name).collect();
    // The write that failed may have reached the file: its outcome was unknown.
    names.retain(|name| *name != format!("p{}", answered.len() - 1) || answered.contains(name));
    assert_eq!(names, answered);
    loop {
        if seen(watch.next().await).0 == pool("after") {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_it_well_with_a_watch_open() {
    let folder = Folder::new("term");
    let (file, socket) = (folder.next("redb"), folder.next("sock"));
    let mut process = Running::start(&file, &socket);
    let client = RelayStore::new(&socket);
    let start = pools(&client).await.cursor;
    client.write(put("a", "1")).await.expect("it is ready");
    let mut watch = events(&client, &start);
    assert!(watch.next().await.expect("a change").is_ok());
    let pid = Pid::from_child(&process.0);
    kill_process(pid, Signal::TERM).expect("it runs");
    let status = process.0.wait().expect("it is our child");
    assert!(status.success(), "{status}");
    assert!(!socket.exists(), "the socket is gone");
    assert!(watch.next().await.expect("the end is told").is_err());
}

#[test]
fn wrong_arguments_and_paths_are_told_in_one_line_and_fail() {
    let folder = Folder::new("wrong");
    let junk = folder.next("junk");
    std::fs::write(&junk, [7; 5000]).expect("the folder is ours");
    let socket = format!("unix:{}", folder.next("sock").display());
    for (file, listen, named) in [
        (
            folder.next("redb"),
            "tcp:1",
            "--listen \"tcp:1\" is not allowed; allowed: `unix:`",
        ),
        (folder.next("redb"), "unix:relative", "an absolute path"),
        (junk.clone(), socket.as_str(), junk.to_str().unwrap()),
        (
            folder.path().to_owned(),
            socket.as_str(),
            folder.path().to_str().unwrap(),
        ),
        (
            junk.join("below"),
            socket.as_str(),
            "cannot make the folder",
        ),
    ] {
        let Output { status, stderr, .. } = command(&file, listen).output().expect("it is built");
        let mut text = String::new();
        stderr
            .as_slice()
            .read_to_string(&mut text)
            .expect("it is text");
        assert_eq!(status.code(), Some(1), "{text}");
        assert!(text.contains(named), "{named} is not in: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
