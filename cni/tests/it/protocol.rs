use std::collections::BTreeMap;

use cni::protocol::{
    Attachment, Command, FRAME_HEAD_BYTES, FRAME_MAX_BYTES, Features, FrameError, FrameReader,
    IpamSettings, Pod, Reply, Request, encode_frame,
};
use cni::spec::error::{CniError, Code};
use cni::spec::result::{AddResult, Interface, IpConfig, Route};
use cni::spec::version::Version;
use ipnet::IpNet;
use proptest::option;
use proptest::prelude::*;

fn network() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<[u8; 4]>(), 0_u8..=32)
            .prop_map(|(address, len)| IpNet::new(address.into(), len).expect("in range")),
        (any::<[u8; 16]>(), 0_u8..=128)
            .prop_map(|(address, len)| IpNet::new(address.into(), len).expect("in range")),
    ]
}

fn result() -> impl Strategy<Value = AddResult> {
    let interface =
        (".*", ".*", option::of(any::<u32>())).prop_map(|(name, sandbox, mtu)| Interface {
            name,
            sandbox,
            mtu,
            ..Interface::default()
        });
    let ip = (
        network(),
        option::of(any::<[u8; 4]>()),
        option::of(0_usize..4),
    )
        .prop_map(|(address, gateway, interface)| IpConfig {
            address,
            gateway: gateway.map(Into::into),
            interface,
        });
    let route = (network(), option::of(any::<u8>()), option::of(any::<u32>())).prop_map(
        |(dst, scope, table)| Route {
            scope,
            table,
            ..Route::new(dst, None)
        },
    );
    (
        prop::collection::vec(interface, 0..3),
        prop::collection::vec(ip, 0..3),
        prop::collection::vec(route, 0..3),
    )
        .prop_map(|(interfaces, ips, routes)| AddResult {
            interfaces,
            ips,
            routes,
            ..AddResult::default()
        })
}

fn request() -> impl Strategy<Value = Request> {
    let command = prop::sample::select(vec![
        Command::Add,
        Command::Del,
        Command::Check,
        Command::Status,
        Command::Gc,
        Command::PodCidrs,
        Command::Assign,
        Command::Release,
        Command::Verify,
    ]);
    let pod = (".*", ".*", option::of(".*")).prop_map(|(namespace, name, uid)| Pod {
        namespace,
        name,
        uid,
    });
    let pools = prop::collection::vec(".*", 0..3);
    (
        (command, ".*", ".*"),
        (option::of(pod), pools, option::of(result())),
        prop::collection::vec((".*", ".*"), 0..3),
    )
        .prop_map(|(head, (pod, ipv4_pools, prev_result), valid)| Request {
            command: head.0,
            network: head.1,
            container_id: head.2,
            ifname: "eth0".to_owned(),
            netns_path: None,
            pod,
            ip: None,
            nodename: None,
            mtu_bytes: 0,
            queues: 2,
            allow_ip_forwarding: false,
            ipam: IpamSettings {
                ipv4_pools,
                ..IpamSettings::default()
            },
            given: prev_result
                .iter()
                .flat_map(|result: &AddResult| &result.ips)
                .map(|ip| ip.address)
                .collect(),
            routes: Vec::new(),
            ips: Vec::new(),
            mac: None,
            features: Features::default(),
            plugin: String::new(),
            prev_result,
            valid_attachments: valid
                .into_iter()
                .map(|(container_id, ifname)| Attachment {
                    container_id,
                    ifname,
                })
                .collect(),
        })
}

proptest! {
    #[test]
    fn a_request_arrives_as_sent_however_it_is_cut(request in request(), cut in 1_usize..64) {
        let frame = encode_frame(&request).expect("small");
        let mut reader = FrameReader::default();
        prop_assert!(reader.is_empty());
        let mut pieces = frame.chunks(cut).peekable();
        while let Some(piece) = pieces.next() {
            reader.push(piece);
            let message: Option<Request> = reader.message().expect("valid so far");
            if pieces.peek().is_some() {
                prop_assert_eq!(message, None);
            } else {
                prop_assert_eq!(message, Some(request.clone()));
            }
        }
    }

    #[test]
    fn a_reply_arrives_as_sent(result in result(), code: u32, msg in ".*", details in ".*") {
        let failed = CniError::new(Code(code), msg).with_details(details);
        for reply in [Reply::Added(result), Reply::Done, Reply::Failed(failed)] {
            let mut reader = FrameReader::default();
            reader.push(&encode_frame(&reply).expect("small"));
            prop_assert_eq!(reader.message().expect("valid"), Some(reply));
        }
    }

    #[test]
    fn every_result_survives_the_newest_version(result in result()) {
        let json = result.to_json(Version::NEWEST);
        prop_assert_eq!(AddResult::from_json(&json, Version::NEWEST), Ok(result));
    }

    #[test]
    fn no_octets_make_the_reader_panic(octets in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut reader = FrameReader::default();
        reader.push(&octets);
        let _ = reader.message::<Request>();
    }
}

#[test]
fn a_frame_above_the_limit_is_refused_on_both_sides() {
    let args = |octets: usize| BTreeMap::from([("k", "x".repeat(octets))]);
    let overhead = encode_frame(&args(0)).expect("small").len() - FRAME_HEAD_BYTES;
    assert!(encode_frame(&args(FRAME_MAX_BYTES - overhead)).is_ok());
    let error = encode_frame(&args(FRAME_MAX_BYTES - overhead + 1)).expect_err("too long");
    assert!(matches!(error, FrameError::TooLong { length } if length == FRAME_MAX_BYTES + 1));

    let mut reader = FrameReader::default();
    let head = u32::try_from(FRAME_MAX_BYTES + 1).expect("fits");
    reader.push(&head.to_be_bytes());
    let error = reader.message::<Reply>().expect_err("too long");
    assert!(error.to_string().contains("at most 1048576"), "{error}");
}

#[test]
fn fields_of_a_later_release_are_ignored_and_missing_ones_have_defaults() {
    let json =
        br#"{"command":"DEL","cni_version":"1.0.0","network":"n","container_id":"c","later":1}"#;
    let mut reader = FrameReader::default();
    reader.push(&u32::try_from(json.len()).expect("fits").to_be_bytes());
    reader.push(json);
    let request: Request = reader.message().expect("valid").expect("complete");
    assert_eq!(
        (request.command, request.container_id.as_str()),
        (Command::Del, "c")
    );
    assert!(request.ipam.assign_ipv4);
}
