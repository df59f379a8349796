use std::sync::Arc;

use datastore::memory::MemoryStore;
use serde_json::json;

use super::super::tests::Fake;
use super::*;

fn params(variables: &[(&str, &str)]) -> Params {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let store = ("TORTIE_STORE", "unix:/x");
    Params::from_env(variables.iter().chain([&store]).map(owned)).unwrap()
}

fn object(kind: Kind, name: &str, spec: &serde_json::Value) -> Object {
    let json = json!({"metadata": {"name": name, "labels": {"rack": "r1"}}, "spec": spec});
    Object::decode(&Key::new(kind, name), json.to_string().as_bytes()).unwrap()
}

struct World {
    store: Arc<MemoryStore>,
    host: Fake,
    params: Params,
}

impl World {
    fn new(variables: &[(&str, &str)]) -> Self {
        Self {
            store: Arc::new(MemoryStore::new()),
            host: Fake(Vec::new()),
            params: params(variables),
        }
    }

    fn startup(&self) -> Startup<'_> {
        Startup {
            waits: crate::startup::Waits::default(),
            params: &self.params,
            host: &self.host,
            store: Arc::clone(&self.store) as _,
            kubernetes: None,
        }
    }

    async fn put(&self, kind: Kind, name: &str, spec: serde_json::Value) {
        let wanted = object(kind, name, &spec);
        objects::update(&*self.store, &Key::new(kind, name), |_| wanted.clone())
            .await
            .unwrap();
    }

    async fn information(&self) -> ClusterInformationSpec {
        let stored = datastore::store::Store::get(&*self.store, &key()).await;
        let stored = stored.unwrap().unwrap();
        match Object::decode(&key(), &stored.value).unwrap() {
            Object::ClusterInformation(info) => info.spec,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn cluster_information_is_made_once_and_says_which_version_runs() {
    let world = World::new(&[("CLUSTER_TYPE", "k8s,bgp")]);
    world
        .startup()
        .write_cluster_information(&[])
        .await
        .unwrap();
    let made = world.information().await;
    assert_eq!(made.cluster_guid.len(), 32, "{made:?}");
    assert_eq!(made.cluster_type, "k8s,bgp");
    assert_eq!(made.calico_version, env!("CARGO_PKG_VERSION"));
    assert_eq!(made.datastore_ready, Some(true));

    world
        .put(
            Kind::ClusterInformation,
            "default",
            json!({"clusterGUID": made.cluster_guid, "calicoVersion": "old", "clusterType": "x",
                "datastoreReady": false, "variant": "Calico"}),
        )
        .await;
    world
        .startup()
        .write_cluster_information(&[])
        .await
        .unwrap();
    let kept = world.information().await;
    assert_eq!(kept.cluster_guid, made.cluster_guid);
    assert_eq!(kept.cluster_type, "x,k8s,bgp");
    assert_eq!(kept.calico_version, env!("CARGO_PKG_VERSION"));
    assert_eq!(kept.datastore_ready, Some(false), "a lock is not opened");
    assert_eq!(kept.extra["variant"], "Calico");
}

#[tokio::test]
async fn a_locked_datastore_is_waited_for() {
    let world = World::new(&[]);
    world.startup().wait_for_unlock().await.unwrap();
    let lock = json!({"datastoreReady": false});
    world.put(Kind::ClusterInformation, "default", lock).await;
    let startup = world.startup();
    let mut waiting = std::pin::pin!(startup.wait_for_unlock());
    tokio::select! {
        biased;
        ended = &mut waiting => panic!("it did not wait: {ended:?}"),
        () = async { for _ in 0..100 { tokio::task::yield_now().await } } => {}
    }
    let unlock = json!({"datastoreReady": true});
    world.put(Kind::ClusterInformation, "default", unlock).await;
    waiting.await.unwrap();
}

#[tokio::test]
async fn settings_of_the_datastore_stand_below_the_environment() {
    let world = World::new(&[("FELIX_VXLANVNI", "5")]);
    world.put(Kind::Node, "n1", json!({})).await;
    for (name, spec) in [
        (
            "default",
            json!({"vxlanPort": 1, "vxlanVNI": 1, "ipipMTU": 1400}),
        ),
        (
            "rack",
            json!({"nodeSelector": "rack == 'r1'", "vxlanPort": 2}),
        ),
        // Not valid: it counts as absent, and the others stand.
        ("node.n1", json!({"vxlanPort": 70000, "ipipMTU": 1401})),
    ] {
        world.put(Kind::FelixConfiguration, name, spec).await;
    }
    let settings = world.startup().settings("n1").await.unwrap();
    assert_eq!(settings.vxlan_vni, 5);
    assert_eq!(settings.vxlan_port, 2);
    assert_eq!(settings.ipip_mtu_bytes, 1400);
}

/// FelixConfiguration `node.n1` after a start of n1.
async fn own_configuration(world: &World) -> Option<serde_json::Value> {
    world.startup().let_pods_reach_the_node("n1").await.unwrap();
    let key = Key::new(Kind::FelixConfiguration, "node.n1");
    let stored = datastore::store::Store::get(&*world.store, &key).await;
    let stored: serde_json::Value = serde_json::from_slice(&stored.unwrap()?.value).unwrap();
    Some(stored["spec"].clone())
}

#[tokio::test]
async fn outside_kubernetes_pods_reach_their_node_unless_a_configuration_says_otherwise() {
    let action = |action: &str| json!({"defaultEndpointToHostAction": action});
    let world = World::new(&[]);
    assert_eq!(own_configuration(&world).await, Some(action("Return")));
    // What the operator makes of it stays.
    world
        .put(Kind::FelixConfiguration, "node.n1", action("Drop"))
        .await;
    assert_eq!(own_configuration(&world).await, Some(action("Drop")));

    let world = World::new(&[]);
    world
        .put(Kind::FelixConfiguration, "default", action("Drop"))
        .await;
    assert_eq!(own_configuration(&world).await, None);
}
