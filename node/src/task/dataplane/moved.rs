//! Addresses that lost their pod: their tracked connections are forgotten before another pod's route goes in.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use felix::desired::{Row, RowKey};
use felix::kernel::Op;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

/// How often it is tried.
const ATTEMPTS: usize = 3;
/// How long an address may wait for others: one walk through the kernel's table, which takes a millisecond even when that is empty,
/// serves all pods that end in that time. Nobody waits for it unless the address is given to another pod meanwhile.
const TOGETHER_WITHIN: Duration = Duration::from_millis(100);

/// The kernel's table of connections may be large: it is gone through in the background, once for all addresses that wait.
#[derive(Debug, Default)]
pub(super) struct Moved {
    waiting: BTreeSet<IpAddr>,
    /// When it is time for those that wait.
    due: Option<Instant>,
    running: Option<(BTreeSet<IpAddr>, JoinHandle<()>)>,
}

impl Moved {
    /// The route of a pod is not wanted any more, or leads to another device.
    pub(super) fn note(&mut self, key: &RowKey, now: Instant) {
        self.waiting.extend(address(key));
        if !self.waiting.is_empty() && self.due.is_none() {
            self.due = Some(now + TOGETHER_WITHIN);
        }
    }

    /// When [`Moved::begin_due`] is to be called.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Begins with what waits if it is time for it; what is under way then takes as long again.
    pub(super) fn begin_due<F>(&mut self, now: Instant, forget: impl Fn(BTreeSet<IpAddr>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.begin(forget);
        self.due = (!self.waiting.is_empty()).then(|| now + TOGETHER_WITHIN);
    }

    /// Begins with what waits, if nothing is under way.
    fn begin<F>(&mut self, forget: impl Fn(BTreeSet<IpAddr>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some((_, running)) = &self.running
            && running.is_finished()
        {
            self.running = None;
        }
        if self.running.is_none() && !self.waiting.is_empty() {
            let addrs = std::mem::take(&mut self.waiting);
            let running = tokio::spawn(forget(addrs.clone()));
            self.running = Some((addrs, running));
        }
    }

    /// Waits until the connections of every address to which one of these operations writes a route are forgotten.
    pub(super) async fn before<F>(&mut self, ops: &[Op], forget: impl Fn(BTreeSet<IpAddr>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let written: BTreeSet<IpAddr> = ops.iter().filter_map(written).collect();
        loop {
            let is_running = |(addrs, _): &(BTreeSet<IpAddr>, _)| !addrs.is_disjoint(&written);
            if self.waiting.is_disjoint(&written) && !self.running.as_ref().is_some_and(is_running)
            {
                return;
            }
            self.begin(&forget);
            let Some((_, running)) = &mut self.running else {
                return;
            };
            if let Err(error) = running.await {
                warn!(%error, "forgetting the connections of pods that are gone");
            }
            self.running = None;
        }
    }
}

fn written(op: &Op) -> Option<IpAddr> {
    match op {
        Op::Set(row @ Row::Route(..)) => address(&row.key()),
        Op::Set(_) | Op::Remove(_) => None,
    }
}

/// The destination of a route to one address.
fn address(key: &RowKey) -> Option<IpAddr> {
    match key {
        RowKey::Route(key) if key.dst.prefix_len() == key.dst.max_prefix_len() => {
            Some(key.dst.addr())
        }
        _ => None,
    }
}

/// Forgets them in the kernel.
pub(super) async fn forget(addrs: BTreeSet<IpAddr>) {
    let mut last: Option<io::Error> = None;
    for _ in 0..ATTEMPTS {
        match felix_io::conntrack::forget(addrs.clone()).await {
            Ok(count) => {
                debug!(
                    ?addrs,
                    count, "forgot the connections of pods that are gone"
                );
                return;
            }
            Err(error) => last = Some(error),
        }
    }
    if let Some(error) = last {
        warn!(?addrs, %error, "cannot forget the connections of pods that are gone; another pod with the address may inherit them");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use felix::desired::{Hops, RouteKey, RouteKind, RouteSpec};
    use tokio::sync::Semaphore;

    use super::*;

    fn route(dst: &str) -> Row {
        let key = RouteKey {
            table: 254,
            dst: dst.parse().unwrap(),
            tos: 0,
            metric: 1024,
        };
        let spec = RouteSpec {
            kind: RouteKind::Unicast,
            scope: 253,
            protocol: 3,
            next_hops: Hops::default(),
            object: None,
            prefsrc: None,
            mtu_bytes: None,
        };
        Row::Route(key, spec)
    }

    #[tokio::test]
    async fn only_the_next_route_to_an_address_waits_for_its_connections_to_be_forgotten() {
        let gate = Arc::new(Semaphore::new(0));
        let forget = |_| {
            let gate = Arc::clone(&gate);
            async move { gate.acquire().await.unwrap().forget() }
        };
        let mut moved = Moved::default();
        let now = Instant::now();
        moved.note(&route("10.1.1.5/32").key(), now);
        moved.note(&route("10.1.1.0/26").key(), now);
        moved.begin_due(now + TOGETHER_WITHIN, forget);
        assert!(moved.running.is_some() && moved.due().is_none());
        // While that goes on another pod goes.
        moved.note(&route("10.1.1.6/32").key(), now);
        let others = [
            Op::Set(route("10.1.1.7/32")),
            Op::Remove(route("10.1.1.5/32")),
            Op::Set(route("10.1.1.0/26")),
        ];
        moved.before(&others, forget).await;
        for addr in ["10.1.1.5/32", "10.1.1.6/32"] {
            let ops = [Op::Set(route(addr))];
            let mut waits = std::pin::pin!(moved.before(&ops, forget));
            let early = futures_poll_once(waits.as_mut()).await;
            assert!(early.is_none(), "{addr} did not wait");
            gate.add_permits(1);
            waits.await;
        }
        assert!(moved.running.is_none() && moved.waiting.is_empty());
    }

    #[tokio::test]
    async fn pods_that_end_together_share_a_walk_and_one_whose_address_is_given_anew_does_not_wait_for_it()
     {
        let walks = Arc::new(std::sync::Mutex::new(Vec::new()));
        let forget = |addrs: BTreeSet<IpAddr>| {
            let walks = Arc::clone(&walks);
            async move { walks.lock().unwrap().push(addrs.len()) }
        };
        let mut moved = Moved::default();
        let now = Instant::now();
        for last in 1..=9 {
            let at = now + TOGETHER_WITHIN / 10 * last;
            moved.note(&route(&format!("10.1.1.{last}/32")).key(), at);
            moved.begin_due(at, forget);
        }
        assert_eq!(
            moved.due(),
            Some(now + TOGETHER_WITHIN / 10 + TOGETHER_WITHIN)
        );
        moved.before(&[Op::Set(route("10.1.2.1/32"))], forget).await;
        assert!(moved.running.is_none(), "nobody waits yet");
        moved.before(&[Op::Set(route("10.1.1.4/32"))], forget).await;
        assert_eq!(*walks.lock().unwrap(), [9]);
        assert!(moved.waiting.is_empty());
    }

    /// What a future gives without waiting.
    async fn futures_poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(value) => Some(value),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
