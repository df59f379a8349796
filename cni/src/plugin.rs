//! One call of the plugin, from environment and standard input to standard output and exit code.

use std::error::Error;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use api::endpoint::status_file_name;
use serde_json::{Map, Value, json};

use crate::client::{self, CallError, Patience};
use crate::delegate::Delegate;
use crate::gates;
use crate::netns::{NetnsError, open_netns};
use crate::protocol::{Command, Reply, Request};
use crate::spec::environment::{Args, Environment, Operation};
use crate::spec::error::{CniError, Code};
use crate::spec::netconf::{NetConf, read_object};
use crate::spec::version::Version;

/// How long the plugin waits until the agent listens. The network configuration is there before the agent, and a pod that
/// is refused is tried again by its kubelet much later. STATUS does not wait: it is asked whether there is an agent.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// How long the agent may stay silent: below the 2 minutes of the kubelet's runtime requests, so that the plugin's own
/// message arrives.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The longest configuration read from standard input, in octets.
const STDIN_MAX_BYTES: u64 = 8 << 20;

/// The name under which it is the IPAM of other plugins: it gives addresses and connects nothing.
const IPAM_PROGRAM: &str = "calico-ipam";

/// What the process is to print, and its exit code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// For the runtime.
    pub stdout: String,
    /// For people.
    pub stderr: String,
    /// 0 or 1.
    pub exit_code: u8,
}

/// Serves a call. `program` is the last part of the name the plugin was started by.
pub fn run(
    program: &str,
    arguments: &[String],
    variable: &dyn Fn(&str) -> Option<String>,
    stdin: &mut dyn Read,
) -> Output {
    if let [argument] = arguments
        && matches!(argument.as_str(), "-v" | "-version" | "--version")
    {
        return Output {
            stdout: format!("{}\n", env!("CARGO_PKG_VERSION")),
            ..Output::default()
        };
    }
    let environment = match Environment::read(variable) {
        Ok(Some(environment)) => environment,
        Ok(None) => return about(program),
        Err(error) => return failed(&error, Version::NEWEST),
    };
    let command = match environment.operation {
        Operation::Call(command) if program == IPAM_PROGRAM => command.of_ipam(),
        Operation::Call(command) => command,
        Operation::Version => return versions(stdin),
    };
    let mut json = Vec::new();
    if let Err(error) = stdin.take(STDIN_MAX_BYTES).read_to_end(&mut json) {
        let msg = format!("network configuration cannot be read from stdin: {error}");
        return failed(&CniError::new(Code::IO, msg), Version::NEWEST);
    }
    let (object, version) = match read_object(&json) {
        Ok(read) => read,
        Err(error) => return failed(&error, Version::NEWEST),
    };
    let path = variable("CNI_PATH").unwrap_or_default();
    let mut stderr = String::new();
    let served = NetConf::check(&object, version, command).and_then(|conf| {
        for key in &conf.unknown_keys {
            stderr += &format!("{program}: debug: {key}: not known, and not used\n");
        }
        let wait = StatusWait::of(&conf, &environment);
        let served = serve(command, &environment, conf, (&object, &path));
        if let (Command::Add, Ok(_), Some(wait)) = (command, &served, wait) {
            stderr += &wait.warning(program);
        }
        served
    });
    let output = match served {
        Ok(None) => Output::default(),
        Ok(Some(result)) => Output {
            stdout: format!("{result}\n"),
            ..Output::default()
        },
        Err(error) => failed(&error, version),
    };
    Output { stderr, ..output }
}

/// What `policy_setup_timeout_seconds` has an ADD wait for.
struct StatusWait {
    file: PathBuf,
    patience: Duration,
}

impl StatusWait {
    fn of(conf: &NetConf, environment: &Environment) -> Option<Self> {
        let pod = Args::parse(&environment.args).unwrap_or_default().pod;
        let workload = pod.as_ref().map_or_else(
            || environment.container_id.clone(),
            |pod| format!("{}/{}", pod.namespace, pod.name),
        );
        let orchestrator = if pod.is_some() { "k8s" } else { "cni" };
        let name = status_file_name(orchestrator, &workload, &environment.ifname);
        (!conf.status_patience.is_zero()).then(|| Self {
            file: conf.status_directory.join(name),
            patience: conf.status_patience,
        })
    }

    /// Waits; empty where it came. An ADD succeeds without it, as Calico's.
    fn warning(&self, program: &str) -> String {
        if gates::comes(&self.file, self.patience) {
            return String::new();
        }
        format!(
            "{program}: warning: {} did not come within {} s (policy_setup_timeout_seconds); see `tortiectl node status`\n",
            self.file.display(),
            self.patience.as_secs()
        )
    }
}

fn serve(
    command: Command,
    environment: &Environment,
    conf: NetConf,
    (object, path): (&Map<String, Value>, &str),
) -> Result<Option<Value>, CniError> {
    let args = match (command, Args::parse(&environment.args)) {
        (_, Ok(args)) => args,
        // The container id is enough to undo things.
        (Command::Del | Command::Gc | Command::Release, Err(_)) => Args::default(),
        (_, Err(error)) => return Err(error),
    };
    let netns = match environment.netns.as_deref() {
        Some(path) if matches!(command, Command::Add | Command::Del | Command::Check) => {
            netns_for(command, path, environment.own_netns_allowed)?
        }
        // STATUS and GC are about no pod; an IPAM plugin does nothing in one.
        Some(_) | None => None,
    };
    if command == Command::Add {
        gates::pass(&conf.gates, gates::PATIENCE)?;
    }
    let version = conf.cni_version;
    let socket = conf.agent_socket;
    let (earlier, prev_result) = match command {
        Command::Add => (conf.prev_result, None),
        _ => (None, conf.prev_result),
    };
    let request = Request {
        command,
        network: conf.name,
        container_id: environment.container_id.clone(),
        ifname: environment.ifname.clone(),
        netns_path: environment.netns.clone(),
        pod: args.pod,
        ip: args.ip,
        nodename: conf.nodename,
        mtu_bytes: conf.mtu_bytes,
        queues: conf.queues,
        allow_ip_forwarding: conf.allow_ip_forwarding,
        ipam: conf.ipam,
        given: Vec::new(),
        routes: Vec::new(),
        ips: conf.ips,
        mac: conf.mac,
        features: conf.features,
        plugin: conf.plugin,
        prev_result,
        valid_attachments: conf.valid_attachments,
    };
    let patience = Patience {
        connect: match command {
            Command::Status => Duration::ZERO,
            _ => CONNECT_PATIENCE,
        },
        reply: PATIENCE,
    };
    let ask = |request: &Request| {
        let netns = netns.as_ref().map(AsFd::as_fd);
        match client::call(&socket, request, netns, patience) {
            Ok(Reply::Failed(error)) => Err(error),
            Ok(reply) => Ok(reply),
            Err(error) => Err(unreachable_agent(command, &error, &conf.nodename_file)),
        }
    };
    let reply = match &conf.ipam_plugin {
        None => ask(&request)?,
        Some(name) => {
            let delegate = Delegate {
                name,
                path,
                object,
                version,
                include_default_routes: conf.include_default_routes,
            };
            delegate.serve(request, &ask)?
        }
    };
    match (command, reply) {
        (Command::Add, Reply::Added(result)) => {
            let result = result.after(earlier.unwrap_or_default());
            Ok(Some(result.to_json(version)))
        }
        (Command::Assign, Reply::Added(result)) => {
            Ok(Some(conf.beside.with(result).to_json(version)))
        }
        (
            Command::Del
            | Command::Check
            | Command::Status
            | Command::Gc
            | Command::Release
            | Command::Verify,
            Reply::Done,
        ) => Ok(None),
        _ => Err(CniError::new(
            Code::PROTOCOL,
            format!(
                "the agent at {} answered another command than it was asked: are plugin and agent of the same release?",
                socket.display()
            ),
        )),
    }
}

/// Opens the namespace. On DEL one that is gone is no error: there is nothing left in it to undo.
fn netns_for(command: Command, path: &str, own_allowed: bool) -> Result<Option<OwnedFd>, CniError> {
    let refused = |code, error: NetnsError| {
        let cause = chain(&error);
        let msg =
            format!("CNI_NETNS: \"{path}\" {cause}; allowed: the path of a network namespace");
        Err(CniError::new(code, msg))
    };
    match open_netns(path, own_allowed) {
        Ok(netns) => Ok(Some(netns)),
        Err(error @ NetnsError::Own) => refused(Code::INVALID_NETNS, error),
        Err(_) if command == Command::Del => Ok(None),
        Err(error) if command == Command::Check => refused(Code::UNKNOWN_CONTAINER, error),
        Err(error) => refused(Code::INVALID_NETNS, error),
    }
}

fn unreachable_agent(
    command: Command,
    error: &CallError,
    nodename_file: &std::path::Path,
) -> CniError {
    let code = match (command, error) {
        (_, CallError::Frame { .. }) => Code::PROTOCOL,
        (Command::Status, CallError::Connect { .. } | CallError::NoAnswer { .. }) => {
            Code::NOT_AVAILABLE
        }
        (_, CallError::Connect { .. } | CallError::NoAnswer { .. }) => Code::TRY_AGAIN_LATER,
    };
    let advice = match error {
        CallError::Connect { .. } => {
            "; check that the node's agent (pod calico-node, program tortie-node) is running and has mounted /var/run/calico; \
             the runtime will try again"
        }
        CallError::NoAnswer { .. } => "; see the agent's log; the runtime will try again",
        CallError::Frame { .. } => "",
    };
    let mut answer = CniError::new(code, format!("{}{advice}", chain(error)));
    if matches!(error, CallError::Connect { .. }) && !nodename_file.exists() {
        let file = nodename_file.display();
        answer.details =
            format!("{file} does not exist: the agent has not yet started on this node");
    }
    answer
}

/// An error with its causes, on one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn versions(stdin: &mut dyn Read) -> Output {
    let mut json = Vec::new();
    // VERSION needs no input: what cannot be read is as good as none.
    let asked = match stdin.take(STDIN_MAX_BYTES).read_to_end(&mut json) {
        Ok(_) => read_object(&json).ok(),
        Err(_) => None,
    };
    let asked = asked
        .filter(|(object, _)| object.contains_key("cniVersion"))
        .map_or(Version::NEWEST, |(_, version)| version);
    let versions = json!({
        "cniVersion": asked.as_str(),
        "supportedVersions": Version::ALL.map(Version::as_str),
    });
    Output {
        stdout: format!("{versions}\n"),
        ..Output::default()
    }
}

fn about(program: &str) -> Output {
    let versions = Version::ALL.map(Version::as_str).join(", ");
    Output {
        stderr: format!(
            "{program}: Tortie's CNI plugin {}, to be called by a container runtime\nCNI versions: {versions}\n",
            env!("CARGO_PKG_VERSION")
        ),
        ..Output::default()
    }
}

fn failed(error: &CniError, version: Version) -> Output {
    Output {
        stdout: format!("{}\n", error.to_json(version)),
        stderr: String::new(),
        exit_code: 1,
    }
}
