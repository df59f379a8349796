//! A network of our own: addresses for every peer on the loopback, and a link that next hops lie on.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};

/// Set for the program inside its network.
const INSIDE: &str = "TORTIE_BENCH_INSIDE";

/// Where everybody is.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// The first two octets of everybody's address.
    pub base: [u8; 2],
    /// Port of the daemon; 0 lets it choose, which only ours can.
    pub port: u16,
}

impl World {
    /// A network namespace's.
    pub const PRIVATE: Self = Self {
        base: [10, 99],
        port: 179,
    };
    /// The host's loopback, for our own speaker.
    pub const LOOPBACK: Self = Self {
        base: [127, 99],
        port: 0,
    };

    /// The daemon's address.
    #[must_use]
    pub const fn daemon(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.base[0], self.base[1], 0, 1)
    }

    /// The address of a sender.
    #[must_use]
    pub const fn sender(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.base[0], self.base[1], 1, number + 1)
    }

    /// The address of a receiver.
    #[must_use]
    pub const fn receiver(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.base[0], self.base[1], 2, number + 1)
    }

    /// The next hop that a sender names: a neighbour on the link, so that no daemon has to doubt it.
    #[must_use]
    pub const fn next_hop(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 1, number + 1)
    }
}

/// Runs this program again in a network namespace of its own, with the same arguments; `None` when this is that run, and the
/// network is made.
///
/// # Errors
/// When `unshare` or `ip` is missing or refuses.
pub fn enter() -> anyhow::Result<Option<ExitCode>> {
    if std::env::var_os(INSIDE).is_some() {
        return furnish().map(|()| None);
    }
    let program = std::env::current_exe()?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let status = command
        .arg(program)
        .args(arguments)
        .env(INSIDE, "1")
        .status()
        .context("running unshare, of util-linux")?;
    Ok(Some(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }))
}

fn furnish() -> anyhow::Result<()> {
    let [a, b] = World::PRIVATE.base;
    for words in [
        "link set lo up".to_owned(),
        // On the loopback device a whole prefix is local: every address in it can be bound.
        format!("addr add {a}.{b}.0.1/16 dev lo"),
        "link add nexthops type veth peer name far".to_owned(),
        "addr add 198.18.0.1/16 dev nexthops".to_owned(),
        "link set nexthops up".to_owned(),
        "link set far up".to_owned(),
    ] {
        let status = Command::new("ip")
            .args(words.split(' '))
            .status()
            .context("running ip, of iproute2")?;
        ensure!(status.success(), "ip {words}: {status}");
    }
    Ok(())
}
