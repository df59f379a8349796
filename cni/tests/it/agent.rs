//! A scripted agent, and a runtime's call.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use cni::protocol::{FrameReader, Request, encode_frame};
use cni::socket;
use serde_json::{Value, json};

/// A directory of this test's own, removed at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cni-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory can be made");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that stays behind in /tmp fails no test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the agent was sent: the request, and the inode of the file the descriptor refers to.
pub(crate) type Seen = (Request, Option<u64>);

/// What the agent does with a request.
pub(crate) enum Script {
    /// Answers these octets.
    Answer(Vec<u8>),
    /// Closes the connection.
    HangUp,
}

impl Script {
    pub(crate) fn reply(reply: &cni::protocol::Reply) -> Self {
        Self::Answer(encode_frame(reply).expect("a reply makes a frame"))
    }
}

/// Listens at `path` and serves one call.
pub(crate) fn serve_one(path: &Path, script: Script) -> JoinHandle<Seen> {
    let serving = serve_all(path, vec![script]);
    thread::spawn(move || {
        let mut seen = serving.join().expect("it serves");
        seen.pop().expect("one script, one call")
    })
}

/// Listens at `path` and serves as many calls as there are scripts, one after the other.
pub(crate) fn serve_all(path: &Path, scripts: Vec<Script>) -> JoinHandle<Vec<Seen>> {
    let listener = UnixListener::bind(path).expect("the path is free");
    let serve = move |script| {
        let (stream, _) = listener.accept().expect("the plugin connects");
        let seen = receive(&stream);
        if let Script::Answer(octets) = script {
            // The plugin may have hung up on nonsense before all of it was sent.
            let _ = (&stream).write_all(&octets);
        }
        seen
    };
    thread::spawn(move || scripts.into_iter().map(serve).collect())
}

fn receive(stream: &UnixStream) -> Seen {
    let mut reader = FrameReader::default();
    let mut inode = None;
    let mut room = [0; 512];
    loop {
        let (count, descriptor) = socket::receive(stream.as_fd(), &mut room).expect("readable");
        assert_ne!(
            count, 0,
            "the plugin hung up before its request was complete"
        );
        if let Some(descriptor) = descriptor {
            assert_eq!(inode, None, "one descriptor only");
            let metadata = File::from(descriptor).metadata().expect("an open file");
            inode = Some(std::os::unix::fs::MetadataExt::ino(&metadata));
        }
        reader.push(&room[..count]);
        if let Some(request) = reader.message().expect("a request") {
            return (request, inode);
        }
    }
}

/// A runtime's call.
#[derive(Clone)]
pub(crate) struct Call {
    program: PathBuf,
    environment: BTreeMap<&'static str, String>,
    stdin: String,
}

/// What the runtime got.
pub(crate) struct Outcome {
    pub(crate) exit_code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.stdout))
    }

    /// The error object, after checking what every failure has in common.
    #[track_caller]
    pub(crate) fn error(&self, code: u32) -> String {
        assert_eq!(self.exit_code, 1, "{}", self.stdout);
        assert_eq!(self.stderr, "");
        let object = self.json();
        assert_eq!(object["code"], code, "{object}");
        let version = object["cniVersion"].as_str().expect("text");
        assert!(
            cni::spec::version::Version::parse(version).is_ok(),
            "{object}"
        );
        object["msg"].as_str().expect("text").to_owned()
    }
}

impl Call {
    /// `command` for a pod, with everything a runtime gives; the namespace is one that is not the plugin's.
    pub(crate) fn new(command: &str, socket: &Path) -> Self {
        let environment = BTreeMap::from([
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", "4f1c0de".to_owned()),
            ("CNI_NETNS", OTHER_NAMESPACE.to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u1"
                    .to_owned(),
            ),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ]);
        Self {
            program: PathBuf::from(env!("CARGO_BIN_EXE_tortie-cni")),
            environment,
            stdin: configuration("1.0.0", socket).to_string(),
        }
    }

    pub(crate) fn set(mut self, name: &'static str, value: &str) -> Self {
        self.environment.insert(name, value.to_owned());
        self
    }

    pub(crate) fn unset(mut self, name: &'static str) -> Self {
        self.environment.remove(name);
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl ToString) -> Self {
        self.stdin = stdin.to_string();
        self
    }

    pub(crate) fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    pub(crate) fn run(&self) -> Outcome {
        outcome(self.start())
    }

    /// The plugin with its input, not waited for.
    pub(crate) fn start(&self) -> Child {
        let mut child = Command::new(&self.program)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin starts");
        let mut stdin = child.stdin.take().expect("piped");
        // A plugin that refuses the environment does not read its input.
        let _ = stdin.write_all(self.stdin.as_bytes());
        drop(stdin);
        child
    }
}

/// What the runtime gets once the plugin has ended.
pub(crate) fn outcome(child: Child) -> Outcome {
    let output = child.wait_with_output().expect("the plugin ends");
    Outcome {
        exit_code: output.status.code().expect("not killed"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A namespace every process may open and that is not the network namespace: which type it is the agent finds out.
pub(crate) const OTHER_NAMESPACE: &str = "/proc/self/ns/uts";

/// One plugin's configuration as the runtime makes it from Calico's conflist.
pub(crate) fn configuration(version: &str, socket: &Path) -> Value {
    json!({
        "cniVersion": version,
        "name": "k8s-pod-network",
        "type": "calico",
        "agent_socket": socket,
        "nodename_file": socket.with_file_name("nodename"),
        "mtu": 1450,
        "ipam": {"type": "calico-ipam"},
        "policy": {"type": "k8s"},
    })
}
