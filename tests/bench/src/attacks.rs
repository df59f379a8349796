//! What hostile peers cost `tortie-rr`, over real sockets: each attack beside two honest sessions, one of which tells the other a route
//! ten times a second.

mod attack;
mod honest;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::usage::Processes;
use crate::world;

use attack::{ATTACKS, Attack};
use honest::Honest;

/// The daemon.
const DAEMON: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Honest peers: who announces, and who is told.
const HONEST: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 1, 1), Ipv4Addr::new(10, 99, 1, 2)];
/// The hostile one.
const HOSTILE: Ipv4Addr = Ipv4Addr::new(10, 99, 66, 6);
/// Hold Time of honest sessions: a KEEPALIVE is due every third of it, less up to a quarter.
const HOLD_SECONDS: u64 = 9;
/// Longest time for anything to begin.
const START_TIME: Duration = Duration::from_secs(60);

/// `bench attacks`.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long each attack lasts, in seconds.
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// Routes of an honest peer that are there before.
    #[arg(long, default_value_t = 100_000)]
    routes: u32,
    /// Attacks by name. Default: all.
    #[arg(long, value_delimiter = ',')]
    attacks: Vec<String>,
}

/// What one attack cost.
#[derive(Debug)]
pub struct Cost {
    /// Resident memory before, and the most during the attack, in KiB.
    pub memory_kib: (u64, u64),
    /// The daemon's time on a processor, of all that passed.
    pub cpu: f64,
    /// Longest time between two KEEPALIVEs to an honest peer.
    pub keepalive_gap: Duration,
    /// How long a route took from one honest peer to the other: the median, the longest.
    pub delay: (Duration, Duration),
    /// Lines of log.
    pub log_lines: usize,
    /// What the attacker achieved, in words.
    pub done: String,
}

/// Measures each attack and prints a table.
///
/// # Errors
/// When something cannot be started, or an honest session ends.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(code) = world::enter()? {
        return Ok(code);
    }
    println!(
        "| attack | memory before, most (MB) | CPU | longest time between KEEPALIVEs, due after {} s | a route from peer to peer: median, longest (ms) | log lines |\n|---|---|---|---|---|---|",
        HOLD_SECONDS / 3
    );
    let chosen = |attack: &&Attack| {
        arguments.attacks.is_empty() || arguments.attacks.iter().any(|name| name == attack.name)
    };
    for attack in ATTACKS.iter().filter(chosen) {
        let cost = measure(attack, arguments).with_context(|| attack.name.to_owned())?;
        let megabytes = |kib: u64| kib * 1024 / 1_000_000;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        println!(
            "| {}: {} | {}, {} | {:.0} % | {:.2} s | {:.1}, {:.0} | {} |",
            attack.name,
            cost.done,
            megabytes(cost.memory_kib.0),
            megabytes(cost.memory_kib.1),
            cost.cpu * 100.0,
            cost.keepalive_gap.as_secs_f64(),
            milliseconds(cost.delay.0),
            milliseconds(cost.delay.1),
            cost.log_lines,
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(attack: &Attack, arguments: &Arguments) -> anyhow::Result<Cost> {
    let daemon = Daemon::start(attack)?;
    let processes = Processes::of(daemon.program.id());
    let honest = Honest::start(arguments.routes)?;
    daemon.forget_peak()?;
    let before = processes.peak_kib()?;
    let lines = daemon.log_lines();
    let (cpu, begin) = (processes.cpu()?, Instant::now());
    let end = begin + Duration::from_secs(arguments.seconds);
    let done = std::thread::scope(|scope| {
        let attacking = scope.spawn(|| (attack.run)(end));
        let told = honest.tell_until(end);
        let done = attacking.join().expect("an attacker does not panic");
        told.and(done)
    })?;
    let spent = processes.cpu()?.saturating_sub(cpu);
    let peak = processes.peak_kib()?;
    let log_lines = daemon.log_lines() - lines;
    let (keepalive_gap, delay) = honest.finish()?;
    Ok(Cost {
        memory_kib: (before, peak),
        cpu: spent.as_secs_f64() / begin.elapsed().as_secs_f64(),
        keepalive_gap,
        delay,
        log_lines,
        done,
    })
}

/// A `tortie-rr` with files; it ends with this.
struct Daemon {
    program: Child,
    folder: PathBuf,
}

impl Daemon {
    fn start(attack: &Attack) -> anyhow::Result<Self> {
        let name = format!("tortie-attacks-{}-{}", std::process::id(), attack.name);
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("resources.yaml"), resources(attack))?;
        let log = fs::File::create(folder.join("log"))?;
        let own = std::env::current_exe()?;
        let program = own.parent().context("a folder")?.join("tortie-rr");
        ensure!(
            program.is_file(),
            "{} is not there: cargo build -p route-reflector with the same profile",
            program.display()
        );
        let program = Command::new(program)
            .env_clear()
            .arg("--resources")
            .arg(&folder)
            .arg("--admin-socket")
            .arg(folder.join("admin.sock"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { program, folder })
    }

    /// What was most until now does not count.
    fn forget_peak(&self) -> anyhow::Result<()> {
        let path = format!("/proc/{}/clear_refs", self.program.id());
        fs::write(&path, "5").with_context(|| path)
    }

    fn log_lines(&self) -> usize {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        text.lines().count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already is as good; a folder that stays is in the system's temporary one.
        let _ = self.program.kill();
        let _ = self.program.wait();
        let _ = fs::remove_dir_all(Path::new(&self.folder));
    }
}

fn resources(attack: &Attack) -> String {
    let mut text = format!(
        "kind: BGPConfiguration\nmetadata: {{name: default}}\nspec: {{nodeToNodeMeshEnabled: false, asNumber: 64512}}\n---\n\
         kind: Node\nmetadata: {{name: rr}}\nspec: {{bgp: {{ipv4Address: {DAEMON}/16, routeReflectorClusterID: 1.0.0.1}}}}\n"
    );
    let hold = format!("hold-time: {HOLD_SECONDS}s");
    let peers = [
        ("sender", HONEST[0], hold.as_str()),
        ("receiver", HONEST[1], hold.as_str()),
        ("hostile", HOSTILE, attack.options),
    ];
    for (name, address, options) in peers {
        let options: Vec<String> = options
            .split_terminator(',')
            .filter_map(|option| {
                let (name, value) = option.split_once(": ")?;
                Some(format!("networking.tortie.dev/bgp-{name}: \"{value}\""))
            })
            .collect();
        text += &format!(
            "---\nkind: BGPPeer\nmetadata: {{name: {name}, annotations: {{{}}}}}\nspec: {{peerIP: {address}, asNumber: 64512}}\n",
            options.join(", ")
        );
    }
    text
}
