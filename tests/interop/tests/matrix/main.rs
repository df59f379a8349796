//! Our speaker with every other daemon that does a thing: one body per feature, one test per daemon.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

/// Makes a test of a feature for each daemon: `feature::bird2`, `feature::frr`, …
macro_rules! daemons_test {
    ($feature:ident, [$($daemon:ident),+ $(,)?]) => {
        mod $feature {
            $(
                #[test]
                fn $daemon() {
                    let kind = daemons_test!(@ $daemon);
                    $crate::place::run(module_path!(), stringify!($daemon), kind, super::$feature);
                }
            )+
        }
    };
    (@ bird2) => { interop::Kind::Bird2 };
    (@ bird1) => { interop::Kind::Bird1 };
    (@ frr) => { interop::Kind::Frr };
    (@ gobgp) => { interop::Kind::GoBgp };
    (@ exabgp) => { interop::Kind::ExaBgp };
}

mod add_paths;
mod attributes;
mod malformed;
mod next_hops;
mod on_the_wire;
mod place;
mod reflection;
mod refresh;
mod restart;
mod roles;
mod sessions;
mod shutdown;

fn main() -> std::process::ExitCode {
    harness::run()
}
