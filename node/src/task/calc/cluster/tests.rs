use api::metadata::Resource;
use serde_json::json;

use super::*;

fn object(kind: Kind, name: &str, spec: serde_json::Value) -> (Key, State) {
    let key = Key::new(kind, name);
    let json = json!({"metadata": {"name": name}, "spec": spec});
    let object = Object::decode(&key, json.to_string().as_bytes()).unwrap();
    (key, State::Present(Box::new(object)))
}

fn ready(ready: bool) -> (Key, State) {
    let spec = json!({"datastoreReady": ready});
    object(Kind::ClusterInformation, "default", spec)
}

fn names(passed: &Passed) -> Vec<String> {
    passed.0.iter().map(|(key, _)| key.to_string()).collect()
}

#[test]
fn what_a_locked_datastore_says_waits_for_the_unlock() {
    let mut lock = Lock::default();
    let node = |name: &str| (Key::new(Kind::Node, name), State::Absent);
    let put = |lock: &mut Lock, (key, state)| names(&lock.object(key, state));
    assert_eq!(put(&mut lock, node("a")), ["Node(a)"]);
    assert!(lock.in_sync(Kind::Node));

    assert_eq!(
        put(&mut lock, ready(false)),
        ["ClusterInformation(default)"]
    );
    assert!(lock.is_locked());
    assert!(put(&mut lock, node("b")).is_empty());
    assert!(put(&mut lock, node("c")).is_empty());
    assert!(put(&mut lock, node("b")).is_empty());
    assert!(!lock.in_sync(Kind::Node), "else all would count as gone");
    let problem = lock.problem().unwrap();
    assert!(problem.reason.contains("2 changed objects"), "{problem:?}");
    // What this process writes itself is newer than what was held back.
    lock.written(&node("c").0);

    let (key, state) = ready(true);
    let passed = lock.object(key, state);
    assert_eq!(names(&passed), ["ClusterInformation(default)", "Node(b)"]);
    assert_eq!(passed.1, [Kind::Node]);
    assert_eq!(lock.problem(), None);
    assert_eq!(put(&mut lock, node("d")), ["Node(d)"]);
}

#[test]
fn a_deleted_cluster_information_unlocks_and_an_unreadable_one_does_not() {
    let mut lock = Lock::default();
    let (key, state) = ready(false);
    lock.object(key.clone(), state);
    lock.object(key.clone(), State::Invalid("unreadable".into()));
    assert!(lock.is_locked());
    lock.object(key, State::Absent);
    assert!(!lock.is_locked());
    let other = object(
        Kind::ClusterInformation,
        "other",
        json!({"datastoreReady": false}),
    );
    lock.object(other.0, other.1);
    assert!(!lock.is_locked());
}

fn started(environment: &[(&str, &str)], spec: serde_json::Value) -> Params {
    let environment = environment.iter().chain(&[("TORTIE_STORE", "unix:/x")]);
    let environment = environment.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let start: FelixConfiguration = Resource::new(
        &Key::new(Kind::FelixConfiguration, "default"),
        serde_json::from_value(spec).unwrap(),
    );
    let params = Params::from_env(environment).unwrap();
    params.with(&given_to(&[start], "n1", &BTreeMap::new()))
}

fn put(settings: &mut Settings, name: &str, spec: serde_json::Value) {
    let (key, state) = object(Kind::FelixConfiguration, name, spec);
    settings.object(&key, &state);
}

fn remove(settings: &mut Settings, name: &str) {
    settings.object(&Key::new(Kind::FelixConfiguration, name), &State::Absent);
}

#[test]
fn settings_that_wait_for_the_next_start_are_problems() {
    let params = started(
        &[("FELIX_DEVICEROUTEPROTOCOL", "5")],
        json!({"interfacePrefix": "cali,tap"}),
    );
    let (mut settings, in_force) = Settings::live("n1".to_owned(), Arc::new(params));
    let none = BTreeMap::new();
    assert!(settings.review(&none).is_none());
    assert_eq!(settings.problems(), [], "nothing is known yet");
    put(
        &mut settings,
        "default",
        json!({"interfacePrefix": "cali,tap", "deviceRouteProtocol": 7}),
    );
    settings.in_sync(Kind::FelixConfiguration);
    assert!(settings.review(&none).is_none());
    assert_eq!(settings.problems(), [], "the environment counts");

    put(&mut settings, "node.n1", json!({"interfacePrefix": "veth"}));
    assert!(settings.review(&none).is_none());
    let [problem] = settings.problems() else {
        panic!("{:?}", settings.problems());
    };
    assert_eq!(problem.subject, "FELIX_INTERFACEPREFIX");
    for part in [
        "cali,tap",
        "FelixConfiguration(default)",
        "veth",
        "FelixConfiguration(node.n1)",
    ] {
        assert!(problem.reason.contains(part), "{problem:?}");
    }
    assert_eq!(in_force.borrow().interface_prefixes, ["cali", "tap"]);
    remove(&mut settings, "node.n1");
    assert!(settings.review(&none).is_none());
    assert_eq!(settings.problems(), []);
}

#[test]
fn settings_that_may_change_come_into_force_at_once_and_go_again() {
    let params = started(&[("FELIX_VXLANVNI", "5")], json!({"vxlanPort": 4790}));
    let (mut settings, in_force) = Settings::live("n1".to_owned(), Arc::new(params));
    let none = BTreeMap::new();
    put(
        &mut settings,
        "default",
        json!({"vxlanPort": 4791, "vxlanVNI": 7}),
    );
    assert!(settings.review(&none).is_none(), "not all is known yet");
    settings.in_sync(Kind::FelixConfiguration);
    let now = settings.review(&none).expect("the port changed");
    assert_eq!((now.vxlan_port, now.vxlan_vni), (4791, 5));
    assert_eq!(in_force.borrow().vxlan_port, 4791);
    assert_eq!(settings.problems(), []);
    assert!(settings.review(&none).is_none(), "once is enough");

    // Another label, another object's word.
    let spec = json!({"nodeSelector": "rack == 'r1'", "vxlanPort": 4792});
    put(&mut settings, "racks", spec);
    assert!(settings.review(&none).is_none());
    let labels = BTreeMap::from([("rack".to_owned(), "r1".to_owned())]);
    let now = settings.review(&labels).expect("the object is ours now");
    assert_eq!(now.vxlan_port, 4792);
    let spec = json!({"nodeSelector": "has(rack)", "vxlanPort": 4793});
    put(&mut settings, "second", spec);
    assert!(settings.review(&labels).is_none(), "the first one counts");
    let [problem] = settings.problems() else {
        panic!("{:?}", settings.problems());
    };
    assert_eq!(problem.subject, "FelixConfiguration(second)");
    assert!(problem.reason.contains("(racks)"), "{problem:?}");
    remove(&mut settings, "second");
    remove(&mut settings, "racks");
    remove(&mut settings, "default");
    let now = settings.review(&labels).expect("back to the default");
    assert_eq!(now.vxlan_port, 4789);
    assert_eq!(in_force.borrow().vxlan_port, 4789);
}

#[test]
fn where_settings_are_fixed_every_change_is_a_problem() {
    let params = started(&[], json!({"vxlanPort": 4790}));
    let mut settings = Settings::fixed("n1".to_owned(), Arc::new(params));
    put(&mut settings, "default", json!({"vxlanPort": 4791}));
    settings.in_sync(Kind::FelixConfiguration);
    assert!(settings.review(&BTreeMap::new()).is_none());
    assert_eq!(settings.problems()[0].subject, "FELIX_VXLANPORT");
}
