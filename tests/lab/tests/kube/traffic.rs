//! What must not be noticed on the nodes, whatever happens to the API server.

use std::collections::BTreeMap;
use std::process::Output;
use std::time::Instant;

use crate::addresses;
use lab::{Lab, Options, Pod, RouteChange, RouteEvent, RouteMonitor, Stream, wait_until};

/// Numbered packets each way between two pods.
const PER_SECOND: u32 = 100;

/// A cluster whose kernels and packets are watched.
pub(crate) struct Watched {
    pub(crate) lab: Lab,
    monitors: Vec<RouteMonitor>,
    streams: Vec<Stream>,
}

impl Watched {
    /// Two nodes with `pods` pods each. Routes to the other node's blocks come from the store, and every second pod needs a new block.
    pub(crate) fn start(options: Options, programs: lab::Programs, pods: usize) -> Self {
        Self::start_with(options, programs, pods, |_| ())
    }

    /// The same; `prepare` sees the API server before the first agent does.
    pub(crate) fn start_with(
        options: Options,
        programs: lab::Programs,
        pods: usize,
        prepare: impl FnOnce(&mut Lab),
    ) -> Self {
        let options = Options {
            nodes: 2,
            mode: lab::Mode::Vxlan,
            block_size: 31,
            environment: ["FELIX_HEALTHENABLED", "FELIX_PROMETHEUSMETRICSENABLED"]
                .map(|name| (name.to_owned(), "true".to_owned()))
                .into(),
            ..options
        };
        let lab = Lab::without_agents(options, programs);
        let mut lab = lab.unwrap_or_else(|error| panic!("{error}"));
        prepare(&mut lab);
        lab.start_agents().unwrap_or_else(|error| panic!("{error}"));
        lab.fill_pods(pods)
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        converged(&mut lab);
        assert!(lab.prove().faults.is_empty(), "{:#?}", lab.prove().faults);
        Self {
            lab,
            monitors: Vec::new(),
            streams: Vec::new(),
        }
    }

    /// From now on no route may go, and no packet between the first pods of the nodes, or the last, be lost.
    pub(crate) fn watch(&mut self) {
        let sites = self.lab.topology.sites.iter();
        let open = |site: &lab::Site| RouteMonitor::open(&site.namespace).unwrap();
        self.monitors = sites.map(open).collect();
        let of = |node: &str| -> Vec<&Pod> {
            let pods = self.lab.pods.iter();
            pods.filter(|pod| pod.node == node).collect()
        };
        let (first, second) = (of("n1"), of("n2"));
        let ends = [first[0], first[first.len() - 1]]
            .into_iter()
            .zip([second[0], second[second.len() - 1]]);
        for (one, other) in ends {
            for (from, to) in [(one, other), (other, one)] {
                let stream = Stream::between(from, to, PER_SECOND).unwrap();
                self.streams.push(stream);
            }
        }
    }

    /// Makes a pod on a node as a kubelet does: again and again, until the plugin no longer says "try again later".
    pub(crate) fn add_pod(&mut self, node: usize) {
        let mut last = String::new();
        let deadline = Instant::now() + self.lab.options.patience;
        let added = wait_until(deadline, || match self.lab.add_pod(node) {
            Ok(_) => Some(()),
            Err(error) => {
                last = error.to_string();
                None
            }
        });
        let log = lab::log_end(&format!("n{}", node + 1));
        assert!(added.is_some(), "{last}\n{log}");
    }

    /// Makes the objects of the first `count` pods of each node that are not there.
    pub(crate) fn place(&mut self, count: usize) {
        for site in self.lab.topology.sites.clone() {
            for number in 0..count {
                let name = format!("p{number}-{}", site.name);
                self.lab.kube().create_pod(&site, &name).unwrap();
            }
        }
    }

    /// Two pods more on each node: at least one block more.
    pub(crate) fn grow(&mut self) {
        for node in [0, 0, 1, 1] {
            self.add_pod(node);
        }
        self.converges();
    }

    /// Waits until every session, route and pod is there.
    pub(crate) fn converges(&mut self) {
        converged(&mut self.lab);
    }

    /// Nothing of it was noticed, no address was given twice or is kept by nobody, and everybody reaches everybody.
    pub(crate) fn ends_well(self) {
        // What an operator is told agrees with that.
        let told = self.ipam_check();
        assert!(told.contains("found 0 problems."), "{told}");
        self.ends_with_pods_that_the_store_does_not_know();
    }

    /// The same where Pods were made anew under living containers: their addresses are held, and that nobody uses them is all that an
    /// operator is told.
    pub(crate) fn ends_with_pods_that_the_store_does_not_know(mut self) {
        let faults = self.faults();
        assert!(faults.is_empty(), "{faults:#?}");
        assert!(self.streams.is_empty());
        let told = self.ipam_check();
        let unused = told.lines().filter_map(|line| line.strip_prefix("  "));
        let unused: Vec<&str> = unused
            .filter_map(|line| Some(line.split_once(" (")?.0))
            .collect();
        let all = format!("found {} problems.", unused.len());
        assert!(told.contains(&all), "{told}");
        for address in unused {
            let mut pods = self.lab.pods.iter();
            let lives = pods.any(|pod| pod.address.to_string() == address);
            assert!(lives, "{address} is nobody's: {told}");
        }
        // No agent was started anew.
        self.lab
            .check_programs()
            .unwrap_or_else(|error| panic!("{error}"));
    }

    fn ipam_check(&self) -> String {
        let check = ctl(&self.lab, 0, &["ipam", "check", "--show-problem-ips"]);
        String::from_utf8_lossy(&check.stdout).into_owned()
    }

    /// What was noticed, each with where. The streams end here.
    pub(crate) fn faults(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        for (site, monitor) in self.lab.topology.sites.iter().zip(&mut self.monitors) {
            // A way that was taken until another one could be taken again may go: packets say whether it was missed.
            let mut since = Vec::new();
            let of_before = |event: &RouteEvent| match event.change {
                RouteChange::Added => {
                    since.push(event.route.clone());
                    false
                }
                RouteChange::Deleted => !since.contains(&event.route),
            };
            let deleted = monitor.wait_for(Instant::now(), of_before).unwrap();
            faults
                .extend(deleted.map(|deleted| format!("{} lost a route: {deleted:?}", site.name)));
        }
        for stream in self.streams.drain(..) {
            let outcome = stream.finish().unwrap();
            let (name, sent, lost) = (&outcome.name, outcome.sent, outcome.lost.len());
            if sent == 0 || lost > 0 {
                faults.push(format!("{name}: {lost} of {sent} packets lost"));
            }
        }
        faults.extend(twice(&self.lab.pods));
        faults.extend(addresses::faults(&mut self.lab));
        faults.extend(self.lab.prove().faults);
        faults
    }
}

/// Pods that share an address.
fn twice(pods: &[Pod]) -> Vec<String> {
    let mut holders: BTreeMap<_, &Pod> = BTreeMap::new();
    let shared = pods.iter().filter_map(|pod| {
        let other = holders.insert(pod.address, pod)?;
        Some(format!(
            "{} was given twice: to {} and {}",
            pod.address,
            other.label(),
            pod.label()
        ))
    });
    shared.collect()
}

/// Waits until every session, route and pod is there.
pub(crate) fn converged(lab: &mut Lab) {
    lab.converge().unwrap_or_else(|why| panic!("{why}"));
}

/// Runs `tortiectl` on a node, as an operator.
pub(crate) fn ctl(lab: &Lab, node: usize, arguments: &[&str]) -> Output {
    let site = &lab.topology.sites[node];
    let environment = lab.options.environment_of(site);
    let mut command = site.namespace.command(lab.programs().ctl());
    let operators = lab.options.store.operators_environment();
    command.envs(environment).envs(operators);
    command.args(arguments).output().unwrap()
}
