//! One piece of work in one way, in a namespace that nobody else is in.

use std::fs;
use std::future::Future;
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use super::network::{self, DEVICES, Peers, routes};
use super::ours::{Ours, named, object, row};
use super::rules::Pools;
use super::{READINGS, Spent, Way, Work, crates, other, raw};
use crate::usage::{Processes, own_cpu};

/// Among so many routes each peer has one.
const OBJECTS: usize = 2000;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) work: Work,
    pub(super) way: Way,
    pub(super) routes: u32,
    pub(super) seed: u64,
}

/// Does it and checks what became of it.
pub(super) fn run(task: Task) -> anyhow::Result<Spent> {
    network::furnish()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match task.work {
            Work::Add => task.add().await,
            Work::Resync => task.resync().await,
            Work::Idle => task.idle().await,
            Work::Move => task.move_all().await,
            Work::Rules => task.rules().await,
        }
    })
}

impl Task {
    async fn add(self) -> anyhow::Result<Spent> {
        let wanted = || routes(self.routes, self.seed, Peers::Many);
        let ifindex = ifindex(0)?;
        let spent = match self.way {
            Way::Tortie | Way::Classic | Way::Deaf => {
                let mut ours = Ours::start(self.way != Way::Deaf).await?;
                let spent = if self.way == Way::Classic {
                    let rows = wanted().map(|wanted| row(&wanted, 0));
                    measured(ours.write(rows)).await?
                } else {
                    // The agent's order is that of keys, too: objects come first.
                    let objects = wanted().map(|wanted| object(&wanted, 0));
                    let rows = wanted().map(|wanted| named(&wanted));
                    measured(ours.write(objects.take(OBJECTS).chain(rows))).await?
                };
                ours.ensure_written()?;
                spent
            }
            Way::Raw => measured(async { raw::write(wanted(), raw::ADD, 0, ifindex) }).await?,
            Way::Ip => self.ip(&other::batch(wanted(), "add", 0))?,
            Way::Rtnetlink => measured(crates::add(wanted(), 0, ifindex)).await?,
            Way::Proto => measured(crates::replace(wanted(), 0, ifindex)).await?,
            Way::Object => bail!("an object is replaced, not added"),
        };
        network::ensure_routes(self.routes, 0)?;
        Ok(spent)
    }

    /// The agent with the routes, by objects as it would write them unless it is to have none.
    async fn with_routes(self) -> anyhow::Result<Ours> {
        let wanted = || routes(self.routes, self.seed, Peers::Many);
        let mut ours = Ours::start(true).await?;
        if self.way == Way::Classic {
            ours.write(wanted().map(|wanted| row(&wanted, 0))).await?;
        } else {
            let objects = wanted().map(|wanted| object(&wanted, 0)).take(OBJECTS);
            let rows = wanted().map(|wanted| named(&wanted));
            ours.write(objects.chain(rows)).await?;
        }
        Ok(ours)
    }

    async fn idle(self) -> anyhow::Result<Spent> {
        let wanted = || routes(self.routes, self.seed, Peers::Many);
        let expected = self.routes as usize;
        let spent = if self.way == Way::Raw {
            raw::write(wanted(), raw::ADD, 0, ifindex(0)?)?;
            let mut readings = (0..READINGS).map(|_| raw::count());
            measured(async { readings.try_for_each(|count| equal(count?, expected)) }).await?
        } else {
            let mut ours = self.with_routes().await?;
            let before = ours.reconciler.stats();
            let spent = measured(async {
                for _ in 0..READINGS {
                    ours.resync().await?;
                    ours.write(std::iter::empty()).await?;
                }
                Ok(())
            })
            .await?;
            ensure!(before == ours.reconciler.stats(), "something was written");
            spent
        };
        let resident = Processes::of(std::process::id()).resident_kib()?;
        Ok(Spent {
            peak_mib: resident as f64 / 1024.0,
            ..spent
        })
    }

    async fn resync(self) -> anyhow::Result<Spent> {
        let wanted = || routes(self.routes, self.seed, Peers::Many);
        let expected = self.routes as usize;
        Ok(match self.way {
            Way::Tortie | Way::Classic | Way::Deaf => {
                let mut ours = self.with_routes().await?;
                let before = ours.reconciler.stats();
                let spent = measured(async {
                    ours.resync().await?;
                    // Nothing is to be written.
                    ours.write(std::iter::empty()).await
                })
                .await?;
                ensure!(before == ours.reconciler.stats(), "something was written");
                spent
            }
            way => {
                raw::write(wanted(), raw::ADD, 0, ifindex(0)?)?;
                match way {
                    Way::Raw => measured(async { equal(raw::count()?, expected) }).await?,
                    Way::Ip => other::run("ip", &["-4", "route", "show"])?,
                    _ => measured(async { equal(crates::count().await?, expected) }).await?,
                }
            }
        })
    }

    async fn move_all(self) -> anyhow::Result<Spent> {
        let wanted = || routes(self.routes, self.seed, Peers::One);
        let rows = |device| wanted().map(move |wanted| row(&wanted, device));
        let spent = match self.way {
            Way::Tortie => {
                let mut ours = Ours::start(true).await?;
                let objects = |device| wanted().map(move |wanted| object(&wanted, device)).take(1);
                let routes = wanted().map(|wanted| named(&wanted));
                ours.write(objects(0).chain(routes)).await?;
                let spent = measured(ours.write(objects(1))).await?;
                ours.ensure_written()?;
                spent
            }
            Way::Classic | Way::Deaf => {
                let mut ours = Ours::start(true).await?;
                ours.write(rows(0)).await?;
                let spent = measured(ours.write(rows(1))).await?;
                ours.ensure_written()?;
                spent
            }
            Way::Object => {
                let mut ours = Ours::start(false).await?;
                let first = wanted().map(|wanted| object(&wanted, 0)).take(1);
                let routes = wanted().map(|wanted| named(&wanted));
                ours.write(first.chain(routes)).await?;
                let peer = wanted().next().context("there are routes")?;
                other::replace_object(&peer, 1)?
            }
            way => {
                raw::write(wanted(), raw::ADD, 0, ifindex(0)?)?;
                let ifindex = ifindex(1)?;
                match way {
                    Way::Raw => {
                        measured(async { raw::write(wanted(), raw::REPLACE, 1, ifindex) }).await?
                    }
                    Way::Ip => self.ip(&other::batch(wanted(), "replace", 1))?,
                    _ => measured(crates::replace(wanted(), 1, ifindex)).await?,
                }
            }
        };
        network::ensure_routes(self.routes, 1)?;
        Ok(spent)
    }

    async fn rules(self) -> anyhow::Result<Spent> {
        let mut pools = Pools::new(self.seed)?;
        let first = pools.table().context("pools with NAT have a table")?;
        let mut ours = Ours::start(true).await?;
        ours.write(std::iter::once(first)).await?;
        pools.change()?;
        let second = pools.table().context("other ranges are another table")?;
        if self.way != Way::Ip {
            let spent = measured(ours.write(std::iter::once(second))).await?;
            ours.ensure_written()?;
            return Ok(spent);
        }
        let text = network::program("nft", &["list", "table", "ip", "calico"], "")?;
        let file = self.file("nft");
        let text = String::from_utf8_lossy(&text);
        fs::write(&file, format!("delete table ip calico\n{text}"))?;
        let spent = other::run("nft", &["-f", &file]);
        fs::remove_file(&file)?;
        spent
    }

    fn ip(self, batch: &str) -> anyhow::Result<Spent> {
        let file = self.file("ip");
        fs::write(&file, batch)?;
        let spent = other::run("ip", &["-batch", &file]);
        fs::remove_file(&file)?;
        spent
    }

    fn file(self, what: &str) -> String {
        let name = format!("tortie-bench-{what}-{}", std::process::id());
        std::env::temp_dir().join(name).display().to_string()
    }
}

fn equal(counted: usize, expected: usize) -> anyhow::Result<()> {
    if counted != expected {
        bail!("{counted} routes were read instead of {expected}");
    }
    Ok(())
}

fn ifindex(device: usize) -> anyhow::Result<u32> {
    let path = format!("/proc/self/net/dev_snmp6/{}", DEVICES[device].0);
    let text = fs::read_to_string(&path).context(path)?;
    let field = text.split_whitespace().nth(1);
    field
        .and_then(|field| field.parse().ok())
        .context("the kernel names the device's index")
}

/// Time and memory of this process for something.
async fn measured(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Spent> {
    let (begin, cpu) = (Instant::now(), own_cpu());
    work.await?;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu_seconds = (own_cpu() - cpu).as_secs_f64();
    let peak = Processes::of(std::process::id()).peak_kib()?;
    Ok(Spent {
        seconds,
        cpu_seconds,
        peak_mib: peak as f64 / 1024.0,
    })
}
