//! What nobody needs any more goes from a real API server after the grace; the clock is the test's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::ipam::AllocationAttribute;
use api::key::Kind;
use api::pool::AllowedUse;
use datastore::delegate::{Delegate, Delegating};
use datastore::scope::Scope;
use datastore::store::{Listing, Store, StoreError};
use futures_util::future::BoxFuture;
use ipam::collect::looks::{Done, Looks};
use ipam::{AssignRequest, Ipam, Timestamp, Wanted};
use kube_lab::ApiServer;
use serde_json::json;

const GRACE: Duration = Duration::from_secs(900);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(Duration::from_secs(1_700_000_000 + seconds))
}

/// A server that does not list Pods.
struct WithoutPods(Arc<dyn Store>);

impl Delegate for WithoutPods {
    fn inner(&self) -> &dyn Store {
        &*self.0
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        match kind {
            Kind::WorkloadEndpoint => Box::pin(async {
                let text = "pods are not listed";
                Err(StoreError::Unavailable(text.into()))
            }),
            _ => self.0.list(kind, scope),
        }
    }
}

async fn give(ipam: &Ipam, pod: &str) -> String {
    let part = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let attributes = [
        ("pod", pod),
        ("namespace", "default"),
        ("node", ipam.node()),
    ]
    .map(part);
    let request = AssignRequest {
        node_labels: BTreeMap::new(),
        namespace_labels: None,
        handle_id: format!("net.{pod}"),
        attributes: attributes.into(),
        allowed_use: AllowedUse::Workload,
        wanted: Wanted::one_ipv4(),
        now: at(0),
    };
    let given = ipam.assign(request).await.unwrap().outcome;
    given.addresses[0].addr().to_string()
}

/// Both looks of n1's agent; false where a question was not answered.
async fn look(looks: &mut Looks, seconds: u64) -> bool {
    let devices = async { Ok::<_, Infallible>(|_: &AllocationAttribute| false) };
    let mut done = Done::default();
    let own = looks.at_own(devices, at(seconds), &mut done).await;
    assert!(looks.is_elected(at(seconds)).await.unwrap());
    let cluster = looks.at_cluster(at(seconds), &mut done).await;
    own.is_ok() && cluster.is_ok()
}

fn names(server: &ApiServer, plural: &str) -> Vec<String> {
    let resource = format!("{plural}.crd.projectcalico.org");
    let output = "--output=jsonpath={.items[*].metadata.name}";
    let listed = server.kubectl(&["get", &resource, output]).unwrap();
    listed.split_whitespace().map(str::to_owned).collect()
}

/// Of a server with a pool and no addresses.
pub(crate) async fn goes_after_the_grace(server: &ApiServer, store: &Arc<dyn Store>) {
    let kinds = ["ipamhandles", "ipamblocks", "blockaffinities"];
    for plural in kinds {
        let resource = format!("{plural}.crd.projectcalico.org");
        server.kubectl(&["delete", "--all", &resource]).unwrap();
    }
    let api_version = "crd.projectcalico.org/v1";
    let objects = [
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}),
        json!({"apiVersion": api_version, "kind": "ClusterInformation", "metadata": {"name": "default"},
            "spec": {"clusterGUID": "c", "datastoreReady": true}}),
        json!({"apiVersion": api_version, "kind": "IPAMHandle", "metadata": {"name": "net.orphan"},
            "spec": {"handleID": "net.Orphan", "block": {"10.65.0.0/26": 1}}}),
        json!({"apiVersion": api_version, "kind": "BlockAffinity", "metadata": {"name": "n3-10-65-9-0-26"},
            "spec": {"node": "n3", "state": "pending", "cidr": "10.65.9.0/26", "deleted": "false"}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "used", "namespace": "default"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]}}),
    ];
    let objects = objects.map(|object| object.to_string());
    server.apply(&objects.join("\n---\n")).unwrap();
    let agent = Arc::new(Ipam::new(Arc::clone(store), "n1"));
    let gone = Ipam::new(Arc::clone(store), "n2");
    let used = give(&agent, "used").await;
    let address = format!("cni.projectcalico.org/podIPs={used}/32");
    server
        .kubectl(&["annotate", "pod", "used", &address])
        .unwrap();
    give(&agent, "leaked").await;
    give(&gone, "left").await;
    give(&gone, "moved").await;

    let mut looks = Looks::new(agent, GRACE);
    for seconds in [0, 450, 899] {
        assert!(look(&mut looks, seconds).await);
        assert_eq!(names(server, "ipamhandles").len(), 5, "before the grace");
    }
    // Where Pods are not listed, nothing is known of who uses what.
    let blind: Arc<dyn Store> = Arc::new(Delegating(WithoutPods(Arc::clone(store))));
    let blind = Arc::new(Ipam::new(blind, "n1"));
    give(&blind, "leaked").await;
    let mut without = Looks::new(blind, GRACE);
    for seconds in [0, 900, 1_800] {
        assert!(!look(&mut without, seconds).await);
    }
    assert_eq!(names(server, "ipamhandles").len(), 5, "without evidence");

    assert!(look(&mut looks, 900).await);
    assert_eq!(names(server, "ipamhandles"), ["net.used"]);
    assert!(look(&mut looks, 1_800).await);
    assert!(look(&mut looks, 2_700).await);
    let of_n1 = |name: &String| name.starts_with("n1-");
    assert!(names(server, "blockaffinities").iter().all(of_n1));
    assert_eq!(names(server, "ipamblocks").len(), 1);
}
