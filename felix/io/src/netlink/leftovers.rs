//! Felix's chains and tables in nftables, besides the tables that have the name of the agent's.

use std::collections::BTreeSet;
use std::sync::Arc;

use felix::desired::Leftover;
use felix::rules::{FORWARD, Family, TABLE};

use super::nftables::{generation, message, number, transaction};
use super::socket::{Failure, Requests};
use super::uapi::nftables::*;
use super::wire::{Attr, Attrs, Message};

/// How often a transaction is tried whose generation was another one's meanwhile.
const ATTEMPTS: usize = 4;
/// Bytes of `struct nfgenmsg`.
const HEAD_BYTES: usize = 4;
const ARP_TABLE: &str = "calico-arp";
/// How the names of Felix's chains begin, and the comments of its rules.
pub(crate) const CHAIN: &str = "cali-";
pub(crate) const COMMENT: &str = "cali:";

/// What there is.
pub(crate) fn read(requests: &mut Requests) -> Result<Vec<Leftover>, Failure> {
    let mut found = Vec::new();
    for family in Family::ALL {
        let tables: BTreeSet<Arc<str>> = (chains(requests, number(family))?.into_iter())
            .filter(|(table, name)| **table != *TABLE && name.starts_with(CHAIN))
            .map(|(table, _)| table)
            .collect();
        let tables = tables.into_iter();
        found.extend(tables.map(|table| Leftover::Chains(family, table)));
    }
    let arp = requests.dump(
        message(GETTABLE),
        |writer| writer.nfgen(NFPROTO_ARP, 0),
        |message, out| {
            let name = Attrs::after(message.payload, HEAD_BYTES).find(NFTA_TABLE_NAME);
            if name.and_then(Attr::text) == Some(ARP_TABLE) {
                out.push(Leftover::ArpTable);
            }
        },
    );
    match arp {
        // A kernel without this family.
        Err(failure) if failure.errno == libc::EAFNOSUPPORT => {}
        arp => found.extend(arp?),
    }
    Ok(found)
}

pub(crate) fn remove_arp_table(requests: &mut Requests) -> Result<(), Failure> {
    let batch = transaction(None, |batch| {
        batch.request(message(DELTABLE), 0, |writer| {
            writer.nfgen(NFPROTO_ARP, 0);
            writer.attr_str(NFTA_TABLE_NAME, ARP_TABLE);
        });
    });
    requests.transaction(&batch)
}

/// Removes Felix's chains of a table, and the rules elsewhere in it that lead there or are Felix's, in one transaction.
pub(crate) fn remove_chains(
    requests: &mut Requests,
    family: Family,
    table: &str,
) -> Result<(), Failure> {
    let family = number(family);
    let mut attempt = 1;
    loop {
        let generation = generation(requests)?;
        let chains = chains(requests, family)?.into_iter();
        let chains: BTreeSet<Arc<str>> = chains
            .filter(|(of, name)| **of == *table && name.starts_with(CHAIN))
            .map(|(_, name)| name)
            .collect();
        let rules = rules_of_felix(requests, family, table)?.into_iter();
        let rules = rules.filter(|(chain, _)| !chains.contains(&**chain));
        let rules: Vec<(String, Vec<u8>)> = rules.collect();
        if rules.is_empty() && chains.is_empty() {
            return Ok(());
        }
        let batch = transaction(generation, |batch| {
            for (chain, handle) in &rules {
                batch.request(message(DELRULE), 0, |writer| {
                    writer.nfgen(family, 0);
                    writer.attr_str(NFTA_RULE_TABLE, table);
                    writer.attr_str(NFTA_RULE_CHAIN, chain);
                    writer.attr(NFTA_RULE_HANDLE, handle);
                });
            }
            // All are emptied first: they lead to each other.
            for chain in &chains {
                batch.request(message(DELRULE), 0, |writer| {
                    writer.nfgen(family, 0);
                    writer.attr_str(NFTA_RULE_TABLE, table);
                    writer.attr_str(NFTA_RULE_CHAIN, chain);
                });
            }
            for chain in &chains {
                batch.request(message(DELCHAIN), 0, |writer| {
                    writer.nfgen(family, 0);
                    writer.attr_str(NFTA_CHAIN_TABLE, table);
                    writer.attr_str(NFTA_CHAIN_NAME, chain);
                });
            }
        });
        match requests.transaction(&batch) {
            Err(failure) if failure.errno == libc::ERESTART && attempt < ATTEMPTS => attempt += 1,
            answer => return answer,
        }
    }
}

/// Chains of others that drop forwarded packets by their policy, as nft(8) names them. What passes the agent's table is not safe
/// from them.
pub(crate) fn dropping(requests: &mut Requests) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for (family, word) in [
        (number(Family::V4), "ip"),
        (number(Family::V6), "ip6"),
        (NFPROTO_INET, "inet"),
    ] {
        let chains = requests.dump(
            message(GETCHAIN),
            |writer| writer.nfgen(family, 0),
            |message, out| {
                let attrs = Attrs::after(message.payload, HEAD_BYTES);
                let of_family = message.payload.first() == Some(&family);
                out.extend(dropping_chain(attrs).filter(|_| of_family));
            },
        );
        let names = chains?.into_iter();
        found.extend(names.map(|(table, chain)| format!("nftables chain {word} {table} {chain}")));
    }
    Ok(found)
}

fn dropping_chain(attrs: Attrs<'_>) -> Option<Named> {
    let text = |kind| attrs.find(kind).and_then(Attr::text);
    let hook = attrs.find(NFTA_CHAIN_HOOK)?.nested();
    let forwards = hook.find(NFTA_HOOK_HOOKNUM)?.u32_be()? == FORWARD;
    let drops = attrs.find(NFTA_CHAIN_POLICY)?.u32_be()? == NF_DROP;
    let (table, chain) = (text(NFTA_CHAIN_TABLE)?, text(NFTA_CHAIN_NAME)?);
    (forwards && drops && table != TABLE).then(|| (Arc::from(table), Arc::from(chain)))
}

/// A table, and a chain in it.
type Named = (Arc<str>, Arc<str>);

/// A family's chains.
fn chains(requests: &mut Requests, family: u8) -> Result<Vec<Named>, Failure> {
    requests.dump(
        message(GETCHAIN),
        |writer| writer.nfgen(family, 0),
        |message, out| {
            let attrs = Attrs::after(message.payload, HEAD_BYTES);
            let text = |kind| attrs.find(kind).and_then(Attr::text).map(Arc::from);
            out.extend(text(NFTA_CHAIN_TABLE).zip(text(NFTA_CHAIN_NAME)));
        },
    )
}

/// Chains and handles of a table's rules that are Felix's.
fn rules_of_felix(
    requests: &mut Requests,
    family: u8,
    table: &str,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    requests.dump(
        message(GETRULE),
        |writer| {
            writer.nfgen(family, 0);
            writer.attr_str(NFTA_RULE_TABLE, table);
        },
        |message, out| {
            let attrs = Attrs::after(message.payload, HEAD_BYTES);
            let of_table = attrs.find(NFTA_RULE_TABLE).and_then(Attr::text) == Some(table);
            if of_table && is_of_felix(&message) {
                let chain = attrs.find(NFTA_RULE_CHAIN).and_then(Attr::text);
                let handle = attrs.find(NFTA_RULE_HANDLE);
                let both = chain.zip(handle);
                out.extend(both.map(|(chain, handle)| (chain.to_owned(), handle.payload.to_vec())));
            }
        },
    )
}

/// Whether a rule leads to a chain of Felix's or bears its comment, as nft(8) or as iptables-nft writes it.
fn is_of_felix(message: &Message<'_>) -> bool {
    let attrs = Attrs::after(message.payload, HEAD_BYTES);
    let comment = attrs.find(NFTA_RULE_USERDATA).is_some_and(|data| {
        let comment = data.payload.get(2..).unwrap_or_default();
        data.payload.first() == Some(&UDATA_RULE_COMMENT) && comment.starts_with(COMMENT.as_bytes())
    });
    let expressions = attrs.find(NFTA_RULE_EXPRESSIONS).into_iter();
    comment
        || expressions.flat_map(Attr::nested).any(|expression| {
            let name = expression.nested().find(NFTA_EXPR_NAME);
            let data = expression.nested().find(NFTA_EXPR_DATA).map(Attr::nested);
            match (name.and_then(Attr::text), data) {
                (Some("immediate"), Some(data)) => leads_to_felix(data),
                (Some("match"), Some(data)) => {
                    let name = data.find(NFTA_MATCH_NAME).and_then(Attr::text);
                    let info = data.find(NFTA_MATCH_INFO);
                    let info = info.map(|info| info.payload).unwrap_or_default();
                    name == Some("comment") && info.starts_with(COMMENT.as_bytes())
                }
                _ => false,
            }
        })
}

fn leads_to_felix(immediate: Attrs<'_>) -> bool {
    let data = immediate.find(NFTA_IMMEDIATE_DATA);
    let verdict = data.and_then(|data| data.nested().find(NFTA_DATA_VERDICT));
    let chain = verdict.and_then(|verdict| verdict.nested().find(NFTA_VERDICT_CHAIN));
    chain
        .and_then(Attr::text)
        .is_some_and(|chain| chain.starts_with(CHAIN))
}
