//! Services and EndpointSlices: Kubernetes' own objects, which are only read, and of which only what [`api::service`] names is
//! kept.

use api::key::{Key, Kind};
use api::service::ready_endpoints;
use datastore::store::KeyValue;
use serde_json::{Map, Value, json};

use crate::custom::version;
use crate::group::segment;

/// Path of all objects of a kind; `None` for other kinds.
pub(crate) const fn all(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Service => Some("/api/v1/services"),
        Kind::EndpointSlice => Some("/apis/discovery.k8s.io/v1/endpointslices"),
        _ => None,
    }
}

/// Path of one object.
pub(crate) fn one(key: &Key) -> String {
    let namespace = segment(&key.namespace);
    let (api, plural) = match key.kind {
        Kind::EndpointSlice => ("/apis/discovery.k8s.io/v1", "endpointslices"),
        _ => ("/api/v1", "services"),
    };
    format!(
        "{api}/namespaces/{namespace}/{plural}/{}",
        segment(&key.name)
    )
}

/// An object as the store's users have it.
pub(crate) fn read(kind: Kind, object: &[u8]) -> Result<KeyValue, String> {
    let object: Value = serde_json::from_slice(object).map_err(|error| error.to_string())?;
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let name = text("/metadata/name").ok_or("metadata has no name")?;
    let namespace = text("/metadata/namespace").ok_or("metadata has no namespace")?;
    let version = version(text("/metadata/resourceVersion"), text("/metadata/uid"))?;
    let mut value = json!({
        "apiVersion": api::metadata::api_version(),
        "kind": kind.name(),
        "metadata": {"name": name, "namespace": namespace},
    });
    if kind == Kind::EndpointSlice {
        value["spec"] = json!(ready_endpoints(&object));
    } else {
        let field = |name: &str| Some((name.to_owned(), object["spec"].get(name)?.clone()));
        let fields = ["type", "clusterIPs", "externalIPs", "externalTrafficPolicy"];
        let spec: Map<String, Value> = fields.into_iter().filter_map(field).collect();
        value["spec"] = spec.into();
        if let Some(ingress) = object.pointer("/status/loadBalancer/ingress") {
            value["status"] = json!({"loadBalancer": {"ingress": ingress}});
        }
    }
    Ok(KeyValue {
        key: Key::namespaced(kind, namespace, name),
        value: value.to_string().into(),
        version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_service_only_what_is_used_is_kept() {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "web", "namespace": "ns", "uid": "u", "resourceVersion": "7",
                "annotations": {"long": "text"}, "managedFields": [{}],
            },
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                "externalTrafficPolicy": "Local", "ports": [{"port": 80}], "selector": {"app": "web"},
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}, "conditions": []},
        });
        let read = read(Kind::Service, object.to_string().as_bytes()).unwrap();
        assert_eq!(read.key, Key::namespaced(Kind::Service, "ns", "web"));
        let value: Value = serde_json::from_slice(&read.value).unwrap();
        assert_eq!(value["metadata"], json!({"name": "web", "namespace": "ns"}));
        let spec = json!({
            "type": "LoadBalancer", "clusterIPs": ["10.96.0.9"], "externalTrafficPolicy": "Local",
        });
        assert_eq!(value["spec"], spec);
        assert_eq!(
            value["status"],
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}})
        );
    }

    #[test]
    fn a_path_has_the_namespace() {
        let slice = Key::namespaced(Kind::EndpointSlice, "ns", "web-1");
        let path = "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/web-1";
        assert_eq!(one(&slice), path);
        assert_eq!(
            one(&Key::namespaced(Kind::Service, "ns", "web")),
            "/api/v1/namespaces/ns/services/web"
        );
    }
}
