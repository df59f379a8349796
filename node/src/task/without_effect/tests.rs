use api::validate::validate;
use datastore::memory::MemoryStore;
use datastore::store::{Expect, Op};

use super::*;
use crate::kubernetes::fake::Fake;
use crate::telemetry::render;

struct World {
    kubernetes: Arc<Fake>,
    task: WithoutEffect,
    registry: prometheus_client::registry::Registry,
    event_at: Option<Instant>,
}

impl World {
    fn new() -> Self {
        let kubernetes = Arc::new(Fake::default());
        let (metrics, registry) = Metrics::new("n1");
        let started = std::time::SystemTime::now();
        Self {
            task: WithoutEffect {
                kubernetes: Some(kubernetes.clone()),
                node: "n1".to_owned(),
                store: Arc::new(MemoryStore::default()),
                health: Health::new(std::time::Instant::now(), started),
                metrics,
                cancel: CancellationToken::new(),
            },
            kubernetes,
            registry,
            event_at: None,
        }
    }

    fn count(&self, group_version: &str, plural: &str, count: u64) {
        let key = (group_version.to_owned(), plural.to_owned());
        self.kubernetes.content().counts.insert(key, count);
    }

    async fn felix(&self, spec: serde_json::Value) {
        let key = Key::new(Kind::FelixConfiguration, "default");
        let json = serde_json::json!({"metadata": {"name": "default"}, "spec": spec});
        let object = Object::decode(&key, json.to_string().as_bytes()).expect("it is read");
        assert_eq!(validate(&object), []);
        let op = Op::Put {
            key,
            value: object.encode().into(),
            expect: Expect::Absent,
        };
        self.task.store.write(op).await.expect("it is written");
    }

    /// One round; problems as `tortiectl node status` shows them.
    async fn round(&mut self) -> Vec<String> {
        if let Ok(found) = self.task.look().await {
            self.task.tell(found, &mut self.event_at).await;
        }
        let problems = self.task.health.without_effect();
        let shown = problems.iter();
        shown
            .map(|problem| format!("{}: {}", problem.subject, problem.reason))
            .collect()
    }
}

#[tokio::test]
async fn policies_and_settings_without_effect_are_a_problem_a_metric_and_one_event() {
    let mut world = World::new();
    assert!(world.round().await.is_empty());
    assert!(world.kubernetes.warnings().is_empty());

    world.count("networking.k8s.io/v1", "networkpolicies", 3);
    world.count("projectcalico.org/v3", "hostendpoints", 1);
    world
        .felix(serde_json::json!({"wireguardEnabled": true}))
        .await;
    let said = world.round().await;
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with("NetworkPolicy: 3 objects have no effect: "));
    assert!(said[1].starts_with("HostEndpoint: 1 object has no effect: "));
    assert!(said[2].starts_with("FelixConfiguration(default): spec.wireguardEnabled = true"));
    let text = render(&world.registry);
    for line in [
        "tortie_objects_without_effect{kind=\"NetworkPolicy\"} 3",
        "tortie_objects_without_effect{kind=\"HostEndpoint\"} 1",
        "tortie_objects_without_effect{kind=\"FelixConfiguration\"} 1",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    world.round().await;
    let events = world.kubernetes.warnings();
    assert_eq!(events.len(), 1, "the same is said once: {events:?}");
    assert!(events[0].starts_with("n1: WithoutEffect: NetworkPolicy: 3 objects"));

    world.count("networking.k8s.io/v1", "networkpolicies", 0);
    assert_eq!(world.round().await.len(), 2);
    let text = render(&world.registry);
    assert!(text.contains("tortie_objects_without_effect{kind=\"NetworkPolicy\"} 0"));
}

#[tokio::test]
async fn what_is_not_known_stays_as_it_was_last_known() {
    let mut world = World::new();
    world.count("networking.k8s.io/v1", "networkpolicies", 3);
    let known = world.round().await;
    world.kubernetes.fail(1);
    assert_eq!(world.round().await, known);
}

#[tokio::test]
async fn what_may_not_be_looked_at_is_said() {
    let mut world = World::new();
    let name = "globalnetworkpolicies".to_owned();
    world.kubernetes.content().forbidden.push(name);
    let said = world.round().await;
    let expected = "GlobalNetworkPolicy: whether there are any is not known: may not list";
    assert_eq!(said, [expected]);
}

#[tokio::test]
async fn one_object_is_counted_once_in_whichever_group_it_is_seen() {
    let mut world = World::new();
    world.count("crd.projectcalico.org/v1", "globalnetworkpolicies", 2);
    world.count("projectcalico.org/v3", "globalnetworkpolicies", 2);
    let said = world.round().await;
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("GlobalNetworkPolicy: 2 objects"),
        "{said:?}"
    );
}
