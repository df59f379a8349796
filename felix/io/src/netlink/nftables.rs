//! nftables over netlink: the agent's table of a family is written in one transaction, and read back.
//!
//! ```text
//! BATCH_BEGIN (generation) | NEWTABLE DELTABLE NEWTABLE | NEWSET NEWSETELEM … | NEWCHAIN … | NEWRULE … | BATCH_END
//! ```
//! The table is made, deleted and made anew, so that the transaction fits whatever was there; packets see either the old
//! rules or the new ones. Numbers in attributes are in network order (linux/netfilter/nf_tables.h).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felix::desired::ElementKey;
use felix::rules::{Action, Chain, Element, Family, Match, Rule, Ruleset, Shown, TABLE, elements};

use super::socket::{Failure, Requests};
use super::uapi::nftables::*;
use super::uapi::{AF_INET, AF_INET6, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use super::wire::{Attr, Attrs, Batch, Message, Writer, ip};

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

/// The number of the rules' present generation.
pub(super) fn generation(requests: &mut Requests) -> Result<Option<u32>, Failure> {
    requests.query(
        message(GETGEN),
        |writer| writer.nfgen(AF_UNSPEC_NF, 0),
        |message| {
            let id = Attrs::after(message.payload, HEAD_BYTES).find(NFTA_GEN_ID)?;
            Some(u32::from_be_bytes(id.payload.try_into().ok()?))
        },
    )
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

/// Writes a rule's expressions.
struct Expressions<'a, 'b> {
    writer: &'a mut Writer<'b>,
    family: u8,
}

impl Expressions<'_, '_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Writer<'_>)) {
        self.writer.nest(NFTA_LIST_ELEM, |writer| {
            writer.attr_str(NFTA_EXPR_NAME, name);
            writer.nest(NFTA_EXPR_DATA, fill);
        });
    }

    fn matches(&mut self, wanted: &Match) {
        match wanted {
            Match::Source(set) => self.lookup(Address::Source, set, 0),
            Match::NotSource(set) => self.lookup(Address::Source, set, NFT_LOOKUP_F_INV),
            Match::NotDestination(set) => self.lookup(Address::Destination, set, NFT_LOOKUP_F_INV),
            Match::InputDevice(name) | Match::OutputDevice(name) if **name == *"+" => {}
            Match::InputDevice(name) => {
                self.meta(NFT_META_IIFNAME);
                self.compare(NFT_CMP_EQ, &device_bytes(name));
            }
            Match::OutputDevice(name) => {
                self.meta(NFT_META_OIFNAME);
                self.compare(NFT_CMP_EQ, &device_bytes(name));
            }
            Match::Protocol(protocol) => {
                self.meta(NFT_META_L4PROTO);
                self.compare(NFT_CMP_EQ, &[*protocol]);
            }
            Match::DestinationPort(port) => {
                self.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
                self.compare(NFT_CMP_EQ, &port.to_be_bytes());
            }
            Match::SourceOfAnotherDevice => {
                let local = RTN_LOCAL.to_ne_bytes();
                self.address_type(NFTA_FIB_F_SADDR);
                self.compare(NFT_CMP_EQ, &local);
                self.address_type(NFTA_FIB_F_SADDR | NFTA_FIB_F_OIF);
                self.compare(NFT_CMP_NEQ, &local);
            }
            Match::NoReversePath => {
                self.fib(NFT_FIB_RESULT_OIF, NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF);
                self.compare(NFT_CMP_EQ, &[0; 4]);
            }
            Match::Established => self.established(),
            Match::IcmpType(types) => {
                self.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1);
                self.compare(NFT_CMP_GTE, &[*types.start()]);
                self.compare(NFT_CMP_LTE, &[*types.end()]);
            }
            Match::ToHost => {
                self.address_type(NFTA_FIB_F_DADDR);
                self.compare(NFT_CMP_EQ, &RTN_LOCAL.to_ne_bytes());
            }
        }
    }

    fn action(&mut self, action: &Action) {
        match action {
            Action::Masquerade(ports) => {
                let flags = self.ports(NFT_REG_1, ports.as_ref());
                let ports = ports.is_some();
                self.expression("masq", |writer| {
                    writer.attr_be32(NFTA_MASQ_FLAGS, flags);
                    if ports {
                        writer.attr_be32(NFTA_MASQ_REG_PROTO_MIN, NFT_REG_1);
                        writer.attr_be32(NFTA_MASQ_REG_PROTO_MAX, NFT_REG_1 + 1);
                    }
                });
            }
            Action::SourceNat(addr, ports) => {
                let bytes = match addr {
                    IpAddr::V4(addr) => addr.octets().to_vec(),
                    IpAddr::V6(addr) => addr.octets().to_vec(),
                };
                self.immediate(NFT_REG_1, &bytes);
                let flags = self.ports(NFT_REG_1 + 1, ports.as_ref());
                let (ports, family) = (ports.is_some(), u32::from(self.family));
                self.expression("nat", |writer| {
                    writer.attr_be32(NFTA_NAT_TYPE, NFT_NAT_SNAT);
                    writer.attr_be32(NFTA_NAT_FAMILY, family);
                    writer.attr_be32(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
                    if ports {
                        writer.attr_be32(NFTA_NAT_REG_PROTO_MIN, NFT_REG_1 + 1);
                        writer.attr_be32(NFTA_NAT_REG_PROTO_MAX, NFT_REG_1 + 2);
                    }
                    writer.attr_be32(NFTA_NAT_FLAGS, flags);
                });
            }
            Action::NoTrack => self.expression("notrack", |_| ()),
            Action::Jump(chain) => self.verdict(NFT_JUMP, Some(chain)),
            Action::Return => self.verdict(NFT_RETURN, None),
            Action::Drop => {
                self.expression("counter", |_| ());
                self.verdict(NF_DROP, None);
            }
        }
    }

    /// Loads the ends of a range of ports into `register` and the next one; the flags of the translation.
    fn ports(&mut self, register: u32, ports: Option<&std::ops::RangeInclusive<u16>>) -> u32 {
        let Some(ports) = ports else {
            return NF_NAT_RANGE_PROTO_RANDOM_FULLY;
        };
        self.immediate(register, &ports.start().to_be_bytes());
        self.immediate(register + 1, &ports.end().to_be_bytes());
        NF_NAT_RANGE_PROTO_RANDOM_FULLY | NF_NAT_RANGE_PROTO_SPECIFIED
    }

    fn lookup(&mut self, address: Address, set: &str, flags: u32) {
        let (offset, bytes) = match (self.family, address) {
            (AF_INET, Address::Source) => (12, 4),
            (AF_INET, Address::Destination) => (16, 4),
            (_, Address::Source) => (8, 16),
            (_, Address::Destination) => (24, 16),
        };
        self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, bytes);
        self.expression("lookup", |writer| {
            writer.attr_str(NFTA_LOOKUP_SET, set);
            writer.attr_be32(NFTA_LOOKUP_SREG, NFT_REG_1);
            if flags != 0 {
                writer.attr_be32(NFTA_LOOKUP_FLAGS, flags);
            }
        });
    }

    fn meta(&mut self, key: u32) {
        self.expression("meta", |writer| {
            writer.attr_be32(NFTA_META_KEY, key);
            writer.attr_be32(NFTA_META_DREG, NFT_REG_1);
        });
    }

    fn payload(&mut self, base: u32, offset: u32, bytes: u32) {
        self.expression("payload", |writer| {
            writer.attr_be32(NFTA_PAYLOAD_DREG, NFT_REG_1);
            writer.attr_be32(NFTA_PAYLOAD_BASE, base);
            writer.attr_be32(NFTA_PAYLOAD_OFFSET, offset);
            writer.attr_be32(NFTA_PAYLOAD_LEN, bytes);
        });
    }

    fn established(&mut self) {
        self.expression("ct", |writer| {
            writer.attr_be32(NFTA_CT_DREG, NFT_REG_1);
            writer.attr_be32(NFTA_CT_KEY, NFT_CT_STATE);
        });
        self.expression("bitwise", |writer| {
            writer.attr_be32(NFTA_BITWISE_SREG, NFT_REG_1);
            writer.attr_be32(NFTA_BITWISE_DREG, NFT_REG_1);
            writer.attr_be32(NFTA_BITWISE_LEN, 4);
            let wanted = ESTABLISHED_OR_RELATED.to_ne_bytes();
            for (part, value) in [(NFTA_BITWISE_MASK, wanted), (NFTA_BITWISE_XOR, [0; 4])] {
                writer.nest(part, |writer| writer.attr(NFTA_DATA_VALUE, &value));
            }
        });
        self.compare(NFT_CMP_NEQ, &[0; 4]);
    }

    fn address_type(&mut self, flags: u32) {
        self.fib(NFT_FIB_RESULT_ADDRTYPE, flags);
    }

    fn fib(&mut self, result: u32, flags: u32) {
        self.expression("fib", |writer| {
            writer.attr_be32(NFTA_FIB_DREG, NFT_REG_1);
            writer.attr_be32(NFTA_FIB_RESULT, result);
            writer.attr_be32(NFTA_FIB_FLAGS, flags);
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |writer| {
            writer.attr_be32(NFTA_CMP_SREG, NFT_REG_1);
            writer.attr_be32(NFTA_CMP_OP, operator);
            writer.nest(NFTA_CMP_DATA, |writer| writer.attr(NFTA_DATA_VALUE, value));
        });
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expression("immediate", |writer| {
            writer.attr_be32(NFTA_IMMEDIATE_DREG, register);
            writer.nest(NFTA_IMMEDIATE_DATA, |writer| {
                writer.attr(NFTA_DATA_VALUE, value)
            });
        });
    }

    fn verdict(&mut self, code: u32, chain: Option<&str>) {
        self.expression("immediate", |writer| {
            writer.attr_be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            writer.nest(NFTA_IMMEDIATE_DATA, |writer| {
                writer.nest(NFTA_DATA_VERDICT, |writer| {
                    writer.attr_be32(NFTA_VERDICT_CODE, code);
                    if let Some(chain) = chain {
                        writer.attr_str(NFTA_VERDICT_CHAIN, chain);
                    }
                });
            });
        });
    }
}

/// Which address of a packet.
#[derive(Clone, Copy)]
enum Address {
    Source,
    Destination,
}

/// A device's name as it is compared: whole with its zeros, or its beginning if it ends with `+`.
fn device_bytes(name: &str) -> Vec<u8> {
    if let Some(beginning) = name.strip_suffix('+') {
        return beginning.as_bytes().to_vec();
    }
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
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
