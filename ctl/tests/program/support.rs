//! A store served by the test, and the program run against it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use api::key::{Key, Kind};
use datastore::memory::MemoryStore;
use datastore::store::{Expect, Op, Store};

/// A directory that goes with the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tortiectl-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A leftover in the temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An empty store that is served until it is stopped.
pub(crate) struct Served {
    store: Arc<MemoryStore>,
    runtime: tokio::runtime::Runtime,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

impl Served {
    /// Writes what no program of ours would.
    pub(crate) fn put(&self, key: Key, json: &'static str) {
        let put = Op::Put {
            key,
            value: json.into(),
            expect: Expect::Any,
        };
        self.runtime.block_on(self.store.write(put)).unwrap();
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// The objects of a kind as they are stored, in the order of their names.
    pub(crate) fn objects(&self, kind: Kind) -> Vec<serde_json::Value> {
        let objects = self.store.objects().into_iter();
        let of_kind = objects.filter(|item| item.key.kind == kind);
        of_kind
            .map(|item| serde_json::from_slice(&item.value).unwrap())
            .collect()
    }

    pub(crate) fn stop(self) {
        self.stop.send(()).unwrap();
        self.runtime.block_on(self.serving).unwrap();
    }
}

/// Serves an empty store.
pub(crate) fn serve(socket: &Path) -> Served {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let listener = runtime.block_on(datastore_local::bind(socket)).unwrap();
    let store = Arc::new(MemoryStore::new());
    let served = Arc::clone(&store);
    let serving = runtime.spawn(async move {
        let stopped = async {
            // Either way the test is over.
            let _ = stopped.await;
        };
        datastore_local::serve(served, listener, stopped)
            .await
            .unwrap();
    });
    Served {
        store,
        runtime,
        stop,
        serving,
    }
}

/// Serves an empty store while `test` runs.
pub(crate) fn with_store(name: &str, test: impl FnOnce(&dyn Fn(&[&str], &str) -> Output)) {
    let directory = Directory::new(name);
    let socket = directory.file("store.sock");
    let served = serve(&socket);
    test(&|arguments, stdin| run(&socket, arguments, stdin));
    served.stop();
}

pub(crate) fn run(store: &Path, arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .env_clear()
        .env("TORTIE_STORE", format!("unix:{}", store.display()))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end without having read it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// Runs the program with a standard output that nobody reads.
pub(crate) fn run_unread(store: &Path, arguments: &[&str]) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .env_clear()
        .env("TORTIE_STORE", format!("unix:{}", store.display()))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writer)
        .output()
        .unwrap()
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) const MANIFEST: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: first
spec:
  cidr: 10.48.0.0/16
  natOutgoing: true
  assignmentMode: Manual
---
apiVersion: projectcalico.org/v3
kind: IPAMConfig
metadata:
  name: default
spec:
  kubeVirtVMAddressPersistence: Enabled
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: tor
spec:
  peerIP: 192.0.2.1
  asNumber: 65000
";
