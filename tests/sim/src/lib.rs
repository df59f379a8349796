//! Whole clusters under virtual time, seeded faults, invariant checkers.
