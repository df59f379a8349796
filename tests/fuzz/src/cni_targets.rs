//! What is fed to the CNI plugin and to the agent's socket, and what must hold then: shared by the fuzz targets and by the
//! replay of the corpora in `cni/tests/it/corpus.rs`.

use cni::protocol::{Command, FRAME_MAX_BYTES, FrameReader, Reply, Request, encode_frame};
use cni::spec::environment::Args;
use cni::spec::error::Code;
use cni::spec::netconf::{NetConf, read_object};
use serde::Serialize;
use serde::de::DeserializeOwned;

const COMMANDS: [Command; 5] = [
    Command::Add,
    Command::Del,
    Command::Check,
    Command::Status,
    Command::Gc,
];

/// A plugin's input: the first octet chooses the command, a line of CNI_ARGS follows, the rest is the configuration.
///
/// Nothing panics; an error has one of the specification's codes for it and names something; what ADD takes DEL takes,
/// too; an earlier result is the same after it was printed and read again.
#[allow(dead_code, reason = "each fuzz target uses one of the two")]
pub(crate) fn configuration(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    let command = COMMANDS[usize::from(*choice) % COMMANDS.len()];
    let line = rest
        .split(|octet| *octet == b'\n')
        .next()
        .unwrap_or_default();
    if let Ok(args) = std::str::from_utf8(line)
        && let Err(error) = Args::parse(args)
    {
        assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
        assert!(error.msg.starts_with("CNI_ARGS: "), "{}", error.msg);
    }
    let json = rest.get(line.len() + 1..).unwrap_or_default();
    let (object, version) = match read_object(json) {
        Ok(read) => read,
        Err(error) => {
            let allowed = [Code::DECODE, Code::INCOMPATIBLE_VERSION];
            assert!(allowed.contains(&error.code), "{error}");
            return;
        }
    };
    match NetConf::check(&object, version, command) {
        Ok(conf) => {
            assert_eq!(conf.cni_version, version);
            assert!(!conf.name.is_empty());
            assert!(conf.mtu_bytes == 0 || (68..=65_535).contains(&conf.mtu_bytes));
            if command == Command::Add {
                assert!(NetConf::check(&object, version, Command::Del).is_ok());
            }
            if let Some(result) = conf.prev_result {
                let printed = result.to_json(version);
                let again = cni::spec::result::AddResult::from_json(&printed, version);
                let again = again.expect("what was printed can be read");
                assert_eq!(again.to_json(version), printed);
            }
        }
        Err(error) => {
            let allowed = [
                Code::INCOMPATIBLE_VERSION,
                Code::UNSUPPORTED_FIELD,
                Code::DECODE,
                Code::INVALID_CONFIG,
            ];
            assert!(allowed.contains(&error.code), "{error}");
            assert!(!error.msg.is_empty());
            assert_eq!(error.to_json(version)["code"], error.code.0);
        }
    }
}

/// What arrives on the agent's socket: the first octet chooses how it is cut.
///
/// Nothing panics; the cut changes nothing; a message is the same after it was sent and read again; what cannot become a
/// frame is refused as soon as its head is there.
#[allow(dead_code, reason = "each fuzz target uses one of the two")]
pub(crate) fn frame(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    read_both_ways::<Request>(usize::from(*cut), stream);
    read_both_ways::<Reply>(usize::from(*cut), stream);
}

fn read_both_ways<T>(cut: usize, stream: &[u8])
where
    T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug,
{
    let mut whole = FrameReader::default();
    whole.push(stream);
    let expected = whole.message::<T>();
    let mut reader = FrameReader::default();
    let mut seen = Ok(None);
    for piece in stream.chunks(cut.max(1)) {
        reader.push(piece);
        seen = reader.message::<T>();
        if !matches!(seen, Ok(None)) {
            break;
        }
    }
    match (expected, seen) {
        (Ok(expected), Ok(seen)) => {
            assert_eq!(seen, expected);
            if let Some(message) = seen
                && let Ok(frame) = encode_frame(&message)
            {
                assert!(frame.len() <= FRAME_MAX_BYTES + 4);
                let mut again = FrameReader::default();
                again.push(&frame);
                let again = again.message::<T>().expect("an own frame can be read");
                assert_eq!(again, Some(message));
            }
        }
        (Err(_), Err(_)) => {}
        (expected, seen) => panic!("in one piece {expected:?}, in pieces of {cut} {seen:?}"),
    }
}
