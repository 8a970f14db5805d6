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
    Ok(hooks::run("poststart", list, &record.for_hooks(ContainerState::Running))?)
}

/// Runs the hooks of a deleted container, each whatever became of the one before. Returns what failed.
pub(crate) fn poststop(spec: &Spec, record: &Record) -> Vec<Failure> {
    let Some(list) = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref()) else {
        return Vec::new();
    };
    let state = record.for_hooks(ContainerState::Stopped);
    let run = |index| Some(hooks::run_at("poststop", list, index, &state).err()?.into());
    (0..list.len()).filter_map(run).collect()
}
