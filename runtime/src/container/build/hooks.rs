//! Hooks that run inside the container's namespaces.

use std::os::unix::ffi::OsStrExt as _;

use oci_spec::runtime::{Hook, Spec};
use rustix::fs::{MemfdFlags, memfd_create};

use super::Builder;
use crate::container::plan::{HookFiles, HookPlan, Step};
use crate::container::{CreateError, c_string, hooks};
use crate::sys::CStringArray;
use crate::weak::{self, Weakness};

/// What [`Builder::hooks`] plans beside steps.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) start: Vec<HookPlan>,
    pub(super) files: Option<HookFiles>,
}

impl Builder<'_> {
    /// Plans the hooks up to the exec, and checks the others too: a wrong one must not show when it is too late.
    pub(super) fn hooks(&mut self, spec: &Spec) -> Result<Hooks, CreateError> {
        let Some(all) = spec.hooks() else { return Ok(Hooks::default()) };
        // `prestart` is deprecated and still what the engines use.
        #[allow(deprecated)]
        let runtime = [all.prestart(), all.create_runtime()];
        let inside = [all.create_container(), all.start_container()];
        let after = [all.poststart(), all.poststop()];
        for list in runtime.into_iter().chain(inside).chain(after) {
            hooks::check(list.as_deref().unwrap_or_default())?;
        }
        if runtime.into_iter().chain(inside).all(|list| list.as_ref().is_none_or(Vec::is_empty)) {
            return Ok(Hooks::default());
        }
        self.steps.push(Step::RuntimeHooks);
        for (index, hook) in all.create_container().iter().flatten().enumerate() {
            self.steps.push(Step::Hook(plan(index, hook, weak::has(Weakness::Hooks))?));
        }
        let file =
            || memfd_create("state", MemfdFlags::CLOEXEC).map_err(|errno| CreateError::Pipe(errno.into()));
        let start = all.start_container().iter().flatten().enumerate();
        Ok(Hooks {
            start: start.map(|(index, hook)| plan(index, hook, true)).collect::<Result<_, _>>()?,
            files: Some(HookFiles {
                creating: file()?,
                created: file()?,
                output: hooks::output_pipe().map_err(CreateError::Pipe)?,
            }),
        })
    }
}

fn strings(list: &[String], what: &'static str) -> Result<CStringArray, CreateError> {
    let list = list.iter().map(|text| c_string(text.as_bytes(), what)).collect::<Result<Vec<_>, _>>()?;
    Ok(CStringArray::new(list))
}

/// `inherits`: without an environment of its own it gets the process's, as it always did in runc: it is a program of the
/// container's.
fn plan(index: usize, hook: &Hook, inherits: bool) -> Result<HookPlan, CreateError> {
    let path = c_string(hook.path().as_os_str().as_bytes(), "a hook's path")?;
    let default = [hook.path().display().to_string()];
    let args = hook.args().as_deref().filter(|args| !args.is_empty()).unwrap_or(&default);
    let env = hook.env().as_deref().unwrap_or_default();
    Ok(HookPlan {
        path,
        index: u32::try_from(index).unwrap_or(u32::MAX),
        argv: strings(args, "a hook's argument")?,
        envp: if inherits && env.is_empty() {
            None
        } else {
            Some(strings(env, "a hook's environment variable")?)
        },
        timeout_ms: hook
            .timeout()
            .map(|seconds| i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX)),
    })
}
