//! Addresses that another IPAM plugin gives out, such as host-local: it is run as the runtime would run it, with the
//! node's ranges of Kubernetes (`spec.podCIDRs`) in the places that ask for them; the agent connects the pod with what
//! it gave.
//!
//! Source: CNI specification 1.1.0, section 4 (plugin delegation); Calico's `usePodCidr`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Map, Value, json};

use crate::protocol::{Command, Reply, Request};
use crate::spec::error::{CniError, Code};
use crate::spec::result::AddResult;
use crate::spec::version::Version;

/// Stand for the node's first range of each family.
const POD_CIDRS: [(&str, Family); 2] = [("usePodCidr", Family::V4), ("usePodCidrIPv6", Family::V6)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(range: &IpNet) -> Self {
        match range {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Where nothing is to be given out: giving back asks for no node.
    fn everything(self) -> &'static str {
        match self {
            Self::V4 => "0.0.0.0/0",
            Self::V6 => "::/0",
        }
    }
}

/// Sends a request to the agent.
pub(crate) type Ask<'a> = dyn Fn(&Request) -> Result<Reply, CniError> + 'a;

/// The other plugin, and what it is run with.
pub(crate) struct Delegate<'a> {
    /// `ipam.type`.
    pub(crate) name: &'a str,
    /// CNI_PATH.
    pub(crate) path: &'a str,
    /// The network configuration.
    pub(crate) object: &'a Map<String, Value>,
    /// Its version.
    pub(crate) version: Version,
    /// Whether everything is routed to the host also where it names routes.
    pub(crate) include_default_routes: bool,
}

impl Delegate<'_> {
    /// Serves a call.
    pub(crate) fn serve(&self, request: Request, ask: &Ask<'_>) -> Result<Reply, CniError> {
        match request.command {
            Command::Add => self.add(request, ask),
            Command::Del => self.give_back("DEL", &request, ask),
            // What no valid attachment has, of which the configuration has the list.
            Command::Gc => self.give_back("GC", &request, ask),
            Command::Status => self.status(&request, ask),
            Command::Check => {
                let configuration = self.with_pod_cidrs(&request, ask)?;
                self.run("CHECK", &configuration)?;
                ask(&request)
            }
            // An IPAM plugin has none of its own.
            Command::PodCidrs | Command::Assign | Command::Release | Command::Verify => {
                ask(&request)
            }
        }
    }

    /// The other plugin comes last: until the route is gone the address is the pod's.
    fn give_back(
        &self,
        command: &str,
        request: &Request,
        ask: &Ask<'_>,
    ) -> Result<Reply, CniError> {
        let done = ask(request)?;
        let configuration = self.configuration(|family| Ok(family.everything().to_owned()))?;
        self.run(command, &configuration)?;
        Ok(done)
    }

    /// Pods can be connected when both can do their part. A range that the node lacks is no reason to try again at once here.
    fn status(&self, request: &Request, ask: &Ask<'_>) -> Result<Reply, CniError> {
        let done = ask(request)?;
        let configuration = self.with_pod_cidrs(request, ask);
        let configuration = configuration.map_err(|error| match error.code {
            Code::TRY_AGAIN_LATER => CniError {
                code: Code::NOT_AVAILABLE,
                ..error
            },
            _ => error,
        })?;
        self.run("STATUS", &configuration)?;
        Ok(done)
    }

    fn add(&self, mut request: Request, ask: &Ask<'_>) -> Result<Reply, CniError> {
        let configuration = self.with_pod_cidrs(&request, ask)?;
        let result = self.run("ADD", &configuration)?;
        let asked = self.given(&result).and_then(|(addresses, routes)| {
            let given = |is_v4: bool| addresses.iter().any(|net| net.addr().is_ipv4() == is_v4);
            request.ipam.assign_ipv4 = given(true);
            request.ipam.assign_ipv6 = given(false);
            request.given = addresses;
            request.routes = routes;
            match ask(&request)? {
                Reply::Added(added) if has(&added, &request.given) => Ok(Reply::Added(added)),
                _ => Err(CniError::new(
                    Code::PROTOCOL,
                    "the agent took another address than the one it was given: are plugin and agent of the same release?",
                )),
            }
        });
        match asked {
            // The runtime's DEL gives it back. Whether the agent did what was asked is not known.
            Err(error) if error.code == Code::TRY_AGAIN_LATER => Err(error),
            Err(error) => Err(match self.run("DEL", &configuration) {
                Ok(_) => error,
                Err(undo) => error.with_details(format!("the address is not given back: {undo}")),
            }),
            added => added,
        }
    }

    /// The configuration with the node's ranges, which are asked for when it needs one.
    fn with_pod_cidrs(&self, request: &Request, ask: &Ask<'_>) -> Result<Value, CniError> {
        let ranges = std::cell::OnceCell::new();
        self.configuration(|family| {
            let ranges = match ranges.get() {
                Some(ranges) => ranges,
                None => {
                    let asked = Request {
                        command: Command::PodCidrs,
                        ..request.clone()
                    };
                    let Reply::PodCidrs(found) = ask(&asked)? else {
                        let msg = "the agent does not say which ranges are this node's: are plugin and agent of the same release?";
                        return Err(CniError::new(Code::PROTOCOL, msg));
                    };
                    ranges.get_or_init(|| found)
                }
            };
            let found = ranges.iter().find(|range| Family::of(range) == family);
            found.map(ToString::to_string).ok_or_else(|| {
                let (word, _) = POD_CIDRS
                    .into_iter()
                    .find(|(_, of)| *of == family)
                    .unwrap_or(POD_CIDRS[0]);
                CniError::new(
                    Code::TRY_AGAIN_LATER,
                    format!(
                        "ipam: \"{word}\": this node has no such range (spec.podCIDRs of its Kubernetes Node); \
                         kube-controller-manager gives them out with --allocate-node-cidrs and --cluster-cidr"
                    ),
                )
            })
        })
    }

    /// The configuration with `range` in place of each word for a range of the node.
    fn configuration(
        &self,
        range: impl Fn(Family) -> Result<String, CniError>,
    ) -> Result<Value, CniError> {
        let mut object = self.object.clone();
        let put = |holder: &mut Value| {
            let Some(Value::String(text)) = holder.get_mut("subnet") else {
                return Ok(());
            };
            let word = POD_CIDRS
                .into_iter()
                .find(|(word, _)| text.eq_ignore_ascii_case(word));
            if let Some((_, family)) = word {
                *text = range(family)?;
            }
            Ok(())
        };
        if let Some(ipam) = object.get_mut("ipam") {
            put(ipam)?;
            let sets = ipam.get_mut("ranges").and_then(Value::as_array_mut);
            for set in sets.into_iter().flatten().filter_map(Value::as_array_mut) {
                set.iter_mut().try_for_each(put)?;
            }
        }
        object
            .entry("cniVersion")
            .or_insert_with(|| json!(self.version.as_str()));
        Ok(Value::Object(object))
    }

    /// What the plugin gave: hosts' addresses, and what is routed in place of everything. A route's gateway does not count, as in
    /// Calico: the host is the only one there is.
    fn given(&self, stdout: &[u8]) -> Result<(Vec<IpNet>, Vec<IpNet>), CniError> {
        let unreadable =
            |what: String| CniError::new(Code::DECODE, format!("result of {}: {what}", self.name));
        let value: Value =
            serde_json::from_slice(stdout).map_err(|error| unreadable(error.to_string()))?;
        let result =
            AddResult::from_json(&value, self.version).map_err(|error| unreadable(error.msg))?;
        if result.ips.is_empty() {
            return Err(unreadable("no address".to_owned()));
        }
        let host = |ip: &crate::spec::result::IpConfig| IpNet::from(ip.address.addr());
        let addresses: Vec<IpNet> = result.ips.iter().map(host).collect();
        Ok((addresses.clone(), self.routes(&result, &addresses)))
    }

    fn routes(&self, result: &AddResult, addresses: &[IpNet]) -> Vec<IpNet> {
        let has = |family| addresses.iter().any(|net| Family::of(net) == family);
        let named = result.routes.iter().map(|route| route.dst.trunc());
        let mut routes: Vec<IpNet> = named.filter(|dst| has(Family::of(dst))).collect();
        if !routes.is_empty() && self.include_default_routes {
            let every = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
            routes.extend(every.into_iter().filter(|dst| has(Family::of(dst))));
        }
        routes.sort();
        routes.dedup();
        routes
    }

    /// Runs the plugin with this process' environment; what it printed.
    fn run(&self, command: &str, configuration: &Value) -> Result<Vec<u8>, CniError> {
        let program = self.program()?;
        let failed = |what: &str, error: std::io::Error| {
            let program = program.display();
            CniError::new(Code::IO, format!("{what} IPAM plugin {program}: {error}"))
        };
        let mut child = Process::new(&program)
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| failed("starting", error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its input says why on its output.
            let _ = stdin.write_all(configuration.to_string().as_bytes());
        }
        let output = child
            .wait_with_output()
            .map_err(|error| failed("waiting for", error))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said: Option<CniError> = serde_json::from_slice(&output.stdout).ok();
        Err(match said {
            Some(error) => CniError {
                msg: format!("{}: {}", self.name, error.msg),
                ..error
            },
            None => CniError::new(
                Code::IO,
                format!(
                    "IPAM plugin {} ended with {}: {}",
                    program.display(),
                    output.status,
                    String::from_utf8_lossy(&output.stdout).trim()
                ),
            ),
        })
    }

    fn program(&self) -> Result<PathBuf, CniError> {
        let folders = self.path.split(':').filter(|folder| !folder.is_empty());
        let found = folders
            .map(|folder| PathBuf::from(folder).join(self.name))
            .find(|program| program.is_file());
        found.ok_or_else(|| {
            CniError::new(
                Code::INVALID_CONFIG,
                format!(
                    "ipam.type: \"{}\" is no program in CNI_PATH ({}); allowed: calico-ipam, or the name of an IPAM plugin there",
                    self.name, self.path
                ),
            )
        })
    }
}

fn has(added: &AddResult, given: &[IpNet]) -> bool {
    let shown = added.ips.iter().map(|ip| ip.address.addr());
    shown.eq(given.iter().map(IpNet::addr))
}
