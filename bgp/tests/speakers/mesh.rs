//! Meshes converge, whatever the order of bytes.

use std::time::Duration;

use crate::network::{Network, block};

fn converges(seed: u64, size: usize) {
    let mut network = Network::mesh(seed, size);
    network.run(Duration::from_secs(20));
    for node in 0..size {
        for other in 0..size {
            assert!(
                network.has_route(node, block(other)),
                "seed {seed}: {node} lacks block of {other}"
            );
            if other != node {
                assert!(
                    network.is_established(node, other),
                    "seed {seed}: {node} to {other}"
                );
            }
        }
        let downs = network.session_downs(node);
        assert!(
            downs.is_empty(),
            "seed {seed}: sessions of {node} went down: {downs:?}"
        );
    }
}

#[test]
fn a_mesh_of_3_converges_although_all_connect_at_once() {
    (0..200).for_each(|seed| converges(seed, 3));
}

#[test]
fn a_mesh_of_20_converges() {
    (0..3).for_each(|seed| converges(seed, 20));
}

#[test]
fn a_withdrawn_block_disappears_everywhere() {
    let mut network = Network::mesh(5, 4);
    network.run(Duration::from_secs(20));
    network.withdraw(2, block(2));
    network.run(Duration::from_secs(1));
    for node in 0..4 {
        assert!(!network.has_route(node, block(2)));
        assert!(network.has_route(node, block(3)));
    }
}

#[test]
fn many_prefixes_arrive_whole_and_leave_whole() {
    let mut network = Network::mesh(9, 3);
    let prefixes: Vec<_> = (0..30_000u32)
        .map(|n| {
            crate::network::prefix(&format!(
                "100.{}.{}.{}/30",
                n >> 14,
                (n >> 6) & 255,
                (n << 2) & 255
            ))
        })
        .collect();
    for prefix in &prefixes {
        network.originate(0, *prefix);
    }
    network.run(Duration::from_secs(20));
    assert_eq!(network.nodes[1].fib.len(), 30_003);
    assert_eq!(network.nodes[2].fib.len(), 30_003);
    for prefix in &prefixes {
        network.withdraw(0, *prefix);
    }
    network.run(Duration::from_secs(20));
    assert_eq!(network.nodes[1].fib.len(), 3);
    assert_eq!(network.nodes[2].fib.len(), 3);
}
