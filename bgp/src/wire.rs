//! BGP messages as bytes: decoding, encoding, and what is wrong with malformed ones.
//!
//! Bytes of any cut enter a [`Framer`](framer::Framer), whole messages leave it as slices of its buffer. An error that
//! ends the session *is* the [`Notification`](notification::Notification) to send; an error that does not (RFC 7606)
//! is a [`Fault`](update::Fault) beside the decoded UPDATE. What was negotiated is an argument, never a state in here.
//!
//! | Module | Standards |
//! |---|---|
//! | [`framer`], [`message`] | RFC 4271 §4.1, §6.1; RFC 8654 |
//! | [`open`], [`capability`] | RFC 4271 §4.2, §6.2; RFC 5492, 9072, 6793, 6286, 7607, 4724, 8538, 7911, 8950, 9234 |
//! | [`update`], [`attr`], [`nlri`] | RFC 4271 §4.3, §5, §6.3; RFC 4760, 2545, 8950, 6793, 7606, 7607, 1997, 4360, 8092, 4456, 9234 |
//! | [`notification`] | RFC 4271 §4.5, §6; RFC 4486, 6608, 7313, 8538, 9003, 9687 |
//! | [`refresh`] | RFC 2918, 7313 |
#![deny(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

pub mod attr;
pub mod capability;
pub mod family;
pub mod framer;
pub mod message;
pub mod nlri;
pub mod notification;
pub mod open;
pub mod reader;
pub mod refresh;
pub mod update;

#[cfg(test)]
mod tests;
