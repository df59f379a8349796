//! What is asked of the server beside the store's objects.

use api::without_effect::RESOURCES;
use serde_json::json;

use crate::setup::client;

#[test]
async fn objects_without_effect_are_counted_and_kinds_that_are_not_there_are_none() {
    let server = kube_lab::shared();
    let client = client(&server).await;
    let policy = |resource: &str| {
        let found = RESOURCES.iter().find(|found| found.kind == resource);
        found.unwrap_or_else(|| panic!("{resource} is looked for"))
    };
    let there = policy("NetworkPolicy");
    assert_eq!(client.count(there).await, Ok(0));
    let policies: Vec<String> = (0..3)
        .map(|number| {
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": format!("counted-{number}"), "namespace": "default"},
                "spec": {"podSelector": {}}})
            .to_string()
        })
        .collect();
    server.apply(&policies.join("\n---\n")).unwrap();
    assert_eq!(client.count(there).await, Ok(3));
    assert_eq!(client.count(policy("AdminNetworkPolicy")).await, Ok(0));
}

#[test]
async fn a_warning_of_a_node_is_an_event_that_kubectl_shows() {
    let server = kube_lab::shared();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "warned"}});
    server.apply(&node.to_string()).unwrap();
    let client = client(&server).await;
    let told = client.warn_of_node("warned", "WithoutEffect", "3 objects have no effect");
    told.await.unwrap();
    let described = server.kubectl(&["describe", "node", "warned"]).unwrap();
    let line = described
        .lines()
        .find(|line| line.contains("WithoutEffect"))
        .unwrap_or_else(|| panic!("no event in\n{described}"));
    assert!(
        line.contains("Warning") && line.contains("tortie-node"),
        "{line}"
    );
    assert!(line.contains("3 objects have no effect"), "{line}");
}
