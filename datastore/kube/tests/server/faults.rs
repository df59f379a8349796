//! What befalls servers, connections and credentials.

use std::time::{Duration, Instant};

use api::key::{Key, Kind};
use datastore::scope::Scope;
use datastore::store::{Change, Expect, Op, Store, StoreError, WatchEvent};
use datastore_kube::{Client, KubeStore, Settings};
use futures_util::StreamExt;
use kube_lab::{ApiServer, Authority, Options, Part, Proxy, Subject, User, Validity, Weather};
use serde_json::json;

use crate::setup::{self, Events};

/// How long anything may take to be noticed, and more.
const PATIENCE: Duration = Duration::from_secs(120);

fn own() -> ApiServer {
    own_with(&[])
}

/// One that is started with these flags besides.
fn own_with(flags: &[&str]) -> ApiServer {
    let _ = kube_lab::required(&[]);
    let options = Options {
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        users: vec![User {
            name: "agent".to_owned(),
            groups: vec!["system:masters".to_owned()],
        }],
        ..Options::default()
    };
    let server = ApiServer::start(options).unwrap_or_else(|error| panic!("{error}"));
    setup::define_kinds(&server);
    server
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

async fn put(store: &KubeStore, name: &str) -> Result<Option<Change>, StoreError> {
    let op = Op::Put {
        key: Key::new(Kind::IPPool, name),
        value: json!({"spec": {"cidr": "10.0.0.0/16"}}).to_string().into(),
        expect: Expect::Absent,
    };
    store.write(op).await
}

/// The next change's name, or the error that ended the watch.
async fn next(events: &mut Events) -> Result<String, StoreError> {
    loop {
        match events.next().await.expect("an error comes before the end") {
            Ok(WatchEvent::Change(change, _)) => return Ok(change.key().name.clone()),
            Ok(WatchEvent::Bookmark(_)) => {}
            Err(error) => return Err(error),
        }
    }
}

#[test]
async fn a_server_that_is_replaced_goes_on_one_that_was_emptied_or_is_older_has_diverged() {
    let mut server = own();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    let identity = store.identity().await.unwrap();
    put(&store, "a").await.unwrap();
    let start = store.list(Kind::IPPool, &Scope::All).await.unwrap().cursor;
    let copy = server.copy_data().unwrap();
    in_time("a write after etcd was away", async {
        while !matches!(
            put(&store, "b").await,
            Ok(_) | Err(StoreError::Conflict { .. })
        ) {}
    })
    .await;
    let mut events = store.watch(Kind::IPPool, Scope::All, start.clone());
    assert_eq!(
        in_time("a watch", next(&mut events)).await,
        Ok("b".to_owned())
    );

    // Another process behind the same address.
    server.restart(Part::ApiServer).unwrap();
    let ended = in_time("the watch ends", next(&mut events)).await;
    assert!(
        matches!(ended, Err(StoreError::Unavailable(_))),
        "{ended:?}"
    );
    in_time("a write to the new process", async {
        while !matches!(
            put(&store, "c").await,
            Ok(_) | Err(StoreError::Conflict { .. })
        ) {}
    })
    .await;
    // It remembers no changes from before its start: what it says of them is Gone, and of later ones all.
    let late = store.list(Kind::IPPool, &Scope::All).await.unwrap().cursor;
    let mut events = store.watch(Kind::IPPool, Scope::All, late.clone());
    put(&store, "d").await.unwrap();
    let told = in_time("a watch of the new process", next(&mut events)).await;
    assert_eq!(told, Ok("d".to_owned()));
    assert_eq!(store.contains(&late).await, Ok(true));

    // An older copy: the same cluster, which has not come as far.
    server.restore(&copy).unwrap();
    in_time("it answers", async {
        while store.identity().await.is_err() {}
    })
    .await;
    assert_eq!(store.identity().await, Ok(identity.clone()));
    // What the start of a server writes counts, too: what it must not reach is far ahead.
    let ahead = datastore::version::Cursor::of(late.number().unwrap() + 100_000, &identity);
    assert_eq!(store.contains(&ahead).await, Ok(false));
    let mut events = store.watch(Kind::IPPool, Scope::All, ahead.clone());
    let diverged = in_time("a watch of the future", next(&mut events)).await;
    assert_eq!(diverged, Err(StoreError::Diverged { wanted: ahead }));

    // Emptied: another cluster, whose counter will pass the old one's.
    server.empty().unwrap();
    in_time("it answers", async {
        while store.identity().await.is_err() {}
    })
    .await;
    assert_ne!(store.identity().await, Ok(identity));
    assert_eq!(store.contains(&start).await, Ok(false));
    let mut events = store.watch(Kind::IPPool, Scope::All, start.clone());
    let diverged = in_time("a watch of another cluster", next(&mut events)).await;
    assert_eq!(diverged, Err(StoreError::Diverged { wanted: start }));
}

/// One server of several sends clients away now and then, so that they spread anew (`--goaway-chance`); every server does so to who is
/// refused with 401. What other requests of the same connection it has not taken, it says.
#[test]
async fn requests_that_a_closing_connection_did_not_take_are_sent_again() {
    const CALLERS: usize = 32;
    const REQUESTS: usize = 100;
    let server = own_with(&["--goaway-chance=0.02"]);
    let client = setup::client(&server).await;
    let work = (0..CALLERS).map(|caller| {
        let client = client.clone();
        async move {
            let path = "/api/v1/namespaces/default/configmaps";
            for number in 0..REQUESTS {
                let name = format!("sent-{caller}-{number}");
                let object = json!({"metadata": {"name": name}});
                client.create(path, &object).await.unwrap();
                let read = client.get(&format!("{path}/{name}")).await.unwrap();
                assert!(read.is_some(), "{name}");
            }
        }
    });
    in_time("requests", futures_util::future::join_all(work)).await;
}

#[test]
async fn an_answer_that_is_lost_leaves_open_what_was_done_and_a_silent_peer_is_given_up() {
    let server = setup::with_calicos_kinds();
    let proxy = Proxy::start(server.socket_address()).unwrap();
    let file = server.folder().join("by-proxy");
    std::fs::write(
        &file,
        server.kubeconfig_with(&proxy.url(), server.admin_token()),
    )
    .unwrap();
    let settings = Settings {
        kubeconfig: Some(file),
        ..Settings::default()
    };
    let client = Client::new(settings).await.unwrap();
    let store = setup::store(client, setup::folder(&server));
    let mut events = setup::watch(&store, Kind::IPPool, Scope::All).await;
    put(&store, "lost-0").await.unwrap();
    assert_eq!(
        in_time("a watch", next(&mut events)).await,
        Ok("lost-0".to_owned())
    );
    assert_eq!(
        proxy.connections(),
        1,
        "all requests and watches share a connection"
    );

    proxy.set(Weather::AnswersHeld);
    let unknown = in_time("a write", put(&store, "lost-1")).await;
    assert!(
        matches!(unknown, Err(StoreError::Unavailable(_))),
        "{unknown:?}"
    );
    // It was done all the same.
    server.kubectl(&["get", "ippool", "lost-1"]).unwrap();
    let ended = in_time("the silent connection", next(&mut events)).await;
    assert!(
        matches!(ended, Err(StoreError::Unavailable(_))),
        "{ended:?}"
    );
    proxy.set(Weather::Cut);
    let cut = in_time("a write", put(&store, "lost-2")).await;
    assert!(matches!(cut, Err(StoreError::Unavailable(_))), "{cut:?}");
    proxy.set(Weather::Fair);
    in_time("another connection", async {
        while !matches!(
            put(&store, "lost-3").await,
            Ok(_) | Err(StoreError::Conflict { .. })
        ) {}
    })
    .await;
}

#[test]
async fn a_token_that_was_replaced_in_its_file_is_read_again() {
    let mut server = own();
    let token = server.folder().join("token");
    let kubeconfig = server.folder().join("with-token-file");
    std::fs::write(&token, server.token_of("agent")).unwrap();
    let mut config: serde_json::Value =
        serde_json::from_str(&server.kubeconfig_with(&server.url(), "")).unwrap();
    config["users"][0]["user"] = json!({"tokenFile": token});
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let settings = Settings {
        kubeconfig: Some(kubeconfig),
        ..Settings::default()
    };
    let store = setup::store(Client::new(settings).await.unwrap(), setup::folder(&server));
    put(&store, "a").await.unwrap();
    server.renew_tokens().unwrap();
    // Nobody knows the old one any more; that may pass.
    in_time("the old token", async {
        loop {
            match put(&store, "b").await {
                Err(StoreError::Unavailable(text)) if text.contains("401") => break,
                Err(StoreError::Unavailable(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    std::fs::write(&token, server.token_of("agent")).unwrap();
    in_time("the new token", async {
        while put(&store, "b").await.is_err() {}
    })
    .await;
}

/// Does it again and again until the server, which was just started, does it.
async fn done<T, F: Future<Output = Result<T, StoreError>>>(mut work: impl FnMut() -> F) -> T {
    in_time("the server is back", async {
        loop {
            match work().await {
                Ok(done) => return done,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
    .await
}

#[test]
async fn an_older_copy_that_has_counted_further_is_known_by_the_write_that_it_lost() {
    let mut server = own();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    let key = Key::new(Kind::IPAMBlock, "10-65-0-0-30");
    let write = async |sequence_number: u64, expect: Expect| {
        let spec = json!({"cidr": "10.65.0.0/30", "sequenceNumber": sequence_number});
        let op = Op::Put {
            key: key.clone(),
            value: json!({"spec": spec}).to_string().into(),
            expect,
        };
        store.write(op).await.unwrap().unwrap().version().clone()
    };
    let first = write(1, Expect::Absent).await;
    let copy = server.copy_data().unwrap();
    done(|| store.get(&key)).await;
    write(2, Expect::Version(first)).await;
    let read_to = store
        .list(Kind::IPAMBlock, &Scope::All)
        .await
        .unwrap()
        .cursor;
    assert_eq!(store.contains(&read_to).await, Ok(true));

    server.restore(&copy).unwrap();
    let number = read_to.number().unwrap();
    for name in 0.. {
        let _ = put(&store, &format!("after-{name}")).await;
        let now = done(|| store.list(Kind::IPPool, &Scope::All)).await.cursor;
        if now.number() > Some(number) {
            break;
        }
    }
    assert!(!done(|| store.contains(&read_to)).await);
    let mut watch = store.watch(Kind::IPPool, Scope::All, read_to.clone());
    let told = next(&mut watch).await;
    assert!(matches!(told, Err(StoreError::Diverged { .. })), "{told:?}");
    store.accept();
    assert_eq!(store.contains(&read_to).await, Ok(true));
}

/// Whom the API server takes for an administrator, by his certificate or by his account's token.
const ADMINISTRATORS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: agent, namespace: kube-system}]
";

/// Longer than credentials stay that a connection was opened with and that did not help.
const REOPENED: Duration = Duration::from_secs(3);

/// Starts the API server anew, long enough away that a client reads its credentials again.
async fn restarted(server: &mut ApiServer, store: &KubeStore) {
    server.kill(Part::ApiServer).unwrap();
    let killed = Instant::now();
    in_time("the server is away", async {
        while put(store, "never").await.is_ok() || killed.elapsed() < REOPENED {}
    })
    .await;
    server.start_part(Part::ApiServer).unwrap();
}

/// What a write says that the API server does not take, or cannot be asked for; it passes over what is said of a server that starts.
async fn refused(store: &KubeStore, words: &str) {
    let mut last = String::new();
    in_time(words, async {
        while !last.contains(words) {
            match put(store, "never").await {
                Err(StoreError::Unavailable(text)) => last = text.to_string(),
                // A role that was made a moment ago.
                Err(StoreError::Refused(text)) if text.contains("(403)") => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    // The same words at each attempt: who tries again says them once.
    assert!(!last.contains("verification time"), "{last}");
}

/// Writes until it is done.
async fn taken(store: &KubeStore, name: &str) {
    in_time(name, async {
        while !matches!(
            put(store, name).await,
            Ok(_) | Err(StoreError::Conflict { .. })
        ) {}
    })
    .await;
}

#[test]
async fn credentials_that_are_out_of_their_time_are_named_and_their_successors_found() {
    let mut server = own();
    server.apply(ADMINISTRATORS).unwrap();
    let (token, kubeconfig) = (
        server.folder().join("token"),
        server.folder().join("agents"),
    );
    let write_token = |server: &ApiServer, validity| {
        let text = server.service_account_token("kube-system", "agent", validity);
        std::fs::write(&token, text.unwrap()).unwrap();
    };
    write_token(&server, Validity::Now);
    let by_token = server.kubeconfig_of(&server.url(), &json!({"tokenFile": token}));
    std::fs::write(&kubeconfig, by_token).unwrap();
    let settings = Settings {
        kubeconfig: Some(kubeconfig.clone()),
        ..Settings::default()
    };
    let store = setup::store(Client::new(settings).await.unwrap(), setup::folder(&server));
    taken(&store, "a").await;
    for (name, validity, words) in [
        ("b", Validity::Expired, "the token has expired at 2"),
        (
            "c",
            Validity::NotYet,
            "the token is not valid yet, but from 2",
        ),
    ] {
        write_token(&server, validity);
        restarted(&mut server, &store).await;
        refused(&store, words).await;
        write_token(&server, Validity::Now);
        taken(&store, name).await;
    }

    let sign = |server: &ApiServer, validity| {
        let subject = Subject::user("agent", "system:masters");
        server
            .authority()
            .sign("agent", &subject, validity)
            .unwrap()
    };
    let signed = sign(&server, Validity::Now);
    let user = json!({"client-certificate": signed.certificate, "client-key": signed.key});
    std::fs::write(&kubeconfig, server.kubeconfig_of(&server.url(), &user)).unwrap();
    for (name, validity) in [("d", Validity::Expired), ("e", Validity::NotYet)] {
        sign(&server, validity);
        restarted(&mut server, &store).await;
        refused(&store, "the client certificate in ").await;
        sign(&server, Validity::Now);
        taken(&store, name).await;
    }
}

#[test]
async fn a_servers_certificate_that_cannot_be_trusted_is_refused_until_it_can() {
    let mut server = own();
    let ca = server.folder().join("agents-ca");
    std::fs::copy(server.ca_file(), &ca).unwrap();
    let kubeconfig = server.folder().join("agents");
    let token = server.token_of("agent");
    let mut config: serde_json::Value =
        serde_json::from_str(&server.kubeconfig_with(&server.url(), token)).unwrap();
    config["clusters"][0]["cluster"]["certificate-authority"] = json!(ca);
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let settings = Settings {
        kubeconfig: Some(kubeconfig),
        ..Settings::default()
    };
    let store = setup::store(Client::new(settings).await.unwrap(), setup::folder(&server));
    taken(&store, "a").await;
    for (name, validity, words) in [
        ("b", Validity::Expired, "certificate expired"),
        ("c", Validity::NotYet, "certificate not valid yet"),
    ] {
        server.renew_certificate(validity).unwrap();
        refused(&store, words).await;
        server.renew_certificate(Validity::Now).unwrap();
        taken(&store, name).await;
    }
    let other = Authority::new(server.folder(), "another-ca").unwrap();
    server.take_certificate_of(&other).unwrap();
    refused(&store, "UnknownIssuer").await;
    // Who rotates authorities replaces the file.
    std::fs::copy(other.file(), &ca).unwrap();
    taken(&store, "d").await;
    std::fs::copy(server.ca_file(), &ca).unwrap();
    server.renew_certificate(Validity::Now).unwrap();
    taken(&store, "e").await;
}
