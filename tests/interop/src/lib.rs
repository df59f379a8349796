//! Other BGP daemons against our speaker.
