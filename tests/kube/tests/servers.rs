//! A server that starts, that meets every fault tests bring to it, and that leaves nothing.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::time::{Duration, Instant};

use kube_lab::{ApiServer, Controllers, Error, Options, Part, Proxy, Validity, Weather};

fn main() -> std::process::ExitCode {
    kube_lab::run()
}

const ACCOUNT: &str = "system:serviceaccount:kube-system:calico-node";

/// Bypasses [`kube_lab::shared`]: the test does what others would notice.
fn own() -> ApiServer {
    let _ = kube_lab::required(&[]);
    ApiServer::start(Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: b}}\n")
}

/// Names of the config maps that tests made.
fn names(server: &ApiServer) -> Vec<String> {
    let listed = server
        .kubectl(&["get", "configmaps", "--output=name"])
        .unwrap();
    let names = listed
        .lines()
        .filter_map(|line| line.strip_prefix("configmap/"));
    names
        .filter(|name| !name.starts_with("kube-"))
        .map(str::to_owned)
        .collect()
}

/// What kubectl says to somebody else, by another way.
fn as_other(
    server: &ApiServer,
    url: &str,
    token: &str,
    arguments: &[&str],
) -> Result<String, Error> {
    let file = server.folder().join(format!("other-{}", arguments.len()));
    std::fs::write(&file, server.kubeconfig_with(url, token)).unwrap();
    let option = format!("--kubeconfig={}", file.display());
    server.kubectl(&[&[option.as_str()], arguments].concat())
}

#[test]
fn it_takes_objects_refuses_unknown_fields_and_counts_requests() {
    let server = kube_lab::shared();
    server.apply(&config_map("first")).unwrap();
    assert_eq!(names(&server), ["first"]);
    let error = server.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\nnonsense: 1\n");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("nonsense"), "{error}");
    let version = server.kubectl(&["version", "--output=json"]).unwrap();
    assert!(version.contains("v1.35."), "{version}");
    let requests = server.requests().unwrap();
    let applied = requests.get(&("APPLY".to_owned(), "configmaps".to_owned()));
    assert!(applied.is_some_and(|count| *count >= 1), "{requests:?}");
}

#[test]
fn a_service_account_may_what_it_is_granted_by_its_token_and_by_one_made_for_it() {
    let server = kube_lab::shared();
    let url = server.url();
    let list = ["get", "nodes", "--output=name"];
    let token = server.token_of(ACCOUNT).to_owned();
    let error = as_other(&server, &url, &token, &list)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("Forbidden") && error.contains(ACCOUNT),
        "{error}"
    );
    let manifests = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: calico-node, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: nodes}
rules: [{apiGroups: [''], resources: [nodes], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nodes}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nodes}
subjects: [{kind: ServiceAccount, name: calico-node, namespace: kube-system}]
";
    server.apply(manifests).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The authorizer hears of the role a moment later.
    while let Err(error) = as_other(&server, &url, &token, &list) {
        assert!(Instant::now() < deadline, "{error}");
    }
    let made = server.kubectl(&["create", "token", "calico-node", "--namespace=kube-system"]);
    as_other(&server, &url, made.unwrap().trim(), &list).unwrap();
    as_other(&server, &url, "wrong", &list).unwrap_err();
}

#[test]
fn data_outlives_a_killed_part_and_history_goes_by_compaction() {
    let mut server = own();
    server.apply(&config_map("first")).unwrap();
    for part in [Part::Etcd, Part::ApiServer] {
        server.kill(part).unwrap();
        let write = ["create", "configmap", "lost", "--request-timeout=2s"];
        server.kubectl(&write).unwrap_err();
        server.start_part(part).unwrap();
        if part == Part::Etcd {
            server.restart(Part::ApiServer).unwrap();
        }
        assert_eq!(names(&server), ["first"]);
    }
    let early = server.revision().unwrap();
    server.apply(&config_map("second")).unwrap();
    server.compact().unwrap();
    let since = format!("/api/v1/configmaps?watch=true&timeoutSeconds=1&resourceVersion={early}");
    let answer = server.kubectl(&["get", "--raw", &since]);
    let text = answer.unwrap_or_else(|error| error.to_string());
    assert!(
        text.contains("too old resource version") || text.contains("Expired"),
        "{text}"
    );
}

#[test]
fn an_older_copy_and_an_emptied_etcd_show_in_objects_and_in_the_clusters_uid() {
    let mut server = own();
    let identity = |server: &ApiServer| {
        let uid = [
            "get",
            "namespace",
            "kube-system",
            "--output=jsonpath={.metadata.uid}",
        ];
        server.kubectl(&uid).unwrap()
    };
    let before = identity(&server);
    server.apply(&config_map("first")).unwrap();
    let copy = server.copy_data().unwrap();
    server.apply(&config_map("second")).unwrap();
    server.restore(&copy).unwrap();
    assert_eq!(names(&server), ["first"]);
    assert_eq!(identity(&server), before);
    server.empty().unwrap();
    assert_eq!(names(&server), [""; 0]);
    assert_ne!(identity(&server), before);
}

#[test]
fn tokens_and_certificates_that_no_longer_count_are_refused_and_a_proxy_stands_between() {
    let mut server = own();
    let review = [
        "auth",
        "whoami",
        "--output=jsonpath={.status.userInfo.username}",
    ];
    let token = server.token_of(ACCOUNT).to_owned();
    let proxy = Proxy::start(server.socket_address()).unwrap();
    let url = proxy.url();
    assert_eq!(as_other(&server, &url, &token, &review).unwrap(), ACCOUNT);
    proxy.set(Weather::Cut);
    as_other(&server, &url, &token, &review).unwrap_err();
    proxy.set(Weather::Fair);
    server.renew_tokens().unwrap();
    let error = as_other(&server, &url, &token, &review)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("Unauthorized") || error.contains("logged in"),
        "{error}"
    );
    let token = server.token_of(ACCOUNT).to_owned();
    assert_eq!(as_other(&server, &url, &token, &review).unwrap(), ACCOUNT);
    for (validity, words) in [
        (Validity::Expired, "expired"),
        (Validity::NotYet, "not yet valid"),
    ] {
        server.renew_certificate(validity).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let said = server.kubectl(&review).unwrap_err().to_string();
            if said.contains(words) {
                break;
            }
            server.part(Part::ApiServer).check().unwrap();
            assert!(Instant::now() < deadline, "{said}");
        }
    }
    server.renew_certificate(Validity::Now).unwrap();
    server.kubectl(&review).unwrap();
}

#[test]
fn nothing_is_left_of_a_dropped_server() {
    let mut server = own();
    let folder = server.folder().to_owned();
    let processes = [Part::Etcd, Part::ApiServer].map(|part| server.part(part).id());
    assert!(folder.exists());
    drop(server);
    assert!(!folder.exists());
    for process in processes {
        let path = format!("/proc/{process}/comm");
        let name = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(!["etcd", "kube-apiserver"].contains(&name.trim()), "{path}");
    }
}

#[test]
fn controllers_make_accounts_and_place_pods() {
    let _ = kube_lab::required(&["kube-controller-manager", "kube-scheduler"]);
    let options = Options {
        service_accounts: true,
        ..Options::default()
    };
    let server = ApiServer::start(options).unwrap_or_else(|error| panic!("{error}"));
    let mut controllers =
        Controllers::start(&server, &[]).unwrap_or_else(|error| panic!("{error}"));
    // A node that nobody runs: the scheduler asks no more than that it says it is fine.
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n1}}";
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: main, image: none}], \
               tolerations: [{operator: Exists}]}}";
    server.apply(node).unwrap();
    server.apply(pod).unwrap();
    let capacity =
        "--patch={\"status\":{\"allocatable\":{\"pods\":\"10\"},\"capacity\":{\"pods\":\"10\"}}}";
    let patch = [
        "patch",
        "node",
        "n1",
        "--subresource=status",
        "--type=merge",
        capacity,
    ];
    server.kubectl(&patch).unwrap();
    let placed = [
        "get",
        "pod",
        "p",
        "--output=jsonpath={.spec.nodeName} {.spec.serviceAccountName}",
    ];
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.kubectl(&placed).unwrap() != "n1 default" {
        controllers.check().unwrap();
        assert!(
            Instant::now() < deadline,
            "{}",
            server.kubectl(&["describe", "pod", "p"]).unwrap()
        );
    }
}
