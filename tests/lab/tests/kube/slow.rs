//! An API server that takes its time: answers come seconds late, watches a few octets at a time.

use std::time::Duration;

use kube_lab::{Proxy, Weather};

use crate::outages::{Fault, goes_unnoticed};
use crate::traffic::Watched;
use crate::{options, told, with_programs};

/// Each way: a request takes four seconds, of fifteen that it may.
const LATE: Duration = Duration::from_secs(2);
/// More than it may.
const TOO_LATE: Duration = Duration::from_secs(9);
/// 5,120 octets a second, in pieces of lines.
const TRICKLE: Weather = Weather::Trickle(512, Duration::from_millis(100));

#[test]
fn a_slow_api_server_makes_pods_wait_and_loses_nothing() {
    let name = "slow::a_slow_api_server_makes_pods_wait_and_loses_nothing";
    with_programs(name, |programs| {
        let mut proxy: Option<Proxy> = None;
        let mut watched = Watched::start_with(options(), programs, 1, |lab| {
            let kube = lab.kube();
            let before = kube.proxy().unwrap();
            kube.give_agents(&before.url(), &kube.agents_user())
                .unwrap();
            proxy = Some(before);
        });
        let proxy = proxy.unwrap();
        watched.watch();
        for weather in [Weather::Slow(LATE), TRICKLE] {
            println!("{weather:?}");
            proxy.set(weather);
            watched.add_pod(0);
            watched.add_pod(1);
            watched.converges();
            for node in [0, 1] {
                told::all_well(&watched.lab, node);
            }
        }
        for (fault, weather) in [
            (
                Fault {
                    ends_watches: true,
                    name: "too-slow",
                    words: &["no answer after 15 s", "keep-alive", "timed out"],
                },
                Weather::Slow(TOO_LATE),
            ),
            (
                Fault {
                    ends_watches: true,
                    name: "silent",
                    words: &["no answer after 15 s", "keep-alive", "timed out"],
                },
                Weather::Silent,
            ),
        ] {
            goes_unnoticed(
                &mut watched,
                &fault,
                |_| proxy.set(weather),
                |_| proxy.set(Weather::Fair),
            );
        }
        watched.ends_well();
    });
}
