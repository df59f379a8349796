//! A pod that speaks BGP to its own node.

use std::net::{IpAddr, Ipv4Addr};

use interop::bird::{self, BgpProtocol, Bird};
use interop::eventually;

use crate::place::{CLUSTER, Place};
use crate::with_bird;

/// The node's address on the pod's device.
const END: Ipv4Addr = Ipv4Addr::new(169, 254, 100, 1);
const POD: u32 = 65010;
/// What the pod may announce, and what it may not.
const TAKEN: &str = "172.16.7.0/24";
const REFUSED: &str = "10.99.0.0/16";

const OBJECTS: &str = "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {localWorkloadPeeringIPV4: 169.254.100.1}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: pods}
spec:
  importV4: [{action: Accept, cidr: 172.16.0.0/12, matchOperator: In}, {action: Reject}]
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {localWorkloadSelector: all(), asNumber: 65010, filters: [pods]}
";

#[test]
fn a_pod_peers_with_its_node_and_what_a_filter_lets_in_leads_to_its_device() {
    with_bird(
        "pods::a_pod_peers_with_its_node_and_what_a_filter_lets_in_leads_to_its_device",
        |programs| {
            let place = Place::start(programs, 1);
            let site = &place.sites()[0];
            let pod = place.pod(site);
            let IpAddr::V4(own) = pod.address else {
                unreachable!("clusters with BIRD speak IPv4");
            };
            place.apply(OBJECTS);
            let session = BgpProtocol {
                name: "node",
                local: (own, POD),
                neighbor: (END, CLUSTER),
                options: "multihop;",
            };
            let config = format!(
                "{}protocol static {{ ipv4; route {TAKEN} unreachable; route {REFUSED} unreachable; }}\n{session}",
                bird::head(own)
            );
            let bird = Bird::start("pod", &pod.namespace, &config).unwrap();
            place.wait_fib(site, TAKEN, Some(pod.address));
            let block = place.block(site);
            eventually("the pod hears of its node's block", || {
                let routes = bird.routes_from("node");
                let found = routes.iter().any(|route| route.prefix.to_string() == block);
                found.then_some(()).ok_or_else(|| format!("{routes:#?}"))
            });
            place.wait_fib(site, REFUSED, None);
            place.delete_peer();
            place.wait_fib(site, TAKEN, None);
        },
    );
}
