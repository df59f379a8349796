//! An agent with nothing but what a pod of the DaemonSet has: the service's address and the files of its account.

use std::fs;
use std::path::Path;
use std::time::Instant;

use lab::{Lab, Options};

use crate::{options, with_programs};

/// Where kubelet puts the account's files.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Whose account it is.
const USER: &str = "system:serviceaccount:kube-system:calico-node";

/// Writes the files of the account on each node as kubelet does: the token is another file each time, reached by a link.
fn write_account(lab: &mut Lab) {
    let token = lab.kube().server.token_of(USER).to_owned();
    let authority = fs::read(lab.kube().server.ca_file()).unwrap();
    for site in &lab.topology.sites {
        site.namespace.run(|| {
            let folder = Path::new(ACCOUNT);
            let fresh = folder.join("..fresh");
            fs::create_dir_all(folder).unwrap();
            for (name, content) in [
                ("ca.crt", &authority[..]),
                ("token", token.as_bytes()),
                ("namespace", b"kube-system"),
            ] {
                fs::write(&fresh, content).unwrap();
                fs::rename(&fresh, folder.join(name)).unwrap();
            }
        });
    }
}

#[test]
fn the_account_of_the_pod_is_enough_and_its_token_may_be_renewed() {
    let name = "in_cluster::the_account_of_the_pod_is_enough_and_its_token_may_be_renewed";
    with_programs(name, |programs| {
        let options = Options {
            nodes: 2,
            ..options()
        };
        let mut lab =
            Lab::without_agents(options, programs).unwrap_or_else(|error| panic!("{error}"));
        write_account(&mut lab);
        let at = lab.kube().server.socket_address();
        for (name, value) in [
            ("KUBECONFIG", String::new()),
            ("KUBERNETES_SERVICE_HOST", at.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT", at.port().to_string()),
        ] {
            lab.options.environment.push((name.to_owned(), value));
        }
        lab.start_agents().unwrap_or_else(|error| panic!("{error}"));
        lab.add_pod(0).unwrap_or_else(|error| panic!("{error}"));

        // The server takes none of the former tokens any more, and the agents learn of the new ones from the files alone.
        lab.kube().server.renew_tokens().unwrap();
        write_account(&mut lab);
        let deadline = Instant::now() + lab.options.patience;
        loop {
            match lab.add_pod(1).map(drop) {
                Ok(()) => break,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
        let pods = ["get", "pods", "--output=jsonpath={.items[*].status.podIP}"];
        let pods = lab.kube().server.kubectl(&pods);
        let pods = pods.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(pods.split_whitespace().count(), 2, "{pods}");
    });
}
