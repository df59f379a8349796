//! Errors of the store, of IPAM and of the kernel as the runtime gets them.

use cni::spec::error::{CniError, Code};
use datastore::store::StoreError;
use felix_io::workload::WorkloadError;
use ipam::AssignError;

use crate::startup::chain;

pub(super) fn stopping() -> CniError {
    CniError::new(Code::TRY_AGAIN_LATER, "the agent is stopping")
}

pub(super) fn store_error(error: &StoreError) -> CniError {
    let code = match error {
        StoreError::Unavailable(_)
        | StoreError::Conflict { .. }
        | StoreError::Gone { .. }
        | StoreError::Diverged { .. } => Code::TRY_AGAIN_LATER,
        StoreError::Refused(_) => Code::DATASTORE,
    };
    CniError::new(code, chain(error))
}

pub(super) fn assign_error(error: &AssignError) -> CniError {
    match error {
        AssignError::Store(error) => store_error(error),
        AssignError::Contended { .. } => CniError::new(Code::TRY_AGAIN_LATER, chain(error)),
        AssignError::NoPools { .. }
        | AssignError::UnknownPool { .. }
        | AssignError::BlockLimit { .. }
        | AssignError::Exhausted { .. }
        | AssignError::NotInPool { .. }
        | AssignError::InUse { .. }
        | AssignError::Cooling { .. }
        | AssignError::ForeignBlock { .. }
        | AssignError::Overlap { .. }
        | AssignError::Corrupt { .. } => CniError::new(Code::NO_ADDRESS, chain(error)),
    }
}

pub(super) fn kernel_error(error: &WorkloadError) -> CniError {
    let code = match error {
        WorkloadError::Namespace(_) | WorkloadError::HostNamespace => Code::INVALID_NETNS,
        WorkloadError::Name(_) => Code::INVALID_ENVIRONMENT,
        _ => Code::KERNEL,
    };
    CniError::new(code, chain(error))
}
