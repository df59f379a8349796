//! Two nodes with their agents, and pods that are made and ended as a runtime, a kubelet and users do.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use lab::{Lab, Options, Programs, Sandbox, Site, Store, make_sandbox, remove_sandbox};
use serde_json::{Value, json};

use super::call::{Plugin, call_all};
use crate::random::Random;

/// How long agents may take to come up with objects of a hundred nodes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A pod's sandbox on the first node, and the address that it got.
#[derive(Clone, Debug)]
pub(super) struct Container {
    sandbox: Sandbox,
    /// Unspecified before ADD.
    pub(super) address: Ipv4Addr,
}

impl Container {
    /// The pod's name.
    pub(super) fn name(&self) -> &str {
        &self.sandbox.pod_name
    }

    fn take_address(&mut self, answer: &[u8]) -> anyhow::Result<()> {
        let answer: Value = serde_json::from_slice(answer)?;
        let text = answer["ips"][0]["address"].as_str().unwrap_or_default();
        let address = text.split('/').next().unwrap_or_default();
        self.address = address.parse().with_context(|| format!("ADD: {answer}"))?;
        Ok(())
    }
}

#[cfg(test)]
impl Container {
    pub(super) fn with_address(address: [u8; 4]) -> Self {
        let sandbox = Sandbox {
            container_id: String::new(),
            netns_path: std::path::PathBuf::new(),
            pod_name: String::new(),
            pod_uid: None,
            ifname: String::new(),
        };
        let address = address.into();
        Self { sandbox, address }
    }
}

/// The cluster of one world.
pub(super) struct Cluster {
    /// Machines, store and agents.
    pub(super) lab: Lab,
    store: Store,
    random: Random,
    made: u32,
    plugin: Plugin,
}

impl Cluster {
    /// Store, objects that are there before, agents, and their BGP session.
    ///
    /// # Errors
    /// When one of the programs does not come up.
    pub(super) fn start(
        store: Store,
        block_size: u8,
        seed: u64,
        before: impl FnOnce(&mut Lab) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let options = Options {
            nodes: 2,
            store,
            block_size,
            patience: PATIENCE,
            ..Options::default()
        };
        let mut lab = Lab::without_agents(options, Programs::find()?)?;
        before(&mut lab)?;
        lab.start_agents()?;
        let plugin = Plugin::ours(&lab.topology.sites[0])?;
        let cluster = Self {
            lab,
            plugin,
            store,
            random: Random(seed),
            made: 0,
        };
        Ok(cluster)
    }

    /// The machine on which pods are made.
    #[must_use]
    pub(super) fn site(&self) -> &Site {
        &self.lab.topology.sites[0]
    }

    /// A number below `end`, by the seed.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        self.random.below(end) as usize
    }

    /// Makes pods' objects, which are placed on the node, and their sandboxes, without addresses yet.
    ///
    /// # Errors
    /// The API server's words, or the kernel's.
    pub(super) fn prepare(&mut self, count: usize) -> anyhow::Result<Vec<Container>> {
        let mut containers = Vec::with_capacity(count);
        for _ in 0..count {
            self.made += 1;
            let name = format!("p{}-{:08x}", self.made, self.random.bits() >> 32);
            let (sandbox, _) = make_sandbox(self.site(), &name)?;
            containers.push(Container {
                sandbox,
                address: Ipv4Addr::UNSPECIFIED,
            });
        }
        let node = self.site().name.clone();
        let pods = containers
            .iter()
            .map(|pod| pod_object(&pod.sandbox.pod_name, &node));
        let create = [
            "create",
            "--filename=-",
            "--output=jsonpath={.metadata.uid} ",
        ];
        let uids = self.kubectl(&create, pods.collect())?;
        for (container, uid) in containers.iter_mut().zip(uids.split_whitespace()) {
            container.sandbox.pod_uid = Some(uid.to_owned());
        }
        Ok(containers)
    }

    /// Makes objects, all with one call of kubectl; without Kubernetes there are none.
    ///
    /// # Errors
    /// The API server's words.
    pub(super) fn create(&mut self, objects: Vec<Value>) -> anyhow::Result<()> {
        self.kubectl(&["create", "--filename=-"], objects).map(drop)
    }

    /// ADD of one container: how long the plugin ran.
    ///
    /// # Errors
    /// The plugin's words.
    pub(super) fn add(&self, container: &mut Container) -> anyhow::Result<Duration> {
        let (_, times) = self.call_all(std::slice::from_mut(container), "ADD", 1)?;
        times.first().copied().context("one was called")
    }

    /// The same, by a configuration that names a pool.
    ///
    /// # Errors
    /// The plugin's words.
    pub(super) fn add_from(
        &mut self,
        container: &mut Container,
        pool: &str,
    ) -> anyhow::Result<Duration> {
        let usual = self.plugin.clone();
        let mut configuration: Value = serde_json::from_str(&usual.configuration)?;
        configuration["ipam"]["ipv4_pools"] = json!([pool]);
        self.plugin.configuration = configuration.to_string();
        let took = self.add(container);
        self.plugin = usual;
        took
    }

    /// Calls the plugin for all, some at a time: how long it took until the last answered, and each one's time.
    ///
    /// # Errors
    /// The plugin's words.
    pub(super) fn call_all(
        &self,
        containers: &mut [Container],
        command: &str,
        together: usize,
    ) -> anyhow::Result<(Duration, Vec<Duration>)> {
        let sandboxes: Vec<Sandbox> = containers.iter().map(|pod| pod.sandbox.clone()).collect();
        let (took, answers) = call_all(self.site(), &self.plugin, &sandboxes, command, together)?;
        ensure!(answers.len() == containers.len(), "an answer is missing");
        let mut times = Vec::with_capacity(answers.len());
        for (container, (time, answer)) in containers.iter_mut().zip(answers) {
            if command == "ADD" {
                container.take_address(&answer)?;
            }
            times.push(time);
        }
        Ok((took, times))
    }

    /// Says of pods what their kubelet says once their containers run: this comes after ADD, and changes their version.
    ///
    /// # Errors
    /// The API server's words.
    pub(super) fn say_running(&mut self, containers: &[Container]) -> anyhow::Result<()> {
        let pods = containers.iter().map(|pod| {
            let address = pod.address;
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod.sandbox.pod_name, "namespace": "default"},
                "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
            })
        });
        let apply = [
            "apply",
            "--server-side",
            "--subresource=status",
            "--filename=-",
        ];
        self.kubectl(&apply, pods.collect()).map(drop)
    }

    /// Asks for the end of pods, as `kubectl delete pod` does; their objects stay until their kubelet is done.
    ///
    /// # Errors
    /// The API server's words.
    pub(super) fn ask_to_end(&mut self, containers: &[Container]) -> anyhow::Result<()> {
        self.delete(containers, &["--wait=false"])
    }

    /// Removes the sandboxes and the objects of pods that were disconnected.
    ///
    /// # Errors
    /// The kernel's or the API server's words.
    pub(super) fn forget(&mut self, containers: &[Container]) -> anyhow::Result<()> {
        for container in containers {
            remove_sandbox(self.site(), &container.sandbox)?;
        }
        self.delete(containers, &["--wait=false", "--grace-period=0", "--force"])
    }

    fn delete(&mut self, containers: &[Container], options: &[&str]) -> anyhow::Result<()> {
        if self.store == Store::Local || containers.is_empty() {
            return Ok(());
        }
        let mut words = vec!["delete", "pods"];
        words.extend(options);
        words.extend(containers.iter().map(|pod| pod.sandbox.pod_name.as_str()));
        self.lab.kube().server.kubectl(&words)?;
        Ok(())
    }

    fn kubectl(&mut self, arguments: &[&str], objects: Vec<Value>) -> anyhow::Result<String> {
        if self.store == Store::Local || objects.is_empty() {
            return Ok(String::new());
        }
        let server = &self.lab.kube().server;
        Ok(server.kubectl_reading(arguments, &documents(&objects))?)
    }
}

/// Objects as kubectl reads them.
pub(super) fn documents(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    texts.join("\n---\n")
}

/// A pod that is placed on a node.
pub(super) fn pod_object(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "bench", "pod-template-hash": "5d4f8c7b9"}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}]},
    })
}
