//! The whole product under a User Mode Linux kernel: IPIP, and timers at their true values.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::uml::{Clock, Machine};
use lab::{Capture, Content, Families, Lab, Mode, Options, Packet, Programs, Progress};
use lab::{RouteChange, RouteMonitor, Traffic};

fn main() -> std::process::ExitCode {
    harness::run()
}

/// Runs `body` in a private world of a guest, with the programs built before.
fn in_guest(name: &str, machine: impl Into<Machine>, body: impl FnOnce(Programs)) {
    if !lab::uml::is_guest() {
        Programs::build(lab::Store::Local).unwrap_or_else(|error| panic!("{error}"));
    }
    lab::uml::in_uml(name, Path::new(env!("CARGO_BIN_EXE_lab")), machine, || {
        lab::in_namespaces(name, || body(Programs::find().expect("built a moment ago")));
    });
}

fn options() -> Options {
    Options {
        patience: Duration::from_secs(120),
        ..Options::default()
    }
}

/// Everything that `cargo lab` proves of two racks, how packets travel, and that nothing of pods stays.
fn holds(name: &str, mode: Mode) {
    in_guest(name, Clock::Real, |_| {
        let two_racks = Options {
            mode,
            racks: 2,
            families: Families::Both,
            ..options()
        };
        let run = lab::run(two_racks, Progress::new());
        let mut run = run.unwrap_or_else(|error| panic!("{error}"));
        println!("{}", run.tables);
        assert_eq!(lab::wire::faults(&run.lab).unwrap(), Vec::<String>::new());
        run.tear_down(Progress::new());
        assert_eq!(run.report.faults, Vec::<String>::new());
    });
}

#[test]
fn ipip_connects_two_racks() {
    holds("ipip_connects_two_racks", Mode::Ipip);
}

#[test]
fn ipip_between_racks_and_plain_routes_within() {
    let name = "ipip_between_racks_and_plain_routes_within";
    holds(name, Mode::IpipCrosssubnet);
}

#[test]
fn the_lab_runs_in_a_guest_when_it_is_asked_to() {
    if lab::uml::kernel().is_none() {
        harness::skip(
            "uml",
            "no User Mode Linux kernel: `cargo xtask uml` builds one",
        );
    }
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["--kernel", "uml", "--mode", "ipip", "--json"])
        .args(["--nodes", "2", "--pods", "1", "--patience", "120"])
        .output()
        .unwrap();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complained}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {complained}"));
    assert_eq!(report["mode"], "ipip");
    assert_eq!(report["faults"], serde_json::json!([]));
}

/// The built test program of `felix-io` against the kernel, where a guest finds it.
fn kernel_tests() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_lab")).with_file_name("felix-io-kernel-tests")
}

fn build_kernel_tests() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let program = kernel_tests();
    let target = program.ancestors().nth(2).unwrap();
    let output = Command::new(cargo)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        // As all tests are built together, so that nothing is built twice.
        .args(["test", "--no-run", "--workspace", "--test", "kernel"])
        .args(["--message-format=json", "--target-dir"])
        .arg(target)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "building the tests of felix-io failed"
    );
    let messages = String::from_utf8(output.stdout).unwrap();
    let built = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        message["executable"].as_str().map(PathBuf::from)
    });
    std::fs::copy(built.unwrap(), program).unwrap();
}

#[test]
fn the_table_of_kernel_state_holds_where_the_kernel_has_ipip() {
    let name = "the_table_of_kernel_state_holds_where_the_kernel_has_ipip";
    if !lab::uml::is_guest() {
        build_kernel_tests();
    }
    let lab = Path::new(env!("CARGO_BIN_EXE_lab"));
    lab::uml::in_uml(name, lab, Clock::Real, || {
        let output = Command::new(kernel_tests())
            .arg("table::")
            .env_remove("CI")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(" 0 ignored;"), "{said}");
        println!("{said}");
    });
}

/// A pool's mode is switched again and again under numbered packets and full TCP segments, the nodes seconds apart.
#[test]
fn a_pool_to_ipip_and_from_it_to_every_other_way_loses_no_packet() {
    let name = "a_pool_to_ipip_and_from_it_to_every_other_way_loses_no_packet";
    in_guest(name, Clock::Real, |programs| {
        let two_racks = Options {
            racks: 2,
            // IPv6 has no IPIP: its pool goes between plain routes and VXLAN meanwhile.
            families: Families::Both,
            ..options()
        };
        let mut lab = Lab::start(two_racks, programs).unwrap_or_else(|error| panic!("{error}"));
        for site in &lab.topology.sites {
            let strict = ("net/ipv4/conf/default/rp_filter", "1");
            site.namespace.set_sysctl(strict.0, strict.1).unwrap();
        }
        settle(&mut lab);
        let traffic = Traffic::start(&lab).unwrap();
        let modes = [
            Mode::Ipip,
            Mode::IpipCrosssubnet,
            Mode::Vxlan,
            Mode::Ipip,
            Mode::Bgp,
        ];
        for (number, mode) in modes.into_iter().enumerate() {
            let switched = lab.switch_mode(mode, number % 3);
            switched.unwrap_or_else(|error| panic!("to {mode:?}: {error}"));
            assert!(traffic.flows(lab.options.patience), "to {mode:?}: no TCP");
        }
        assert_eq!(traffic.finish().unwrap(), Vec::<String>::new());
        assert_eq!(lab.prove().faults, Vec::<String>::new());
    });
}

/// As the test of the modes that need no IPIP.
fn nothing_is_noticed(name: &str, mode: Mode) {
    in_guest(name, Clock::Real, |programs| {
        let all = Options {
            racks: 2,
            mode,
            block_size: 30,
            ..options()
        };
        let lab = Lab::start(all, programs).unwrap_or_else(|error| panic!("{error}"));
        lab::faults::go_unnoticed(lab);
    });
}

#[test]
fn nothing_that_befalls_a_node_is_noticed_by_packets_in_ipip() {
    let name = "nothing_that_befalls_a_node_is_noticed_by_packets_in_ipip";
    nothing_is_noticed(name, Mode::Ipip);
}

#[test]
fn nothing_that_befalls_a_node_is_noticed_by_packets_in_ipip_between_racks() {
    let name = "nothing_that_befalls_a_node_is_noticed_by_packets_in_ipip_between_racks";
    nothing_is_noticed(name, Mode::IpipCrosssubnet);
}

/// Waits until the first node has just received a message of the second's: there its hold timer starts again.
fn hears_of_the_second(lab: &Lab) {
    let second = lab.site("n2").address;
    let mut capture = Capture::open(&lab.site("n1").namespace).unwrap();
    let is_message = |packet: &Packet| match packet.content {
        Content::Ports {
            source,
            destination,
            data,
        } => packet.source == second && (source == 179 || destination == 179) && data > 0,
        Content::Vxlan { .. } | Content::Ipip(_) | Content::Other => false,
    };
    // A third of the hold time apart, at most.
    let deadline = Instant::now() + Duration::from_secs(120);
    let heard = capture.find(deadline, is_message).unwrap();
    assert!(heard.is_some(), "no message from n2 within 120 s");
}

/// Gives each node a pod, and waits until all is as it should be.
fn settle(lab: &mut Lab) {
    lab.fill_pods(1)
        .unwrap_or_else(|errors| panic!("{errors:?}"));
    lab.converge().unwrap_or_else(|why| panic!("{why}"));
}

/// Two nodes with a pod each, converged; and how long after `fault` on the second the first loses the route to its block.
fn route_lasts(programs: Programs, fault: impl FnOnce(&mut Lab)) -> Duration {
    let two = Options {
        nodes: 2,
        pods: 1,
        ..options()
    };
    let mut lab = Lab::start(two, programs).unwrap_or_else(|error| panic!("{error}"));
    settle(&mut lab);
    let block = lab
        .blocks()
        .into_iter()
        .find(|(_, owner)| owner.name == "n2")
        .map(|(block, _)| block)
        .unwrap();
    let mut monitor = RouteMonitor::open(&lab.site("n1").namespace).unwrap();
    hears_of_the_second(&lab);
    let began = Instant::now();
    fault(&mut lab);
    let gone = monitor
        .wait_for(began + Duration::from_secs(1000), |event| {
            event.change == RouteChange::Deleted && event.route.destination == block
        })
        .unwrap();
    assert!(gone.is_some(), "the route to {block} outlived everything");
    began.elapsed()
}

#[test]
fn a_silent_peer_loses_its_routes_at_the_end_of_the_hold_time_of_240_s() {
    in_guest(
        "a_silent_peer_loses_its_routes_at_the_end_of_the_hold_time_of_240_s",
        Clock::Jumping,
        |programs| {
            let lasted = route_lasts(programs, |lab| lab.freeze_agent(1).unwrap());
            // The timer started with the last KEEPALIVE that came before the silence.
            let (least, most) = (Duration::from_secs(239), Duration::from_secs(241));
            assert!(least < lasted && lasted < most, "{lasted:?}");
        },
    );
}

#[test]
fn a_dead_agents_routes_go_at_the_end_of_the_restart_time_of_120_s() {
    in_guest(
        "a_dead_agents_routes_go_at_the_end_of_the_restart_time_of_120_s",
        Clock::Jumping,
        |programs| {
            let lasted = route_lasts(programs, |lab| lab.kill_agent(1).unwrap());
            let (least, most) = (Duration::from_secs(119), Duration::from_secs(122));
            assert!(least < lasted && lasted < most, "{lasted:?}");
        },
    );
}

/// Waits until the first node's status has a line with all these words.
fn is_told(lab: &Lab, words: &[&str]) {
    let site = lab.site("n1");
    let mut said = String::new();
    let found = lab::wait_until(Instant::now() + lab.options.patience, || {
        let mut command = site.namespace.command(lab.programs().ctl());
        command.envs(lab.options.environment_of(site));
        let status = command.args(["node", "status"]).output().unwrap();
        said = String::from_utf8_lossy(&status.stdout).into_owned();
        let line = |line: &str| words.iter().all(|word| line.contains(word));
        said.lines().any(line).then_some(())
    });
    assert!(found.is_some(), "{words:?}: {said}\n{}", lab::log_end("n1"));
}

#[test]
fn a_kernel_without_vxlan_and_nf_tables_costs_what_needs_them_and_nothing_else() {
    let name = "a_kernel_without_vxlan_and_nf_tables_costs_what_needs_them_and_nothing_else";
    let machine = Machine {
        clock: Clock::Real,
        without: &["vxlan_init_module", "nf_tables_module_init"],
    };
    in_guest(name, machine, |programs| {
        let two = Options {
            nodes: 2,
            pods: 1,
            families: Families::Both,
            ..options()
        };
        let mut lab = Lab::start(two, programs).unwrap_or_else(|error| panic!("{error}"));
        settle(&mut lab);
        is_told(
            &lab,
            &["table ip calico", "nf_tables", "load these modules"],
        );
        is_told(
            &lab,
            &["table ip6 calico", "nf_tables", "load these modules"],
        );
        let site = lab.site("n1");
        let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: tunnelled}\n\
                    spec: {cidr: 10.251.0.0/16, vxlanMode: Always}\n";
        let file = "/run/tortie-lab/tunnelled.yaml";
        std::fs::write(file, pool).unwrap();
        let mut command = site.namespace.command(lab.programs().ctl());
        command.envs(lab.options.environment_of(site));
        let applied = command.args(["apply", "-f", file]).output().unwrap();
        assert!(applied.status.success(), "{applied:?}");
        is_told(&lab, &["vxlan.calico", "modprobe vxlan"]);
        // The rest has its routes, and a pod is connected now, too.
        assert_eq!(lab.prove().faults, Vec::<String>::new());
        lab.add_pod(0).unwrap_or_else(|error| panic!("{error}"));
    });
}
