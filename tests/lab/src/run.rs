//! `cargo lab` from inside its private world: build, prove, print, tear down.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cluster::{Lab, LabError};
use crate::options::{Options, Sabotage, Store};
use crate::programs::{Programs, ProgramsError};
use crate::progress::Progress;
use crate::proof::claim::describe;
use crate::proof::{fib, outlived};
use crate::report::{Quantiles, Report, milliseconds, tables};
use crate::runtime::RuntimeError;
use crate::topology::Topology;
use crate::wait;

/// At least so many ADDs that claim a block are measured, when there are nodes to see the route.
const CLAIMS_MIN: usize = 3;

/// With Kubernetes a pod costs four calls of kubectl: a block of more addresses is not filled for the measurement's sake.
const KUBE_BLOCK_MAX: u8 = 29;

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The programs are not there.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The cluster did not come up, or one of its programs ended.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Pods could not be made.
    #[error("{}", .0.join("\n"))]
    Pods(Vec<String>),
    /// The asked-for fault could not be brought in.
    #[error("the sabotage could not be done")]
    Sabotage(#[source] io::Error),
}

/// A finished run: the cluster still stands.
#[derive(Debug)]
pub struct Run {
    /// The cluster.
    pub lab: Lab,
    /// What was found.
    pub report: Report,
    /// The same for people.
    pub tables: String,
}

/// Builds the cluster and proves everything that `cargo lab` promises. Must run inside a private world.
///
/// # Errors
/// See [`RunError`]; checks that fail are no errors but faults in the report.
pub fn run(options: Options, progress: Progress) -> Result<Run, RunError> {
    let programs = Programs::find()?;
    let (nodes, pods, sabotage) = (options.nodes, options.pods, options.sabotage);
    let mut lab = progress.stage(
        &format!("{nodes} nodes, their agents and the store"),
        || {
            Lab::start_with(options, programs, |topology| match sabotage {
                Some(Sabotage::Session) => block_session(topology),
                Some(Sabotage::Route | Sabotage::Masquerade) | None => Ok(()),
            })
        },
    )?;
    progress.stage("BGP sessions", || lab.wait_sessions())?;
    let mut claims = Claims::default();
    if pods > 0 {
        progress.stage("the first pod of each node", || {
            (0..nodes).try_for_each(|node| claims.add(&mut lab, node))
        })?;
        progress.stage(&format!("{} pods", nodes * pods), || {
            lab.fill_pods(pods).map_err(pod_errors)
        })?;
    }
    let converged = progress.stage("routes in every FIB", || lab.wait_converged())?;
    if let Some(sabotage) = sabotage {
        lab.sabotage(sabotage).map_err(RunError::Sabotage)?;
    }
    let Ok(proof) = progress.stage("pings and TCP exchanges", || {
        Ok::<_, Infallible>(lab.prove())
    });
    if proof.faults.is_empty() && pods > 0 && nodes > 1 {
        claims.measure_more(&mut lab, progress)?;
    }
    let outside = if lab.tors.is_empty() {
        Vec::new()
    } else {
        let Ok(faults) = progress.stage("pings through the top-of-rack routers", || {
            Ok::<_, Infallible>(lab.ping_outside())
        });
        faults
    };
    let mut outlived = None;
    if proof.faults.is_empty() && !lab.reflectors.is_empty() && pods > 0 && nodes > 1 {
        outlived = Some(progress.stage("a reflector killed and started again", || {
            outlived::reflector(&mut lab)
        })?);
    }
    let mut without_tor = None;
    if proof.faults.is_empty() && lab.tors.len() > 1 && pods > 0 && nodes > 1 {
        without_tor = Some(progress.stage("a top-of-rack router lost and back", || {
            outlived::tor(&mut lab)
        })?);
    }
    let mut report = Report::new(&lab, &proof);
    report.faults.extend(outside);
    if let Some(outlived) = without_tor {
        report.tor_killed = Some(outlived.packets);
        report.faults.extend(outlived.faults);
    }
    if let Some(outlived) = outlived {
        report.reflector_killed = Some(outlived.packets);
        report.faults.extend(outlived.faults);
    }
    report.converged_ms = converged.map(milliseconds);
    report.add_to_fib_ms = Quantiles::of(&claims.times);
    report.faults.extend(claims.faults);
    let tables = tables(&lab, &proof, &report);
    Ok(Run {
        lab,
        report,
        tables,
    })
}

impl Run {
    /// Has the plugin disconnect every pod, and looks whether anything of them stays in the nodes' kernels.
    pub fn tear_down(&mut self, progress: Progress) {
        let pods = self.lab.pods.iter();
        let addresses: Vec<IpAddr> = pods.flat_map(crate::Pod::addresses).collect();
        if self.lab.options.sabotage.is_some() {
            // A frozen agent answers no DEL; the namespaces end with this process.
            return;
        }
        match progress.stage("CNI DEL of all pods", || self.lab.delete_pods()) {
            Ok(()) => {
                // Devices go with their pods' namespaces, which the kernel dismantles after the last holder.
                let deadline = Instant::now() + self.lab.options.patience;
                let gone = || {
                    fib::leftovers(&self.lab, &addresses)
                        .is_empty()
                        .then_some(())
                };
                if wait::until(deadline, gone).is_none() {
                    self.report
                        .faults
                        .extend(fib::leftovers(&self.lab, &addresses));
                }
            }
            Err(errors) => self
                .report
                .faults
                .extend(errors.iter().map(|error| describe(error))),
        }
    }
}

/// Measured ADDs.
#[derive(Default)]
struct Claims {
    times: Vec<Duration>,
    faults: Vec<String>,
}

impl Claims {
    fn add(&mut self, lab: &mut Lab, node: usize) -> Result<(), RunError> {
        let before = lab.pods.len();
        match lab.timed_add(node) {
            Ok(time) => self.times.extend(time),
            Err(fault) if lab.pods.len() > before => self.faults.push(fault),
            Err(error) => return Err(RunError::Pods(vec![error])),
        }
        Ok(())
    }

    /// Makes pods until enough claims were measured, and takes them away again. Where routes to blocks go nowhere, or a block is dear to
    /// fill, there is nothing to be done.
    fn measure_more(&mut self, lab: &mut Lab, progress: Progress) -> Result<(), RunError> {
        let filling_is_cheap =
            lab.options.store == Store::Local || lab.options.block_size >= KUBE_BLOCK_MAX;
        if lab.goes_by_tors() || !filling_is_cheap {
            return Ok(());
        }
        let proved = lab.pods.len();
        progress.stage("more pods, until enough blocks were claimed", || {
            self.fill(lab)?;
            lab.delete_pods_after(proved).map_err(pod_errors)
        })
    }

    /// Fills blocks on one node after the other until enough claims were measured.
    fn fill(&mut self, lab: &mut Lab) -> Result<(), RunError> {
        let block_addresses = 1_usize << (32 - u32::from(lab.options.block_size)).min(16);
        for node in (0..lab.options.nodes).cycle().take(CLAIMS_MIN) {
            if self.times.len() >= CLAIMS_MIN {
                break;
            }
            let measured = self.times.len() + self.faults.len();
            for _ in 0..=block_addresses {
                self.add(lab, node)?;
                if self.times.len() + self.faults.len() > measured {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn pod_errors(errors: Vec<RuntimeError>) -> RunError {
    RunError::Pods(errors.iter().map(|error| describe(error)).collect())
}

fn block_session(topology: &Topology) -> io::Result<()> {
    let (Some(first), Some(last)) = (topology.sites.first(), topology.sites.last()) else {
        return Ok(());
    };
    first
        .namespace
        .netlink()?
        .block_tcp(last.address, 179)
        .map_err(crate::NetlinkError::into_io)
}

impl Lab {
    /// Brings a fault into the running cluster. Whose agent would mend it is frozen.
    ///
    /// # Errors
    /// What the kernel or `nft` answers. [`Sabotage::Session`] can only be brought in before the start, and is nothing here.
    pub fn sabotage(&self, sabotage: Sabotage) -> io::Result<()> {
        let first = &self.topology.sites[0].namespace;
        match sabotage {
            Sabotage::Route => {
                self.freeze_agent(0)?;
                let last = self.topology.sites.last().map(|site| site.name.clone());
                for (block, owner) in self.blocks() {
                    if Some(&owner.name) == last.as_ref() {
                        first
                            .netlink()?
                            .delete_route(block)
                            .map_err(crate::NetlinkError::into_io)?;
                    }
                }
                Ok(())
            }
            Sabotage::Masquerade => {
                self.freeze_agent(0)?;
                let rules = "add table ip sabotage; \
                     add chain ip sabotage post { type nat hook postrouting priority 200; }; \
                     add rule ip sabotage post oifname != \"cali*\" masquerade";
                let status = first.command("nft").arg(rules).status()?;
                if status.success() {
                    Ok(())
                } else {
                    Err(io::Error::other(format!("nft: {status}")))
                }
            }
            Sabotage::Session => Ok(()),
        }
    }
}

/// Whether the `nft` program, which the masquerade sabotage needs, is installed.
#[must_use]
pub fn has_nft() -> bool {
    Command::new("nft")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}
