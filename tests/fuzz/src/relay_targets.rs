//! What is fed to the store's relay and to its clients, and what must hold then: shared by the fuzz target and by the replay of the
//! corpus in `datastore/local/tests/corpus.rs`.

use datastore_local::relay::message::{Form, Message};

/// A message: the first octet chooses which, the rest is it. True if it could be read.
///
/// Nothing panics; what could be read says the same after it was written and read again; an error says something.
pub(crate) fn message(data: &[u8]) -> bool {
    let Some((choice, octets)) = data.split_first() else {
        return false;
    };
    let form = Form::ALL[usize::from(*choice) % Form::ALL.len()];
    match Message::decode(form, octets) {
        Ok(message) => {
            let again = Message::decode(form, &message.clone().encode());
            assert_eq!(again.as_ref(), Ok(&message));
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}
