//! AS_PATH (RFC 4271 §5.1.2, RFC 6793).

use std::fmt;

use crate::types::Asn;
use crate::wire::attr::AsnWidth;
use crate::wire::attr::codec::put_asn;
use crate::wire::reader::{ReadError, Reader};

/// Segment types of RFC 5065 §3.
const CONFED_SEQUENCE: u8 = 3;
const CONFED_SET: u8 = 4;

/// An AS_PATH, held as its own encoding with 4-octet AS numbers: one allocation, none when empty, and towards
/// 4-octet peers it is sent as it is.
///
/// ```text
/// +---------------+---------------+-------------------------------+
/// | segment type  |     count     |  AS numbers, 4 octets each ...
/// +---------------+---------------+-------------------------------+
/// ```
///
/// Every segment has at least one AS number, none is 0 (RFC 7607), types are AS_SET and AS_SEQUENCE.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct AsPath {
    octets: Box<[u8]>,
}

/// Type of a segment. Confederation segments (RFC 5065) are not spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// 1: unordered.
    Set,
    /// 2: ordered, nearest first.
    Sequence,
}

impl SegmentKind {
    /// The type octet.
    pub const fn code(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Sequence => 2,
        }
    }

    /// The kind of a type octet; `None` for any other, those of confederations included.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Set),
            2 => Some(Self::Sequence),
            _ => None,
        }
    }
}

/// One segment of an [`AsPath`]: its kind and its AS numbers.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Its kind.
    pub kind: SegmentKind,
    octets: &'a [u8],
}

impl<'a> Segment<'a> {
    /// AS numbers, nearest first in a sequence.
    pub fn asns(&self) -> impl Iterator<Item = Asn> + Clone + use<'a> {
        let (chunks, _) = self.octets.as_chunks::<4>();
        chunks.iter().map(|chunk| Asn(u32::from_be_bytes(*chunk)))
    }

    /// How many AS numbers it holds, 1 to 255.
    pub const fn count(&self) -> usize {
        self.octets.len() / 4
    }
}

impl AsPath {
    /// A path from segments; an empty one is left out, and one longer than 255 is split.
    ///
    /// # Panics
    /// When an AS number is 0.
    pub fn from_segments<'a>(segments: impl IntoIterator<Item = (SegmentKind, &'a [Asn])>) -> Self {
        let mut octets = Vec::new();
        for (kind, asns) in segments {
            for part in asns.chunks(255) {
                let count = u8::try_from(part.len()).expect("chunks of 255");
                octets.extend_from_slice(&[kind.code(), count]);
                for asn in part {
                    assert!(asn.0 != 0, "AS 0 never stands in an AS_PATH (RFC 7607)");
                    octets.extend_from_slice(&asn.0.to_be_bytes());
                }
            }
        }
        Self {
            octets: octets.into(),
        }
    }

    /// A path of one AS_SEQUENCE, empty when there is no AS.
    ///
    /// # Panics
    /// When an AS number is 0.
    pub fn sequence(asns: &[Asn]) -> Self {
        Self::from_segments([(SegmentKind::Sequence, asns)])
    }

    /// Reads the value of AS_PATH.
    ///
    /// # Errors
    /// RFC 7606 §7.2, RFC 7607 §2.
    pub(in crate::wire) fn decode(value: &[u8], width: AsnWidth) -> Result<Self, PathError> {
        let mut reader = Reader::new(value);
        let mut octets = Vec::with_capacity(match width {
            AsnWidth::Two => value.len().saturating_mul(2),
            AsnWidth::Four => value.len(),
        });
        while !reader.is_empty() {
            let found = read_segment(&mut reader, width, &mut octets)?;
            SegmentKind::from_code(found).ok_or(PathError::SegmentType { found })?;
        }
        Ok(Self {
            octets: octets.into(),
        })
    }

    /// Reads the value of AS4_PATH, whose confederation segments are dropped (RFC 6793 §6).
    ///
    /// # Errors
    /// As for AS_PATH.
    pub(in crate::wire) fn decode_as4(value: &[u8]) -> Result<Self, PathError> {
        let mut reader = Reader::new(value);
        let mut octets = Vec::with_capacity(value.len());
        while !reader.is_empty() {
            let start = octets.len();
            let found = read_segment(&mut reader, AsnWidth::Four, &mut octets)?;
            match SegmentKind::from_code(found) {
                Some(_) => {}
                None if matches!(found, CONFED_SEQUENCE | CONFED_SET) => octets.truncate(start),
                None => return Err(PathError::SegmentType { found }),
            }
        }
        Ok(Self {
            octets: octets.into(),
        })
    }

    /// Appends the value of AS_PATH. In two octets, AS_TRANS stands for what does not fit.
    pub(in crate::wire) fn encode(&self, width: AsnWidth, out: &mut Vec<u8>) {
        match width {
            AsnWidth::Four => out.extend_from_slice(&self.octets),
            AsnWidth::Two => {
                for segment in self.segments() {
                    let count = u8::try_from(segment.count()).expect("segments hold 1 to 255");
                    out.extend_from_slice(&[segment.kind.code(), count]);
                    for asn in segment.asns() {
                        put_asn(asn, width, out);
                    }
                }
            }
        }
    }

    /// The path that AS_PATH (`self`) and AS4_PATH stand for (RFC 6793 §4.2.3): AS4_PATH, with what AS_PATH has more
    /// in front of it.
    pub(in crate::wire) fn merge_as4(&self, as4: &Self) -> Self {
        let Some(mut missing) = self.length().checked_sub(as4.length()) else {
            return self.clone();
        };
        let mut segments: Vec<(SegmentKind, Vec<Asn>)> = Vec::new();
        for segment in self.segments() {
            if missing == 0 {
                break;
            }
            let (count, taken) = match segment.kind {
                SegmentKind::Set => (1, segment.count()),
                SegmentKind::Sequence => {
                    let count = segment.count().min(missing);
                    (count, count)
                }
            };
            missing = missing.saturating_sub(count);
            segments.push((segment.kind, segment.asns().take(taken).collect()));
        }
        for segment in as4.segments() {
            match segments.last_mut() {
                Some((SegmentKind::Sequence, asns))
                    if segment.kind == SegmentKind::Sequence
                        && asns.len().saturating_add(segment.count()) <= 255 =>
                {
                    asns.extend(segment.asns());
                }
                Some(_) | None => segments.push((segment.kind, segment.asns().collect())),
            }
        }
        Self::from_segments(segments.iter().map(|(kind, asns)| (*kind, asns.as_slice())))
    }

    /// The route was originated inside the AS.
    pub const fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Its encoding with 4-octet AS numbers.
    pub(crate) const fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The path that [`Self::octets`] were taken of.
    pub(crate) fn from_octets(octets: PathOctets<'_>) -> Self {
        Self {
            octets: octets.0.into(),
        }
    }

    /// Segments, nearest first.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        PathOctets(&self.octets).segments()
    }

    /// Length for the decision process: an AS_SET counts as one (RFC 4271 §9.1.2.2 a).
    pub fn length(&self) -> usize {
        PathOctets(&self.octets).length()
    }

    /// Every AS number, those in sets included.
    pub fn asns(&self) -> impl Iterator<Item = Asn> + '_ {
        self.segments().flat_map(|segment| segment.asns())
    }

    /// The AS stands in the path: a loop when it is ours (RFC 4271 §9.1.2).
    pub fn contains(&self, asn: Asn) -> bool {
        self.asns().any(|other| other == asn)
    }

    /// How often the AS stands in the path.
    pub fn occurrences(&self, asn: Asn) -> usize {
        self.asns().filter(|other| *other == asn).count()
    }

    /// The neighbouring AS: leftmost of a leading AS_SEQUENCE. `None` for an empty path and a leading AS_SET.
    pub fn first_as(&self) -> Option<Asn> {
        PathOctets(&self.octets).first_as()
    }

    /// The originating AS: rightmost of a final AS_SEQUENCE. `None` for an empty path and a final AS_SET.
    pub fn origin_as(&self) -> Option<Asn> {
        let last = self.segments().last()?;
        match last.kind {
            SegmentKind::Sequence => last.asns().last(),
            SegmentKind::Set => None,
        }
    }

    /// The path with `asn` put in front `times` times (RFC 4271 §5.1.2 b).
    ///
    /// # Panics
    /// When `asn` is 0.
    #[must_use]
    pub fn prepend(&self, asn: Asn, times: usize) -> Self {
        let mut segments: Vec<(SegmentKind, Vec<Asn>)> = self
            .segments()
            .map(|segment| (segment.kind, segment.asns().collect()))
            .collect();
        match segments.first_mut() {
            Some((SegmentKind::Sequence, asns)) if asns.len().saturating_add(times) <= 255 => {
                asns.splice(0..0, std::iter::repeat_n(asn, times));
            }
            Some(_) | None => segments.insert(0, (SegmentKind::Sequence, vec![asn; times])),
        }
        Self::from_segments(segments.iter().map(|(kind, asns)| (*kind, asns.as_slice())))
    }
}

/// The octets of an [`AsPath`] that are kept elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathOctets<'a>(pub(crate) &'a [u8]);

impl<'a> PathOctets<'a> {
    fn segments(self) -> impl Iterator<Item = Segment<'a>> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            let kind = SegmentKind::from_code(reader.u8().ok()?)?;
            let count = usize::from(reader.u8().ok()?);
            let octets = reader.take(count.saturating_mul(4)).ok()?;
            Some(Segment { kind, octets })
        })
    }

    /// As [`AsPath::length`].
    pub(crate) fn length(self) -> usize {
        self.segments()
            .map(|segment| match segment.kind {
                SegmentKind::Set => 1,
                SegmentKind::Sequence => segment.count(),
            })
            .sum()
    }

    /// As [`AsPath::first_as`].
    pub(crate) fn first_as(self) -> Option<Asn> {
        let first = self.segments().next()?;
        match first.kind {
            SegmentKind::Sequence => first.asns().next(),
            SegmentKind::Set => None,
        }
    }
}

/// Appends one segment with 4-octet AS numbers, whatever its type, and returns the type.
fn read_segment(
    reader: &mut Reader<'_>,
    width: AsnWidth,
    octets: &mut Vec<u8>,
) -> Result<u8, PathError> {
    let left = reader.remaining();
    let header_short = |_: ReadError| PathError::Short { needed: 2, left };
    let kind = reader.u8().map_err(header_short)?;
    let count = reader.u8().map_err(header_short)?;
    if count == 0 {
        return Err(PathError::EmptySegment);
    }
    let asn_octets = match width {
        AsnWidth::Two => 2,
        AsnWidth::Four => 4,
    };
    let needed = usize::from(count).saturating_mul(asn_octets);
    let left = reader.remaining();
    let asns = reader
        .take(needed)
        .map_err(|_| PathError::Short { needed, left })?;
    octets.extend_from_slice(&[kind, count]);
    match width {
        AsnWidth::Two => {
            for [high, low] in asns.as_chunks::<2>().0 {
                octets.extend_from_slice(&[0, 0, *high, *low]);
            }
        }
        AsnWidth::Four => octets.extend_from_slice(asns),
    }
    let zero = match width {
        AsnWidth::Two => asns.as_chunks().0.contains(&[0_u8; 2]),
        AsnWidth::Four => asns.as_chunks().0.contains(&[0_u8; 4]),
    };
    if zero {
        return Err(PathError::AsZero);
    }
    Ok(kind)
}

impl fmt::Display for AsPath {
    /// `65001 65002 {65003,65004}`; nothing for an empty path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for segment in self.segments() {
            match segment.kind {
                SegmentKind::Sequence => {
                    for asn in segment.asns() {
                        write!(f, "{gap}{asn}")?;
                        gap = " ";
                    }
                }
                SegmentKind::Set => {
                    write!(f, "{gap}{{")?;
                    for (index, asn) in segment.asns().enumerate() {
                        let comma = if index == 0 { "" } else { "," };
                        write!(f, "{comma}{asn}")?;
                    }
                    f.write_str("}")?;
                }
            }
            gap = " ";
        }
        Ok(())
    }
}

impl fmt::Debug for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsPath({self})")
    }
}

/// Why octets are no AS_PATH (RFC 7606 §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Neither AS_SET nor AS_SEQUENCE.
    #[error("segment type {found}, must be 1 (AS_SET) or 2 (AS_SEQUENCE)")]
    SegmentType {
        /// The type received.
        found: u8,
    },
    /// A segment without AS numbers.
    #[error("segment of no AS numbers")]
    EmptySegment,
    /// A segment reaches over the end, or its header does.
    #[error("segment needs {needed} octets, {left} left")]
    Short {
        /// Octets it takes.
        needed: usize,
        /// Octets there were.
        left: usize,
    },
    /// AS 0 (RFC 7607 §2).
    #[error("AS 0 is no AS number")]
    AsZero,
}
