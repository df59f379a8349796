//! The attacks.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::HOSTILE;
use super::honest::{OpenWith, connect, drain, establish, keepalive, net, try_establish, update};
use crate::plan::Family;
use crate::wire;

/// An attack.
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// Annotations of the hostile peer's BGPPeer.
    pub(super) options: &'static str,
    /// Attacks until then; what it achieved.
    pub(super) run: fn(Instant) -> anyhow::Result<String>,
}

/// All of them, after a measurement without any.
pub(super) const ATTACKS: [Attack; 8] = [
    Attack {
        name: "none",
        options: "",
        run: nobody,
    },
    Attack {
        name: "never-reads",
        options: "",
        run: never_reads,
    },
    Attack {
        name: "sets-of-4kb",
        options: "",
        run: long_sets,
    },
    Attack {
        name: "sets-of-4kb-limited",
        options: "prefix-limit: 5000",
        run: long_sets,
    },
    Attack {
        name: "refreshes",
        options: "",
        run: refreshes,
    },
    Attack {
        name: "million-prefixes",
        options: "",
        run: a_million,
    },
    Attack {
        name: "million-prefixes-limited",
        options: "prefix-limit: 100000",
        run: a_million,
    },
    Attack {
        name: "refused-connections",
        options: "",
        run: strangers,
    },
];

fn wait(end: Instant) {
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
}

fn nobody(end: Instant) -> anyhow::Result<String> {
    wait(end);
    Ok("nothing".to_owned())
}

/// No Hold Time, and nothing is read.
fn never_reads(end: Instant) -> anyhow::Result<String> {
    let (stream, _) = establish(HOSTILE, OpenWith::NoHoldTime)?;
    wait(end);
    drop(stream);
    Ok("no Hold Time, and nothing is read".to_owned())
}

/// Each prefix with its own communities, as many as fit into 4096 octets.
fn long_sets(end: Instant) -> anyhow::Result<String> {
    let mut sent = 0_u32;
    let message = |n: u32| {
        let mut communities = vec![0xd0, 8];
        let octets: u16 = 4 * 1000;
        communities.extend(octets.to_be_bytes());
        communities.extend((0..1000_u32).flat_map(|k| (n.wrapping_mul(1000) + k).to_be_bytes()));
        update(&communities, &[&net(n % 4_000_000)])
    };
    // So many that they are different ones, and no machine runs out of memory.
    flood(end, 50_000, |n| {
        sent += 1;
        message(n)
    })
    .map(|sessions| format!("{sent} prefixes with 1,000 communities each, in {sessions} sessions"))
}

/// A million /24 and then silence, or again where the session was ended.
fn a_million(end: Instant) -> anyhow::Result<String> {
    let mut sent = 0_u32;
    flood(end, 1_000_000 / 500, |n| {
        sent += 500;
        let nets: Vec<[u8; 4]> = (n * 500..(n + 1) * 500).map(net).collect();
        let nets: Vec<&[u8]> = nets.iter().map(<[u8; 4]>::as_slice).collect();
        update(&[0x80, 4, 4, 0, 0, 0, 7], &nets)
    })
    .map(|sessions| format!("{sent} prefixes in {sessions} sessions"))
}

/// Sends messages until all are sent, and begins anew whenever the session is ended; in how many sessions.
fn flood(
    end: Instant,
    messages: u32,
    mut message: impl FnMut(u32) -> Vec<u8>,
) -> anyhow::Result<u32> {
    let mut sessions = 0;
    while Instant::now() < end {
        let Ok((mut stream, _)) = try_establish(HOSTILE, OpenWith::NoHoldTime) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        sessions += 1;
        let reading = drain(stream.try_clone()?);
        let mut numbers = 0..messages;
        while Instant::now() < end
            && let Some(n) = numbers.next()
            && stream.write_all(&message(n)).is_ok()
        {}
        if numbers.is_empty() {
            wait(end);
        }
        // Ended by the other side already, perhaps.
        let _ = stream.shutdown(std::net::Shutdown::Both);
        drop(stream);
        // It ends with the connection.
        drop(reading.join());
    }
    Ok(sessions)
}

/// ROUTE-REFRESH as fast as the daemon takes them, while all that comes is read.
fn refreshes(end: Instant) -> anyhow::Result<String> {
    let (mut stream, _) = establish(HOSTILE, OpenWith::HoldTime)?;
    let reading = drain(stream.try_clone()?);
    let mut some = Vec::new();
    for _ in 0..100 {
        wire::write_refresh(&mut some, Family::V4);
    }
    let mut sent = 0;
    while Instant::now() < end {
        stream.write_all(&some)?;
        sent += 100;
    }
    stream.write_all(&keepalive())?;
    stream.shutdown(std::net::Shutdown::Both)?;
    drop(reading.join());
    Ok(format!("{sent} requests"))
}

/// Connections from addresses that nobody has a session with.
fn strangers(end: Instant) -> anyhow::Result<String> {
    let mut made = 0_u32;
    let mut next = Instant::now();
    while next < end {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += Duration::from_millis(1);
        let [_, _, _, host] = (made % 250 + 1).to_be_bytes();
        drop(connect(Ipv4Addr::new(10, 99, 77, host))?);
        made += 1;
    }
    Ok(format!("{made} connections"))
}
