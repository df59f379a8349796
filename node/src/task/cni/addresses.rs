//! The address task: it owns IPAM, and serves all requests that have piled up in one transaction.

use std::sync::Arc;
use std::time::SystemTime;

use api::key::Kind;
use datastore::store::Change;
use ipam::request::ReleaseAddress;
use ipam::{Accompanied, AssignError, AssignRequest, Assignment, Companion, Ipam, Released};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::task::calc::Inbox;
use crate::task::timestamp;
use crate::task::watch::echo;

/// Requests that wait for the task; beyond that the caller waits in its await.
const QUEUE: usize = 256;
/// Requests served in one transaction at most: a block has 64 addresses by default.
const TOGETHER: usize = 64;

enum Ask {
    Assign(Box<AssignRequest>, Option<Companion>, Answer<Assigned>),
    Held(String, Answer<Vec<ReleaseAddress>>),
    Release(Look, Option<Companion>, Answer<(Released, Accompanied)>),
}

/// What was assigned, and what became of the companion.
type Assigned = (Assignment, Accompanied);

/// What a handle held when it was looked at.
type Look = (String, Vec<ReleaseAddress>);

type Answer<T> = oneshot::Sender<Result<T, AssignError>>;

/// The asking side. Cheap to clone.
#[derive(Clone)]
pub struct Addresses(mpsc::Sender<Ask>);

impl Addresses {
    /// The asking side, and the future that serves it until the token is cancelled. Whatever is written is echoed.
    pub fn new(
        ipam: Arc<Ipam>,
        calc: Inbox,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        // Full: requests wait in their own tasks.
        let (asks, queue) = mpsc::channel(QUEUE);
        let serve = async move {
            tokio::select! {
                () = serve(&ipam, &calc, queue) => {}
                () = cancel.cancelled() => {}
            }
        };
        (Self(asks), serve)
    }

    /// An address for a handle, and with it in one plan a companion; `None` when the agent is stopping.
    pub async fn assign(
        &self,
        request: AssignRequest,
        companion: Option<Companion>,
    ) -> Option<Result<(Assignment, Accompanied), AssignError>> {
        let (answer, asked) = oneshot::channel();
        self.0
            .send(Ask::Assign(Box::new(request), companion, answer))
            .await
            .ok()?;
        asked.await.ok()
    }

    /// A handle's addresses as they stand now; `None` when the agent is stopping.
    pub async fn held(
        &self,
        handle_id: String,
    ) -> Option<Result<Vec<ReleaseAddress>, AssignError>> {
        let (answer, asked) = oneshot::channel();
        self.0.send(Ask::Held(handle_id, answer)).await.ok()?;
        asked.await.ok()
    }

    /// Frees those of a handle's addresses that are still as they were looked at, and does with it in one plan a companion's deletion;
    /// `None` when the agent is stopping.
    pub async fn release(
        &self,
        look: (String, Vec<ReleaseAddress>),
        companion: Option<Companion>,
    ) -> Option<Result<(Released, Accompanied), AssignError>> {
        let (answer, asked) = oneshot::channel();
        let ask = Ask::Release(look, companion, answer);
        self.0.send(ask).await.ok()?;
        asked.await.ok()
    }
}

async fn serve(ipam: &Ipam, calc: &Inbox, mut queue: mpsc::Receiver<Ask>) {
    let mut asks = Vec::with_capacity(TOGETHER);
    while queue.recv_many(&mut asks, TOGETHER).await > 0 {
        let mut assigns = Vec::new();
        let mut releases = Vec::new();
        let mut looks = Vec::new();
        for ask in asks.drain(..) {
            match ask {
                Ask::Assign(request, companion, answer) => {
                    assigns.push(((*request, companion), answer));
                }
                Ask::Held(handle, answer) => looks.push((handle, answer)),
                Ask::Release(look, companion, answer) => {
                    releases.push(((look, companion), answer));
                }
            }
        }
        look(ipam, looks).await;
        // Releases first: what they free may be what an assignment needs.
        release(ipam, calc, releases).await;
        assign(ipam, calc, assigns).await;
    }
}

async fn look(ipam: &Ipam, looks: Vec<(String, Answer<Vec<ReleaseAddress>>)>) {
    if looks.is_empty() {
        return;
    }
    let (handles, answers): (Vec<String>, Vec<_>) = looks.into_iter().unzip();
    match ipam.held(&handles).await {
        Ok(held) => {
            for (held, answer) in held.into_iter().zip(answers) {
                // Whoever asked may be gone.
                let _ = answer.send(Ok(held));
            }
        }
        Err(error) => {
            for answer in answers {
                // As above.
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

/// A request with its companion, and who waits for the answer.
type Waiting<Q, A> = ((Q, Option<Companion>), Answer<A>);

async fn release(ipam: &Ipam, calc: &Inbox, releases: Vec<Waiting<Look, (Released, Accompanied)>>) {
    if releases.is_empty() {
        return;
    }
    let (asked, answers): (Vec<_>, Vec<_>) = releases.into_iter().unzip();
    let (looks, companions): (Vec<Look>, Vec<_>) = asked.into_iter().unzip();
    let now = timestamp(SystemTime::now());
    match ipam.release_with(&looks, &companions, now).await {
        Ok(committed) => {
            // Before the echo: nobody waits for that.
            for (freed, answer) in committed.outcome.into_iter().zip(answers) {
                // Whoever asked may be gone; the addresses are free all the same.
                let _ = answer.send(Ok(freed));
            }
            echo(calc, &committed.written);
        }
        Err(error) => {
            for answer in answers {
                // As above.
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

async fn assign(ipam: &Ipam, calc: &Inbox, assigns: Vec<Waiting<AssignRequest, Assigned>>) {
    if assigns.is_empty() {
        return;
    }
    let (asked, answers): (Vec<_>, Vec<_>) = assigns.into_iter().unzip();
    let (requests, companions): (Vec<AssignRequest>, Vec<_>) = asked.into_iter().unzip();
    let committed = ipam.assign_with(&requests, &companions).await;
    // The route to a pod follows from its endpoint, and its ADD waits for that; for the echo of blocks nobody waits.
    let (endpoints, others): (Vec<&Change>, Vec<&Change>) = committed
        .written
        .iter()
        .partition(|change| change.key().kind == Kind::WorkloadEndpoint);
    echo(calc, endpoints);
    let mut unwanted = Vec::new();
    for ((outcome, answer), request) in committed.outcome.into_iter().zip(answers).zip(requests) {
        let given = outcome.as_ref().is_ok_and(|(given, _)| !given.existing);
        if answer.send(outcome).is_err() && given {
            unwanted.push(request.handle_id);
        }
    }
    echo(calc, others);
    // The request was given up while its address was being written: nobody else would free it.
    for handle in unwanted {
        let now = timestamp(SystemTime::now());
        if let Ok(committed) = ipam.release_by_handle(&handle, now).await {
            echo(calc, &committed.written);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use api::key::Key;
    use api::pool::AllowedUse;
    use datastore::memory::{MemoryStore, Request};
    use datastore::store::{Expect, Op, Store};
    use futures_util::future::join_all;
    use ipam::Wanted;

    use super::*;

    fn request(container: usize) -> AssignRequest {
        AssignRequest {
            node_labels: BTreeMap::new(),
            namespace_labels: None,
            handle_id: format!("net.{container}"),
            attributes: BTreeMap::new(),
            allowed_use: AllowedUse::Workload,
            wanted: Wanted::one_ipv4(),
            now: timestamp(SystemTime::UNIX_EPOCH),
        }
    }

    #[tokio::test]
    async fn requests_that_wait_together_share_one_transaction() {
        let store = MemoryStore::new();
        let pool = serde_json::json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "pool"},
            "spec": {"cidr": "10.0.0.0/24", "blockSize": 26},
        });
        let put = Op::Put {
            key: Key::new(Kind::IPPool, "pool"),
            value: pool.to_string().into(),
            expect: Expect::Absent,
        };
        store.write(put).await.unwrap();
        let commits = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&commits);
        store.set_fault_plan(move |request| {
            if matches!(request, Request::Commit(_) | Request::Write(_)) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            None
        });
        let (calc, _facts) = Inbox::new();
        let ipam = Arc::new(Ipam::new(Arc::new(store.clone()), "n1"));
        let (addresses, serve) = Addresses::new(ipam, calc, CancellationToken::new());
        tokio::pin!(serve);

        // Every one of them waits before the task looks for the first time.
        let mut asked = Box::pin(join_all((0..7).map(|n| addresses.assign(request(n), None))));
        std::future::poll_fn(|context| {
            assert!(asked.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        let answers = tokio::select! {
            answers = &mut asked => answers,
            () = &mut serve => panic!("it was not cancelled"),
        };
        let mut given: Vec<_> = answers
            .into_iter()
            .map(|answer| answer.unwrap().unwrap().0.addresses[0].addr())
            .collect();
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 7, "{given:?}");
        assert_eq!(commits.load(Ordering::Relaxed), 1);
    }
}
