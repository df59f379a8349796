//! Our speaker as a route reflector and nothing else: reads its address, port and clients from a file, prints where it listens, and
//! runs until it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bgp::config::{Config, NextHopMode, PeerConfig, PeerOptions, RoutePolicy};
use bgp::policy::{Match, PrefixRange, Term, Verdict};
use bgp::speaker::Speaker;
use bgp::types::{AfiSafi, Asn, PeerName, RouterId};
use bgp_io::{Command, Output};
use tokio::sync::mpsc;

/// Hashing only.
const SEED: u64 = 1;

fn main() -> anyhow::Result<()> {
    let path = std::env::args()
        .nth(1)
        .context("usage: bench-speaker FILE")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let config = config(&text)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let (commands, commands_in) = mpsc::channel(1);
    let (outputs_in, mut outputs) = mpsc::channel(4096);
    commands.send(Command::Config(Box::new(config))).await?;
    let speaker = Speaker::new(SEED, Instant::now());
    let running = tokio::spawn(bgp_io::run(
        speaker,
        commands_in,
        outputs_in,
        std::future::pending(),
    ));
    while let Some(output) = outputs.recv().await {
        match output {
            Output::Listening(address) => println!("{address}"),
            Output::ListenFailed { address, error } => bail!("{address}: {error}"),
            Output::Route(_)
            | Output::NotWanted(_)
            | Output::Event(_)
            | Output::NextHopWatch(..) => {}
        }
    }
    running.await?;
    Ok(())
}

fn config(text: &str) -> anyhow::Result<Config> {
    let mut words = text.split_whitespace();
    let mut word = |what: &'static str| words.next().context(what);
    let router_id: Ipv4Addr = word("no BGP Identifier")?.parse()?;
    let address: IpAddr = word("no address")?.parse()?;
    let listen_port = word("no port")?.parse()?;
    let family = match word("no family")? {
        "ipv4" => AfiSafi::Ipv4Unicast,
        "ipv6" => AfiSafi::Ipv6Unicast,
        other => bail!("{other:?} is no family"),
    };
    let terms: u16 = word("no number of terms")?.parse()?;
    let asn = Asn(u32::from(bench::wire::ASN));
    let mut peers = BTreeMap::new();
    while let Some(client) = words.next() {
        let peer_asn = words.next().context("a peer without an AS")?.parse()?;
        let mut peer = peer(client.parse()?, Asn(peer_asn), asn, family);
        peer.export.terms = (0..terms).map(term).collect();
        peers.insert(PeerName(client.into()), peer);
    }
    Ok(Config {
        asn,
        router_id: RouterId(router_id),
        listen_port,
        listen_addresses: [address].into(),
        cluster_id: Some(router_id),
        restart_time: Duration::from_secs(120),
        deferral_time: Duration::ZERO,
        multipath: 1,
        peers,
    })
}

/// Lets nothing of a prefix out that nobody announces.
fn term(number: u16) -> Term {
    let prefix = bench::daemon::unused(number);
    Term {
        name: number.to_string().into(),
        matches: vec![Match::Prefix(vec![PrefixRange::or_longer(prefix.into())])],
        edits: Vec::new(),
        verdict: Verdict::Reject,
    }
}

fn peer(address: IpAddr, asn: Asn, own: Asn, family: AfiSafi) -> PeerConfig {
    PeerConfig {
        address,
        port: 179,
        local_address: None,
        asn,
        local_asn: None,
        families: BTreeSet::from([family]),
        passive: true,
        hold_time: Duration::from_secs(240),
        connect_retry_time: Duration::from_secs(5),
        password: None,
        ttl_security: None,
        multihop: true,
        route_reflector_client: asn == own,
        next_hop: NextHopMode::Auto,
        allow_own_as: 0,
        graceful_restart: false,
        restart_time: None,
        prefix_limit: None,
        import: RoutePolicy::accept_all(),
        export: RoutePolicy::accept_all(),
        options: PeerOptions::default(),
    }
}
