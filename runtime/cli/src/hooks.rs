//! The hooks that are the command's and not the library's: poststart and poststop.

use skep_runtime::container::hooks;
use skep_runtime::spec::oci::{ContainerState, Spec};

use crate::error::Failure;
use crate::record::Record;

/// Runs the hooks of a started container. The first that fails ends the row, and the container with it.
pub(crate) fn poststart(spec: &Spec, record: &Record) -> Result<(), Failure> {
    let Some(list) = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref()) else {
        return Ok(());
    };
    hooks::run(list, &record.for_hooks(ContainerState::Running))
        .map_err(|source| Failure::Hook { kind: "poststart", source })
}

/// Runs the hooks of a deleted container, each whatever became of the one before. Returns what failed.
pub(crate) fn poststop(spec: &Spec, record: &Record) -> Vec<Failure> {
    let Some(list) = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref()) else {
        return Vec::new();
    };
    let state = record.for_hooks(ContainerState::Stopped);
    let run = |hook| {
        let failed = hooks::run(std::slice::from_ref(hook), &state).err()?;
        Some(Failure::Hook { kind: "poststop", source: failed })
    };
    list.iter().filter_map(run).collect()
}
