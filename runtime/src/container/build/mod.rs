//! From the spec to the plan: everything that can be wrong in a spec is found here, before there is a process.

mod devices;
mod exec;
mod hooks;
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

use super::confine::Confinement;
use super::plan::{Outside, Plan, Step, Target};
use super::{CreateError, CreateOptions, ExecOptions, Stdio, c_string, rootfs};
use crate::cgroup::Cgroups;
use crate::sys::CStringArray;

/// Makes the plan of a container's init.
pub(in crate::container) fn build(options: CreateOptions<'_>, ends: Ends) -> Result<Plan, CreateError> {
    let spec = options.spec;
    let linux = spec.linux().clone().unwrap_or_default();
    let process = spec.process().as_ref().ok_or_else(|| CreateError::Invalid("no process".to_owned()))?;
    refuse_unsupported(&linux, process)?;
    let mut builder = Builder::new(options.bundle, options.cgroup.map(|pair| pair.0));
    if let Some((_, group)) = options.cgroup {
        builder.steps.extend(group.open_v1_procs()?.into_iter().map(Step::JoinCgroup));
    }
    builder.stdio(process, options.stdio);
    let netns = options.netns.map(|fd| fd.try_clone_to_owned()).transpose().map_err(CreateError::Pipe)?;
    let mut namespaces = builder.namespaces(&linux, netns)?;
    builder.steps.extend([Step::PrivateMounts, Step::OpenNull, Step::OpenProc]);
    builder.steps.push(Step::AttachRoot(rootfs::open(options.rootfs, options.bundle)?));
    if builder.userns {
        builder.steps.push(Step::BecomeRoot);
    }
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
    builder.terminal(process, options.console, Some(target(Path::new("/dev/console"), true, false)?))?;
    builder.kernel_settings(spec, &linux, &namespaces)?;
    let hooks = builder.hooks(spec)?;
    builder.root(spec, &linux, process)?;
    let (command, programs, confinement) = builder.process(process, &linux)?;
    if !namespaces.outside.is_empty() {
        builder.score_from_outside(&mut namespaces.outside);
    }
    let mut plan = builder.finish(process, ends, command, programs, confinement)?;
    plan.entry = namespaces.entry;
    plan.outside = namespaces.outside;
    plan.clone_flags = namespaces.flags;
    plan.preserved = options.preserve_fds;
    (plan.start_hooks, plan.hook_files) = (hooks.start, hooks.files);
    Ok(plan)
}

/// Makes the plan of one more process in a container.
pub(in crate::container) fn build_exec(options: ExecOptions<'_>, ends: Ends) -> Result<Plan, CreateError> {
    let process = options.process;
    let linux = options.spec.linux().clone().unwrap_or_default();
    refuse_unsupported(&linux, process)?;
    let mut builder = Builder::new(options.bundle, None);
    builder.stdio(process, options.stdio);
    let entry = builder.entry(&linux, options.init, options.cgroup)?;
    if builder.userns {
        builder.steps.push(Step::BecomeRoot);
    }
    builder.steps.push(Step::OpenRoot);
    builder.terminal(process, options.console, None)?;
    let (command, programs, confinement) = builder.process(process, &linux)?;
    let mut plan = builder.finish(process, ends, command, programs, confinement)?;
    plan.entry = Some(entry);
    plan.preserved = options.preserve_fds;
    Ok(plan)
}

/// What would silently be missing otherwise.
fn refuse_unsupported(linux: &Linux, process: &Process) -> Result<(), CreateError> {
    let checks = [
        (process.apparmor_profile().as_ref().is_some_and(|name| !name.is_empty()), "process.apparmorProfile"),
        (process.selinux_label().as_ref().is_some_and(|name| !name.is_empty()), "process.selinuxLabel"),
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (linux.personality().is_some(), "linux.personality"),
    ];
    match checks.iter().find(|check| check.0) {
        Some((_, what)) => Err(CreateError::Unsupported((*what).to_owned())),
        None => Ok(()),
    }
}

/// The pipes' ends that go into the plan.
pub(in crate::container) struct Ends {
    pub(in crate::container) gate: OwnedFd,
    pub(in crate::container) status: OwnedFd,
    pub(in crate::container) told: Option<OwnedFd>,
}

struct Builder<'a> {
    steps: Vec<Step>,
    bundle: &'a Path,
    cgroups: Option<&'a Cgroups>,
    /// `CLONE_NEW*` of the namespaces that are joined.
    joined: u64,
    /// The process lives in a user namespace other than this one.
    userns: bool,
}

impl<'a> Builder<'a> {
    fn new(bundle: &'a Path, cgroups: Option<&'a Cgroups>) -> Self {
        Self { steps: Vec::new(), bundle, cgroups, joined: 0, userns: false }
    }

    fn stdio(&mut self, process: &Process, stdio: Stdio) {
        self.steps.push(Step::Session);
        if process.terminal() != Some(true) {
            let Stdio { stdin, stdout, stderr } = stdio;
            self.steps.push(Step::Stdio([stdin, stdout, stderr]));
        }
    }

    fn terminal(
        &mut self,
        process: &Process,
        console: Option<OwnedFd>,
        target: Option<Target>,
    ) -> Result<(), CreateError> {
        if process.terminal() == Some(true) {
            let console = console.ok_or_else(|| {
                CreateError::Invalid("process.terminal without a socket that its master goes to".to_owned())
            })?;
            let number = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
            let size = process.console_size().map(|size| (number(size.height()), number(size.width())));
            self.steps.push(Step::Terminal { console, size, target });
        }
        let user = process.user().uid();
        if user != 0 {
            self.steps.push(Step::OwnStdio(Uid::from_raw(user)));
        }
        Ok(())
    }

    fn finish(
        self,
        process: &Process,
        ends: Ends,
        command: String,
        programs: Vec<CString>,
        confinement: Confinement,
    ) -> Result<Plan, CreateError> {
        Ok(Plan {
            entry: None,
            outside: Outside::default(),
            clone_flags: 0,
            steps: self.steps,
            last: confinement.last,
            filter: confinement.filter,
            command,
            programs,
            argv: strings(process.args().as_deref(), "an argument")?,
            envp: strings(process.env().as_deref(), "an environment variable")?,
            gate: ends.gate,
            status: ends.status,
            told: ends.told,
            preserved: 0,
            start_hooks: Vec::new(),
            hook_files: None,
        })
    }
}

fn strings(list: Option<&[String]>, what: &'static str) -> Result<CStringArray, CreateError> {
    let list = list.unwrap_or_default();
    let list = list.iter().map(|text| c_string(text.as_bytes(), what)).collect::<Result<Vec<_>, _>>()?;
    Ok(CStringArray::new(list))
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
