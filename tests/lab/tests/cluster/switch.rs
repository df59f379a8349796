//! A pool's mode is switched: the packets do not notice.

use lab::{Families, Lab, Mode, Options, Traffic};

use crate::{converged, options, with_programs};

#[test]
fn a_pool_between_plain_and_vxlan_in_every_direction_loses_no_packet() {
    with_programs(
        "switch::a_pool_between_plain_and_vxlan_in_every_direction_loses_no_packet",
        |programs| {
            let mut lab = Lab::start(
                Options {
                    racks: 2,
                    families: Families::Both,
                    ..options()
                },
                programs,
            )
            .unwrap_or_else(|error| panic!("{error}"));
            for site in &lab.topology.sites {
                // Devices that are made from now on check the way back strictly, if nobody loosens that.
                (site
                    .namespace
                    .set_sysctl("net/ipv4/conf/default/rp_filter", "1"))
                .unwrap();
            }
            lab.fill_pods(1)
                .unwrap_or_else(|errors| panic!("{errors:?}"));
            converged(&mut lab);
            let traffic = Traffic::start(&lab).unwrap();
            let modes = [
                Mode::Vxlan,
                Mode::VxlanCrosssubnet,
                Mode::Bgp,
                Mode::VxlanCrosssubnet,
                Mode::Vxlan,
                Mode::Bgp,
            ];
            for (number, mode) in modes.into_iter().enumerate() {
                (lab.switch_mode(mode, number % 3)).unwrap_or_else(|error| panic!("{error}"));
                assert!(traffic.flows(lab.options.patience), "to {mode:?}: no TCP");
            }
            let lost = traffic.finish().unwrap();
            assert_eq!(lost, Vec::<String>::new());
            assert!(lab.prove().faults.is_empty(), "{:#?}", lab.prove().faults);
        },
    );
}
