//! One address for each workload: blocks, affinities, assignment, release.
#![forbid(unsafe_code)]
