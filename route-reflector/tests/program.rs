//! `tortie-rr` from files. Its sessions are shown by `cargo lab --rr`: addresses of the loopback are none of a node's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
extern crate harness;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use node::http::get_unix;

fn main() -> std::process::ExitCode {
    harness::run()
}

/// Longer than anything here takes on a slow machine; nothing waits for its end.
const PATIENCE: Duration = Duration::from_secs(60);
const REFLECTOR: &str = "192.0.2.8";
const CLIENTS: [&str; 2] = ["192.0.2.11", "192.0.2.12"];

/// A folder and the program; both end with the test.
struct Reflector {
    folder: PathBuf,
    program: Option<Child>,
}

impl Reflector {
    fn new(test: &str) -> Self {
        let name = format!("tortie-rr-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            folder,
            program: None,
        }
    }

    fn write(&self, file: &str, text: &str) {
        // Whole or not at all, as an editor or a ConfigMap does it.
        let fresh = self.folder.join(format!(".{file}"));
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.folder.join(file)).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tortie-rr"));
        command
            .env_clear()
            .arg("--resources")
            .arg(&self.folder)
            .arg("--admin-socket")
            .arg(self.folder.join("admin.sock"))
            .stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        self.start_as(self.command());
    }

    fn start_as(&mut self, mut command: Command) {
        let log = std::fs::File::create(self.log()).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.program = Some(command.spawn().unwrap());
    }

    /// Starts in a network of its own, whose loopback device has these addresses.
    fn start_with_addresses(&mut self, addresses: &[&str]) {
        let mut probe = Command::new("unshare");
        probe.args(["--net", "--map-root-user", "ip", "link", "set", "lo", "up"]);
        match probe.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                harness::skip("namespaces", String::from_utf8_lossy(&output.stderr).trim())
            }
            Err(error) => harness::skip("namespaces", &format!("running unshare: {error}")),
        }
        let program = self.command();
        let mut script = "ip link set lo up && ".to_owned();
        for address in addresses {
            script += &format!("ip address add {address}/24 dev lo && ");
        }
        let mut command = Command::new("unshare");
        command.args(["--net", "--map-root-user", "sh", "-c"]);
        command.arg(script + "exec \"$@\"").arg("sh");
        command.arg(program.get_program()).args(program.get_args());
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).stdin(Stdio::null());
        self.start_as(command);
    }

    /// Addresses where a socket of the program's network listens for BGP, as the kernel lists them.
    fn listening_in_kernel(&self) -> Vec<Ipv4Addr> {
        let id = self.program.as_ref().unwrap().id();
        let table = std::fs::read_to_string(format!("/proc/{id}/net/tcp")).unwrap();
        let listens = table.lines().skip(1).filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, state) = (fields.next()?, fields.nth(1)?);
            let address = local.strip_suffix(":00B3").filter(|_| state == "0A")?;
            Some(u32::from_str_radix(address, 16).unwrap())
        });
        listens.map(|bits| bits.to_ne_bytes().into()).collect()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            program.kill().unwrap();
            program.wait().unwrap();
        }
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn resources(clients: &[&str]) -> String {
    let mut text = format!(
        "kind: BGPConfiguration
metadata: {{name: default}}
spec: {{nodeToNodeMeshEnabled: false, asNumber: 64512}}
---
kind: Node
metadata: {{name: rr, labels: {{rr: \"\"}}}}
spec: {{bgp: {{ipv4Address: {REFLECTOR}/24, routeReflectorClusterID: 1.0.0.1}}}}
---
kind: BGPPeer
metadata: {{name: clients}}
spec: {{nodeSelector: '!has(rr)', peerSelector: has(rr)}}
"
    );
    for (n, address) in clients.iter().enumerate() {
        text += &format!(
            "---\nkind: Node\nmetadata: {{name: c{n}}}\nspec: {{bgp: {{ipv4Address: {address}/24}}}}\n"
        );
    }
    text
}

/// Addresses of the peers that the running program has.
fn peers(reflector: &Reflector) -> Option<Vec<String>> {
    let socket = reflector.folder.join("admin.sock");
    let answer = get_unix(&socket, "/bgp/peers", Duration::from_secs(5)).ok()?;
    let peers: Vec<api::admin::Peer> = serde_json::from_str(&answer.body).unwrap();
    Some(peers.iter().map(|peer| peer.address.to_string()).collect())
}

fn problems(reflector: &Reflector) -> String {
    let socket = reflector.folder.join("admin.sock");
    get_unix(&socket, "/problems", Duration::from_secs(5))
        .unwrap()
        .body
}

fn wait(reflector: &Reflector, what: &str, wanted: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !wanted() {
        let log = std::fs::read_to_string(reflector.log()).unwrap_or_default();
        assert!(
            Instant::now() < deadline,
            "not within {PATIENCE:?}: {what}\n{log}"
        );
        std::thread::yield_now();
    }
}

/// Its own address, as it tells it.
fn own_address(reflector: &Reflector) -> Option<String> {
    let socket = reflector.folder.join("admin.sock");
    let answer = get_unix(&socket, "/status", Duration::from_secs(5)).ok()?;
    let status: api::admin::Status = serde_json::from_str(&answer.body).unwrap();
    status.ipv4_address.map(|address| address.to_string())
}

#[test]
fn a_changed_address_of_its_node_is_listened_on_and_reported_without_a_restart() {
    let mut reflector = Reflector::new("moves");
    let text = resources(&CLIENTS);
    reflector.write("cluster.yaml", &text);
    reflector.start_with_addresses(&[REFLECTOR, "192.0.2.9"]);
    let first: Ipv4Addr = REFLECTOR.parse().unwrap();
    wait(&reflector, "listening at the first address only", || {
        reflector.listening_in_kernel() == [first]
    });
    wait(&reflector, "the first address", || {
        own_address(&reflector).is_some_and(|own| own == format!("{REFLECTOR}/24"))
    });
    reflector.write("cluster.yaml", &text.replace(REFLECTOR, "192.0.2.9"));
    wait(&reflector, "the second address", || {
        own_address(&reflector).is_some_and(|own| own == "192.0.2.9/24")
    });
    wait(&reflector, "listening there only", || {
        reflector.listening_in_kernel() == [Ipv4Addr::new(192, 0, 2, 9)]
    });
}

#[test]
fn a_password_file_that_vanishes_is_reported_and_no_session_is_given_up() {
    let mut reflector = Reflector::new("password");
    let secret = "password: {secretKeyRef: {name: bgp, key: clients}}";
    let text = resources(&CLIENTS).replace(
        "spec: {nodeSelector",
        &format!("spec: {{{secret}, nodeSelector"),
    );
    reflector.write("cluster.yaml", &text);
    let passwords = reflector.folder.join("passwords");
    std::fs::create_dir_all(passwords.join("bgp")).unwrap();
    let file = passwords.join("bgp/clients");
    std::fs::write(&file, "topsecret\n").unwrap();
    let mut command = reflector.command();
    command.env("TORTIE_BGP_PASSWORD_DIR", &passwords);
    reflector.start_as(command);
    wait(&reflector, "both clients", || {
        peers(&reflector).is_some_and(|peers| peers == CLIENTS)
    });
    assert!(!problems(&reflector).contains("password"));

    let taken = passwords.join("taken");
    std::fs::rename(&file, &taken).unwrap();
    wait(&reflector, "the problem", || {
        problems(&reflector).contains("password")
    });
    let reported = problems(&reflector);
    let named = [
        "BGPPeer(clients)",
        "clients",
        "bgp",
        file.to_str().unwrap(),
        "last known",
    ];
    for part in named {
        assert!(reported.contains(part), "{part}: {reported}");
    }
    assert!(!reported.contains("topsecret"), "{reported}");
    assert_eq!(peers(&reflector).unwrap(), CLIENTS);

    std::fs::rename(&taken, &file).unwrap();
    wait(&reflector, "the end of the problem", || {
        !problems(&reflector).contains("password")
    });
    let log = std::fs::read_to_string(reflector.log()).unwrap();
    assert!(!log.contains("topsecret"), "{log}");
}

#[test]
fn files_are_followed_and_a_wrong_one_spoils_nothing() {
    let mut reflector = Reflector::new("follows");
    reflector.write("cluster.yaml", &resources(&CLIENTS));
    reflector.start();
    wait(&reflector, "both clients", || {
        peers(&reflector).is_some_and(|peers| peers == CLIENTS)
    });
    reflector.write(
        "wrong.yaml",
        "kind: BGPPeer\nmetadata: {name: typo}\nspec: {peerIP: 192.0.2.300, asNumber: 1}\n\
         ---\nkind: Node\nmetadata: {name: c9}\nspec: {bgp: {ipv4Address: 192.0.2.19/24}}\n",
    );
    wait(&reflector, "the node of the second document", || {
        peers(&reflector).is_some_and(|peers| peers.contains(&"192.0.2.19".to_owned()))
    });
    assert_eq!(peers(&reflector).unwrap().len(), 3);
    let told = problems(&reflector);
    assert!(
        told.contains("wrong.yaml, document 1: spec.peerIP"),
        "{told}"
    );
    std::fs::remove_file(reflector.folder.join("wrong.yaml")).unwrap();
    reflector.write("cluster.yaml", &resources(&CLIENTS[1..]));
    wait(&reflector, "the second client only", || {
        peers(&reflector).is_some_and(|peers| peers == CLIENTS[1..])
    });
    let left: Vec<api::admin::Problem> = serde_json::from_str(&problems(&reflector)).unwrap();
    // No interface has its address.
    let listening = format!("BGP listening on {REFLECTOR}:179");
    assert!(
        left.iter().all(|problem| problem.subject == listening),
        "{left:?}"
    );
}

#[test]
fn who_it_is_must_be_clear() {
    let reflector = Reflector::new("who");
    let ended = |arguments: &[&str]| {
        let output = reflector.command().args(arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(
        ended(&[]).contains("--node or NODENAME: no Node has spec.bgp.routeReflectorClusterID")
    );
    reflector.write("node.yaml", "kind: Node\nmetadata: {name: rr}\nspec: {}\n");
    let error = ended(&["--node", "rr"]);
    assert!(
        error.contains("Node(rr): spec.bgp.ipv4Address: missing"),
        "{error}"
    );
    assert!(ended(&["--node", "other"]).contains("Node(other) does not stand in the resources"));
}
