//! A byte stream cut into messages.

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::message::{
    HEADER_LENGTH, MAX_EXTENDED_LENGTH, MAX_LENGTH, MessageType, RawMessage,
};
use crate::wire::notification::Notification;
use crate::wire::reader::Reader;

/// Memory that an empty buffer keeps: after a flood a session needs no more than before.
const KEPT: usize = 4096;

/// Finds messages in received bytes, however the stream is cut.
///
/// ```text
/// +---------------------------------------------------------------+
/// |                    marker, 16 octets of 1s                    |
/// +-------------------------------+---------------+---------------+
/// |            length             |     type      |
/// +-------------------------------+---------------+
/// ```
///
/// The header is judged as soon as it is there, the body is a slice of the buffer. After an error the stream has no
/// meaning: the caller sends the NOTIFICATION and drops the framer.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: BytesMut,
    extended: bool,
}

impl Framer {
    /// An empty stream that takes messages of up to 4096 octets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes messages of up to 65535 octets from here on, except OPEN and KEEPALIVE. To be called once *we* have
    /// offered the capability and the OPEN of the peer is read (RFC 8654 §4).
    pub const fn allow_extended(&mut self) {
        self.extended = true;
    }

    /// Appends received bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer itself, for a caller that receives straight into its spare room. Only appending is meant.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Octets received and not yet returned.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole message; `None` until more bytes come.
    ///
    /// # Errors
    /// Message header errors, RFC 4271 §6.1.
    pub fn next_message(&mut self) -> Result<Option<RawMessage>, Notification> {
        let Some((kind, length)) = self.header()? else {
            if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
                self.buffer = BytesMut::new();
            }
            return Ok(None);
        };
        if self.buffer.len() < length {
            // Room for the whole at once; what is there moves at most one time.
            self.buffer
                .reserve(length.saturating_sub(self.buffer.len()));
            return Ok(None);
        }
        let mut body: Bytes = self.buffer.split_to(length).freeze();
        body.advance(HEADER_LENGTH);
        Ok(Some(RawMessage { kind, body }))
    }

    fn header(&self) -> Result<Option<(MessageType, usize)>, Notification> {
        let mut reader = Reader::new(&self.buffer);
        let (Ok(marker), Ok(length), Ok(code)) = (reader.array::<16>(), reader.u16(), reader.u8())
        else {
            return Ok(None);
        };
        if marker != [0xff; 16] {
            return Err(Notification::not_synchronized());
        }
        let octets = usize::from(length);
        let limit = if self.extended {
            MAX_EXTENDED_LENGTH
        } else {
            MAX_LENGTH
        };
        if octets < HEADER_LENGTH || octets > limit {
            return Err(Notification::bad_length(length));
        }
        let kind = MessageType::from_code(code).ok_or_else(|| Notification::bad_type(code))?;
        let fits = match kind {
            MessageType::Open => (29..=MAX_LENGTH).contains(&octets),
            MessageType::Update | MessageType::RouteRefresh => octets >= 23,
            MessageType::Notification => octets >= 21,
            MessageType::Keepalive => octets == HEADER_LENGTH,
        };
        if fits {
            Ok(Some((kind, octets)))
        } else {
            Err(Notification::bad_length(length))
        }
    }
}
