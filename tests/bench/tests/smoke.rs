//! The harness at a tiny size, against our own speaker.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bench::client::Client;
use bench::daemon::{Daemon, Kind};
use bench::load::{End, Load};
use bench::plan::{Family, Hearing, Layout, Peers, Phase, Plan};
use bench::routes::{Relay, Routes};
use bench::scenario;
use bench::table::Table;
use bench::wire::{self, HEADER, Message};
use bench::world::World;

const ALL: &[Phase] = &[
    Phase::Establish,
    Phase::Announce,
    Phase::Refresh,
    Phase::OneChange,
    Phase::Readvertise,
    Phase::Flap,
    Phase::FlapSender,
    Phase::Return,
    Phase::Withdraw,
];

const SMALL: Plan = Plan {
    phases: ALL,
    limit: Duration::from_secs(60),
    ..Plan::bulk("smoke", 2, 50, 5, 3)
};

fn directory(name: &str) -> PathBuf {
    // Asked for here so that they are built before this runs.
    for program in [
        env!("CARGO_BIN_EXE_bench-speaker"),
        env!("CARGO_BIN_EXE_bench-floor"),
    ] {
        assert!(std::path::Path::new(program).is_file());
    }
    std::env::temp_dir().join(format!("tortie-bench-{name}-{}", std::process::id()))
}

fn every_phase_ends(plan: &Plan, kind: Kind) {
    let directory = directory(plan.name);
    let outcome = scenario::run(plan, kind, World::LOOPBACK, &directory, plan.limit, &[], 5)
        .unwrap_or_else(|error| panic!("{error:#}"));
    assert!(std::fs::remove_dir_all(&directory).is_ok());
    assert_eq!(outcome.late, []);
    let phases: Vec<Phase> = outcome.phases.iter().map(|(phase, _)| *phase).collect();
    assert_eq!(phases, plan.phases);
    let measured = outcome.phases.iter().map(|(_, measured)| measured);
    assert!(measured.clone().all(|measured| measured.peak_mib > 0.0));
    assert!(
        measured
            .clone()
            .all(|measured| measured.wall_seconds.is_some())
    );
}

#[test]
fn every_phase_ends_with_every_receiver_holding_what_it_must() {
    every_phase_ends(&SMALL, Kind::Tortie);
}

#[test]
fn routes_of_ipv6_external_peers_and_senders_of_the_same_prefixes_arrive() {
    let ours = |plan| every_phase_ends(&plan, Kind::Tortie);
    ours(Plan {
        name: "smoke-v6",
        family: Family::V6,
        ..SMALL
    });
    ours(Plan {
        name: "smoke-external",
        peers: Peers::External,
        ..SMALL
    });
    ours(Plan {
        name: "smoke-same",
        layout: Layout::Shared,
        phases: &[
            Phase::Announce,
            Phase::FlapSender,
            Phase::Return,
            Phase::Withdraw,
        ],
        ..SMALL
    });
    ours(Plan {
        name: "smoke-internet",
        layout: Layout::Internet,
        ..SMALL
    });
    ours(Plan {
        name: "smoke-scattered",
        layout: Layout::InternetScattered,
        ..SMALL
    });
    ours(Plan {
        name: "smoke-twice",
        layout: Layout::InternetShared,
        phases: &[
            Phase::Announce,
            Phase::FlapSender,
            Phase::Return,
            Phase::Withdraw,
        ],
        ..SMALL
    });
    ours(Plan {
        name: "smoke-policy",
        terms: 3,
        ..SMALL
    });
}

#[test]
fn nodes_hear_of_all_others() {
    every_phase_ends(
        &Plan {
            hearing: Hearing::All,
            phases: &[Phase::Announce, Phase::Readvertise, Phase::Withdraw],
            ..Plan::bulk("smoke-nodes", 30, 4, 1, 0)
        },
        Kind::Tortie,
    );
}

#[test]
fn the_floor_delivers_what_it_can() {
    let phases = &[
        Phase::Establish,
        Phase::Announce,
        Phase::Readvertise,
        Phase::OneChange,
        Phase::Withdraw,
    ];
    let plan = Plan {
        name: "smoke-floor",
        phases,
        ..SMALL
    };
    assert!(phases.iter().all(|phase| Kind::Floor.can(&plan, *phase)));
    every_phase_ends(&plan, Kind::Floor);
}

#[test]
fn a_receiver_that_misses_one_prefix_does_not_end_the_phase_and_is_named() {
    let plan = Plan::bulk("smoke-missing", 1, 50, 5, 2);
    let directory = directory(plan.name);
    let world = World::LOOPBACK;
    let peers = world.peers(&plan);
    let daemon = Daemon::start(Kind::Tortie, &plan, world, &peers, &directory).unwrap();
    let routes = Rc::new(Routes::new(&plan, Relay::Unchanged, 5));
    let clients = peers.iter().enumerate().map(|(number, peer)| {
        let table = (number > 0).then(|| Table::new(routes.total()));
        Client::new(*peer, plan.family, Rc::clone(&routes), table)
    });
    let mut load = Load::new(daemon.address, clients.collect()).unwrap();
    let right = |end: End| matches!(end, End::Right(_));
    load.connect().unwrap();
    assert!(right(load.until_right(plan.limit).unwrap()));

    // The sender is silent about its last prefix, which only the second receiver is to hold.
    let contents = routes.contents(1, 0..1);
    let mut without_last = contents.clone();
    *without_last.last_mut().unwrap() = 0;
    let tables = load
        .clients
        .iter_mut()
        .filter_map(|client| client.table.as_mut());
    for (table, contents) in tables.zip([without_last, contents]) {
        table.expect(&Rc::new(contents));
    }
    for prefix in 0..49 {
        let (bytes, _) = routes.change(1, prefix);
        load.clients[0].send(&bytes).unwrap();
    }
    let End::Late(complaint) = load.until_right(Duration::from_millis(300)).unwrap() else {
        panic!("a prefix was missing");
    };
    let address = peers[2].address.to_string();
    assert!(
        complaint.starts_with(&format!(
            "1 of 3 peers are not right: {address} has 1 prefixes wrong"
        )),
        "{complaint}"
    );

    let (bytes, _) = routes.change(1, 49);
    load.clients[0].send(&bytes).unwrap();
    let table = load.clients[1].table.as_mut().unwrap();
    table.expect(&Rc::new(routes.contents(1, 0..1)));
    assert!(right(load.until_right(plan.limit).unwrap()));
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Announces through a daemon that is expected to do this to the routes; how the phase ended, or why it failed.
fn announced(plan: &Plan, kind: Kind, relay: Relay) -> anyhow::Result<End> {
    let directory = directory(plan.name);
    let world = World::LOOPBACK;
    let peers = world.peers(plan);
    let daemon = Daemon::start(kind, plan, world, &peers, &directory)?;
    let routes = Rc::new(Routes::new(plan, relay, 5));
    let clients = peers.iter().enumerate().map(|(number, peer)| {
        let table = (number > 0).then(|| Table::new(routes.total()));
        Client::new(*peer, plan.family, Rc::clone(&routes), table)
    });
    let mut load = Load::new(daemon.address, clients.collect())?;
    load.connect()?;
    assert!(matches!(load.until_right(plan.limit)?, End::Right(_)));
    let contents = Rc::new(routes.contents(1, 0..1));
    for client in &mut load.clients {
        if let Some(table) = &mut client.table {
            table.expect(&contents);
        }
    }
    load.clients[0].send(&routes.announcement(1, 0))?;
    let end = load.until_right(plan.limit);
    std::fs::remove_dir_all(&directory)?;
    end
}

#[test]
fn a_wrong_next_hop_or_as_path_ends_the_run_though_every_prefix_and_community_is_right() {
    let reflected = Plan::bulk("smoke-reflected", 1, 50, 5, 2);
    let external = Plan {
        name: "smoke-as-path",
        peers: Peers::External,
        limit: Duration::from_secs(60),
        ..reflected
    };
    let own = World::LOOPBACK.daemon(Family::V4);
    let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let through = |next_hop| Relay::NextAs { next_hop };
    let right = announced(&external, Kind::Tortie, through(own)).unwrap();
    assert!(matches!(right, End::Right(_)), "{right:?}");
    for (plan, kind, relay, wrong) in [
        (&external, Kind::Tortie, through(other), "the next hop"),
        (&external, Kind::Tortie, Relay::Unchanged, "the AS_PATH"),
        // It copies: neither is its AS in the path, nor its address the next hop.
        (&external, Kind::Floor, through(own), "the AS_PATH"),
        (&reflected, Kind::Tortie, through(own), "the AS_PATH"),
    ] {
        let error = announced(plan, kind, relay).expect_err("it is wrong");
        assert!(format!("{error:#}").contains(wrong), "{error:#}");
    }
}

#[test]
fn a_session_that_stands_sends_keepalives() {
    let plan = Plan::bulk("smoke-keepalive", 1, 1, 1, 0);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).unwrap();
        let mut greeting = Vec::new();
        let router_id = Ipv4Addr::new(192, 0, 2, 1);
        wire::write_open(&mut greeting, wire::ASN, router_id, Family::V4);
        wire::write_keepalive(&mut greeting);
        stream.write_all(&greeting).unwrap();
        // One answers the OPEN; those after it come by the clock.
        let mut keepalives = 0;
        while keepalives < 3 {
            let mut message = vec![0; HEADER];
            stream.read_exact(&mut message).unwrap();
            let body = u16::from_be_bytes([message[16], message[17]]).into();
            message.resize(body, 0);
            stream.read_exact(&mut message[HEADER..]).unwrap();
            let (message, _) = wire::next_message(&message).unwrap().unwrap();
            keepalives += usize::from(message == Message::Keepalive);
        }
    });
    let routes = Rc::new(Routes::new(&plan, Relay::Unchanged, 5));
    let client = Client::new(World::LOOPBACK.peers(&plan)[0], plan.family, routes, None);
    let mut load = Load::new(address, vec![client]).unwrap();
    load.keepalive_time = Duration::from_millis(1);
    load.connect().unwrap();
    while !daemon.is_finished() {
        // It closes at the end.
        if load.idle(Duration::from_millis(20)).is_err() {
            break;
        }
    }
    daemon.join().unwrap();
}
