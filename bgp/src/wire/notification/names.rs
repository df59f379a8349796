//! The registry's names of error codes and subcodes.

/// Name of an error code.
pub(super) const fn code(code: u8) -> &'static str {
    match code {
        1 => "Message Header Error",
        2 => "OPEN Message Error",
        3 => "UPDATE Message Error",
        4 => "Hold Timer Expired",
        5 => "Finite State Machine Error",
        6 => "Cease",
        7 => "ROUTE-REFRESH Message Error",
        8 => "Send Hold Timer Expired",
        _ => "Unknown Error",
    }
}

/// Name of a subcode; `None` when it has none.
pub(super) const fn subcode(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (1, 1) => "Connection Not Synchronized",
        (1, 2) => "Bad Message Length",
        (1, 3) => "Bad Message Type",
        (2, 0) => "Unspecific",
        (2, 1) => "Unsupported Version Number",
        (2, 2) => "Bad Peer AS",
        (2, 3) => "Bad BGP Identifier",
        (2, 4) => "Unsupported Optional Parameter",
        (2, 6) => "Unacceptable Hold Time",
        (2, 7) => "Unsupported Capability",
        (2, 11) => "Role Mismatch",
        (3, 1) => "Malformed Attribute List",
        (3, 2) => "Unrecognized Well-known Attribute",
        (3, 3) => "Missing Well-known Attribute",
        (3, 4) => "Attribute Flags Error",
        (3, 5) => "Attribute Length Error",
        (3, 6) => "Invalid ORIGIN Attribute",
        (3, 8) => "Invalid NEXT_HOP Attribute",
        (3, 9) => "Optional Attribute Error",
        (3, 10) => "Invalid Network Field",
        (3, 11) => "Malformed AS_PATH",
        (5, 1) => "Receive Unexpected Message in OpenSent State",
        (5, 2) => "Receive Unexpected Message in OpenConfirm State",
        (5, 3) => "Receive Unexpected Message in Established State",
        (6, 1) => "Maximum Number of Prefixes Reached",
        (6, 2) => "Administrative Shutdown",
        (6, 3) => "Peer De-configured",
        (6, 4) => "Administrative Reset",
        (6, 5) => "Connection Rejected",
        (6, 6) => "Other Configuration Change",
        (6, 7) => "Connection Collision Resolution",
        (6, 8) => "Out of Resources",
        (6, 9) => "Hard Reset",
        (6, 10) => "BFD Down",
        (7, 1) => "Invalid Message Length",
        _ => return None,
    })
}

/// The capabilities in the data field of 2/7 (RFC 5492 §5); `None` when they cannot be read.
pub(super) fn capabilities(data: &[u8]) -> Option<String> {
    let mut names = Vec::new();
    let mut rest = data;
    while let [code, length, tail @ ..] = rest {
        let (value, next) = tail.split_at_checked(usize::from(*length))?;
        names.push(match (*code, value) {
            (1, [high, low, _, safi]) => {
                let afi = u16::from_be_bytes([*high, *low]);
                format!("multiprotocol, AFI {afi} SAFI {safi}")
            }
            (1, _) => "multiprotocol".to_owned(),
            (2, _) => "route refresh".to_owned(),
            (5, _) => "extended next hop encoding".to_owned(),
            (6, _) => "extended messages".to_owned(),
            (9, _) => "BGP role".to_owned(),
            (64, _) => "graceful restart".to_owned(),
            (65, _) => "4-octet AS numbers".to_owned(),
            (69, _) => "ADD-PATH".to_owned(),
            (70, _) => "enhanced route refresh".to_owned(),
            (71, _) => "long-lived graceful restart".to_owned(),
            (73, _) => "FQDN".to_owned(),
            (other, _) => format!("capability {other}"),
        });
        rest = next;
    }
    (rest.is_empty() && !names.is_empty()).then(|| names.join("; "))
}
