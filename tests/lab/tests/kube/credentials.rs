//! Tokens and certificates that have expired, are not valid yet, or are another authority's, on either side.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kube_lab::{Authority, Part, Subject, Validity};
use lab::{Lab, wait_until};
use serde_json::json;

use crate::outages::{DEAD, Fault, goes_unnoticed};
use crate::traffic::Watched;
use crate::{options, told, with_programs};

/// Longer than an agent keeps credentials with which it reached no server.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// The agents' account.
const NAMESPACE: &str = "kube-system";
const ACCOUNT: &str = "calico-node";

fn token_file() -> PathBuf {
    Path::new(lab::BASE).join("token")
}

/// What kubelet does when a pod's token is due: another file in its place.
fn write_token(lab: &mut Lab, validity: Validity) {
    let server = &lab.kube().server;
    let token = server.service_account_token(NAMESPACE, ACCOUNT, validity);
    let fresh = token_file().with_extension("new");
    std::fs::write(&fresh, token.unwrap()).unwrap();
    std::fs::rename(&fresh, token_file()).unwrap();
}

/// The certificate by which agents say who they are, instead of a token.
fn give_certificate(lab: &mut Lab, validity: Validity) {
    let kube = lab.kube();
    let account = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    let subject = Subject::user(&account, "system:serviceaccounts");
    let signed = kube.server.authority().sign("agents", &subject, validity);
    let signed = signed.unwrap();
    let user = json!({"client-certificate": signed.certificate, "client-key": signed.key});
    kube.give_agents(&kube.server.url(), &user).unwrap();
}

/// Who is connected has to say again who it is. What an agent has in memory is good: the server is away until agents, which ask every
/// second, have read their files again.
fn server_restarts(lab: &mut Lab) {
    lab.kube().server.kill(Part::ApiServer).unwrap();
    for node in 0..lab.topology.sites.len() {
        told::lost(lab, node, DEAD);
    }
    wait_until::<()>(Instant::now() + READ_AGAIN, || None);
    lab.kube().server.start_part(Part::ApiServer).unwrap();
}

#[test]
fn an_expired_or_early_token_keeps_new_pods_waiting_until_its_file_is_replaced() {
    let name =
        "credentials::an_expired_or_early_token_keeps_new_pods_waiting_until_its_file_is_replaced";
    with_programs(name, |programs| {
        let mut watched = Watched::start_with(options(), programs, 1, |lab| {
            write_token(lab, Validity::Now);
            let url = lab.kube().server.url();
            let user = json!({"tokenFile": token_file()});
            lab.kube().give_agents(&url, &user).unwrap();
        });
        watched.watch();
        let expired = Fault {
            name: "token-expired",
            words: &["token has expired"],
            ends_watches: true,
        };
        let early = Fault {
            name: "token-early",
            words: &["token is not valid yet"],
            ends_watches: true,
        };
        for (fault, validity) in [(expired, Validity::Expired), (early, Validity::NotYet)] {
            goes_unnoticed(
                &mut watched,
                &fault,
                |lab| {
                    write_token(lab, validity);
                    server_restarts(lab);
                },
                |lab| write_token(lab, Validity::Now),
            );
        }
        watched.ends_well();
    });
}

#[test]
fn an_agents_expired_or_early_certificate_keeps_new_pods_waiting_until_its_file_is_replaced() {
    let name = "credentials::an_agents_expired_or_early_certificate_keeps_new_pods_waiting_until_its_file_is_replaced";
    with_programs(name, |programs| {
        let mut watched = Watched::start_with(options(), programs, 1, |lab| {
            give_certificate(lab, Validity::Now);
        });
        watched.watch();
        for (name, validity) in [
            ("certificate-expired", Validity::Expired),
            ("certificate-early", Validity::NotYet),
        ] {
            let words = &["client certificate"];
            goes_unnoticed(
                &mut watched,
                &Fault {
                    name,
                    words,
                    ends_watches: true,
                },
                |lab| {
                    give_certificate(lab, validity);
                    server_restarts(lab);
                },
                |lab| give_certificate(lab, Validity::Now),
            );
        }
        watched.ends_well();
    });
}

#[test]
fn a_servers_certificate_that_cannot_be_trusted_keeps_new_pods_waiting_until_it_can() {
    let name = "credentials::a_servers_certificate_that_cannot_be_trusted_keeps_new_pods_waiting_until_it_can";
    with_programs(name, |programs| {
        let mut watched = Watched::start(options(), programs, 1);
        watched.watch();
        let renew =
            |validity| move |lab: &mut Lab| lab.kube().server.renew_certificate(validity).unwrap();
        let expired = Fault {
            name: "server-expired",
            words: &["certificate expired"],
            ends_watches: true,
        };
        let early = Fault {
            name: "server-early",
            words: &["certificate not valid yet"],
            ends_watches: true,
        };
        for (fault, validity) in [(expired, Validity::Expired), (early, Validity::NotYet)] {
            goes_unnoticed(&mut watched, &fault, renew(validity), renew(Validity::Now));
        }
        let other = Fault {
            name: "server-of-others",
            words: &["UnknownIssuer"],
            ends_watches: true,
        };
        goes_unnoticed(
            &mut watched,
            &other,
            |lab| {
                let server = &mut lab.kube().server;
                let authority = Authority::new(server.folder(), "another-ca").unwrap();
                server.take_certificate_of(&authority).unwrap();
            },
            renew(Validity::Now),
        );
        watched.ends_well();
    });
}
