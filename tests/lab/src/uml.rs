//! Running a test, or the lab, under a User Mode Linux kernel: for what the machine's own kernel lacks (ipip), and for BGP's timers at
//! their true values, with a clock that jumps to the next deadline when all are idle.
//!
//! The guest's root is this machine's own file system; its process 1 is the `lab` program, which runs one command and powers off.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use harness::Inner;
use rustix::mount::MountFlags;
use serde::{Deserialize, Serialize};

use crate::programs::PREBUILT;

/// Set inside the guest.
const GUEST: &str = "TORTIE_LAB_UML";
/// Names the kernel's executable.
const KERNEL: &str = "TORTIE_UML_KERNEL";
/// The guest's name.
const HOST_NAME: &[u8] = b"uml";
/// First argument of the `lab` program as process 1 of a guest.
pub const INIT: &str = "uml-init";

/// The guest's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The machine's.
    Real,
    /// Jumps to the next timer whenever nothing runs.
    Jumping,
}

/// The machine that a guest is.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Its clock.
    pub clock: Clock,
    /// What its kernel does not begin, by the names of the functions that would (`initcall_blacklist` of the kernel's parameters): it is
    /// as one without these parts.
    pub without: &'static [&'static str],
}

impl From<Clock> for Machine {
    fn from(clock: Clock) -> Self {
        Self {
            clock,
            without: &[],
        }
    }
}

/// What the guest's process 1 is to run.
#[derive(Serialize, Deserialize)]
struct Order {
    program: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    directory: PathBuf,
    /// Whether its standard error is a file of its own.
    apart: bool,
}

/// Files in the guest's folder.
const OUTPUT: &str = "output";
const ERRORS: &str = "errors";
/// How often the guest's output is looked at while it runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether this process runs in a guest.
#[must_use]
pub fn is_guest() -> bool {
    std::env::var_os(GUEST).is_some()
}

/// The kernel: what `TORTIE_UML_KERNEL` names, or what `.ci/setup` put into the user's cache.
#[must_use]
pub fn kernel() -> Option<PathBuf> {
    let named = std::env::var_os(KERNEL).map(PathBuf::from);
    let cached = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/tortie/uml"));
    [named, cached]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

/// Runs `body` as root of a guest; for tests. `name` is the test's own name, as `cargo test` prints it, `init` the built `lab` program.
/// Without a kernel the test is skipped, aloud.
///
/// # Panics
/// When `body` panics, when the guest dies, or when `name` is not the test's.
pub fn in_uml(name: &str, init: &Path, machine: impl Into<Machine>, body: impl FnOnce()) {
    if is_guest() {
        body();
        return;
    }
    let Some(kernel) = kernel() else {
        harness::skip(
            "uml",
            "no User Mode Linux kernel: name one in TORTIE_UML_KERNEL (see docs/testing.md)",
        );
    };
    let inner = Inner::of(name);
    let arguments = inner.arguments().map(str::to_owned).to_vec();
    let mut order = Order::of_this_program(arguments);
    let (variable, value) = Inner::variable();
    (order.environment).insert(variable.to_owned(), value.to_owned());
    let output = Guest::run(&kernel, init, machine.into(), &order, &mut |_| Ok(()))
        .unwrap_or_else(|error| panic!("running the guest: {error}"));
    inner.conclude_as(
        output.code == Some(0),
        &format!("in the guest; the guest itself: {}", output.status),
        &output.text,
        &output.console,
    );
}

/// Runs this program again, with these arguments, as root of a guest, where the product's programs lie in `programs`; what it writes
/// is written here. Its exit code, or how the guest died.
///
/// # Errors
/// No guest could be started, or what it wrote cannot be written.
pub fn again(
    kernel: &Path,
    arguments: Vec<String>,
    programs: &Path,
) -> io::Result<Result<u8, String>> {
    let mut order = Order::of_this_program(arguments);
    order.apart = true;
    (order.environment).insert(PREBUILT.to_owned(), programs.display().to_string());
    let mut shown = [0; 2];
    let mut show = |folder: &Path| {
        shown[0] += copy_from(&folder.join(OUTPUT), shown[0], &mut io::stdout())?;
        shown[1] += copy_from(&folder.join(ERRORS), shown[1], &mut io::stderr())?;
        Ok(())
    };
    let guest = Guest::run(
        kernel,
        &order.program,
        Clock::Real.into(),
        &order,
        &mut show,
    )?;
    let code = guest.code.and_then(|code| u8::try_from(code).ok());
    Ok(code.ok_or_else(|| format!("the guest ended early: {}\n{}", guest.status, guest.console)))
}

/// Copies what a file has beyond `start`; how much that is. None when there is no such file yet.
fn copy_from(path: &Path, start: u64, to: &mut dyn Write) -> io::Result<u64> {
    let Ok(mut file) = File::open(path) else {
        return Ok(0);
    };
    file.seek(SeekFrom::Start(start))?;
    io::copy(&mut file, to)
}

impl Order {
    fn of_this_program(arguments: Vec<String>) -> Self {
        let mut environment: BTreeMap<String, String> = std::env::vars().collect();
        environment.insert(GUEST.to_owned(), "1".to_owned());
        Self {
            program: std::env::current_exe().expect("/proc/self/exe can be read"),
            arguments,
            environment,
            directory: std::env::current_dir().expect("programs are started in a directory"),
            apart: false,
        }
    }
}

/// How a guest ended.
struct Guest {
    status: ExitStatus,
    code: Option<i32>,
    text: String,
    console: String,
}

impl Guest {
    /// `look` is called with its folder now and then, and at the end.
    fn run(
        kernel: &Path,
        init: &Path,
        machine: Machine,
        order: &Order,
        look: &mut dyn FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<Self> {
        let number = rustix::process::getpid().as_raw_nonzero();
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let folder = std::env::temp_dir().join(format!("tortie-uml-{number}-{thread}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("order.json"), serde_json::to_vec(order)?)?;
        let console = File::create(folder.join("console"))?;
        let mut command = Command::new(kernel);
        command
            .args(["rootfstype=hostfs", "rw", "root=/dev/root", "mem=1G"])
            .args(["seccomp=on", "noreboot", "quiet", "panic=-1"])
            .args(["con=null", "con0=null,fd:1"])
            .arg(format!("umid=u{thread}"))
            .arg(format!("uml_dir={}/", folder.display()))
            .args((machine.clock == Clock::Jumping).then_some("time-travel"))
            .args((!machine.without.is_empty()).then(|| lacking(machine.without)))
            .arg(format!("init={}", init.display()))
            .arg("--")
            .arg(INIT)
            .arg(&folder)
            .env_clear()
            .env("HOME", &folder)
            .env("TMPDIR", shared_memory())
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console);
        let mut running = command.spawn()?;
        let status = loop {
            let ended = running.try_wait()?;
            look(&folder)?;
            match ended {
                Some(status) => break status,
                None => thread::sleep(LOOK_EVERY),
            }
        };
        let read = |name: &str| {
            let bytes = fs::read(folder.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let guest = Self {
            status,
            code: read("code").trim().parse().ok(),
            text: read(OUTPUT),
            console: read("console"),
        };
        fs::remove_dir_all(&folder)?;
        Ok(guest)
    }
}

/// The kernel's parameter that keeps it from beginning these.
fn lacking(functions: &[&str]) -> String {
    format!("initcall_blacklist={}", functions.join(","))
}

/// Where the guest's memory lies.
fn shared_memory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if rustix::fs::access(&shm, rustix::fs::Access::WRITE_OK).is_ok() {
        shm
    } else {
        std::env::temp_dir()
    }
}

/// Process 1 of a guest: mounts what a system has, carries out the order in `folder`, powers off. Returns only if it may not power off.
///
/// # Errors
/// That refusal. Whatever fails before stands in the output.
pub fn init(folder: &Path) -> io::Result<()> {
    if let Err(error) = carry_out(folder) {
        fs::write(folder.join(OUTPUT), format!("process 1: {error}\n"))?;
    }
    rustix::fs::sync();
    rustix::system::reboot(rustix::system::RebootCommand::PowerOff)?;
    Ok(())
}

fn carry_out(folder: &Path) -> io::Result<()> {
    let mounts = [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/run"),
    ];
    for (kind, place) in mounts {
        // devtmpfs makes no folder for shared memory.
        let _ = fs::create_dir(place);
        match rustix::mount::mount(kind, place, kind, MountFlags::empty(), None) {
            // The kernel may have mounted its devices itself.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => {
                return Err(io::Error::other(format!(
                    "mount {kind} on {place}: {error}"
                )));
            }
        }
    }
    // What has no name is no machine for Kubernetes: it makes labels of it.
    rustix::system::sethostname(HOST_NAME)?;
    crate::Netlink::open()?
        .set_up("lo")
        .map_err(io::Error::other)?;
    let order: Order = serde_json::from_slice(&fs::read(folder.join("order.json"))?)?;
    let output = File::create(folder.join(OUTPUT))?;
    let errors = match order.apart {
        true => File::create(folder.join(ERRORS))?,
        false => output.try_clone()?,
    };
    let status = Command::new(order.program)
        .args(order.arguments)
        .env_clear()
        .envs(order.environment)
        .current_dir(order.directory)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()?;
    let code = status.code().unwrap_or(255);
    fs::write(folder.join("code"), code.to_string())
}
