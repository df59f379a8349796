//! Logs and metrics of the process.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use api::params::LogSeverity;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

/// Changes the least severity of a log.
type Change = Box<dyn Fn(&str) + Send + Sync>;

/// Of the log that was started; nothing where RUST_LOG decides, or nothing was started.
static LEVEL: OnceLock<Change> = OnceLock::new();

/// Starts logging to standard error: one line an event, fields after the text.
///
/// `directives` is RUST_LOG's value if there is one, else `severity` (FELIX_LOGSEVERITYSCREEN) decides, and
/// [`set_severity`] may change it.
pub fn start_logging(severity: &str, directives: Option<&str>) {
    let given = directives.and_then(|text| EnvFilter::try_new(text).ok());
    let fixed = given.is_some();
    let filter = given.unwrap_or_else(|| EnvFilter::new(level(severity)));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Otherwise a reader that closes the pipe would make the next line a panic.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_target(true)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    // Fails only when a subscriber is set already, as in tests: then that one is right.
    if builder.try_init().is_ok() && !fixed {
        let change = move |severity: &str| {
            // Fails only when the subscriber is gone, and then there is no log.
            let _ = handle.reload(EnvFilter::new(level(severity)));
        };
        let _ = LEVEL.set(Box::new(change));
    }
}

/// From now on the log has lines of this severity and above.
pub fn set_severity(severity: LogSeverity) {
    if let Some(change) = LEVEL.get() {
        change(&format!("{severity:?}"));
    }
}

/// Calico's severities by tracing's names.
fn level(severity: &str) -> &'static str {
    match severity.to_ascii_uppercase().as_str() {
        "TRACE" => "trace",
        "DEBUG" => "debug",
        "WARNING" | "WARN" => "warn",
        "ERROR" | "FATAL" | "CRITICAL" => "error",
        "NONE" => "off",
        _ => "info",
    }
}

/// A count that only grows but bears the name Calico gave it, without OpenMetrics' `_total`.
pub type Count = Gauge<u64, AtomicU64>;

/// Label of a BGP state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// State of RFC 4271 §8.2.2.
    pub state: SessionState,
}

/// FSM states as label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(missing_docs, reason = "the variants are RFC 4271's states")]
pub enum SessionState {
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

impl SessionState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Idle,
        Self::Connect,
        Self::Active,
        Self::OpenSent,
        Self::OpenConfirm,
        Self::Established,
    ];
}

/// Label of the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabel {
    host: String,
}

/// Label of a kind of object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// As in a manifest.
    pub kind: String,
}

/// Label of what found a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OriginLabel {
    /// Where it was found.
    pub origin: ProblemOrigin,
}

/// Where problems come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ProblemOrigin {
    /// Objects and settings.
    Configuration,
    /// What the kernel refuses.
    Kernel,
}

/// Every metric. Cheap to clone: clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Sessions by state.
    pub bgp_sessions: Family<StateLabel, Gauge>,
    /// Addresses that BGP should listen on and cannot.
    pub bgp_listen_failed: Gauge,
    /// Sessions that came up.
    pub bgp_sessions_up: Count,
    /// Sessions that went down.
    pub bgp_sessions_down: Count,
    /// Prefixes with a best route from a peer.
    pub bgp_routes: Gauge,
    /// Pods of this node.
    pub local_endpoints: Gauge,
    /// Nodes of the cluster.
    pub cluster_hosts: Gauge,
    /// Pods of the cluster.
    pub cluster_endpoints: Gauge,
    /// Changes taken into the calculation.
    pub updates_processed: Count,
    /// Rows given to the dataplane.
    pub output_events: Count,
    /// 0 waiting for the datastore, 1 reading it, 2 in sync.
    pub resync_state: Gauge,
    /// 1 while the agent starts, or waits to.
    pub starting: Gauge,
    /// 1 while the datastore does not hold what was read from it.
    pub datastore_unknown: Gauge,
    /// 1 while some of the datastore cannot be read.
    pub datastore_lost: Gauge,
    /// Objects that ask for what this version does not do, by kind.
    pub without_effect: Family<KindLabel, Gauge>,
    /// What `tortiectl node status` names as problems of configuration and kernel.
    pub problems: Family<OriginLabel, Gauge>,
    /// Reads of the whole kernel state.
    pub resyncs_started: Count,
    /// Routes in the kernel.
    pub routes: Gauge,
    /// Writes the kernel refused.
    pub dataplane_failures: Count,
    /// Seconds of one batch of kernel writes.
    pub apply_seconds: Histogram,
    /// Seconds from a CNI ADD's arrival to its answer.
    pub add_seconds: Histogram,
    /// CNI requests that failed.
    pub cni_failures: Count,
    /// What may be of no use to anybody, and waits for the grace.
    pub ipam_gc_candidates: Gauge,
    /// Addresses released because nobody used them.
    pub ipam_gc_reclamations: Count,
}

/// Bounds of a histogram of `count` buckets, each twice the one before.
fn doubling(first: f64, count: usize) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(first), |bound| Some(bound * 2.0)).take(count)
}

impl Metrics {
    /// Every metric at zero, and the registry that prints them.
    pub fn new(host: &str) -> (Self, Registry) {
        let metrics = Self {
            bgp_sessions: Family::default(),
            bgp_listen_failed: Gauge::default(),
            bgp_sessions_up: Count::default(),
            bgp_sessions_down: Count::default(),
            bgp_routes: Gauge::default(),
            local_endpoints: Gauge::default(),
            cluster_hosts: Gauge::default(),
            cluster_endpoints: Gauge::default(),
            updates_processed: Count::default(),
            output_events: Count::default(),
            resync_state: Gauge::default(),
            starting: Gauge::default(),
            datastore_unknown: Gauge::default(),
            datastore_lost: Gauge::default(),
            without_effect: Family::default(),
            problems: Family::default(),
            resyncs_started: Count::default(),
            routes: Gauge::default(),
            dataplane_failures: Count::default(),
            apply_seconds: Histogram::new(doubling(0.000_1, 16)),
            add_seconds: Histogram::new(doubling(0.000_25, 16)),
            cni_failures: Count::default(),
            ipam_gc_candidates: Gauge::default(),
            ipam_gc_reclamations: Count::default(),
        };
        for state in SessionState::ALL {
            metrics
                .bgp_sessions
                .get_or_create(&StateLabel { state })
                .set(0);
        }
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let felix_host = Family::<HostLabel, Gauge>::default();
        felix_host
            .get_or_create(&HostLabel {
                host: host.to_owned(),
            })
            .set(1);
        registry.register("felix_host", "This node", felix_host);
        (metrics, registry)
    }

    /// Counts the problems of one origin.
    pub fn count_problems(&self, origin: ProblemOrigin, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let label = OriginLabel { origin };
        self.problems.get_or_create(&label).set(count);
    }

    fn register(&self, registry: &mut Registry) {
        let m = self.clone();
        registry.register("bgp_sessions", "BGP sessions by state", m.bgp_sessions);
        registry.register(
            "tortie_ipam_gc_candidates",
            "Addresses, handles and blocks that may be of no use to anybody",
            m.ipam_gc_candidates,
        );
        registry.register(
            "tortie_ipam_gc_reclamations",
            "Addresses released because nobody used them",
            m.ipam_gc_reclamations,
        );
        registry.register(
            "bgp_listen_failed",
            "Addresses that BGP should listen on and cannot",
            m.bgp_listen_failed,
        );
        registry.register(
            "bgp_sessions_up",
            "BGP sessions established so far",
            m.bgp_sessions_up,
        );
        registry.register(
            "bgp_sessions_down",
            "BGP sessions lost so far",
            m.bgp_sessions_down,
        );
        registry.register(
            "bgp_routes",
            "Prefixes whose best route is a peer's",
            m.bgp_routes,
        );
        registry.register(
            "felix_active_local_endpoints",
            "Pods of this node",
            m.local_endpoints,
        );
        registry.register(
            "felix_cluster_num_hosts",
            "Nodes of the cluster",
            m.cluster_hosts,
        );
        registry.register(
            "felix_cluster_num_workload_endpoints",
            "Pods of the cluster",
            m.cluster_endpoints,
        );
        registry.register(
            "felix_calc_graph_updates_processed",
            "Changes taken into the calculation",
            m.updates_processed,
        );
        registry.register(
            "felix_calc_graph_output_events",
            "Rows given to the dataplane",
            m.output_events,
        );
        registry.register(
            "felix_resync_state",
            "0 waiting for the datastore, 1 reading it, 2 in sync",
            m.resync_state,
        );
        registry.register(
            "tortie_starting",
            "1 while the agent starts, or waits to",
            m.starting,
        );
        registry.register(
            "tortie_datastore_unknown",
            "1 while the datastore does not hold what was read from it",
            m.datastore_unknown,
        );
        registry.register(
            "tortie_datastore_lost",
            "1 while some of the datastore cannot be read",
            m.datastore_lost,
        );
        registry.register(
            "tortie_objects_without_effect",
            "Objects that ask for what this version does not do",
            m.without_effect,
        );
        registry.register(
            "tortie_problems",
            "Objects, settings and rows of the kernel that are not as they are asked for",
            m.problems,
        );
        registry.register(
            "felix_resyncs_started",
            "Reads of the whole kernel state",
            m.resyncs_started,
        );
        registry.register(
            "felix_route_table_num_routes",
            "Routes in the kernel",
            m.routes,
        );
        registry.register(
            "felix_int_dataplane_failures",
            "Writes that the kernel refused",
            m.dataplane_failures,
        );
        registry.register(
            "felix_int_dataplane_apply_time_seconds",
            "Time of one batch of kernel writes",
            m.apply_seconds,
        );
        registry.register(
            "cni_add_duration_seconds",
            "From a CNI ADD's arrival to its answer",
            m.add_seconds,
        );
        registry.register("cni_failures", "CNI requests that failed", m.cni_failures);
    }
}

/// The metrics in Prometheus' text form.
pub fn render(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).expect("writing into a String does not fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_bear_the_names_that_calicos_dashboards_ask_for() {
        let (metrics, registry) = Metrics::new("n1");
        metrics.local_endpoints.set(3);
        metrics.resyncs_started.inc();
        metrics.add_seconds.observe(0.001);
        let text = render(&registry);
        for line in [
            "felix_active_local_endpoints 3",
            "felix_resyncs_started 1",
            "felix_host{host=\"n1\"} 1",
            "bgp_sessions{state=\"Established\"} 0",
            "cni_add_duration_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
