//! What an agent says of its datastore: to operators, to probes, to Prometheus. The words only; what is so, other checks read elsewhere.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use lab::{Lab, wait_until};

use crate::traffic::ctl;

/// FELIX_HEALTHPORT's and FELIX_PROMETHEUSMETRICSPORT's defaults.
const HEALTH: u16 = 9099;
const METRICS: u16 = 9091;

/// The answer to a GET on a node's loopback: its status line, and all of it.
fn get(lab: &Lab, node: usize, port: u16, path: &str) -> (u16, String) {
    lab.topology.sites[node].namespace.run(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
        (status.unwrap_or_default(), text)
    })
}

/// What is wrong with what is told: nothing in the end.
fn told(
    lab: &Lab,
    node: usize,
    status_has: impl Fn(&str) -> bool,
    metrics: [(&str, u8); 3],
    readiness: u16,
) {
    let mut last = String::new();
    let deadline = Instant::now() + lab.options.patience;
    let done = wait_until(deadline, || {
        let status = ctl(lab, node, &["node", "status"]);
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        let (live, _) = get(lab, node, HEALTH, "/liveness");
        assert_eq!(live, 200, "no datastore makes kubelet kill an agent");
        let ready = get(lab, node, HEALTH, "/readiness");
        let (_, counted) = get(lab, node, METRICS, "/metrics");
        let lines = metrics.map(|(name, value)| format!("{name} {value}"));
        let agree = status_has(&status)
            && ready.0 == readiness
            && lines
                .iter()
                .all(|wanted| counted.lines().any(|line| line == wanted));
        last = format!("{status}\n{ready:?}\n{counted}");
        agree.then_some(())
    });
    let site = format!("n{}", node + 1);
    assert!(done.is_some(), "{site}: {last}\n{}", lab::log_end(&site));
}

const LOST: &str = "tortie_datastore_lost";
const UNKNOWN: &str = "tortie_datastore_unknown";
const RESYNC: &str = "felix_resync_state";
/// How a problem of the datastore begins in the status.
const PROBLEM: &str = "Problem: datastore: ";

/// The datastore cannot be read, for a reason with one of these words. That takes no node out.
pub(crate) fn lost(lab: &Lab, node: usize, words: &[&str]) {
    let says = |status: &str| {
        let mut problems = status.lines().filter(|line| line.starts_with(PROBLEM));
        problems.any(|line| {
            line.contains(" cannot be read since ") && words.iter().any(|word| line.contains(word))
        })
    };
    told(lab, node, says, [(LOST, 1), (UNKNOWN, 0), (RESYNC, 0)], 200);
}

/// The datastore is another one, or an older copy: the node is not ready, and it is said what to do.
pub(crate) fn unknown(lab: &Lab, node: usize) {
    let says = |status: &str| {
        let mut problems = status.lines().filter(|line| line.starts_with(PROBLEM));
        problems.any(|line| line.contains("tortiectl datastore accept"))
    };
    told(lab, node, says, [(LOST, 0), (UNKNOWN, 1), (RESYNC, 2)], 503);
}

/// It is read, and the one that it was.
pub(crate) fn all_well(lab: &Lab, node: usize) {
    let says = |status: &str| !status.contains(PROBLEM);
    told(lab, node, says, [(LOST, 0), (UNKNOWN, 0), (RESYNC, 2)], 200);
}
