//! What befalls nodes whose packets must not notice: one cluster for each mode, both families, everything in turn.

use lab::{Families, Lab, Mode, Options};

use crate::{options, with_programs};

fn goes_unnoticed(name: &str, mode: Mode) {
    with_programs(name, |programs| {
        let all = Options {
            racks: 2,
            mode,
            families: Families::Both,
            // Another block is soon claimed.
            block_size: 30,
            ..options()
        };
        let lab = Lab::start(all, programs).unwrap_or_else(|error| panic!("{error}"));
        lab::faults::go_unnoticed(lab);
    });
}

#[test]
fn nothing_that_befalls_a_node_is_noticed_by_packets_on_plain_routes() {
    goes_unnoticed(
        "faults::nothing_that_befalls_a_node_is_noticed_by_packets_on_plain_routes",
        Mode::Bgp,
    );
}

#[test]
fn nothing_that_befalls_a_node_is_noticed_by_packets_in_vxlan() {
    goes_unnoticed(
        "faults::nothing_that_befalls_a_node_is_noticed_by_packets_in_vxlan",
        Mode::Vxlan,
    );
}

#[test]
fn nothing_that_befalls_a_node_is_noticed_by_packets_in_vxlan_between_racks() {
    goes_unnoticed(
        "faults::nothing_that_befalls_a_node_is_noticed_by_packets_in_vxlan_between_racks",
        Mode::VxlanCrosssubnet,
    );
}
