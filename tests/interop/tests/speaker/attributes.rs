//! What of a route arrives, in either direction.

use std::net::Ipv4Addr;

use bgp::config::Password;
use bgp_io::Command;
use interop::bird::{self, BgpProtocol, Bird, BirdRoute};
use interop::{Begin, FAR, NEAR, OurSpeaker, config, peer};
use ipnet::Ipv4Net;
use lab::NetNs;

use crate::{OURS, OUTSIDE, THEIRS, bird_config, is_session_up, learned, prefix, with_bird};

const BLOCK: &str = "192.168.7.0/26";

#[test]
fn an_external_bird_learns_our_prefix_and_we_learn_its() {
    with_bird(
        "attributes::an_external_bird_learns_our_prefix_and_we_learn_its",
        |near, far| {
            let routes = format!("route {OUTSIDE} unreachable;");
            let bird = Bird::start("tor", &far, &bird_config(THEIRS, "", &routes)).unwrap();
            let configured = config(OURS, NEAR, [peer(FAR, THEIRS, NEAR)]);
            let mut ours =
                OurSpeaker::start(&near, Begin::Fresh, configured, &[prefix(BLOCK)]).unwrap();
            let block = bird.wait_route("ours", BLOCK, NEAR);
            assert_eq!(block.attribute("as_path"), OURS.to_string(), "{block:?}");
            assert_eq!(block.attribute("origin"), "IGP", "{block:?}");
            assert_eq!(block.attribute("med"), "", "{block:?}");
            assert_eq!(learned(&mut ours, OUTSIDE), FAR);

            ours.tell(Command::Originate(prefix(BLOCK), None));
            bird.wait_no_route("ours");
            ours.stop();
        },
    );
}

#[test]
fn an_internal_bird_gets_local_pref_and_an_empty_path() {
    with_bird(
        "attributes::an_internal_bird_gets_local_pref_and_an_empty_path",
        |near, far| {
            let routes = format!("route {OUTSIDE} unreachable;");
            let bird = Bird::start("tor", &far, &bird_config(OURS, "", &routes)).unwrap();
            let configured = config(OURS, NEAR, [peer(FAR, OURS, NEAR)]);
            let mut ours =
                OurSpeaker::start(&near, Begin::Fresh, configured, &[prefix(BLOCK)]).unwrap();
            let block = bird.wait_route("ours", BLOCK, NEAR);
            assert_eq!(block.attribute("as_path"), "", "{block:?}");
            assert!(!block.attribute("local_pref").is_empty(), "{block:?}");
            assert_eq!(learned(&mut ours, OUTSIDE), FAR);
            ours.stop();
        },
    );
}

/// Two BIRDs in `far`: the first, in `asn`, announces [`OUTSIDE`] with `attributes`; the second, in AS 65002, has only its session to us
/// with `options`. What the second hears of it through us.
fn passed_on(
    near: &NetNs,
    far: &NetNs,
    (asn, attributes): (u32, &str),
    options: &str,
) -> BirdRoute {
    let second = Ipv4Addr::new(10, 0, 0, 3);
    let subnet = Ipv4Net::new(second, 24).unwrap();
    far.netlink().unwrap().add_address("eth0", subnet).unwrap();
    let routes = format!("route {OUTSIDE} unreachable {{ {attributes} }};");
    let announcer = bird_config(asn, "strict bind on;", &routes);
    let _announcer = Bird::start("announcer", far, &announcer).unwrap();
    let session = BgpProtocol {
        name: "ours",
        local: (second, 65002),
        neighbor: (NEAR, OURS),
        options: &format!("strict bind on; {options}"),
    };
    let text = format!("{}{session}", bird::head(second));
    let receiver = Bird::start("receiver", far, &text).unwrap();
    let peers = [peer(FAR, asn, NEAR), peer(second, 65002, NEAR)];
    let mut ours = OurSpeaker::start(near, Begin::Fresh, config(OURS, NEAR, peers), &[]).unwrap();
    assert_eq!(learned(&mut ours, OUTSIDE), FAR);
    let route = receiver.wait_route("ours", OUTSIDE, NEAR);
    ours.stop();
    route
}

/// The announcer's number does not fit into two octets: AS_PATH says AS_TRANS, and BIRD finds the number in AS4_PATH (RFC 6793 §4.2.2).
#[test]
fn a_two_octet_bird_finds_a_four_octet_number_in_what_we_pass_on() {
    with_bird(
        "attributes::a_two_octet_bird_finds_a_four_octet_number_in_what_we_pass_on",
        |near, far| {
            let wide = 4_200_000_001;
            let route = passed_on(&near, &far, (wide, ""), "enable as4 off;");
            assert_eq!(
                route.attribute("as_path"),
                format!("{OURS} {wide}"),
                "{route:?}"
            );
        },
    );
}

#[test]
fn path_communities_and_med_pass_through_us_as_the_rfcs_say() {
    with_bird(
        "attributes::path_communities_and_med_pass_through_us_as_the_rfcs_say",
        |near, far| {
            let attributes = "bgp_path.prepend(65099); bgp_med = 77; bgp_community.add((65001, 7)); \
                 bgp_large_community.add((65001, 1, 2)); bgp_ext_community.add((rt, 65001, 9));";
            let route = passed_on(&near, &far, (THEIRS, attributes), "");
            for (name, value) in [
                ("as_path", format!("{OURS} {THEIRS} 65099").as_str()),
                ("community", "(65001,7)"),
                ("large_community", "(65001, 1, 2)"),
                ("ext_community", "(rt, 65001, 9)"),
                // RFC 4271 §5.1.4: another AS's MED is not passed on.
                ("med", ""),
            ] {
                assert_eq!(route.attribute(name), value, "{name}: {route:?}");
            }
        },
    );
}

#[test]
fn sessions_stand_with_the_same_md5_key_and_only_then() {
    with_bird(
        "attributes::sessions_stand_with_the_same_md5_key_and_only_then",
        |near, far| {
            let secret = "password \"a key with spaces\";";
            let bird = Bird::start("tor", &far, &bird_config(THEIRS, secret, "")).unwrap();
            let with_key = |key: &str| {
                let mut peer = peer(FAR, THEIRS, NEAR);
                peer.password = Some(Password(key.into()));
                config(OURS, NEAR, [peer])
            };
            let mut ours = OurSpeaker::start(
                &near,
                Begin::Fresh,
                with_key("another key"),
                &[prefix(BLOCK)],
            )
            .unwrap();
            ours.wait_for("a connection attempt fails", |output| match output {
                bgp_io::Output::Event(bgp::event::Event::ConnectionFailed { .. }) => Some(()),
                _ => None,
            });
            assert_ne!(bird.session("ours"), "Established");
            ours.tell(Command::Config(Box::new(with_key("a key with spaces"))));
            ours.wait_for("the session stands", is_session_up);
            bird.wait_route("ours", BLOCK, NEAR);
            ours.stop();
        },
    );
}
