//! Calico's kernel state as a table: objects go in through the real graph, reconciler and kernel, and what iproute2 and nft print
//! of it is compared row by row: when it is made, after a restart, after somebody spoilt it unnoticed, and when the objects go.
//!
//! A row is spoilt by the commands that stand in it, and must be missed then: so each one is known to be able to fail.

mod agent;
mod cases;
mod device_rows;
mod place;
mod route_rows;
mod rule_rows;
mod shown;
mod tunnel_rows;

use agent::Agent;
use place::{Monitor, Place, command};
use shown::{difference, is_there};

use crate::namespace::kernel_test;

/// A row: what is wanted, as another program prints it.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// What it is, in the contract's words.
    says: &'static str,
    /// Who prints it: `ip …`, `bridge …`, `nft …`, `sysctl NAME`; `pod …` for the same inside the pod.
    show: &'static str,
    /// What must be printed, as JSON: each object may have more members than those named; `null` stands for a member that is
    /// absent.
    expect: &'static str,
    /// Commands after which it is not so any more. None for what the agent does not follow.
    spoil: &'static [&'static str],
    after: After,
}

/// What becomes of it when the objects that ask for it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It goes, too.
    Goes,
    /// It stays.
    Stays,
}

/// What stands beside the rows.
#[derive(Clone, Copy, Debug)]
struct Beside {
    /// Commands that make it.
    make: &'static [&'static str],
    show: &'static str,
    /// What is printed of it; as in [`Line`].
    expect: &'static str,
    /// What `ip monitor` prints when it goes: part of a line. Empty when it does not tell of it.
    told: &'static str,
}

/// A cluster and what its first node's kernel must look like.
struct Case {
    facts: cases::Facts,
    lines: Vec<Line>,
    /// Of others: they survive everything.
    foreign: &'static [Beside],
    /// As a former run of the agent might have left them: they go at the next one.
    orphans: &'static [Beside],
    /// Of others on the agent's own devices: they stay as long as these.
    guests: &'static [Beside],
}

/// Runs a case; what is not as it should be. `meddle` comes between the restart and the look at it.
async fn run(case: &Case, meddle: impl FnOnce()) -> Vec<String> {
    let place = Place::new().await;
    let mut faults = Faults::default();
    for beside in case.foreign {
        beside.make.iter().for_each(|line| command(line));
    }
    let mut agent = Agent::new(&case.facts);
    agent.settle(&place.kernel).await;
    faults.look("made", case, &place);

    for beside in case.orphans.iter().chain(case.guests) {
        beside.make.iter().for_each(|line| command(line));
        if !is_there(&place, beside.show, beside.expect) {
            faults.add("before the restart", beside.show, "was not made".to_owned());
        }
    }
    let monitor = Monitor::start();
    let mut agent = Agent::new(&case.facts);
    agent.settle(&place.kernel).await;
    meddle();
    faults.look("after a restart", case, &place);
    faults.others("after a restart", case.guests, &place);
    for deleted in monitor.deleted() {
        let is_orphan = |beside: &Beside| !beside.told.is_empty() && deleted.contains(beside.told);
        if !case.orphans.iter().any(is_orphan) {
            faults.add("at the restart", "a row was deleted", deleted);
        }
    }
    for beside in case.orphans {
        if is_there(&place, beside.show, beside.expect) {
            faults.add(
                "after a restart",
                beside.show,
                "the orphan stays".to_owned(),
            );
        }
    }

    for line in &case.lines {
        line.spoil.iter().for_each(|line| command(line));
        if !line.spoil.is_empty() && difference(&place, line.show, line.expect).is_none() {
            faults.add("spoilt", line.says, "nobody could tell".to_owned());
        }
    }
    agent.settle(&place.kernel).await;
    faults.look("after a reading", case, &place);

    agent.forget_everything();
    agent.settle(&place.kernel).await;
    for line in &case.lines {
        let stays = is_there(&place, line.show, line.expect);
        if stays != (line.after == After::Stays) {
            let found = if stays {
                "it is still there"
            } else {
                "it went, too"
            };
            faults.add("when the objects go", line.says, found.to_owned());
        }
    }
    faults.others("when the objects go", case.foreign, &place);
    faults.0
}

/// What is not as it should be.
#[derive(Debug, Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, when: &str, what: &str, found: String) {
        self.0.push(format!("{what}: {when}: {found}"));
    }

    fn look(&mut self, when: &str, case: &Case, place: &Place) {
        for line in &case.lines {
            if let Some(difference) = difference(place, line.show, line.expect) {
                self.add(when, line.says, difference);
            }
        }
        self.others(when, case.foreign, place);
    }

    fn others(&mut self, when: &str, others: &[Beside], place: &Place) {
        for beside in others {
            if let Some(difference) = difference(place, beside.show, beside.expect) {
                self.add(when, "what is another's", difference);
            }
        }
    }
}

async fn holds(case: Case) {
    let faults = run(&case, || ()).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

kernel_test!(the_kernel_is_as_calicos_defaults_make_it, async {
    holds(cases::defaults()).await;
});

kernel_test!(the_kernel_is_as_settings_ask_for_it, async {
    holds(cases::settings()).await;
});

kernel_test!(the_kernel_is_as_pools_in_ipip_make_it, async {
    place::needs_ipip();
    holds(cases::ipip()).await;
});

// Why there is no rule that keeps such answers from it, as Calico's table `arp calico-arp` does.
kernel_test!(
    a_pod_that_asks_for_its_own_address_gets_no_answer_and_for_others_it_does,
    async {
        let place = Place::new().await;
        let mut agent = Agent::new(&cases::defaults().facts);
        agent.settle(&place.kernel).await;
        for line in [
            "sysctl net.ipv4.neigh.eth0.retrans_time_ms=20",
            "ip addr add 10.1.1.7/32 dev eth0",
            "ip addr del 10.1.1.5/32 dev eth0",
            "ip route add 10.1.1.5 dev eth0 scope link src 10.1.1.7",
            "ip route add 10.0.0.9 dev eth0 scope link src 10.1.1.7",
        ] {
            place.in_pod(line);
        }
        // Else it would be a stranger's question.
        command("ip route add 10.1.1.7 dev cali1");
        let own = place.asks_for("10.1.1.5");
        let other = place.asks_for("10.0.0.9");
        assert_eq!(own, None);
        assert_eq!(other.as_deref(), Some("ee:ee:ee:ee:ee:ee"));
        // Without the pod's route a kernel does answer.
        command("ip route del 10.1.1.5");
        command("ip route del blackhole 10.1.1.0/26");
        assert_eq!(
            place.asks_for("10.1.1.5").as_deref(),
            Some("ee:ee:ee:ee:ee:ee")
        );
    }
);

kernel_test!(each_fault_of_a_row_is_named, async {
    let mut case = cases::settings();
    let wrong = Line {
        says: "a wrong row",
        show: "sysctl net.ipv4.conf.lo.forwarding",
        expect: "\"7\"",
        spoil: &[],
        after: After::Stays,
    };
    let blind = Line {
        says: "a row that sees nothing",
        show: "ip route show 198.51.100.0/24",
        expect: "[]",
        spoil: &["ip link set lo up"],
        after: After::Goes,
    };
    case.lines.extend([wrong, blind]);
    case.orphans = &[Beside {
        make: &["ip route add blackhole 10.66.0.0/26 proto 12"],
        show: "ip route show 10.66.0.0/26",
        expect: r#"[{"type": "6"}]"#,
        told: "10.66.0.0/26",
    }];
    let gap = || {
        command("ip route del 172.16.0.0/16");
        command("ip route add blackhole 10.66.0.0/26 proto 12");
        command("ip route del 198.18.0.0/15");
    };
    let faults = run(&case, gap).await;
    for named in [
        "a wrong row: made: ",
        "a row that sees nothing: spoilt: nobody could tell",
        "a row that sees nothing: when the objects go: it is still there",
        "a row was deleted: at the restart: Deleted 172.16.0.0/16",
        "ip route show 10.66.0.0/26: after a restart: the orphan stays",
        "what is another's: after a restart: ",
    ] {
        let is_named = faults.iter().any(|fault| fault.starts_with(named));
        assert!(is_named, "{named}:\n{}", faults.join("\n"));
    }
});
