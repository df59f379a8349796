//! `cargo lab` from outside: builds the programs, starts the private world, and looks afterwards whether anything is left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::log_directory;
use crate::enter::{self, Inside};
use crate::kept::{Kept, KeptNode};
use crate::netlink::Netlink;
use crate::options::{Options, Store};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::proof::claim::describe;
use crate::report::{PacketCounts, Quantiles, Report};
use crate::run;
use crate::{kubelet, sys, uml, wait};

/// Number of the descriptor on which process 1 tells its result.
const STATUS_FD: &str = "TORTIE_LAB_STATUS_FD";
/// How long namespaces and processes may take to vanish after process 1.
const VANISHING: Duration = Duration::from_secs(10);

/// What the user asked for besides the cluster itself.
#[derive(Clone, Debug)]
pub struct Output {
    /// Print one JSON object instead of tables.
    pub json: bool,
    /// Leave the cluster up.
    pub keep: bool,
    /// The kernel that it runs on.
    pub kernel: Kernel,
    /// Copy the programs' logs to this directory at the end.
    pub logs: Option<PathBuf>,
}

/// Which kernel a lab runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kernel {
    /// This machine's.
    #[default]
    Own,
    /// User Mode Linux, which has what this machine's may lack.
    Uml,
}

/// What process 1 tells the launcher.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    /// Absent when the cluster did not come up.
    report: Option<Report>,
    kept: Kept,
}

/// Runs the lab and returns the program's exit code: 0 when everything held, 1 when something did not.
#[must_use]
pub fn launch(options: &Options, output: &Output) -> ExitCode {
    if enter::is_inside() {
        return inside(options.clone(), output);
    }
    let launched = match output.kernel {
        Kernel::Uml if !uml::is_guest() => in_uml(options),
        Kernel::Uml | Kernel::Own => outside(options, output),
    };
    match launched {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", describe(&*error));
            ExitCode::FAILURE
        }
    }
}

type AnyError = Box<dyn std::error::Error>;

/// What runs inside is built outside, where cargo finds its caches.
fn build(options: &Options) -> Result<(), AnyError> {
    if options.kubelets {
        kubelet::run::overlay(options.mode)?;
        kubelet::available()?;
        kubelet::sweep()?;
        Progress::new().stage("build the image", || {
            kubelet::build_image(kubelet::profile())
        })?;
    } else {
        if options.store == Store::Kube {
            kube_lab::available()?;
        }
        Progress::new().stage("build the programs", || Programs::build(options.store))?;
    }
    Ok(())
}

/// The same command once more, as root of a guest.
fn in_uml(options: &Options) -> Result<ExitCode, AnyError> {
    let kernel = uml::kernel().ok_or(
        "no User Mode Linux kernel: `cargo xtask uml` builds one, or name one in TORTIE_UML_KERNEL",
    )?;
    build(options)?;
    let arguments = std::env::args().skip(1).collect();
    let programs = Programs::find()?;
    let ended = uml::again(&kernel, arguments, programs.directory())?;
    Ok(ExitCode::from(ended?))
}

fn outside(options: &Options, output: &Output) -> Result<ExitCode, AnyError> {
    if output.keep {
        Kept::check_none()?;
    }
    build(options)?;
    let before = Snapshot::take()?;
    let (told, status) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // Process 1 inherits this end, and only it: its own children get none.
    rustix::io::fcntl_setfd(&status, rustix::io::FdFlags::empty())?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(std::env::args_os().skip(1))
        .env(STATUS_FD, status.as_raw_fd().to_string());
    enter::as_init(&mut command);
    let mut guard = command
        .spawn()
        .map_err(|error| format!("new namespaces: {error}. {}", enter::refusal_advice(&error)))?;
    drop(status);
    let mut line = String::new();
    BufReader::new(File::from(told)).read_line(&mut line)?;
    let told: Option<Told> = serde_json::from_str(&line).ok();
    if let (
        true,
        Some(Told {
            report: Some(report),
            kept,
        }),
    ) = (output.keep, &told)
    {
        kept.save()?;
        // Process 1 has cut the cord before it told; the guard has nothing left to guard.
        guard.kill()?;
        guard.wait()?;
        return Ok(conclude(report, output));
    }
    let ended = guard.wait()?;
    let Some(Told { report, kept }) = told else {
        return Err(format!("the lab ended early: {ended}").into());
    };
    let mut left_behind = before.left_behind(&kept)?;
    if options.kubelets {
        let groups = kubelet::sweep()?;
        left_behind.extend(
            groups
                .iter()
                .map(|group| format!("group {}", group.display())),
        );
    }
    match report {
        Some(mut report) => {
            report.left_behind = left_behind;
            Ok(conclude(&report, output))
        }
        None => {
            for left in left_behind {
                eprintln!("left behind: {left}");
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Prints the result and makes it an exit code.
fn conclude(report: &Report, output: &Output) -> ExitCode {
    if output.json {
        match serde_json::to_string_pretty(report) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("error: {error}"),
        }
    } else {
        println!("{}", summary(report, output));
    }
    for fault in &report.faults {
        eprintln!("FAULT {fault}");
    }
    for left in &report.left_behind {
        eprintln!("FAULT left behind: {left}");
    }
    if report.holds() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn summary(report: &Report, output: &Output) -> String {
    let milliseconds =
        |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1} ms"));
    let left = match (output.keep, report.left_behind.len()) {
        (true, _) => {
            "kept: `cargo lab exec NODE CMD` runs a command on a machine, `cargo lab down` ends it"
                .to_owned()
        }
        (false, 0) => "nothing left behind".to_owned(),
        (false, count) => format!("{count} things left behind"),
    };
    let told = |what: &str, packets: Option<PacketCounts>| {
        packets.map_or_else(String::new, |packets| {
            format!(
                "{what}: {} of {} packets lost\n",
                packets.lost, packets.sent
            )
        })
    };
    let killed = [
        told(
            "a reflector killed and started again",
            report.reflector_killed,
        ),
        told("a top-of-rack router killed and cut off", report.tor_killed),
    ]
    .concat();
    // A cluster of kubelets has no such measurements.
    let measured = report.converged_ms.map_or_else(String::new, |converged| {
        let claims = match report.add_to_fib_ms {
            Quantiles { n: 0, .. } => "not measured".to_owned(),
            Quantiles { p50, p99, n, .. } => format!(
                "p50 {}, p99 {} (n = {n})",
                milliseconds(p50),
                milliseconds(p99)
            ),
        };
        format!(
            "CNI ADD with a new block to the farthest FIB: {claims}; converged after {}\n",
            milliseconds(Some(converged)),
        )
    });
    format!(
        "\nmode {}: {} of {} session ends established, {} of {} pings answered, source addresses {}\n{measured}{killed}{}",
        report.mode,
        report.sessions.established,
        report.sessions.expected,
        report.pings.sent - report.pings.lost,
        report.pings.sent,
        if report.source_address_kept {
            "kept"
        } else {
            "NOT kept"
        },
        left,
    )
}

/// The part that runs as process 1.
fn inside(options: Options, output: &Output) -> ExitCode {
    let mut status = match status_descriptor() {
        Ok(status) => File::from(status),
        Err(error) => {
            eprintln!("error: {STATUS_FD}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let facts = match enter::prepare() {
        Ok(facts) => facts,
        Err(error) => {
            eprintln!("error: preparing the private world: {error}");
            return ExitCode::FAILURE;
        }
    };
    let progress = Progress::new();
    if options.kubelets {
        return inside_with_kubelets(&options, output, &facts, status);
    }
    let outcome = run::run(options, progress);
    if let Some(directory) = &output.logs
        && let Err(error) = copy_logs(directory)
    {
        eprintln!("error: copy the logs to {}: {error}", directory.display());
    }
    let mut run = match outcome {
        Ok(run) => run,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            tell(&mut status, None, kept(&facts, &[]));
            return ExitCode::FAILURE;
        }
    };
    if !output.json {
        println!("{}", run.tables);
    }
    let nodes = KeptNode::all(&run.lab);
    if output.keep {
        if let Err(error) = cut_the_cord() {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
        tell(&mut status, Some(run.report.clone()), kept(&facts, &nodes));
        drop(status);
        sys::stay_as_init();
    }
    run.tear_down(progress);
    tell(&mut status, Some(run.report.clone()), kept(&facts, &nodes));
    ExitCode::SUCCESS
}

/// As [`inside`], once the world is prepared. There is nothing to take down: all of it ends with this process.
fn inside_with_kubelets(
    options: &Options,
    output: &Output,
    facts: &Inside,
    mut status: File,
) -> ExitCode {
    let (cluster, report) = match kubelet::run::run(options, Progress::new()) {
        Ok(run) => run,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            tell(&mut status, None, kept(facts, &[]));
            return ExitCode::FAILURE;
        }
    };
    if let Some(directory) = &output.logs
        && let Err(error) = fs::create_dir_all(directory)
            .and_then(|()| fs::write(directory.join("state"), cluster.state()))
    {
        eprintln!("error: write the logs to {}: {error}", directory.display());
    }
    let nodes = kubelet::run::kept_nodes(&cluster);
    if output.keep {
        if let Err(error) = cut_the_cord() {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
        tell(&mut status, Some(report), kept(facts, &nodes));
        drop(status);
        sys::stay_as_init();
    }
    tell(&mut status, Some(report), kept(facts, &nodes));
    ExitCode::SUCCESS
}

fn copy_logs(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(log_directory())? {
        let entry = entry?;
        fs::copy(entry.path(), directory.join(entry.file_name()))?;
    }
    Ok(())
}

/// The descriptor given by the launcher, from now on kept from this process's children.
fn status_descriptor() -> io::Result<OwnedFd> {
    let number: RawFd = std::env::var(STATUS_FD)
        .ok()
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| io::Error::other("not set by a launcher"))?;
    let status = sys::adopt(number);
    rustix::io::fcntl_setfd(&status, rustix::io::FdFlags::CLOEXEC)?;
    Ok(status)
}

/// From here on the launcher's end is not this process's end.
fn cut_the_cord() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(None)?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    sys::replace_standard_descriptors(&nothing)
}

fn kept(facts: &Inside, nodes: &[KeptNode]) -> Kept {
    let pid_namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    Kept {
        host_pid: facts.host_pid,
        pid_namespace: pid_namespace.to_string_lossy().into_owned(),
        nodes: nodes.to_vec(),
    }
}

fn tell(status: &mut File, report: Option<Report>, kept: Kept) {
    let told = serde_json::to_string(&Told { report, kept }).unwrap_or_default();
    if let Err(error) = writeln!(status, "{told}") {
        eprintln!("error: tell the launcher: {error}");
    }
}

/// What the launcher's side of the machine holds that a lab could leave.
struct Snapshot {
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Snapshot {
    fn take() -> io::Result<Self> {
        let links = Netlink::open()?
            .links()
            .map_err(crate::NetlinkError::into_io)?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self {
            links: links.into_iter().map(|link| link.name).collect(),
            mounts: mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(4))
                .map(str::to_owned)
                .collect(),
            files: lab_files(),
        })
    }

    /// What came since, and what still runs in the lab's PID namespace once it had time to vanish.
    fn left_behind(&self, lab: &Kept) -> io::Result<Vec<String>> {
        wait::until(Instant::now() + VANISHING, || {
            processes_in(&lab.pid_namespace).is_empty().then_some(())
        });
        let now = Self::take()?;
        let mut left = processes_in(&lab.pid_namespace);
        // Other programs may make links and mounts meanwhile: only names that a lab uses count.
        let ours = |name: &&String| {
            name.starts_with("cali") || *name == "vxlan.calico" || name.starts_with("rack")
        };
        left.extend(
            now.links
                .difference(&self.links)
                .filter(ours)
                .map(|name| format!("link {name}")),
        );
        let ours = |path: &&String| {
            path.contains("tortie") || path.contains("calico") || path.contains("/cni-")
        };
        left.extend(
            now.mounts
                .difference(&self.mounts)
                .filter(ours)
                .map(|path| format!("mount {path}")),
        );
        left.extend(
            now.files
                .difference(&self.files)
                .map(|path| format!("file {path}")),
        );
        Ok(left)
    }
}

/// Files at the places that the lab uses inside its private world.
fn lab_files() -> BTreeSet<String> {
    let places = [
        "/run",
        "/run/netns",
        "/run/calico",
        "/var/lib/calico",
        "/var/log/calico",
        "/etc/cni/net.d",
        "/tmp",
    ];
    let entries = places
        .iter()
        .filter_map(|place| fs::read_dir(place).ok())
        .flatten()
        .flatten();
    entries
        .map(|entry| entry.path().to_string_lossy().into_owned())
        .filter(|path| {
            // Other programs' files lie in /tmp, too.
            let names: &[&str] = match path.starts_with("/tmp/") {
                true => &["/tortie-lab"],
                false => &["tortie", "calico", "/cni-"],
            };
            names.iter().any(|part| path.contains(part))
        })
        .collect()
}

/// Processes that belong to a PID namespace, or have a network namespace's descriptor of it: those keep everything else alive.
fn processes_in(pid_namespace: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        // Processes that end meanwhile, and those of other users, cannot be read.
        if fs::read_link(path.join("ns/pid"))
            .is_ok_and(|namespace| namespace.to_string_lossy() == pid_namespace)
        {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            found.push(format!(
                "process {} {}",
                entry.file_name().display(),
                name.trim()
            ));
        }
    }
    found
}
