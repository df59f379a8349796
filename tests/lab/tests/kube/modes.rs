//! Everything that `cargo lab` proves, on objects of Kubernetes, in each mode.

use std::path::Path;
use std::sync::Mutex;

use lab::uml::Clock;
use lab::{Families, Mode, Options, Progress};

use crate::{options, with_programs};

/// A guest has one processor, and a Kubernetes in it makes a machine busy: one at a time.
static GUEST: Mutex<()> = Mutex::new(());

/// Runs what `cargo lab --store kube` runs, and tears down; what only another kernel can do, under that.
fn holds(name: &str, options: Options) {
    if options.tors > 0 && lab::find_bird().is_none() {
        harness::skip(
            "bird",
            "no program `bird` on PATH or in /usr/sbin (Debian: bird2)",
        );
    }
    let needs_ipip = matches!(options.mode, Mode::Ipip | Mode::IpipCrosssubnet);
    let body = || {
        with_programs(name, |_| {
            let mut run =
                lab::run(options, Progress::new()).unwrap_or_else(|error| panic!("{error}"));
            println!("{}", run.tables);
            run.tear_down(Progress::new());
            assert!(run.report.faults.is_empty(), "{:#?}", run.report.faults);
        });
    };
    if !needs_ipip || lab::is_inside() {
        return body();
    }
    crate::build();
    let guest = Path::new(env!("CARGO_BIN_EXE_lab"));
    let _alone = GUEST.lock();
    lab::uml::in_uml(name, guest, Clock::Real, body);
}

/// A test of each row, named after it.
macro_rules! modes {
    ($($name:ident: { $($field:ident: $value:expr),* $(,)? })*) => { $(
        #[test]
        fn $name() {
            holds(
                concat!("modes::", stringify!($name)),
                Options { $($field: $value,)* ..options() },
            );
        }
    )* };
}

modes! {
    plain_routes: { mode: Mode::Bgp }
    plain_routes_connect_two_racks: { mode: Mode::Bgp, nodes: 4, racks: 2, families: Families::Both }
    vxlan: { mode: Mode::Vxlan }
    vxlan_connects_two_racks_of_ipv6_alone: { mode: Mode::Vxlan, racks: 2, families: Families::V6 }
    vxlan_between_racks_and_plain_routes_within: { mode: Mode::VxlanCrosssubnet, nodes: 4, racks: 2, families: Families::Both }
    ipip: { mode: Mode::Ipip, nodes: 2, pods: 1 }
    ipip_between_racks_and_plain_routes_within: { mode: Mode::IpipCrosssubnet, racks: 2, pods: 1 }
    reflectors_take_the_meshs_place: { reflectors: 2, families: Families::Both }
    routers_of_two_racks_take_the_meshs_place: { tors: 2, racks: 2 }
}
