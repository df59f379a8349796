use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::admin::Status;
use bgp::config::Config;
use bgp::types::{Asn, RouterId};

use super::*;
use crate::http::get_unix;
use crate::mailbox::mailbox;
use crate::task::admin::{Admin, admin_routes, metrics_routes};
use crate::task::calc::CalcView;
use crate::task::dataplane::DataplaneView;

/// Longer than anything here takes on a slow machine; nothing waits for its end.
const PATIENCE: Duration = Duration::from_secs(60);

fn listening_on(at: SocketAddr) -> Config {
    Config {
        asn: Asn(64512),
        router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
        listen_port: at.port(),
        listen_addresses: BTreeSet::from([at.ip()]),
        cluster_id: None,
        restart_time: Duration::from_secs(120),
        deferral_time: Duration::from_secs(120),
        multipath: 1,
        peers: BTreeMap::new(),
    }
}

/// What the agent answers on its admin socket, and its metrics.
async fn ask(socket: &std::path::Path, what: &'static str) -> String {
    let socket = socket.to_owned();
    let asking = tokio::task::spawn_blocking(move || get_unix(&socket, what, PATIENCE));
    asking.await.unwrap().unwrap().body
}

#[tokio::test]
async fn a_port_that_another_daemon_has_is_a_problem_a_verdict_and_a_metric_until_it_is_free() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = other.local_addr().unwrap();
    let cancel = CancellationToken::new();
    let health = Health::new(Instant::now(), SystemTime::now());
    let (metrics, registry) = Metrics::new("n1");
    let (down, down_out) = mailbox();
    let task = BgpTask {
        restarting: false,
        seed: 1,
        down: down_out,
        calc: Inbox::new().0,
        health: health.clone(),
        metrics,
        cancel: cancel.clone(),
    };
    let (asker, speaking) = task.start();
    let speaking = tokio::spawn(speaking);
    let mut failures = asker.listen_failures.clone();
    let admin = Admin {
        status: Status::default(),
        live: watch::channel(Arc::new(api::params::Params::from_env([]).unwrap())).1,
        health,
        bgp: Some(asker),
        calc: watch::channel(CalcView::default()).1,
        dataplane: watch::channel(DataplaneView::default()).1,
    };
    let folder = std::env::temp_dir().join(format!("tortie-listen-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("admin.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let routes = admin_routes(Arc::new(admin)).merge(metrics_routes(Arc::new(registry)));
    let serving = tokio::spawn(axum::serve(listener, routes).into_future());

    down.put(DownKey::Config, Command::Config(Box::new(listening_on(at))));
    let failed = failures.wait_for(|failures| failures.contains_key(&at));
    drop(
        tokio::time::timeout(PATIENCE, failed)
            .await
            .unwrap()
            .unwrap(),
    );
    let subject = format!("BGP listening on {at}");
    let problems = ask(&socket, "/problems").await;
    assert!(problems.contains(&subject), "{problems}");
    assert!(problems.contains("in use"), "{problems}");
    let ready = ask(&socket, "/health/bird-ready").await;
    assert!(ready.contains(&subject), "{ready}");
    let gauge = |n: u8| format!("\nbgp_listen_failed {n}\n");
    let shown = ask(&socket, "/metrics").await;
    assert!(shown.contains(&gauge(1)), "{shown}");

    drop(other);
    let over = failures.wait_for(BTreeMap::is_empty);
    drop(tokio::time::timeout(PATIENCE, over).await.unwrap().unwrap());
    assert_eq!(ask(&socket, "/problems").await, "[]");
    let ready = ask(&socket, "/health/bird-ready").await;
    assert!(!ready.contains(&subject), "{ready}");
    let shown = ask(&socket, "/metrics").await;
    assert!(shown.contains(&gauge(0)), "{shown}");

    serving.abort();
    cancel.cancel();
    speaking.await.unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}
