//! Files that say which pods are connected, as Felix writes them for Calico's CNI plugin and for local BGP peers: one for each
//! endpoint whose routes are in the kernel and whose device is up. This project's own plugin does not need them: the
//! agent answers an ADD when that is so.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::endpoint::{WorkloadEndpoint, status_file_name};
use api::key::Key;
use felix::calc::Settings;
use felix::desired::IfName;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use ipnet::IpNet;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::task::calc::CalcView;
use crate::task::dataplane::Wait;

/// This node's endpoints. One that stays as it is stays the same allocation: there may be hundreds, and each change is looked for.
pub type Endpoints = BTreeMap<Key, Arc<WorkloadEndpoint>>;

/// What a file holds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    iface_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    mac: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ipv4_nets: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ipv6_nets: Vec<IpNet>,
}

/// A file's name: orchestrator, workload and interface, each escaped as a part of a path, joined by blanks.
pub fn file_name(endpoint: &WorkloadEndpoint) -> String {
    let spec = &endpoint.spec;
    let workload = if spec.pod.is_empty() {
        spec.workload.clone()
    } else {
        let namespace = &endpoint.metadata.namespace;
        format!("{namespace}/{}", spec.pod)
    };
    status_file_name(&spec.orchestrator, &workload, &spec.endpoint)
}

fn content(endpoint: &WorkloadEndpoint) -> String {
    let spec = &endpoint.spec;
    let nets = spec.ip_networks.iter().copied();
    let (ipv4_nets, ipv6_nets) = nets.partition(|net| matches!(net, IpNet::V4(_)));
    let content = Content {
        iface_name: &spec.interface_name,
        mac: &spec.mac,
        ipv4_nets,
        ipv6_nets,
    };
    serde_json::to_string(&content).expect("texts and nets are JSON")
}

/// What the task is made of.
pub struct EndpointStatusTask {
    /// FELIX_ENDPOINTSTATUSPATHPREFIX and `endpoint-status`.
    pub directory: PathBuf,
    /// This node's endpoints.
    pub endpoints: watch::Receiver<Endpoints>,
    /// Says when the endpoints are all known, and the metric of their routes.
    pub view: watch::Receiver<CalcView>,
    /// The graph's settings: they know the key of a pod's route.
    pub settings: Settings,
    /// Who answers when a route is in the kernel and its device up.
    pub waits: mpsc::Sender<Wait>,
    /// End of the process.
    pub cancel: CancellationToken,
}

/// A file that may be written: name and content.
type File = (String, String);

impl EndpointStatusTask {
    /// Runs until the token is cancelled. The files stay.
    pub async fn run(self) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = self.keep() => {}
            () = cancel.cancelled() => {}
        }
    }

    async fn keep(mut self) {
        // What is there stays until all endpoints are known.
        if self.view.wait_for(|view| view.in_sync).await.is_err() {
            return;
        }
        let mut files = Files::new(self.directory.clone());
        files.make();
        let mut known = Endpoints::new();
        let mut pending: FuturesUnordered<BoxFuture<'static, Option<File>>> =
            FuturesUnordered::new();
        let first = self.news(&mut known, &mut files);
        files.keep_only_wanted();
        pending.extend(first);
        loop {
            tokio::select! {
                changed = self.endpoints.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let news = self.news(&mut known, &mut files);
                    pending.extend(news);
                }
                Some(file) = pending.next() => {
                    if let Some((name, text)) = file {
                        files.connected(&name, &text);
                    }
                }
            }
        }
    }

    /// Takes in what changed: files of endpoints that are gone go, and those of new and changed ones are waited for.
    fn news(
        &mut self,
        known: &mut Endpoints,
        files: &mut Files,
    ) -> Vec<BoxFuture<'static, Option<File>>> {
        let (gone, new) = {
            let now = self.endpoints.borrow_and_update();
            let gone: Vec<Key> = known
                .keys()
                .filter(|key| !now.contains_key(*key))
                .cloned()
                .collect();
            let same = |key: &Key, is: &Arc<WorkloadEndpoint>| {
                known.get(key).is_some_and(|was| Arc::ptr_eq(was, is))
            };
            let changed = now.iter().filter(|(key, is)| !same(key, is));
            let new: Vec<(Key, Arc<WorkloadEndpoint>)> = changed
                .map(|(key, endpoint)| (key.clone(), Arc::clone(endpoint)))
                .collect();
            (gone, new)
        };
        for key in gone {
            if let Some(endpoint) = known.remove(&key) {
                files.gone(&file_name(&endpoint));
            }
        }
        let mut waits = Vec::new();
        for (key, endpoint) in new {
            let file = (file_name(&endpoint), content(&endpoint));
            if let Some(before) = known.insert(key, Arc::clone(&endpoint))
                && file_name(&before) != file.0
            {
                files.gone(&file_name(&before));
            }
            files.want(&file);
            waits.push(self.connected(&endpoint, file));
        }
        waits
    }

    /// The file, once the endpoint's routes are in the kernel and its device is up; `None` when that is no longer known.
    fn connected(
        &self,
        endpoint: &WorkloadEndpoint,
        file: File,
    ) -> BoxFuture<'static, Option<File>> {
        let mut settings = self.settings.clone();
        if let Some(metric) = self.view.borrow().route_metric {
            settings.normal_route_metric = metric;
        }
        let ifname = IfName::from(endpoint.spec.interface_name.as_str());
        let nets = endpoint.spec.ip_networks.iter();
        let routes: Vec<_> = nets
            .map(|net| settings.workload_route_key(net.addr()))
            .collect();
        let waits = self.waits.clone();
        Box::pin(async move {
            for route in routes {
                let (done, present) = oneshot::channel();
                let wait = Wait {
                    route,
                    neighbour: None,
                    ifname: ifname.clone(),
                    ifindex: None,
                    done,
                };
                waits.send(wait).await.ok()?;
                present.await.ok()?;
            }
            Some(file)
        })
    }
}

/// The files of a directory, against those that are wanted.
#[derive(Debug)]
struct Files {
    directory: PathBuf,
    /// Content of each endpoint's file, by name.
    wanted: BTreeMap<String, String>,
    failed: bool,
}

impl Files {
    const fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            wanted: BTreeMap::new(),
            failed: false,
        }
    }

    fn make(&mut self) {
        let made = fs::create_dir_all(&self.directory);
        self.told(made, "making the directory");
    }

    /// A former agent's files go, unless they are wanted.
    fn keep_only_wanted(&mut self) {
        for name in names(&self.directory) {
            if !self.wanted.contains_key(&name) {
                self.remove(&name);
            }
        }
    }

    fn want(&mut self, (name, text): &File) {
        self.wanted.insert(name.clone(), text.clone());
    }

    fn gone(&mut self, name: &str) {
        self.wanted.remove(name);
        self.remove(name);
    }

    fn remove(&mut self, name: &str) {
        let removed = match fs::remove_file(self.directory.join(name)) {
            // Its pod went before it was connected.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        self.told(removed, "removing the file of an endpoint that is gone");
    }

    /// The endpoint is connected: its file is written, unless it is wanted otherwise by now.
    fn connected(&mut self, name: &str, text: &str) {
        let path = self.directory.join(name);
        if self.wanted.get(name).is_none_or(|wanted| wanted != text)
            || fs::read_to_string(&path).is_ok_and(|there| there == text)
        {
            return;
        }
        let written = replace(&path, text);
        self.told(written, "writing the file of an endpoint");
    }

    /// The first of several failures is logged, and their end.
    fn told(&mut self, done: io::Result<()>, doing: &str) {
        match done {
            Ok(()) if self.failed => {
                self.failed = false;
                info!(directory = %self.directory.display(), "endpoint status files can be written again");
            }
            Ok(()) => {}
            Err(error) => {
                if !self.failed {
                    warn!(directory = %self.directory.display(), %error, "endpoint status: {doing}");
                }
                self.failed = true;
            }
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// A reader never sees half a file: it appears whole, from beside the directory.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.parent().map_or_else(
        || PathBuf::from("new"),
        |parent| parent.with_extension("new"),
    );
    fs::write(&fresh, text)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scratch::Scratch;

    fn endpoint(pod: &str, addr: &str) -> WorkloadEndpoint {
        serde_json::from_value(json!({
            "metadata": {"name": pod, "namespace": "default"},
            "spec": {"orchestrator": "k8s", "node": "n1", "pod": pod, "endpoint": "eth0",
                "ipNetworks": [addr], "interfaceName": format!("cali{pod}"), "mac": "0a:00:00:00:00:01"},
        }))
        .unwrap()
    }

    #[test]
    fn a_file_is_named_as_calico_names_it_and_holds_what_calico_reads() {
        let pod = endpoint("testpod1", "10.0.0.1/32");
        assert_eq!(file_name(&pod), "k8s default%2Ftestpod1 eth0");
        let odd = status_file_name("defaul/t/t est%", "", "");
        assert_eq!(odd, "defaul%2Ft%2Ft%20est%25  ");
        let mut outside = endpoint("x", "10.0.0.1/32");
        outside.spec.pod = String::new();
        outside.spec.orchestrator = "cni".to_owned();
        outside.spec.workload = "0123abcd".to_owned();
        assert_eq!(file_name(&outside), "cni 0123abcd eth0");
        let read: serde_json::Value = serde_json::from_str(&content(&pod)).unwrap();
        assert_eq!(
            read,
            json!({"ifaceName": "calitestpod1", "mac": "0a:00:00:00:00:01", "ipv4Nets": ["10.0.0.1/32"]})
        );
    }

    /// Waits for the task to have done something; it works as soon as it is woken.
    async fn until(mut holds: impl FnMut() -> bool) {
        while !holds() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_file_appears_when_the_route_is_there_and_goes_with_the_endpoint() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("endpoint-status");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("stale"), "{}").unwrap();
        let (a, b) = (endpoint("a", "10.0.0.1/32"), endpoint("b", "10.0.0.2/32"));
        let key = |name: &str| Key::namespaced(api::key::Kind::WorkloadEndpoint, "default", name);
        let (endpoints, endpoints_out) = watch::channel(Endpoints::new());
        let (view, view_out) = watch::channel(CalcView::default());
        let (waits, mut asked) = mpsc::channel(8);
        let cancel = CancellationToken::new();
        let task = EndpointStatusTask {
            directory: directory.clone(),
            endpoints: endpoints_out,
            view: view_out,
            settings: Settings::new("n1"),
            waits,
            cancel: cancel.clone(),
        };
        let running = tokio::spawn(task.run());
        let there = |name: &str| directory.join(name).exists();
        endpoints.send_modify(|all| {
            all.insert(key("a"), Arc::new(a.clone()));
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(there("stale"), "nothing goes before all is known");
        view.send_modify(|view| view.in_sync = true);
        until(|| !there("stale")).await;
        let wait: Wait = asked.recv().await.unwrap();
        assert_eq!(wait.ifname, IfName::from("calia"));
        assert!(!there(&file_name(&a)), "its route is not there yet");
        wait.done.send(()).unwrap();
        until(|| there(&file_name(&a))).await;

        endpoints.send_modify(|all| {
            all.insert(key("b"), Arc::new(b.clone()));
        });
        let wait: Wait = asked.recv().await.unwrap();
        endpoints.send_modify(|all| {
            all.clear();
        });
        until(|| !there(&file_name(&a))).await;
        // The route of an endpoint that is gone may still come.
        let _ = wait.done.send(());
        endpoints.send_modify(|all| {
            all.insert(key("a"), Arc::new(a.clone()));
        });
        let wait: Wait = asked.recv().await.unwrap();
        wait.done.send(()).unwrap();
        until(|| there(&file_name(&a))).await;
        assert!(!there(&file_name(&b)));
        cancel.cancel();
        running.await.unwrap();
        assert!(there(&file_name(&a)), "the files stay");
    }
}
