//! From the spec to the plan: everything that can be wrong in a spec is found here, before there is a process.

mod attributes;
mod devices;
mod environment;
mod exec;
mod hooks;
mod idmap;
mod lsm;
mod mounts;
mod namespaces;
pub(super) mod process;
mod settings;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespace, Process, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{Gid, Uid};

use self::mounts::{Mounts, move_root};
use self::process::{PlannedProcess, Surroundings};
use super::plan::{Outside, Plan, RootMount, Step, Target};
use super::{
    CreateError, CreateOptions, ExecOptions, RootAhead, Rootfs, Stdio, c_string, net_devices, resctrl, rootfs,
};
use crate::paths::clean;
use crate::weak::{self, Weakness};

/// Makes the plan of a container's init.
pub(in crate::container) fn build(options: CreateOptions<'_>, ends: Ends) -> Result<Plan, CreateError> {
    let spec = options.spec;
    let linux = spec.linux().clone().unwrap_or_default();
    let process = spec.process().as_ref().ok_or_else(|| CreateError::Invalid("no process".to_owned()))?;
    let over = match options.rootfs {
        Rootfs::Directory(path) => (path.as_path(), true),
        Rootfs::Overlay { .. } => (options.bundle, false),
    };
    let mut builder = Builder::new(options.bundle, Mounts::new(&linux, options.cgroup, over)?);
    if options.placement.is_some() {
        builder.steps.push(Step::Placement);
    } else if let Some((_, group)) = options.cgroup {
        builder.steps.extend(group.open_v1_tasks()?.into_iter().map(Step::JoinCgroup));
    }
    builder.stdio(process, options.stdio);
    let copy = || options.netns.map(|fd| fd.try_clone_to_owned()).transpose().map_err(CreateError::Pipe);
    let mut namespaces = builder.namespaces(&linux, copy()?)?;
    let own = settings::Own::of(&linux, options.netns.is_some())?;
    let devices = net_devices::plan(&linux, own.net, copy()?)?;
    let devices = devices.map(|(devices, wait)| {
        builder.steps.push(Step::Attribute(wait));
        devices
    });
    let (inherited, is_slave) = (builder.mounts.inherited(), builder.mounts.is_slave());
    let mut ahead = options.root;
    let mut open_root = || {
        let open = || rootfs::open(options.rootfs, options.bundle, inherited, is_slave);
        ahead.take().and_then(RootAhead::finish).unwrap_or_else(open)
    };
    let mut root = None;
    if !builder.mounts.namespace() {
        root = Some(builder.without_namespace(open_root()?)?);
    }
    let before_root = builder.steps.len();
    if builder.userns {
        builder.steps.push(Step::BecomeRoot);
    }
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for mount in mounts {
        builder.mount(mount)?;
    }
    builder.devices(mounts, linux.devices().as_deref().unwrap_or_default())?;
    builder.terminal(process, options.console, Some(target(Path::new("/dev/console"), true, false)?))?;
    builder.kernel_settings(spec, &linux, own)?;
    let hooks = builder.hooks(spec)?;
    builder.root(spec, &linux, process, options.rootfs, options.no_pivot)?;
    let around = Surroundings {
        id: options.id,
        linux: &linux,
        init: true,
        new_keyring: !options.no_new_keyring,
        userns: builder.userns,
        filter: options.filter,
    };
    let mut planned = process::plan(process, &around)?;
    // Late, for it may still be on its way.
    let root = root.map_or_else(open_root, Ok)?;
    let attach = builder.attach_root(root, options.no_pivot);
    builder.steps.splice(before_root..before_root, attach);
    if let Some(entry) = &mut namespaces.entry {
        entry.oom_score = planned.take_oom_score();
    } else if !namespaces.outside.is_empty() {
        namespaces.outside.oom_score = planned.take_oom_score();
    }
    let mut plan = builder.finish(planned, ends);
    plan.entry = namespaces.entry;
    plan.outside = namespaces.outside;
    plan.clone_flags = namespaces.flags;
    plan.preserved = options.preserve_fds;
    plan.net_devices = devices;
    plan.resctrl = resctrl::plan(&linux, options.id)?;
    (plan.start_hooks, plan.hook_files) = (hooks.start, hooks.files);
    Ok(plan)
}

/// Makes the plan of one more process in a container.
pub(in crate::container) fn build_exec(options: ExecOptions<'_>, ends: Ends) -> Result<Plan, CreateError> {
    let process = options.process;
    let linux = options.spec.linux().clone().unwrap_or_default();
    let mut builder = Builder::new(options.bundle, Mounts::new(&linux, None, (options.bundle, false))?);
    builder.stdio(process, options.stdio);
    let mut entry = builder.entry(&linux, options.init, options.cgroup)?;
    if builder.userns {
        builder.steps.push(Step::BecomeRoot);
    }
    if !builder.mounts.namespace() {
        builder.steps.push(enter_root(options.init.pid())?);
    }
    builder.steps.push(Step::OpenRoot);
    builder.terminal(process, options.console, None)?;
    let around = Surroundings {
        id: options.id,
        linux: &linux,
        init: false,
        // By the name, which is the container's: so it gets the keyring that the init has.
        new_keyring: !options.no_new_keyring,
        userns: builder.userns,
        filter: None,
    };
    let mut planned = process::plan(process, &around)?;
    entry.affinity = planned.first.take();
    entry.oom_score = planned.take_oom_score();
    let mut plan = builder.finish(planned, ends);
    plan.entry = Some(entry);
    plan.preserved = options.preserve_fds;
    Ok(plan)
}

/// Whether a path leads to the host's root, by whichever name.
fn is_top(path: &CString) -> bool {
    let identity = |path: &CStr| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    identity(path) == identity(c"/")
}

/// Whether this kernel lets mounts into a tree that stands nowhere, as Linux 6.15 does: tried with two copies.
fn takes_mounts(tree: &OwnedFd) -> bool {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = || open_tree(tree, c"", flags);
    let into = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    copy().is_ok_and(|one| copy().is_ok_and(|two| move_mount(one, c"", two, c"", into).is_ok()))
}

/// Into the root of a container that shares the host's mount namespace.
fn enter_root(init: i32) -> Result<Step, CreateError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{init}/root"), flags, Mode::empty());
    root.map(Step::EnterRoot).map_err(|errno| CreateError::NoInit { pid: init, source: errno.into() })
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
    mounts: Mounts<'a>,
    /// `CLONE_NEW*` of the namespaces that are joined.
    joined: u64,
    /// The process lives in a user namespace other than this one.
    userns: bool,
    /// The host's mount namespace, to go back to from one that the mounts are made in.
    borrowed: Option<OwnedFd>,
}

impl<'a> Builder<'a> {
    fn new(bundle: &'a Path, mounts: Mounts<'a>) -> Self {
        Self { steps: Vec::new(), bundle, mounts, joined: 0, userns: false, borrowed: None }
    }

    fn stdio(&mut self, process: &Process, stdio: Stdio) {
        self.steps.push(Step::Session);
        if process.terminal() != Some(true) {
            let Stdio { stdin, stdout, stderr } = stdio;
            self.steps.push(Step::Stdio([stdin, stdout, stderr]));
        }
    }

    /// Where the mounts are made if the container has the host's mount namespace: in a root filesystem that stands
    /// nowhere, or else in a namespace of the mounts' own.
    fn without_namespace(&mut self, mut root: RootMount) -> Result<RootMount, CreateError> {
        match &mut root {
            RootMount::Detached { mount, over } if takes_mounts(mount) => *over = None,
            _ => {
                self.borrowed = Some(namespaces::own_mounts()?);
                self.steps.extend([Step::BorrowMounts, Step::PrivateMounts { slave: false }]);
            }
        }
        Ok(root)
    }

    /// The steps that bring the root filesystem to where the container's mounts are made.
    fn attach_root(&self, root: RootMount, no_pivot: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.mounts.namespace() {
            steps.push(Step::PrivateMounts { slave: self.mounts.copies_slaves() });
        }
        let pivots = self.mounts.namespace() && !no_pivot;
        let covered = match &root {
            // Over `/` itself it would be what is taken off after the change of root, and the host's tree would stay.
            RootMount::Detached { over, .. } if pivots => over.clone().filter(|over| !is_top(over)),
            _ => None,
        };
        steps.extend([Step::OpenNull, Step::OpenProc { over: covered }, Step::AttachRoot(root)]);
        steps
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

    fn finish(mut self, planned: PlannedProcess, ends: Ends) -> Plan {
        let PlannedProcess { steps, last, filter, program, .. } = planned;
        self.steps.extend(steps);
        Plan {
            entry: None,
            outside: Outside::default(),
            clone_flags: 0,
            steps: self.steps,
            last,
            filter,
            command: program.command,
            programs: program.programs,
            argv: program.argv,
            envp: program.envp,
            gate: ends.gate,
            status: ends.status,
            told: ends.told,
            preserved: 0,
            start_hooks: Vec::new(),
            hook_files: None,
            net_devices: None,
            resctrl: None,
        }
    }
}

impl Builder<'_> {
    fn root(
        &mut self,
        spec: &Spec,
        linux: &Linux,
        process: &Process,
        rootfs: &Rootfs,
        no_pivot: bool,
    ) -> Result<(), CreateError> {
        let user = process.user();
        let cwd = target(process.cwd(), false, false)?;
        if !cwd.prefixes.is_empty() && !weak::has(Weakness::Descriptors) {
            self.steps.push(Step::Directory(cwd, Uid::from_raw(user.uid()), Gid::from_raw(user.gid())));
        }
        self.steps.extend(self.mounts.seals.drain(..).map(Step::Seal));
        for path in linux.readonly_paths().iter().flatten() {
            self.steps.push(Step::ReadonlyPath(relative(Path::new(path))?));
        }
        let mut masked = BTreeSet::new();
        for path in linux.masked_paths().iter().flatten() {
            let path = relative(Path::new(path))?;
            // Engines add their own lists to those of users.
            if masked.insert(path.clone()) {
                self.steps.push(Step::MaskedPath(path, self.mounts.label.clone()));
            }
        }
        if spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
            self.steps.push(Step::ReadonlyRoot);
        }
        if !self.mounts.namespace() {
            self.steps.push(self.borrowed.take().map_or(Step::Chroot, Step::ReturnMounts));
            return Ok(());
        }
        self.steps.push(if no_pivot { move_root(rootfs, self.bundle)? } else { Step::PivotRoot });
        self.steps.extend(self.mounts.root_propagation().map(Step::RootPropagation));
        Ok(())
    }
}

/// The target's prefixes and names, `.` and `..` resolved as text: the kernel keeps the rest inside the root.
fn target(path: &Path, file: bool, strict: bool) -> Result<Target, CreateError> {
    let mut target = Target { prefixes: Vec::new(), names: Vec::new(), file, strict, in_proc: false };
    let mut prefix = PathBuf::new();
    for name in &clean(path) {
        prefix.push(name);
        target.names.push(c_string(name.as_bytes(), "a path")?);
        target.prefixes.push(c_string(prefix.as_os_str().as_bytes(), "a path")?);
    }
    Ok(target)
}

/// A path below the root, perhaps the root itself.
fn within(path: &Path) -> Result<CString, CreateError> {
    let target = target(path, false, false)?;
    Ok(target.prefixes.into_iter().next_back().unwrap_or_else(|| c".".to_owned()))
}

/// The namespace that is joined. An empty path is none, as in runc.
pub(super) fn joined_path(namespace: &LinuxNamespace) -> Option<&PathBuf> {
    namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty())
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
