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

#[test]
fn settings_that_wait_for_the_next_start_are_problems() {
    let environment = [("TORTIE_STORE", "unix:/x"), ("FELIX_VXLANVNI", "5")];
    let environment = environment.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let start: FelixConfiguration = Resource::new(
        &Key::new(Kind::FelixConfiguration, "default"),
        serde_json::from_value(json!({"vxlanPort": 4790})).unwrap(),
    );
    let params = Params::from_env(environment).unwrap();
    let params = params.with(&given_to(&[start], "n1", &BTreeMap::new()));
    let mut settings = Settings::new("n1".to_owned(), Arc::new(params));
    let none = BTreeMap::new();
    assert_eq!(settings.problems(&none), [], "nothing is known yet");
    let put = |settings: &mut Settings, name, spec| {
        let (key, state) = object(Kind::FelixConfiguration, name, spec);
        settings.object(&key, &state);
    };
    put(
        &mut settings,
        "default",
        json!({"vxlanPort": 4790, "vxlanVNI": 7}),
    );
    settings.in_sync(Kind::FelixConfiguration);
    assert_eq!(settings.problems(&none), [], "the environment counts");

    put(&mut settings, "node.n1", json!({"vxlanPort": 4791}));
    let problems = settings.problems(&none);
    let [problem] = problems else {
        panic!("{problems:?}");
    };
    assert_eq!(problem.subject, "FELIX_VXLANPORT");
    for part in [
        "4790",
        "FelixConfiguration(default)",
        "4791",
        "FelixConfiguration(node.n1)",
    ] {
        assert!(problem.reason.contains(part), "{problem:?}");
    }
    settings.object(
        &Key::new(Kind::FelixConfiguration, "node.n1"),
        &State::Absent,
    );
    assert_eq!(settings.problems(&none), []);
}
