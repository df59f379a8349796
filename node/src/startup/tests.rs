use std::sync::Mutex;

use datastore::delegate::{Delegate, Delegating};
use datastore::memory::MemoryStore;
use datastore::store::{Expect, KeyValue, Op};
use futures_util::future::BoxFuture;

use api::object::Object;
use datastore::scope::Scope;

use super::address::{Family, HostInterface};
use super::node_object::Addresses;
use super::*;

mod publish;

/// A host with these interfaces.
pub(super) struct Fake(pub(super) Vec<HostInterface>);

impl Host for Fake {
    fn interfaces(&self) -> &[HostInterface] {
        &self.0
    }

    fn source_towards(&self, _: &str, _: Family) -> Option<std::net::IpAddr> {
        None
    }
}

fn one_interface(address: &str) -> Fake {
    Fake(vec![HostInterface {
        name: "eth0".to_owned(),
        ifindex: 2,
        addresses: vec![address.parse().unwrap()],
    }])
}

/// A start over a store, without Kubernetes.
pub(super) fn over<'a>(
    params: &'a Params,
    host: &'a Fake,
    store: impl Store + 'static,
) -> Startup<'a> {
    Startup {
        waits: Waits::default(),
        params,
        host,
        store: Arc::new(store),
        kubernetes: None,
    }
}

/// What start-up makes of these variables and of a pool in the store with this text.
async fn pool_made(variables: &[(&str, &str)], stored: Option<&str>) -> Option<IpNet> {
    let host = Fake(vec![HostInterface {
        name: "eth0".to_owned(),
        ifindex: 2,
        addresses: vec!["10.10.1.11/24".parse().unwrap()],
    }]);
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let params = Params::from_env(variables.iter().map(owned)).unwrap();
    let store = Arc::new(MemoryStore::new());
    if let Some(text) = stored {
        let put = Op::Put {
            key: Key::new(Kind::IPPool, "mine"),
            value: text.to_owned().into(),
            expect: Expect::Absent,
        };
        store.write(put).await.unwrap();
    }
    let startup = Startup {
        waits: crate::startup::Waits::default(),
        params: &params,
        host: &host,
        store,
        kubernetes: None,
    };
    let cluster = startup.cluster_facts().await.unwrap();
    let pools = startup.missing_pools(&cluster).await.unwrap();
    let mut ranges = pools.iter().map(|pool| pool.spec.cidr);
    ranges.find(|range| matches!(range, IpNet::V4(_)))
}

/// Start-up of `name` on a host that has `address`, with IP=autodetect.
async fn started(
    store: &Arc<MemoryStore>,
    name: &str,
    address: &str,
) -> Result<Identity, StartupError> {
    started_with(&[("IP", "autodetect")], store, name, address).await
}

/// Start-up of `name` on a host that has `address`, with these variables.
async fn started_with(
    variables: &[(&str, &str)],
    store: &Arc<MemoryStore>,
    name: &str,
    address: &str,
) -> Result<Identity, StartupError> {
    let host = one_interface(address);
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let params = Params::from_env(variables.iter().map(owned)).unwrap();
    let startup = Startup {
        waits: crate::startup::Waits::default(),
        params: &params,
        host: &host,
        store: Arc::clone(store) as Arc<dyn Store>,
        kubernetes: None,
    };
    let wait = Duration::from_millis(1);
    startup.announce_waiting(name.to_owned(), wait).await
}

#[tokio::test]
async fn two_nodes_that_swapped_addresses_both_start() {
    let store = Arc::new(MemoryStore::new());
    started(&store, "n1", "10.0.0.1/24").await.unwrap();
    started(&store, "n2", "10.0.0.2/24").await.unwrap();
    let (one, two) = tokio::join!(
        started(&store, "n1", "10.0.0.2/24"),
        started(&store, "n2", "10.0.0.1/24")
    );
    assert_eq!(one.unwrap().ipv4, Some("10.0.0.2/24".parse().unwrap()));
    assert_eq!(two.unwrap().ipv4, Some("10.0.0.1/24".parse().unwrap()));
    for (name, address) in [("n1", "10.0.0.2/24"), ("n2", "10.0.0.1/24")] {
        let key = Key::new(Kind::Node, name);
        let stored = store.get(&key).await.unwrap().unwrap();
        let Object::Node(node) = Object::decode(&key, &stored.value).unwrap() else {
            unreachable!("a Node stands under its key")
        };
        assert_eq!(
            Addresses::of(&node).ipv4,
            Some(address.parse().unwrap()),
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_address_that_another_node_keeps_is_refused_and_a_stale_own_one_is_left() {
    let store = Arc::new(MemoryStore::new());
    started(&store, "n1", "10.0.0.1/24").await.unwrap();
    let error = started(&store, "n2", "10.0.0.1/24").await.unwrap_err();
    assert!(
        error.to_string().contains("node n1 has the address"),
        "{error}"
    );
    started(&store, "n3", "10.0.0.3/24").await.unwrap();
    started(&store, "n3", "10.0.0.1/24").await.unwrap_err();
    let key = Key::new(Kind::Node, "n3");
    let stored = store.get(&key).await.unwrap().unwrap();
    let node: serde_json::Value = serde_json::from_slice(&stored.value).unwrap();
    assert_eq!(node["spec"]["bgp"], serde_json::Value::Null, "{node}");
    started(&store, "n4", "10.0.0.3/24").await.unwrap();
}

#[tokio::test]
async fn a_name_that_no_node_object_can_have_is_refused_with_the_rule() {
    for name in ["Node1", "node_1", "-node", "node."] {
        let store = Arc::new(MemoryStore::new());
        let error = started(&store, name, "10.0.0.1/24").await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("lower-case"), "{text}");
        let listing = store.list(Kind::Node, &Scope::All).await.unwrap();
        assert_eq!(listing.items.len(), 0, "{name}");
    }
}

#[tokio::test]
async fn no_pool_is_made_beside_another_whether_they_overlap_or_it_cannot_be_read() {
    let asked = [("CALICO_IPV4POOL_CIDR", "192.168.0.0/16")];
    let expected = Some("192.168.0.0/16".parse().unwrap());
    assert_eq!(pool_made(&asked, None).await, expected);
    for stored in [
        r#"{"metadata":{"name":"mine"},"spec":{"cidr":"192.168.128.0/17"}}"#,
        r#"{"metadata":{"name":"mine"},"spec":{"cidr":"192.168.0.0/16"}}"#,
        r#"{"metadata":{"name":"mine"},"spec":{"cidr":"172.16.0.0/16"}}"#,
        r#"{"metadata":{"name":"mine"},"spec":{"cidr":"nonsense"}}"#,
        "no object at all",
    ] {
        assert_eq!(pool_made(&asked, Some(stored)).await, None, "{stored}");
    }
    let ipv6 = r#"{"metadata":{"name":"mine"},"spec":{"cidr":"fd00:10::/64"}}"#;
    assert_eq!(pool_made(&asked, Some(ipv6)).await, expected);
}

#[tokio::test]
async fn another_nodes_address_is_taken_only_where_nobody_checks() {
    let store = Arc::new(MemoryStore::new());
    started(&store, "n1", "10.0.0.1/24").await.unwrap();
    for (word, taken) in [("false", false), ("true", true)] {
        let variables = [("IP", "autodetect"), ("DISABLE_NODE_IP_CHECK", word)];
        let outcome = started_with(&variables, &store, "n2", "10.0.0.1/24").await;
        assert_eq!(outcome.is_ok(), taken, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_node_without_an_address_starts_with_no_backend_only() {
    for (backend, starts) in [("bird", false), ("vxlan", false), ("none", true)] {
        let store = Arc::new(MemoryStore::new());
        let variables = [("IP", "none"), ("CALICO_NETWORKING_BACKEND", backend)];
        let outcome = started_with(&variables, &store, "n1", "10.0.0.1/24").await;
        let said = outcome.as_ref().map_err(ToString::to_string);
        match said {
            Ok(_) => assert!(starts, "{backend}"),
            Err(said) => {
                assert!(!starts && said.contains("IP=\"none\""), "{said}");
                assert!(
                    said.contains(backend) && said.contains("autodetect"),
                    "{said}"
                );
            }
        }
    }
}

/// A store that gives these answers to the first questions.
struct Answers(MemoryStore, Mutex<Vec<StoreError>>);

impl Delegate for Answers {
    fn inner(&self) -> &dyn Store {
        &self.0
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        match self.1.lock().unwrap().pop() {
            Some(error) => Box::pin(std::future::ready(Err(error))),
            None => self.0.get(key),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_datastore_that_does_not_answer_is_waited_for() {
    let silent = || StoreError::Unavailable("no answer".into());
    let refused = || StoreError::Refused("may not read nodes (403)".into());
    let host = one_interface("10.10.1.11/24");
    for (wait, answers, waits) in [
        ("true", vec![refused(), silent(), silent()], Some(2)),
        ("true", vec![silent()], Some(1)),
        ("false", vec![refused()], Some(0)),
        ("false", vec![silent()], None),
    ] {
        let variables = [("WAIT_FOR_DATASTORE".to_owned(), wait.to_owned())];
        let params = Params::from_env(variables).unwrap();
        let store = Delegating(Answers(MemoryStore::new(), Mutex::new(answers.clone())));
        let startup = over(&params, &host, store);
        let started = tokio::time::Instant::now();
        let waited = startup.wait_for_store().await;
        assert_eq!(waited.is_ok(), waits.is_some(), "{wait} {answers:?}");
        let least = RETRY.0 * waits.unwrap_or(0);
        assert!(started.elapsed() >= least, "{wait} {answers:?}");
    }
}
