//! Which prefix has which number, both ways.

use anyhow::{Context, ensure};

use crate::plan::{Family, Layout, Plan};
use crate::random::Random;

/// 20.0.0.0/24 is the first of the plain ones.
const FIRST_V4: u32 = 0x14_0000;
/// The first three octets after a plain IPv6 prefix's length.
const HEAD_V6: [u8; 2] = [0x2a, 0x10];
/// Prefixes of each length among a thousand, about as in the Internet's table of 2025; what is missing is /24.
const LENGTHS: &[(u8, u32)] = &[
    (16, 14),
    (17, 8),
    (18, 14),
    (19, 26),
    (20, 46),
    (21, 53),
    (22, 110),
    (23, 98),
];
/// /24s that no daemon takes or that next hops lie in: 10/8, 127/8, 198.18/15; and where addresses of hosts end.
const RESERVED: &[(u32, u32)] = &[
    (0x0a_0000, 0x0b_0000),
    (0x7f_0000, 0x80_0000),
    (0xc6_1200, 0xc6_1400),
];
const FIRST_SLOT: u32 = 0x01_0000;
const LAST_SLOT: u32 = 0xe0_0000;
/// No prefix begins here.
const NONE: u32 = u32::MAX;

/// A prefix on the wire: its length in bits, then as many octets as that needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    octets: [u8; 7],
    length: usize,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}

/// The prefixes of a scenario, numbered from 0.
#[derive(Debug)]
pub enum Prefixes {
    /// /24s in a row.
    PlainV4,
    /// /48s in a row.
    PlainV6,
    /// Of many lengths.
    Internet {
        /// First /24 and length, by number.
        places: Vec<(u32, u8)>,
        /// Number by first /24.
        slots: Vec<u32>,
    },
}

impl Prefixes {
    /// Those of a plan.
    #[must_use]
    pub fn of(plan: &Plan, seed: u64) -> Self {
        match (plan.family, plan.layout) {
            (Family::V4, Layout::Own | Layout::Shared) => Self::PlainV4,
            (Family::V6, _) => Self::PlainV6,
            (Family::V4, Layout::InternetShared) => Self::internet(plan.prefixes, seed),
            (Family::V4, Layout::Internet | Layout::InternetScattered) => {
                Self::internet(u32::from(plan.senders) * plan.prefixes, seed)
            }
        }
    }

    /// Prefixes without overlap; each length has a region of its own, so that numbers in a row lie side by side in a few regions.
    fn internet(count: u32, seed: u64) -> Self {
        let mut random = Random(seed);
        let lengths: Vec<u8> = (0..count)
            .map(|_| {
                let mut ticket = random.below(1000);
                for (length, share) in LENGTHS {
                    if ticket < *share {
                        return *length;
                    }
                    ticket -= share;
                }
                24
            })
            .collect();
        let mut places = vec![(0, 0); lengths.len()];
        let mut slots = vec![NONE; LAST_SLOT as usize];
        let mut next = FIRST_SLOT;
        // The widest first: nothing has to be skipped for alignment.
        for wanted in 16..=24 {
            let width = 1 << (24 - wanted);
            for (number, _) in (0u32..)
                .zip(&lengths)
                .filter(|(_, length)| **length == wanted)
            {
                for (from, to) in RESERVED {
                    if next < *to && next + width > *from {
                        next = *to;
                    }
                }
                places[number as usize] = (next, wanted);
                slots[next as usize] = number;
                next += width;
            }
        }
        assert!(next <= LAST_SLOT, "IPv4 has room for so many");
        Self::Internet { places, slots }
    }

    /// As an UPDATE carries it.
    #[must_use]
    pub fn encode(&self, number: u32) -> Encoded {
        let mut octets = [0; 7];
        let length = match self {
            Self::PlainV4 => {
                octets[0] = 24;
                octets[1..4].copy_from_slice(&(FIRST_V4 + number).to_be_bytes()[1..]);
                4
            }
            Self::PlainV6 => {
                octets[0] = 48;
                octets[1..3].copy_from_slice(&HEAD_V6);
                octets[3..].copy_from_slice(&number.to_be_bytes());
                7
            }
            Self::Internet { places, .. } => {
                let (slot, bits) = places[number as usize];
                octets[0] = bits;
                octets[1..4].copy_from_slice(&slot.to_be_bytes()[1..]);
                1 + usize::from(bits.div_ceil(8))
            }
        };
        Encoded { octets, length }
    }

    /// Calls `set` with the number of each prefix in a field of an UPDATE.
    ///
    /// # Errors
    /// When the field is cut, or holds a prefix that nobody announces.
    pub fn decode(&self, field: &[u8], mut set: impl FnMut(u32)) -> anyhow::Result<()> {
        let unknown = |prefix: &[u8]| anyhow::anyhow!("nobody announces the prefix {prefix:02x?}");
        match self {
            Self::PlainV4 => {
                let (prefixes, rest) = field.as_chunks::<4>();
                ensure!(rest.is_empty(), "{field:02x?} are no /24 prefixes");
                for prefix in prefixes {
                    let [bits, a, b, c] = *prefix;
                    match u32::from_be_bytes([0, a, b, c]).checked_sub(FIRST_V4) {
                        Some(number) if bits == 24 => set(number),
                        _ => return Err(unknown(prefix)),
                    }
                }
            }
            Self::PlainV6 => {
                let (prefixes, rest) = field.as_chunks::<7>();
                ensure!(rest.is_empty(), "{field:02x?} are no /48 prefixes");
                for prefix in prefixes {
                    let [bits, h0, h1, number @ ..] = *prefix;
                    if (bits, [h0, h1]) != (48, HEAD_V6) {
                        return Err(unknown(prefix));
                    }
                    set(u32::from_be_bytes(number));
                }
            }
            Self::Internet { places, slots } => {
                let mut rest = field;
                while let Some((bits, after)) = rest.split_first() {
                    let octets = usize::from(bits.div_ceil(8));
                    let (address, after) =
                        after.split_at_checked(octets).context("a prefix is cut")?;
                    let mut slot = [0; 4];
                    match slot.get_mut(1..=octets) {
                        Some(place) => place.copy_from_slice(address),
                        None => return Err(unknown(&rest[..=octets])),
                    }
                    let number = slots.get(u32::from_be_bytes(slot) as usize);
                    match number {
                        Some(number)
                            if places
                                .get(*number as usize)
                                .is_some_and(|(_, length)| length == bits) =>
                        {
                            set(*number)
                        }
                        _ => return Err(unknown(&rest[..=octets])),
                    }
                    rest = after;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(prefixes: &Prefixes, numbers: &[u32]) {
        let field: Vec<u8> = numbers
            .iter()
            .flat_map(|number| prefixes.encode(*number).as_ref().to_vec())
            .collect();
        let mut seen = Vec::new();
        prefixes.decode(&field, |number| seen.push(number)).unwrap();
        assert_eq!(seen, numbers);
    }

    #[test]
    fn numbers_come_back_from_the_wire() {
        there_and_back(&Prefixes::PlainV4, &[0, 1, 99_999]);
        there_and_back(&Prefixes::PlainV6, &[0, 1, 99_999]);
        let internet = Prefixes::internet(20_000, 5);
        let all: Vec<u32> = (0..20_000).collect();
        there_and_back(&internet, &all);
    }

    #[test]
    fn a_prefix_of_another_length_is_nobodys() {
        let internet = Prefixes::internet(1_000, 5);
        let longer = (0..1_000)
            .map(|number| internet.encode(number))
            .find(|prefix| prefix.as_ref()[0] == 23)
            .unwrap();
        let mut field = longer.as_ref().to_vec();
        field[0] = 24;
        assert!(internet.decode(&field, |_| {}).is_err());
        assert!(Prefixes::PlainV4.decode(&[23, 20, 0, 0], |_| {}).is_err());
        assert!(
            Prefixes::PlainV6
                .decode(&[48, 0x2a, 0x11, 0, 0, 0, 0], |_| {})
                .is_err()
        );
    }

    #[test]
    fn a_million_prefixes_have_the_lengths_of_the_internet() {
        let Prefixes::Internet { places, .. } = Prefixes::internet(1_000_000, 5) else {
            panic!("asked for those");
        };
        let share = |length| places.iter().filter(|(_, bits)| *bits == length).count();
        assert!((620_000..640_000).contains(&share(24)), "{}", share(24));
        assert!((108_000..112_000).contains(&share(22)), "{}", share(22));
        let reserved = |slot: &u32| RESERVED.iter().any(|(from, to)| (from..to).contains(&slot));
        assert!(!places.iter().any(|(slot, _)| reserved(slot)));
    }
}
