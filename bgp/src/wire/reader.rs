//! The one cursor that every decoder reads through.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Why bytes could not be read. Decoders turn it into their own error, with the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The field reaches over the end.
    #[error("{needed} octets needed, {left} left")]
    Short {
        /// Octets the field takes.
        needed: usize,
        /// Octets there were.
        left: usize,
    },
    /// Octets are left after the last field.
    #[error("{left} octets left over")]
    Trailing {
        /// How many.
        left: usize,
    },
}

/// A cursor over received octets that cannot leave them.
///
/// Slices it returns point into the received buffer, so that `Bytes::slice_ref` can share them without a copy.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first octet.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Octets not read yet.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Everything was read.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` octets.
    ///
    /// # Errors
    /// [`ReadError::Short`]; nothing is consumed then.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ReadError::Short {
            needed: count,
            left: self.rest.len(),
        })?;
        self.rest = rest;
        Ok(taken)
    }

    /// A cursor over the next `count` octets alone.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn sub(&mut self, count: usize) -> Result<Self, ReadError> {
        self.take(count).map(Self::new)
    }

    /// All that is left, which is consumed.
    pub const fn rest(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.rest = &[];
        rest
    }

    /// All that is left, without consuming it.
    pub const fn peek(&self) -> &'a [u8] {
        self.rest
    }

    /// States that nothing may be left.
    ///
    /// # Errors
    /// [`ReadError::Trailing`].
    pub const fn finish(&self) -> Result<(), ReadError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(ReadError::Trailing {
                left: self.rest.len(),
            })
        }
    }

    /// The next `N` octets by value.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(ReadError::Short {
            needed: N,
            left: self.rest.len(),
        })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One octet.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn u8(&mut self) -> Result<u8, ReadError> {
        self.array::<1>().map(|[octet]| octet)
    }

    /// Two octets, network order.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn u16(&mut self) -> Result<u16, ReadError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four octets, network order.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_be_bytes)
    }

    /// An IPv4 address.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn ipv4(&mut self) -> Result<Ipv4Addr, ReadError> {
        self.array::<4>().map(Ipv4Addr::from)
    }

    /// An IPv6 address.
    ///
    /// # Errors
    /// [`ReadError::Short`].
    pub fn ipv6(&mut self) -> Result<Ipv6Addr, ReadError> {
        self.array::<16>().map(Ipv6Addr::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_read_consumes_nothing_and_says_the_numbers() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u32(), Err(ReadError::Short { needed: 4, left: 3 }));
        assert_eq!(reader.u16(), Ok(0x0102));
        assert_eq!(reader.finish(), Err(ReadError::Trailing { left: 1 }));
        assert_eq!(reader.rest(), &[3]);
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_sub_reader_ends_where_its_length_says() {
        let mut reader = Reader::new(&[1, 2, 3, 4]);
        let mut inner = reader.sub(2).expect("four octets are there");
        assert_eq!(inner.u16(), Ok(0x0102));
        assert!(inner.u8().is_err());
        assert_eq!(reader.u16(), Ok(0x0304));
    }
}
