//! A BGP speaker in memory: wire, session, rib, policy, speaker.
#![forbid(unsafe_code)]
