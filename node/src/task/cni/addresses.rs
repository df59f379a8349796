//! The address task: it owns IPAM, and serves all requests that have piled up in one transaction.

use std::net::IpAddr;
use std::sync::Arc;

use ipam::{AssignError, AssignRequest, Assignment, Ipam};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::task::calc::Inbox;
use crate::task::watch::echo;

/// Requests that wait for the task; beyond that the caller waits in its await.
const QUEUE: usize = 256;
/// Requests served in one transaction at most: a block has 64 addresses by default.
const TOGETHER: usize = 64;

enum Ask {
    Assign(Box<AssignRequest>, Answer<Assignment>),
    Release(String, Answer<Vec<IpAddr>>),
}

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

    /// An address for a handle; `None` when the agent is stopping.
    pub async fn assign(&self, request: AssignRequest) -> Option<Result<Assignment, AssignError>> {
        let (answer, asked) = oneshot::channel();
        self.0
            .send(Ask::Assign(Box::new(request), answer))
            .await
            .ok()?;
        asked.await.ok()
    }

    /// Frees a handle's addresses; `None` when the agent is stopping.
    pub async fn release(&self, handle_id: String) -> Option<Result<Vec<IpAddr>, AssignError>> {
        let (answer, asked) = oneshot::channel();
        self.0.send(Ask::Release(handle_id, answer)).await.ok()?;
        asked.await.ok()
    }
}

async fn serve(ipam: &Ipam, calc: &Inbox, mut queue: mpsc::Receiver<Ask>) {
    let mut asks = Vec::with_capacity(TOGETHER);
    while queue.recv_many(&mut asks, TOGETHER).await > 0 {
        let mut assigns = Vec::new();
        let mut releases = Vec::new();
        for ask in asks.drain(..) {
            match ask {
                Ask::Assign(request, answer) => assigns.push((*request, answer)),
                Ask::Release(handle, answer) => releases.push((handle, answer)),
            }
        }
        // Releases first: what they free may be what an assignment needs.
        release(ipam, calc, releases).await;
        assign(ipam, calc, assigns).await;
    }
}

async fn release(ipam: &Ipam, calc: &Inbox, releases: Vec<(String, Answer<Vec<IpAddr>>)>) {
    if releases.is_empty() {
        return;
    }
    let (handles, answers): (Vec<String>, Vec<_>) = releases.into_iter().unzip();
    match ipam.release_by_handles(&handles).await {
        Ok(committed) => {
            echo(calc, &committed.written);
            for (freed, answer) in committed.outcome.into_iter().zip(answers) {
                // Whoever asked may be gone; the addresses are free all the same.
                let _ = answer.send(Ok(freed));
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

async fn assign(ipam: &Ipam, calc: &Inbox, assigns: Vec<(AssignRequest, Answer<Assignment>)>) {
    if assigns.is_empty() {
        return;
    }
    let (requests, answers): (Vec<AssignRequest>, Vec<_>) = assigns.into_iter().unzip();
    let committed = ipam.assign_many(&requests).await;
    echo(calc, &committed.written);
    let mut unwanted = Vec::new();
    for ((outcome, answer), request) in committed.outcome.into_iter().zip(answers).zip(requests) {
        let given = outcome.as_ref().is_ok_and(|given| !given.existing);
        if answer.send(outcome).is_err() && given {
            unwanted.push(request.handle_id);
        }
    }
    // The request was given up while its address was being written: nobody else would free it.
    for handle in unwanted {
        if let Ok(committed) = ipam.release_by_handle(&handle).await {
            echo(calc, &committed.written);
        }
    }
}
