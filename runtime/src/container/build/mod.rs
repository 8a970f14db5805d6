//! From the spec to the plan: everything that can be wrong in a spec is found here, before there is a process.

mod devices;
mod mounts;
mod namespaces;
mod process;
mod settings;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, Process, Spec};
use rustix::process::{Gid, Uid};

use super::plan::{Plan, Step, Target};
use super::{CreateError, CreateOptions, Stdio, c_string, rootfs};
use crate::cgroup::{Cgroup, Cgroups};
use crate::sys::CStringArray;

/// Makes the plan.
pub(in crate::container) fn build(
    options: CreateOptions<'_>,
    gate: OwnedFd,
    status: OwnedFd,
    told: Option<OwnedFd>,
) -> Result<Plan, CreateError> {
    let spec = options.spec;
    let linux = spec.linux().clone().unwrap_or_default();
    let process = spec.process().as_ref().ok_or_else(|| CreateError::Invalid("no process".to_owned()))?;
    refuse_unsupported(spec, &linux, process)?;
    let mut builder = Builder { steps: Vec::new(), bundle: options.bundle, cgroups: options.cgroup };
    if let Some((_, group)) = options.cgroup {
        builder.steps.extend(group.open_v1_procs()?.into_iter().map(Step::JoinCgroup));
    }
    builder.steps.push(Step::Session);
    let Stdio { stdin, stdout, stderr } = options.stdio;
    builder.steps.push(Step::Stdio([stdin, stdout, stderr]));
    let clone_flags = builder.namespaces(
        &linux,
        options.netns.map(|fd| fd.try_clone_to_owned()).transpose().map_err(CreateError::Pipe)?,
    )?;
    builder.steps.extend([Step::PrivateMounts, Step::OpenNull, Step::OpenProc]);
    builder.steps.push(Step::AttachRoot(rootfs::open(options.rootfs, options.bundle)?));
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for mount in mounts {
        builder.mount(mount)?;
    }
    if mounts
        .iter()
        .any(|mount| mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("tmpfs"))
    {
        builder.devices(linux.devices().as_deref().unwrap_or_default())?;
    }
    builder.kernel_settings(spec, &linux, clone_flags)?;
    builder.root(spec, &linux, process)?;
    let (command, programs, confinement) = builder.process(process, &linux)?;
    let strings = |list: &[String], what| {
        list.iter().map(|text| c_string(text.as_bytes(), what)).collect::<Result<Vec<_>, _>>()
    };
    Ok(Plan {
        clone_flags,
        steps: builder.steps,
        last: confinement.last,
        filter: confinement.filter,
        command,
        programs,
        argv: CStringArray::new(strings(process.args().as_deref().unwrap_or_default(), "an argument")?),
        envp: CStringArray::new(strings(
            process.env().as_deref().unwrap_or_default(),
            "an environment variable",
        )?),
        gate,
        status,
        told,
        preserved: options.preserve_fds,
    })
}

/// What would silently be missing otherwise.
fn refuse_unsupported(spec: &Spec, linux: &Linux, process: &Process) -> Result<(), CreateError> {
    let checks = [
        (process.terminal() == Some(true), "process.terminal"),
        (linux.uid_mappings().as_ref().is_some_and(|list| !list.is_empty()), "linux.uidMappings"),
        (process.apparmor_profile().as_ref().is_some_and(|name| !name.is_empty()), "process.apparmorProfile"),
        (process.selinux_label().as_ref().is_some_and(|name| !name.is_empty()), "process.selinuxLabel"),
        (spec.hooks().is_some(), "hooks"),
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (linux.personality().is_some(), "linux.personality"),
    ];
    match checks.iter().find(|check| check.0) {
        Some((_, what)) => Err(CreateError::Unsupported((*what).to_owned())),
        None => Ok(()),
    }
}

struct Builder<'a> {
    steps: Vec<Step>,
    bundle: &'a Path,
    cgroups: Option<(&'a Cgroups, &'a Cgroup)>,
}

impl Builder<'_> {
    fn root(&mut self, spec: &Spec, linux: &Linux, process: &Process) -> Result<(), CreateError> {
        let user = process.user();
        let cwd = target(process.cwd(), false, false)?;
        if !cwd.prefixes.is_empty() {
            self.steps.push(Step::Directory(cwd, Uid::from_raw(user.uid()), Gid::from_raw(user.gid())));
        }
        for path in linux.readonly_paths().iter().flatten() {
            self.steps.push(Step::ReadonlyPath(relative(Path::new(path))?));
        }
        for path in linux.masked_paths().iter().flatten() {
            self.steps.push(Step::MaskedPath(relative(Path::new(path))?));
        }
        if spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
            self.steps.push(Step::ReadonlyRoot);
        }
        self.steps.push(Step::PivotRoot);
        Ok(())
    }
}

/// The target's prefixes and names, `.` and `..` resolved as text: the kernel keeps the rest inside the root.
fn target(path: &Path, file: bool, strict: bool) -> Result<Target, CreateError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    let mut target = Target { prefixes: Vec::new(), names: Vec::new(), file, strict };
    let mut prefix = PathBuf::new();
    for name in &clean {
        prefix.push(name);
        target.names.push(c_string(name.as_bytes(), "a path")?);
        target.prefixes.push(c_string(prefix.as_os_str().as_bytes(), "a path")?);
    }
    Ok(target)
}

/// Without the leading slash, for openat2(2) below the root.
fn relative(path: &Path) -> Result<CString, CreateError> {
    let target = target(path, false, false)?;
    let last = target.prefixes.into_iter().next_back();
    last.ok_or_else(|| CreateError::Invalid("the root as a masked or read-only path".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_cleaned_as_text() {
        let target = target(Path::new("/a/./b/../../../etc//x"), true, false).unwrap();
        let prefixes: Vec<_> = target.prefixes.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(prefixes, ["etc", "etc/x"]);
        assert!(super::target(Path::new("/.."), false, false).unwrap().prefixes.is_empty());
    }
}
