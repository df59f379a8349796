//! Control groups (version 1) of a private world: below a group of its own in each hierarchy, which its processes see as the root, so
//! that container runtimes of several labs do not meet, and the world's groups are known when it is gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use crate::enter::{BASE, doing, mount_new};
use crate::sys;

/// Every group's name begins so; the rest is the number of the world's PID namespace.
const PREFIX: &str = "tortie-lab-";
/// Where programs look for control groups.
const USUAL: &str = "/sys/fs/cgroup";

/// A hierarchy of control groups, as /proc/self/cgroup names it: `memory`, `cpu,cpuacct`, `name=systemd`.
#[derive(Clone, Debug)]
struct Hierarchy {
    controllers: String,
    /// Of this process, from the hierarchy's root.
    group: PathBuf,
}

impl Hierarchy {
    /// Those of version 1 on this machine.
    fn all() -> io::Result<Vec<Self>> {
        let text = fs::read_to_string("/proc/self/cgroup")?;
        let found = text.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next().filter(|names| !names.is_empty())?;
            let group = fields.next()?.trim_start_matches('/');
            Some(Self {
                controllers: controllers.to_owned(),
                group: group.into(),
            })
        });
        Ok(found.collect())
    }

    fn name(&self) -> &str {
        self.controllers.trim_start_matches("name=")
    }

    fn mount(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let options = if self.controllers.starts_with("name=") {
            format!("none,{}", self.controllers)
        } else {
            self.controllers.clone()
        };
        let options = std::ffi::CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("cgroup", directory, "cgroup", flags, options.as_c_str()).map_err(
            |error| {
                doing(
                    &format!("mount the control groups {}", self.controllers),
                    error,
                )
            },
        )
    }
}

/// Whether this machine has what kubelets and their runtime are given here.
pub(super) fn are_version_1() -> bool {
    Hierarchy::all().is_ok_and(|all| all.iter().any(|one| one.controllers == "memory"))
}

/// Moves process 1 of a private world, and with it all it will start, into groups of its own, which are their root from then on. Must be
/// called before the first thread is started.
pub(super) fn enter() -> io::Result<()> {
    let world = fs::metadata("/proc/self/ns/pid")?;
    let name = format!("{PREFIX}{}", std::os::unix::fs::MetadataExt::ino(&world));
    let mut mounted = Vec::new();
    for hierarchy in Hierarchy::all()? {
        let directory = Path::new(BASE).join("cgroup").join(hierarchy.name());
        hierarchy.mount(&directory)?;
        let parent = directory.join(&hierarchy.group);
        let group = parent.join(&name);
        fs::create_dir(&group)?;
        for inherited in ["cpuset.cpus", "cpuset.mems"] {
            // A group without processors takes no process.
            if let Ok(value) = fs::read(parent.join(inherited)) {
                fs::write(group.join(inherited), value)?;
            }
        }
        fs::write(group.join("cgroup.procs"), "0")?;
        mounted.push(directory);
    }
    sys::unshare_thread(UnshareFlags::NEWCGROUP)?;
    for directory in mounted {
        rustix::mount::unmount(&directory, UnmountFlags::DETACH)
            .map_err(|error| doing("unmount control groups", error))?;
    }
    Ok(())
}

/// Shows the world's groups to a machine, where its programs look for them; in the machine's mount namespace.
pub(super) fn show() -> io::Result<()> {
    mount_new("tmpfs", Path::new(USUAL))?;
    for hierarchy in Hierarchy::all()? {
        hierarchy.mount(&Path::new(USUAL).join(hierarchy.name()))?;
        // Programs look for each controller by itself, too.
        for controller in hierarchy.controllers.split(',') {
            let link = Path::new(USUAL).join(controller.trim_start_matches("name="));
            if !link.exists() {
                std::os::unix::fs::symlink(hierarchy.name(), link)?;
            }
        }
    }
    Ok(())
}

/// Removes the groups that private worlds left, outside of them. Those of a living one stay: the kernel refuses to remove them. Answers
/// which of dead worlds it could not remove.
pub(super) fn sweep() -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let hierarchies = Hierarchy::all()?;
    let mut left = Vec::new();
    for line in mounts.lines().filter(|line| line.contains(" - cgroup ")) {
        let Some(place) = line.split(' ').nth(4) else {
            continue;
        };
        let place = Path::new(place);
        let own = hierarchies.iter().find(|one| place.ends_with(one.name()));
        let group = own.map_or_else(|| place.to_path_buf(), |one| place.join(&one.group));
        for entry in fs::read_dir(group).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                remove(&entry.path());
                if entry.path().exists() && !lives(&entry.path()) {
                    left.push(entry.path());
                }
            }
        }
    }
    Ok(left)
}

/// Groups below first: a group that has some is not removed.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    // Refused while a process is in it.
    let _ = fs::remove_dir(group);
}

fn lives(group: &Path) -> bool {
    let own = fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|text| !text.is_empty());
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    own || below
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .any(|path| lives(&path))
}
