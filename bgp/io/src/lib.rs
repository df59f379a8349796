//! TCP for the speaker: listening, connecting, MD5 and GTSM, byte shuttling.
