//! CalicoNodeStatuses: what a node answers, as kubectl shows it.

use std::time::Instant;

use lab::{Lab, Options};
use serde_json::{Value, json};

use crate::{options, with_programs};

const KIND: &str = "caliconodestatuses.crd.projectcalico.org";

fn ask(lab: &mut Lab, name: &str, spec: &Value) {
    let object = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "CalicoNodeStatus", "metadata": {"name": name}, "spec": spec,
    });
    lab.kube()
        .server
        .apply(&object.to_string())
        .unwrap_or_else(|error| panic!("{error}"));
}

fn object(lab: &mut Lab, name: &str) -> Value {
    let shown = lab
        .kube()
        .server
        .kubectl(&["get", KIND, name, "--output=json"]);
    let shown = shown.unwrap_or_else(|error| panic!("{error}"));
    serde_json::from_str(&shown).unwrap()
}

/// The status of an object, once it is as wanted.
fn until(lab: &mut Lab, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + lab.options.patience;
    loop {
        let status = object(lab, name)["status"].take();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{name}: {status:#}");
        std::thread::yield_now();
    }
}

#[test]
fn a_node_says_in_the_object_what_its_speaker_its_sessions_and_its_routes_are() {
    let name =
        "node_status::a_node_says_in_the_object_what_its_speaker_its_sessions_and_its_routes_are";
    with_programs(name, |programs| {
        let options = Options {
            nodes: 2,
            ..options()
        };
        let mut lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
        lab.add_pod(1).unwrap_or_else(|error| panic!("{error}"));
        let addresses: Vec<String> = (lab.topology.sites.iter())
            .map(|site| site.address.to_string())
            .collect();
        let all = json!(["Agent", "BGP", "Routes"]);
        ask(&mut lab, "other", &json!({"node": "n9", "classes": all}));
        ask(
            &mut lab,
            "once",
            &json!({"node": "n1", "classes": ["BGP"], "updatePeriodSeconds": 0}),
        );
        let often = json!({"node": "n1", "classes": all, "updatePeriodSeconds": 1});
        ask(&mut lab, "often", &often);

        let block = lab.blocks()[0].0.to_string();
        let leads_there = |status: &Value| {
            let routes = status["routes"]["routesV4"].as_array();
            let route = |route: &&Value| route["destination"] == block.as_str();
            routes.and_then(|routes| routes.iter().find(route)).cloned()
        };
        let is_complete = |status: &Value| {
            leads_there(status).is_some_and(|route| route["type"] == "FIB")
                && status["agent"]["birdV4"]["state"] == "Ready"
        };
        let status = until(&mut lab, "often", is_complete);
        let peer = &status["bgp"]["peersV4"][0];
        assert_eq!(peer["peerIP"], addresses[1].as_str(), "{status:#}");
        assert_eq!(peer["type"], "NodeMesh");
        assert_eq!(peer["state"], "Established");
        assert_eq!(status["bgp"]["numberEstablishedV4"], 1);
        assert_eq!(status["agent"]["birdV4"]["routerID"], addresses[0].as_str());
        for field in ["version", "lastBootTime", "lastReconfigurationTime"] {
            let text = status["agent"]["birdV4"][field].as_str();
            assert!(text.is_some_and(|text| !text.is_empty()), "{field}");
        }
        let route = leads_there(&status).unwrap();
        assert_eq!(route["gateway"], addresses[1].as_str(), "{route:#}");
        let from = json!({"sourceType": "NodeMesh", "peerIP": addresses[1]});
        assert_eq!(route["learnedFrom"], from);
        // What was asked is as it was, and the columns are Calico's.
        assert_eq!(object(&mut lab, "often")["spec"], often);
        let table = lab.kube().server.kubectl(&["get", KIND, "often"]);
        let table = table.unwrap_or_else(|error| panic!("{error}"));
        let heading: Vec<&str> = table.split_whitespace().take(3).collect();
        assert_eq!(heading, ["NAME", "NODE", "CLASSES"]);
        let once = until(&mut lab, "once", |status| {
            status["bgp"]["peersV4"].is_array()
        });
        assert!(once.get("routes").is_none(), "{once:#}");

        lab.kill_agent(1).unwrap();
        let down = |status: &Value| status["bgp"]["numberNotEstablishedV4"] == 1;
        let status = until(&mut lab, "often", down);
        assert_eq!(status["bgp"]["numberEstablishedV4"], 0, "{status:#}");
        assert_eq!(object(&mut lab, "once")["status"], once, "answered once");
        assert!(object(&mut lab, "other").get("status").is_none());
    });
}
