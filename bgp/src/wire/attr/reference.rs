//! The table of path attributes as a page for readers.

use std::fmt::Write as _;

use crate::wire::attr::table::{OPTIONAL, PLACES, ROWS, Row, TRANSITIVE, TakenFrom};
use crate::wire::update::Action;

/// `docs/reference/bgp-attributes.md`: Markdown, one line per row of the attribute table.
pub fn reference() -> String {
    let mut page = String::from(
        "# BGP path attributes\n\n\
         Made from the attribute table of `bgp` (`bgp/src/wire/attr/table.rs`); a test keeps it current.\n\
         Attributes are written in this order, MP_REACH_NLRI before all others. Conflicting Optional and Transitive\n\
         bits always count as \"treat as withdraw\" (RFC 7606 §3 c).\n\n\
         | Code | Name | Category | Taken from | When malformed (RFC 7606) |\n\
         |---|---|---|---|---|\n",
    );
    for row in &ROWS {
        let (code, name) = (row.code.0, row.name);
        let (category, taken_from) = (category(row.flags), taken_from(row));
        let malformed = malformed(row.malformed);
        writeln!(
            page,
            "| {code} | {name} | {category} | {taken_from} | {malformed} |"
        )
        .expect("writing to a string does not fail");
    }
    page.push_str(
        "\nOther attributes: optional transitive ones are passed on with the Partial bit, optional non-transitive ones\n\
         are dropped, well-known ones end the session (RFC 4271 §6.3). Known by name only: ",
    );
    let names: Vec<String> = PLACES
        .iter()
        .map(|(code, name)| format!("{name} ({code})"))
        .collect();
    page.push_str(&names.join(", "));
    page.push_str(".\n");
    page
}

const fn category(flags: u8) -> &'static str {
    match (flags & OPTIONAL != 0, flags & TRANSITIVE != 0) {
        (false, _) => "well-known",
        (true, true) => "optional transitive",
        (true, false) => "optional non-transitive",
    }
}

const fn taken_from(row: &Row) -> &'static str {
    match row.taken_from {
        TakenFrom::Any => "every peer",
        TakenFrom::Ibgp => "iBGP peers, else discarded",
        TakenFrom::TwoOctetPeer => "2-octet AS peers, else discarded",
    }
}

const fn malformed(action: Action) -> &'static str {
    match action {
        Action::Discard => "attribute discard",
        Action::TreatAsWithdraw => "treat as withdraw",
        Action::DisableFamily(_) => "AFI/SAFI disable",
        Action::SessionReset => "AFI/SAFI disable; session reset when no family can be read",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_for_readers_is_current() {
        let page = include_str!("../../../../docs/reference/bgp-attributes.md");
        let current = super::reference();
        assert!(
            page == current,
            "docs/reference/bgp-attributes.md must be:\n{current}"
        );
    }
}
