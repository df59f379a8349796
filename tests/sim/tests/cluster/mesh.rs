//! Plain BGP between nodes of one subnet.

use std::time::Duration;

use api::pool::EncapMode;
use sim::check;
use sim::node::Start;
use sim::world::World;

use super::{NONE, no_route_was_removed, routes_last_for_the_restart_time};

/// A mesh with one pod on each node, converged.
fn mesh(nodes: usize) -> World {
    let mut world = super::world("192.168.0.0/16", EncapMode::Never);
    super::add_nodes_with_a_pod(&mut world, nodes);
    super::converge(&mut world, nodes * (nodes - 1));
    world
}

#[test]
fn a_mesh_of_three_nodes_converges_and_every_pod_is_reached() {
    let world = mesh(3);
    assert_eq!(check::all(&world), NONE);
}

#[test]
fn a_mesh_of_fifty_nodes_converges_and_every_pod_is_reached() {
    let world = mesh(50);
    assert_eq!(check::all(&world), NONE);
}

#[test]
fn the_second_pod_of_a_block_is_reached_without_a_new_announcement() {
    let mut world = mesh(3);
    let before: u64 = world.nodes[1].kernel.writes();
    world.add_pod(0, "p1").expect("the block has room");
    world.run_for(Duration::from_secs(5));
    assert_eq!(check::all(&world), NONE);
    assert_eq!(
        world.nodes[1].kernel.writes(),
        before,
        "another node's kernel was written"
    );
}

#[test]
fn a_partition_ends_sessions_after_the_hold_time_and_heals() {
    let mut world = mesh(4);
    world.isolate(3);
    world.run_for(Duration::from_secs(600));
    assert_eq!(
        check::sessions(&world),
        3 * 2,
        "only the mesh of the other three stands"
    );
    let faults = check::reachability(&world);
    assert!(
        faults.iter().any(|fault| fault.starts_with("n1 -> n4/p0")),
        "{faults:?}"
    );
    assert!(
        !faults.iter().any(|fault| fault.starts_with("n1 -> n2/p0")),
        "{faults:?}"
    );
    world.rejoin(3);
    let healed = world.run_until(Duration::from_secs(300), |world| {
        check::sessions(world) == 4 * 3
    });
    assert!(
        healed,
        "{} ends of sessions after the partition",
        check::sessions(&world)
    );
    world.run_for(Duration::from_secs(5));
    assert_eq!(check::all(&world), NONE);
}

#[test]
fn an_agent_that_restarts_adopts_its_kernel_and_no_route_goes_anywhere() {
    let mut world = mesh(4);
    for node in &mut world.nodes {
        node.kernel.take_removed_routes();
    }
    world.kill_agent(1);
    // Long enough for the others to notice, short of the Restart Time.
    for _ in 0..20 {
        world.run_for(Duration::from_secs(1));
        assert_eq!(check::reachability(&world), NONE, "while the agent is dead");
    }
    world.start_agent(1, Start::Restart);
    for _ in 0..200 {
        world.run_for(Duration::from_millis(100));
        assert_eq!(
            check::reachability(&world),
            NONE,
            "while the agent comes back"
        );
    }
    assert_eq!(check::sessions(&world), 4 * 3);
    assert_eq!(check::all(&world), NONE);
    no_route_was_removed(&mut world);
}

#[test]
fn an_agent_that_stays_dead_loses_its_routes_after_the_restart_time() {
    let mut world = mesh(3);
    world.kill_agent(2);
    routes_last_for_the_restart_time(&mut world, "n1 -> n3/p0");
}

#[test]
fn the_reachability_check_names_the_cell_of_a_removed_route() {
    let mut world = mesh(3);
    let victim = world.nodes[2].pods["p0"].address;
    let row = world.nodes[0]
        .kernel
        .rows()
        .find(|row| matches!(row, felix::desired::Row::Route(key, _) if key.dst.contains(&victim)))
        .cloned()
        .expect("n1 has a route to n3's block");
    world.nodes[0]
        .kernel
        .apply(&felix::kernel::Op::Remove(row))
        .expect("removing is no error");
    let faults = check::reachability(&world);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].starts_with("n1 -> n3/p0: n1 has no route"),
        "{faults:?}"
    );
}
