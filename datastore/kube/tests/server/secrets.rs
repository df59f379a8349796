//! Secrets are followed by name.

use std::collections::BTreeMap;

use datastore_kube::Secret;
use futures_util::StreamExt;

use crate::setup;

fn present(key: &str, value: &str) -> Secret {
    Secret::Present(BTreeMap::from([(
        key.to_owned(),
        value.as_bytes().to_vec(),
    )]))
}

#[test]
async fn a_secret_is_followed_from_before_it_is_there_until_after_it_is_gone() {
    let server = setup::with_calicos_kinds();
    let client = setup::client(&server).await;
    let mut told = client.secret("kube-system", "bgp");
    assert_eq!(told.next().await, Some(Secret::Absent));
    let kubectl = |arguments: &[&str]| {
        let arguments = [arguments, &["--namespace=kube-system"]].concat();
        server.kubectl(&arguments).unwrap();
    };
    kubectl(&[
        "create",
        "secret",
        "generic",
        "other",
        "--from-literal=tor=no",
    ]);
    kubectl(&[
        "create",
        "secret",
        "generic",
        "bgp",
        "--from-literal=tor=first",
    ]);
    assert_eq!(told.next().await, Some(present("tor", "first")));
    let patch = "{\"stringData\":{\"tor\":\"second\"}}";
    kubectl(&["patch", "secret", "bgp", "--type=merge", "--patch", patch]);
    assert_eq!(told.next().await, Some(present("tor", "second")));
    let mut late = client.secret("kube-system", "bgp");
    assert_eq!(late.next().await, Some(present("tor", "second")));
    kubectl(&["delete", "secret", "bgp"]);
    assert_eq!(told.next().await, Some(Secret::Absent));
    assert_eq!(late.next().await, Some(Secret::Absent));
}

#[test]
async fn a_secret_that_may_not_be_read_says_so() {
    let server = setup::with_calicos_kinds();
    let file = server.folder().join("without-rights");
    let account = "system:serviceaccount:kube-system:calico-node";
    let kubeconfig = server.kubeconfig_with(&server.url(), server.token_of(account));
    std::fs::write(&file, kubeconfig).unwrap();
    let settings = datastore_kube::Settings {
        kubeconfig: Some(file),
        ..datastore_kube::Settings::default()
    };
    let client = datastore_kube::Client::new(settings).await.unwrap();
    match client.secret("kube-system", "bgp").next().await {
        Some(Secret::Unreadable(why)) => assert!(why.contains("forbidden"), "{why}"),
        other => panic!("{other:?}"),
    }
}
