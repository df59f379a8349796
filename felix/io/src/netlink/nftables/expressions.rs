//! A rule's expressions: what each match and action is in the kernel's terms (linux/netfilter/nf_tables.h).

use std::net::IpAddr;

use felix::rules::{Action, Match};
use ipnet::IpNet;

use crate::netlink::uapi::AF_INET;
use crate::netlink::uapi::nftables::*;
use crate::netlink::wire::Writer;

/// Writes a rule's expressions.
pub(super) struct Expressions<'a, 'b> {
    pub(super) writer: &'a mut Writer<'b>,
    pub(super) family: u8,
}

impl Expressions<'_, '_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Writer<'_>)) {
        self.writer.nest(NFTA_LIST_ELEM, |writer| {
            writer.attr_str(NFTA_EXPR_NAME, name);
            writer.nest(NFTA_EXPR_DATA, fill);
        });
    }

    pub(super) fn matches(&mut self, wanted: &Match) {
        match wanted {
            Match::Source(set) => self.lookup(Address::Source, set, 0),
            Match::NotSource(set) => self.lookup(Address::Source, set, NFT_LOOKUP_F_INV),
            Match::Destination(set) => self.lookup(Address::Destination, set, 0),
            Match::SourceWithin(prefix) => self.within(Address::Source, prefix),
            Match::DestinationWithin(prefix) => self.within(Address::Destination, prefix),
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

    pub(super) fn action(&mut self, action: &Action) {
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
                self.immediate(NFT_REG_1, &octets(*addr));
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
            Action::DestinationNat(addr) => {
                self.immediate(NFT_REG_1, &octets(*addr));
                let family = u32::from(self.family);
                self.expression("nat", |writer| {
                    writer.attr_be32(NFTA_NAT_TYPE, NFT_NAT_DNAT);
                    writer.attr_be32(NFTA_NAT_FAMILY, family);
                    writer.attr_be32(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
                });
            }
            Action::NoTrack => self.expression("notrack", |_| ()),
            Action::Jump(chain) => self.verdict(NFT_JUMP, Some(chain)),
            Action::Return => self.verdict(NFT_RETURN, None),
            Action::Drop => {
                self.expression("counter", |_| ());
                self.verdict(NF_DROP, None);
            }
            Action::Reject => {
                self.expression("counter", |_| ());
                let code = if self.family == AF_INET {
                    ICMP_PORT_UNREACH
                } else {
                    ICMPV6_PORT_UNREACH
                };
                self.expression("reject", |writer| {
                    writer.attr_be32(NFTA_REJECT_TYPE, NFT_REJECT_ICMP_UNREACH);
                    writer.attr(NFTA_REJECT_ICMP_CODE, &[code]);
                });
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

    /// Loads an address of a packet.
    fn address(&mut self, address: Address) {
        let (offset, bytes) = match (self.family, address) {
            (AF_INET, Address::Source) => (12, 4),
            (AF_INET, Address::Destination) => (16, 4),
            (_, Address::Source) => (8, 16),
            (_, Address::Destination) => (24, 16),
        };
        self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, bytes);
    }

    fn within(&mut self, address: Address, prefix: &IpNet) {
        self.address(address);
        if prefix.prefix_len() < prefix.max_prefix_len() {
            self.masked(&octets(prefix.netmask()));
        }
        self.compare(NFT_CMP_EQ, &octets(prefix.network()));
    }

    fn lookup(&mut self, address: Address, set: &str, flags: u32) {
        self.address(address);
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
        self.masked(&ESTABLISHED_OR_RELATED.to_ne_bytes());
        self.compare(NFT_CMP_NEQ, &[0; 4]);
    }

    /// Clears the bits of what was loaded that are not in `mask`.
    fn masked(&mut self, mask: &[u8]) {
        let none = vec![0; mask.len()];
        let len = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        self.expression("bitwise", |writer| {
            writer.attr_be32(NFTA_BITWISE_SREG, NFT_REG_1);
            writer.attr_be32(NFTA_BITWISE_DREG, NFT_REG_1);
            writer.attr_be32(NFTA_BITWISE_LEN, len);
            for (part, value) in [(NFTA_BITWISE_MASK, mask), (NFTA_BITWISE_XOR, &none)] {
                writer.nest(part, |writer| writer.attr(NFTA_DATA_VALUE, value));
            }
        });
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

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
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
