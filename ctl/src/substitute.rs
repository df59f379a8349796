//! Commands of calicoctl that are not here, and what to use in their place.

use anyhow::{Result, bail};

use crate::cli::Anything;

/// `tortiectl cluster …`.
pub(crate) fn cluster(_: &Anything) -> Result<()> {
    bail!(
        "`cluster diags` is not a command of this version; use: tortiectl node diags, on each node"
    )
}

/// `tortiectl convert …`.
pub(crate) fn convert(_: &Anything) -> Result<()> {
    bail!(
        "`convert` is not a command of this version: only projectcalico.org/v3 is read; use: calicoctl convert of a release that knows the old version"
    )
}

/// `tortiectl node run`.
pub(crate) fn run(_: &Anything) -> Result<()> {
    bail!(
        "`node run` is not a command of this version; use: tortie-node, with its settings in the environment"
    )
}

/// `tortiectl datastore migrate export`.
pub(crate) fn export(_: &Anything) -> Result<()> {
    bail!(
        "`datastore migrate export` is not a command of this version; use: tortiectl get all -A --export -o yaml"
    )
}

/// `tortiectl datastore migrate import`.
pub(crate) fn import(_: &Anything) -> Result<()> {
    bail!(
        "`datastore migrate import` is not a command of this version; use: tortiectl apply -f FILE"
    )
}
