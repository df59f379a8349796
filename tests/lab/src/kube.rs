//! A Kubernetes API server on a machine of the first rack, and the lab in the roles of kubelets and scheduler: objects of nodes, and of
//! pods that it places, runs and ends.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use kube_lab::{ApiServer, Error, Part, Place, Ports, Proxy, User};
use serde_json::{Value, json};

use crate::cluster::LabError;
use crate::enter::BASE;
use crate::topology::{Site, Topology};

/// With which agents find the API server and are no more than their DaemonSet's account; the same path in every mount namespace.
pub(crate) const KUBECONFIG: &str = "/run/tortie-lab/kubeconfig";
/// The same for `tortie-rr`.
pub(crate) const REFLECTORS_KUBECONFIG: &str = "/run/tortie-lab/kubeconfig-rr";
/// The same for operators, who may everything.
pub(crate) const OPERATORS_KUBECONFIG: &str = "/run/tortie-lab/kubeconfig-admin";
/// The machine's name.
const NAME: &str = "kube";
/// Last octet of its address: above the routers', below the nodes'.
const HOST: u8 = 10;
/// Below the repository: what an operator applies before the agents come.
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests");
/// Below those: what the accounts of agents and reflectors may.
const ROLES: [&str; 2] = ["base/rbac.yaml", "route-reflector/rbac.yaml"];
/// Those accounts, each with its file.
const ACCOUNTS: [(&str, &str); 2] = [
    ("calico-node", KUBECONFIG),
    ("tortie-rr", REFLECTORS_KUBECONFIG),
];
/// Where pods of the lab are.
const PODS: &str = "/api/v1/namespaces/default/pods";

/// The API server, with etcd beside it, and the machine that they run on.
#[derive(Debug)]
pub struct Kube {
    /// The API server: to be asked, and to be struck by faults.
    pub server: ApiServer,
    /// Its machine, which `cargo lab exec kube kubectl …` enters.
    pub site: Site,
}

impl Kube {
    /// Attaches the machine, starts the servers on it, and makes what must be there before the first agent: Calico's kinds and the nodes.
    pub(crate) fn start(topology: &Topology) -> Result<Self, LabError> {
        let site = topology
            .attach(NAME, HOST, 1)
            .map_err(LabError::system("attach the API server's machine"))?;
        let namespace = site.namespace.clone();
        let server = ApiServer::start(kube_lab::Options {
            parent: Some(BASE.into()),
            place: Place::of(move |program| namespace.command(program)),
            address: site.address,
            ports: Some(Ports::USUAL),
            users: ACCOUNTS
                .map(|(name, _)| User::service_account("kube-system", name))
                .to_vec(),
            ..kube_lab::Options::default()
        })?;
        let kube = Self { server, site };
        kube.install()?;
        kube.register_nodes(&topology.sites)?;
        let credentials = kube.write_credentials();
        credentials.map_err(LabError::system("write kubeconfig files"))?;
        Ok(kube)
    }

    /// Writes everybody's kubeconfig file with the present token.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn write_credentials(&self) -> io::Result<()> {
        fs::copy(self.server.kubeconfig(), OPERATORS_KUBECONFIG)?;
        for (name, path) in ACCOUNTS {
            let user = format!("system:serviceaccount:kube-system:{name}");
            let token = self.server.token_of(&user);
            fs::write(path, self.server.kubeconfig_with(&self.server.url(), token))?;
        }
        Ok(())
    }

    /// From now on agents have another kubeconfig file: another way to the API server (a [`Proxy`]'s URL), or other credentials, as a
    /// kubeconfig's `user`. Agents read it when they start, and when those that they have no longer do.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn give_agents(&self, url: &str, user: &Value) -> io::Result<()> {
        write_whole(KUBECONFIG, &self.server.kubeconfig_of(url, user))
    }

    /// What agents have from the start, as a kubeconfig's `user`.
    #[must_use]
    pub fn agents_user(&self) -> Value {
        let user = format!("system:serviceaccount:kube-system:{}", ACCOUNTS[0].0);
        json!({"token": self.server.token_of(&user)})
    }

    /// A proxy on the API server's machine before it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn proxy(&self) -> io::Result<Proxy> {
        let address = self.site.address;
        let server = self.server.socket_address();
        self.site.namespace.run(|| Proxy::start_at(address, server))
    }

    /// Applies Calico's kinds and the accounts' roles, and waits until the kinds are served.
    ///
    /// # Errors
    /// The API server's words.
    pub fn install(&self) -> Result<(), Error> {
        let kinds = format!("--kustomize={MANIFESTS}/crds");
        self.server.kubectl(&["apply", "--server-side", &kinds])?;
        for roles in ROLES {
            let roles = format!("--filename={MANIFESTS}/{roles}");
            self.server.kubectl(&["apply", "--server-side", &roles])?;
        }
        let served = [
            "wait",
            "--for=condition=Established",
            "customresourcedefinitions",
            "--all",
        ];
        self.server.kubectl(&served).map(drop)
    }

    /// Makes the nodes' objects, as their kubelets do when they start.
    ///
    /// # Errors
    /// The API server's words.
    pub fn register_nodes(&self, sites: &[Site]) -> Result<(), Error> {
        let nodes = sites.iter().map(|site| node(site, json!({}), json!({})));
        self.register(nodes.collect())?;
        self.tell_addresses(sites)
    }

    /// As [`Kube::register_nodes`], for machines with Calico's marks of a route reflector.
    pub(crate) fn register_reflectors(
        &self,
        sites: &[Site],
        cluster_id: &str,
    ) -> Result<(), Error> {
        let nodes = sites.iter().map(|site| {
            let mut annotations = json!({
                "projectcalico.org/RouteReflectorClusterID": cluster_id,
            });
            if let Some(net) = site.net4() {
                annotations["projectcalico.org/IPv4Address"] = json!(net.to_string());
            }
            if let Some(net) = site.net6() {
                annotations["projectcalico.org/IPv6Address"] = json!(net.to_string());
            }
            node(site, json!({"route-reflector": "true"}), annotations)
        });
        self.register(nodes.collect())?;
        self.tell_addresses(sites)
    }

    fn register(&self, mut nodes: Vec<Value>) -> Result<(), Error> {
        let manifest = |nodes: &[Value]| {
            let nodes: Vec<String> = nodes.iter().map(Value::to_string).collect();
            nodes.join("\n---\n")
        };
        self.server.apply(&manifest(&nodes))?;
        // Of what is written through the status, labels and annotations would be another writer's.
        for node in &mut nodes {
            node["metadata"] = json!({"name": node["metadata"]["name"]});
        }
        let status = [
            "apply",
            "--server-side",
            "--subresource=status",
            "--filename=-",
        ];
        self.server
            .kubectl_reading(&status, &manifest(&nodes))
            .map(drop)
    }

    /// All addresses of nodes that have several: applied, a node has one of each type; kubelets patch them, too.
    fn tell_addresses(&self, sites: &[Site]) -> Result<(), Error> {
        for site in sites.iter().filter(|site| site.addresses().count() > 1) {
            let mut addresses: Vec<Value> = (site.addresses())
                .map(|address| json!({"type": "InternalIP", "address": address}))
                .collect();
            addresses.push(json!({"type": "Hostname", "address": site.name}));
            let addresses = json!({"status": {"addresses": addresses}});
            let patch = format!("--patch={addresses}");
            let arguments = [
                "patch",
                "node",
                &site.name,
                "--subresource=status",
                "--type=merge",
                &patch,
            ];
            self.server.kubectl(&arguments)?;
        }
        Ok(())
    }

    /// Makes the object of a pod that is placed on a node, as a user and the scheduler do. Answers its UID.
    ///
    /// # Errors
    /// The API server's words.
    pub fn create_pod(&self, site: &Site, name: &str) -> Result<String, Error> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"nodeName": site.name, "containers": [{"name": "main", "image": "none"}]},
        });
        let create = ["create", "--raw", PODS, "--filename=-"];
        let created = match self.server.kubectl_reading(&create, &pod.to_string()) {
            // It was placed before its node could run it.
            Err(Error::Command { said, .. }) if said.contains("AlreadyExists") => {
                let path = format!("{PODS}/{name}");
                self.server.kubectl(&["get", "--raw", &path])?
            }
            created => created?,
        };
        let created: Value = serde_json::from_str(&created).unwrap_or_default();
        Ok(created["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// Says of a pod what its kubelet says once its containers run.
    ///
    /// # Errors
    /// The API server's words.
    pub fn pod_runs(&self, name: &str, addresses: &[IpAddr]) -> Result<(), Error> {
        let ips: Vec<Value> = (addresses.iter())
            .map(|address| json!({"ip": address}))
            .collect();
        let status =
            json!({"status": {"phase": "Running", "podIP": addresses.first(), "podIPs": ips}});
        let patch = format!("--patch={status}");
        let arguments = [
            "patch",
            "pod",
            name,
            "--subresource=status",
            "--type=merge",
            &patch,
        ];
        self.server.kubectl(&arguments).map(drop)
    }

    /// Marks a pod's object as to be deleted, as `kubectl delete pod` does; it goes with [`Kube::forget_pod`].
    ///
    /// # Errors
    /// The API server's words.
    pub fn ask_to_end(&self, name: &str) -> Result<(), Error> {
        let path = format!("{PODS}/{name}");
        self.server.kubectl(&["delete", "--raw", &path]).map(drop)
    }

    /// Deletes the object of a pod that no longer runs, as its kubelet does.
    ///
    /// # Errors
    /// The API server's words.
    pub fn forget_pod(&self, name: &str) -> Result<(), Error> {
        let path = format!("{PODS}/{name}?gracePeriodSeconds=0");
        self.server.kubectl(&["delete", "--raw", &path]).map(drop)
    }

    pub(crate) fn check(&mut self) -> Result<(), LabError> {
        for part in [Part::Etcd, Part::ApiServer] {
            self.server.part(part).check()?;
        }
        Ok(())
    }

    /// What a user finds on the machine: kubectl on the PATH behind all others, and the administrator's kubeconfig.
    pub(crate) fn programs(&self) -> &Path {
        self.server.programs().folder()
    }
}

/// Puts a file in its place whole: a program that reads it meanwhile sees the former one.
fn write_whole(path: &str, text: &str) -> io::Result<()> {
    let fresh = format!("{path}.new");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, path)
}

/// A node as its kubelet describes it.
fn node(site: &Site, mut labels: Value, annotations: Value) -> Value {
    labels["kubernetes.io/hostname"] = json!(site.name);
    labels["kubernetes.io/os"] = json!("linux");
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": site.name, "labels": labels, "annotations": annotations},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": site.address},
                {"type": "Hostname", "address": site.name},
            ],
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "by the lab",
                 "lastHeartbeatTime": null, "lastTransitionTime": null},
            ],
        },
    })
}
