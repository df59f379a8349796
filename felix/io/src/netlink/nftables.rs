//! nftables over netlink: the agent's table of a family is written in one transaction, and read back.
//!
//! ```text
//! BATCH_BEGIN (generation) | NEWTABLE DELTABLE NEWTABLE | NEWSET NEWSETELEM … | NEWCHAIN … | NEWRULE … | BATCH_END
//! ```
//! The table is made, deleted and made anew, so that the transaction fits whatever was there; packets see either the old
//! rules or the new ones. Numbers in attributes are in network order (linux/netfilter/nf_tables.h).

mod expressions;

use std::collections::BTreeMap;
use std::sync::Arc;

use felix::desired::ElementKey;
use felix::rules::{Chain, Element, Family, Rule, Ruleset, Shown, TABLE, elements};

use expressions::Expressions;

use super::socket::{Failure, Requests};
use super::uapi::nftables::*;
use super::uapi::{AF_INET, AF_INET6, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use super::wire::{Attr, Attrs, Batch, Message, ip};

/// How often a transaction is tried whose generation was another one's meanwhile; the last time without one.
const ATTEMPTS: usize = 4;
/// Bytes of `struct nfgenmsg`.
const HEAD_BYTES: usize = 4;

/// Replaces the table of a family, with these elements in its address sets; `None` removes it.
pub(crate) fn replace(
    requests: &mut Requests,
    family: Family,
    ruleset: Option<&Ruleset>,
    elements: &[ElementKey],
) -> Result<(), Failure> {
    for attempt in 1..=ATTEMPTS {
        let generation = if attempt < ATTEMPTS {
            generation(requests)?
        } else {
            None
        };
        let batch = replacement(family, ruleset, elements, generation);
        match requests.transaction(&batch) {
            Err(failure) if failure.errno == libc::ERESTART && attempt < ATTEMPTS => {}
            answer => return answer,
        }
    }
    Ok(())
}

/// The number of the rules' present generation. A kernel that has nfnetlink without nf_tables refuses the question as invalid, which it
/// never is where nf_tables is: that counts as not supported.
pub(super) fn generation(requests: &mut Requests) -> Result<Option<u32>, Failure> {
    let answer = requests.query(
        message(GETGEN),
        |writer| writer.nfgen(AF_UNSPEC_NF, 0),
        |message| {
            let id = Attrs::after(message.payload, HEAD_BYTES).find(NFTA_GEN_ID)?;
            Some(u32::from_be_bytes(id.payload.try_into().ok()?))
        },
    );
    match answer {
        Err(failure) if failure.errno == libc::EINVAL => Err(Failure::from_errno(libc::EOPNOTSUPP)),
        answer => answer,
    }
}

/// Adds elements to the sets of standing tables, or takes them away: all or none.
pub(crate) fn change_elements(
    requests: &mut Requests,
    changes: &[(ElementKey, Change)],
) -> Result<(), Failure> {
    let batch = transaction(None, |batch| {
        for (key, change) in changes {
            let (kind, flags) = match change {
                Change::Add => (NEWSETELEM, NLM_F_CREATE),
                Change::Remove => (DELSETELEM, 0),
            };
            let element = Element {
                addr: key.addr,
                end: false,
            };
            let family = number(key.family);
            set_elements(batch, (kind, flags), family, &key.set, &[element]);
        }
    });
    requests.transaction(&batch)
}

/// What happens to an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    Remove,
}

/// Messages that are carried out as a whole or not at all; not if another generation of the rules than the one that is
/// named is in force.
pub(super) fn transaction(generation: Option<u32>, fill: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = Batch::default();
    batch.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, |writer| {
        writer.nfgen(AF_UNSPEC_NF, NFNL_SUBSYS_NFTABLES);
        if let Some(generation) = generation {
            writer.attr(NFNL_BATCH_GENID, &generation.to_be_bytes());
        }
    });
    fill(&mut batch);
    batch.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, |writer| {
        writer.nfgen(AF_UNSPEC_NF, NFNL_SUBSYS_NFTABLES);
    });
    batch
}

fn replacement(
    family: Family,
    ruleset: Option<&Ruleset>,
    elements: &[ElementKey],
    generation: Option<u32>,
) -> Batch {
    transaction(generation, |batch| {
        replace_table(batch, number(family), ruleset, elements);
    })
}

fn replace_table(batch: &mut Batch, family: u8, ruleset: Option<&Ruleset>, members: &[ElementKey]) {
    let mut table = |kind, flags| {
        batch.request(message(kind), flags, |writer| {
            writer.nfgen(family, 0);
            writer.attr_str(NFTA_TABLE_NAME, TABLE);
        });
    };
    table(NEWTABLE, NLM_F_CREATE);
    table(DELTABLE, 0);
    let Some(ruleset) = ruleset else {
        return;
    };
    table(NEWTABLE, NLM_F_CREATE);
    let mut ids = 1..;
    let mut id = || ids.next().expect("numbers do not end");
    for (name, prefixes) in &ruleset.sets {
        set(batch, family, name, (NFT_SET_INTERVAL, id()));
        set_elements(batch, ADD, family, name, &elements(prefixes));
    }
    for name in &ruleset.address_sets {
        set(batch, family, name, (0, id()));
        let of_set = members.iter().filter(|key| *key.set == **name);
        let of_set = of_set.map(|key| Element {
            addr: key.addr,
            end: false,
        });
        set_elements(batch, ADD, family, name, &of_set.collect::<Vec<_>>());
    }
    for chain in &ruleset.chains {
        new_chain(batch, family, chain);
    }
    for chain in &ruleset.chains {
        for rule in &chain.rules {
            new_rule(batch, family, chain.name, rule);
        }
    }
}

/// A message's type on the wire.
pub(super) const fn message(kind: u16) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | kind
}

pub(super) const fn number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

/// `id` names the set within its transaction, where its handle is not known yet.
fn set(batch: &mut Batch, family: u8, name: &str, (flags, id): (u32, u32)) {
    let (kind, bytes) = if family == AF_INET {
        (TYPE_IPV4_ADDR, 4)
    } else {
        (TYPE_IPV6_ADDR, 16)
    };
    batch.request(message(NEWSET), NLM_F_CREATE, |writer| {
        writer.nfgen(family, 0);
        writer.attr_str(NFTA_SET_TABLE, TABLE);
        writer.attr_str(NFTA_SET_NAME, name);
        writer.attr_be32(NFTA_SET_FLAGS, flags);
        writer.attr_be32(NFTA_SET_KEY_TYPE, kind);
        writer.attr_be32(NFTA_SET_KEY_LEN, bytes);
        writer.attr_be32(NFTA_SET_ID, id);
    });
}

/// Elements of a message at most: its list is an attribute, whose length has 16 bits.
const ELEMENTS: usize = 1000;

/// Kind and flags of the message that adds elements.
const ADD: (u16, u16) = (NEWSETELEM, NLM_F_CREATE);

fn set_elements(
    batch: &mut Batch,
    (kind, flags): (u16, u16),
    family: u8,
    set: &str,
    all: &[Element],
) {
    for some in all.chunks(ELEMENTS) {
        batch.request(message(kind), flags, |writer| {
            writer.nfgen(family, 0);
            writer.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            writer.attr_str(NFTA_SET_ELEM_LIST_SET, set);
            writer.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |writer| {
                for element in some {
                    writer.nest(NFTA_LIST_ELEM, |writer| {
                        writer.nest(NFTA_SET_ELEM_KEY, |writer| {
                            writer.attr_ip(NFTA_DATA_VALUE, element.addr);
                        });
                        if element.end {
                            writer.attr_be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
                        }
                    });
                }
            });
        });
    }
}

fn new_chain(batch: &mut Batch, family: u8, chain: &Chain) {
    batch.request(message(NEWCHAIN), NLM_F_CREATE, |writer| {
        writer.nfgen(family, 0);
        writer.attr_str(NFTA_CHAIN_TABLE, TABLE);
        writer.attr_str(NFTA_CHAIN_NAME, chain.name);
        if let Some(hook) = chain.hook {
            writer.nest(NFTA_CHAIN_HOOK, |writer| {
                writer.attr_be32(NFTA_HOOK_HOOKNUM, hook.number);
                writer.attr(NFTA_HOOK_PRIORITY, &hook.priority.to_be_bytes());
            });
            writer.attr_be32(NFTA_CHAIN_POLICY, NF_ACCEPT);
            writer.attr_str(NFTA_CHAIN_TYPE, hook.kind);
        }
    });
}

fn new_rule(batch: &mut Batch, family: u8, chain: &str, rule: &Rule) {
    batch.request(message(NEWRULE), NLM_F_CREATE | NLM_F_APPEND, |writer| {
        writer.nfgen(family, 0);
        writer.attr_str(NFTA_RULE_TABLE, TABLE);
        writer.attr_str(NFTA_RULE_CHAIN, chain);
        writer.nest(NFTA_RULE_EXPRESSIONS, |writer| {
            let mut list = Expressions { writer, family };
            for wanted in &rule.matches {
                list.matches(wanted);
            }
            list.action(&rule.action);
        });
        writer.attr(NFTA_RULE_USERDATA, &comment_bytes(&rule.comment()));
    });
}

/// A comment among a rule's user data, as nft(8) keeps it: type, length, text with a final zero.
fn comment_bytes(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).expect("a comment is a hash");
    let mut bytes = vec![UDATA_RULE_COMMENT, length];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

/// A table as it is in the kernel.
pub(crate) struct Table {
    pub(crate) shown: Shown,
    /// Of its address sets.
    pub(crate) elements: Vec<ElementKey>,
}

/// Reads the table of a family; `None` if there is none.
pub(crate) fn read(requests: &mut Requests, family: Family) -> Result<Option<Table>, Failure> {
    let table = dump(requests, family, GETTABLE, NFTA_TABLE_NAME, |_, _| Some(()))?;
    if table.is_empty() {
        return Ok(None);
    }
    let mut shown = Shown::default();
    for (name, hook) in dump(requests, family, GETCHAIN, NFTA_CHAIN_TABLE, chain)? {
        let hook = hook.as_ref();
        shown.chain(
            &name,
            hook.map(|(kind, number, priority)| (kind.as_str(), *number, *priority)),
        );
    }
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (chain, comment) in dump(requests, family, GETRULE, NFTA_RULE_TABLE, rule)? {
        let place = places.entry(chain.clone()).or_default();
        shown.rule(&chain, *place, &comment);
        *place += 1;
    }
    let mut elements = Vec::new();
    for (name, is_of_addresses) in dump(requests, family, GETSET, NFTA_SET_TABLE, |attrs, _| {
        let name = attrs.find(NFTA_SET_NAME)?.text()?.to_owned();
        let flags = attrs.find(NFTA_SET_FLAGS).and_then(Attr::u32_be);
        Some((name, flags.unwrap_or(0) == 0))
    })? {
        let set: Arc<str> = Arc::from(name);
        if is_of_addresses {
            shown.address_set(&set);
        } else {
            shown.set(&set);
        }
        for element in read_elements(requests, family, &set)? {
            if is_of_addresses {
                elements.push(ElementKey {
                    family,
                    set: Arc::clone(&set),
                    addr: element.addr,
                });
            } else {
                shown.element(&set, element);
            }
        }
    }
    shown.sort();
    Ok(Some(Table { shown, elements }))
}

/// One dump of a family: what `read` makes of the objects of the agent's table.
fn dump<T>(
    requests: &mut Requests,
    family: Family,
    kind: u16,
    table: u16,
    read: impl Fn(Attrs<'_>, Message<'_>) -> Option<T>,
) -> Result<Vec<T>, Failure> {
    let family = number(family);
    requests.dump(
        message(kind),
        |writer| writer.nfgen(family, 0),
        |message, out| {
            let attrs = Attrs::after(message.payload, HEAD_BYTES);
            let ours = attrs.find(table).and_then(Attr::text) == Some(TABLE);
            if ours && message.payload.first() == Some(&family) {
                out.extend(read(attrs, message));
            }
        },
    )
}

/// Name, and the hook's type, number and priority.
type ShownChain = (String, Option<(String, u32, i32)>);

fn chain(attrs: Attrs<'_>, _: Message<'_>) -> Option<ShownChain> {
    let name = attrs.find(NFTA_CHAIN_NAME)?.text()?.to_owned();
    let hook = attrs.find(NFTA_CHAIN_HOOK).and_then(|hook| {
        let number = hook.nested().find(NFTA_HOOK_HOOKNUM)?.u32_be()?;
        let priority = hook.nested().find(NFTA_HOOK_PRIORITY)?.u32_be()?;
        let kind = attrs.find(NFTA_CHAIN_TYPE)?.text()?.to_owned();
        Some((kind, number, priority.cast_signed()))
    });
    Some((name, hook))
}

/// Chain and comment; a rule of somebody else has another comment or none.
fn rule(attrs: Attrs<'_>, _: Message<'_>) -> Option<(String, String)> {
    let chain = attrs.find(NFTA_RULE_CHAIN)?.text()?.to_owned();
    let comment = attrs.find(NFTA_RULE_USERDATA).and_then(|data| {
        let [kind, length, text @ ..] = data.payload else {
            return None;
        };
        let text = text.get(..usize::from(*length).checked_sub(1)?)?;
        (*kind == UDATA_RULE_COMMENT).then(|| String::from_utf8_lossy(text).into_owned())
    });
    Some((chain, comment.unwrap_or_default()))
}

fn read_elements(
    requests: &mut Requests,
    family: Family,
    set: &str,
) -> Result<Vec<Element>, Failure> {
    let number = number(family);
    requests.dump(
        message(GETSETELEM),
        |writer| {
            writer.nfgen(number, 0);
            writer.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            writer.attr_str(NFTA_SET_ELEM_LIST_SET, set);
        },
        |message, out| {
            let attrs = Attrs::after(message.payload, HEAD_BYTES);
            let list = attrs.find(NFTA_SET_ELEM_LIST_ELEMENTS);
            for element in list.into_iter().flat_map(Attr::nested) {
                let key = element.nested().find(NFTA_SET_ELEM_KEY);
                let addr = key.and_then(|key| ip(key.nested().find(NFTA_DATA_VALUE)?.payload));
                let flags = element.nested().find(NFTA_SET_ELEM_FLAGS);
                let flags = flags.and_then(Attr::u32_be).unwrap_or(0);
                out.extend(addr.map(|addr| Element {
                    addr,
                    end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
                }));
            }
        },
    )
}

/// Whether a notification is about a table of the agent's name. Tables, chains, rules, sets and elements name their table
/// by the same attribute.
pub(crate) fn is_about_ours(message: &Message<'_>) -> bool {
    let table = Attrs::after(message.payload, HEAD_BYTES).find(NFTA_TABLE_NAME);
    table.and_then(Attr::text) == Some(TABLE)
}
