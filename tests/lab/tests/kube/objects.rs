//! What kubelets, scheduler and users write.

use std::process::Stdio;

use lab::{Lab, Options};

use crate::{options, with_programs};

#[test]
fn nodes_are_registered_and_reach_the_api_server_from_both_racks() {
    let name = "objects::nodes_are_registered_and_reach_the_api_server_from_both_racks";
    with_programs(name, |programs| {
        let options = Options {
            nodes: 2,
            racks: 2,
            ..options()
        };
        let mut lab =
            Lab::without_agents(options, programs).unwrap_or_else(|error| panic!("{error}"));
        let kubectl = lab.kube().server.programs().path("kubectl").unwrap();
        for site in lab.topology.sites.clone() {
            let mut command = site.namespace.command(&kubectl);
            let path = "--output=jsonpath={.status.addresses[?(@.type=='InternalIP')].address}";
            command
                .env_clear()
                .envs(lab.options.environment_of(&site))
                .args([
                    "--cache-dir=/run/tortie-lab/kubectl",
                    "get",
                    "node",
                    &site.name,
                    path,
                ])
                .stdin(Stdio::null());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let address = String::from_utf8_lossy(&output.stdout);
            assert_eq!(address, site.address.to_string(), "{}", site.name);
        }
        let server = &lab.kube().server;
        let pools = server.kubectl(&["get", "ippools.crd.projectcalico.org", "--output=name"]);
        assert_eq!(
            pools.unwrap(),
            "",
            "the kind is served, and nobody made a pool"
        );
    });
}

#[test]
fn a_pods_object_is_placed_waits_for_its_kubelet_to_end_it_and_goes() {
    let name = "objects::a_pods_object_is_placed_waits_for_its_kubelet_to_end_it_and_goes";
    with_programs(name, |programs| {
        let options = Options {
            nodes: 1,
            ..options()
        };
        let mut lab =
            Lab::without_agents(options, programs).unwrap_or_else(|error| panic!("{error}"));
        let site = lab.topology.sites[0].clone();
        let kube = lab.kube();
        kube.create_pod(&site, "p0").unwrap();
        kube.pod_runs("p0", &["192.168.0.7".parse().unwrap()])
            .unwrap();
        let show = |path: &str| {
            let path = format!("--output=jsonpath={{{path}}}");
            kube.server.kubectl(&["get", "pod", "p0", &path])
        };
        assert_eq!(show(".spec.nodeName").unwrap(), "n1");
        assert_eq!(show(".status.podIP").unwrap(), "192.168.0.7");
        assert_eq!(show(".metadata.deletionTimestamp").unwrap(), "");
        kube.ask_to_end("p0").unwrap();
        assert_ne!(show(".metadata.deletionTimestamp").unwrap(), "");
        kube.forget_pod("p0").unwrap();
        let gone = show(".metadata.name").unwrap_err().to_string();
        assert!(gone.contains("NotFound"), "{gone}");
    });
}
