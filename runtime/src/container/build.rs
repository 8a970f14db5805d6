//! From the spec to the plan: everything that can be wrong in a spec is found here, before there is a process.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Mount, PosixRlimitType, Process, Spec,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use rustix::process::{Gid, Uid};
use rustix::thread::LinkNameSpaceType;

use super::confine::{self, Confinement};
use super::mounts::MountOptions;
use super::plan::{MountSource, Plan, Step, Target};
use super::{CreateError, CreateOptions, Stdio, c_string, capabilities, rootfs};
use crate::cgroup::Cgroups;
use crate::sys::{self, CStringArray};

/// Largest user or group ID: the same bound as for images (containerd's CVE-2024-40635).
const ID_MAX: u32 = i32::MAX as u32;

/// umask of a container's process when the spec has none (runc).
const DEFAULT_UMASK: u32 = 0o022;

/// Nodes that every container's own /dev has, mode 0666 (OCI runtime spec, "Default Devices").
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links that every container's own /dev has.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the plan.
pub(super) fn build(options: CreateOptions<'_>, gate: OwnedFd, status: OwnedFd) -> Result<Plan, CreateError> {
    let spec = options.spec;
    let linux = spec.linux().clone().unwrap_or_default();
    let process = spec.process().as_ref().ok_or_else(|| CreateError::Invalid("no process".to_owned()))?;
    refuse_unsupported(spec, &linux, process)?;
    let mut builder =
        Builder { steps: Vec::new(), bundle: options.bundle, cgroups: options.cgroup.map(|pair| pair.0) };
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
    cgroups: Option<&'a Cgroups>,
}

impl Builder<'_> {
    /// Namespaces to make are returned as clone flags; those to join become steps. The cgroup namespace is made by a
    /// step, after all groups were joined.
    fn namespaces(&mut self, linux: &Linux, netns: Option<OwnedFd>) -> Result<u64, CreateError> {
        let mut flags = 0;
        for namespace in linux.namespaces().iter().flatten() {
            let typ = namespace.typ();
            let join = match (typ, namespace.path()) {
                (LinuxNamespaceType::Network, _) if netns.is_some() => continue,
                (LinuxNamespaceType::User | LinuxNamespaceType::Time, _) => {
                    return Err(CreateError::Unsupported(format!("{typ} namespace")));
                }
                (LinuxNamespaceType::Cgroup, None) => {
                    self.steps.push(Step::NewCgroupNamespace);
                    continue;
                }
                (_, None) => {
                    flags |= typ as u64;
                    continue;
                }
                (LinuxNamespaceType::Network, Some(path)) => (path, LinkNameSpaceType::Network),
                (LinuxNamespaceType::Ipc, Some(path)) => (path, LinkNameSpaceType::InterProcessCommunication),
                (LinuxNamespaceType::Uts, Some(path)) => (path, LinkNameSpaceType::HostNameAndNISDomainName),
                (_, Some(_)) => return Err(CreateError::Unsupported(format!("joining a {typ} namespace"))),
            };
            let fd = rustix::fs::open(join.0, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let fd = fd
                .map_err(|errno| CreateError::OpenNamespace { path: join.0.clone(), source: errno.into() })?;
            self.steps.push(Step::JoinNamespace(fd, join.1));
        }
        if let Some(netns) = netns {
            self.steps.push(Step::JoinNamespace(netns, LinkNameSpaceType::Network));
        }
        if flags & libc::CLONE_NEWNS as u64 == 0 {
            return Err(CreateError::Unsupported(
                "a container without a mount namespace of its own".to_owned(),
            ));
        }
        Ok(flags)
    }

    fn mount(&mut self, mount: &Mount) -> Result<(), CreateError> {
        let destination = mount.destination();
        let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default())?;
        let kind = mount.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "none" });
        let inside_proc =
            destination.starts_with("/proc") && (destination != Path::new("/proc") || kind != "proc");
        if inside_proc && !(options.bind && destination == Path::new("/proc")) {
            // It could cover files that the runtime and the kernel trust (CVE-2019-16884, CVE-2023-27561).
            return Err(CreateError::Invalid(format!("a mount inside /proc: {}", destination.display())));
        }
        if options.bind || kind == "bind" {
            return self.bind(mount, &options);
        }
        if kind == "cgroup" || kind == "cgroup2" {
            return self.cgroup_mounts(destination, &options);
        }
        let strict = matches!(kind, "proc" | "sysfs");
        self.filesystem(destination, kind, &options, strict)
    }

    fn filesystem(
        &mut self,
        at: &Path,
        kind: &str,
        options: &MountOptions,
        strict: bool,
    ) -> Result<(), CreateError> {
        let mut parameters = vec![(c"source".to_owned(), Some(c_string(kind, "a mount type")?))];
        for (key, value) in &options.data {
            // A new instance is what devpts always is since Linux 4.7, and fsconfig no longer knows the word.
            if kind == "devpts" && key == "newinstance" {
                continue;
            }
            let value =
                value.as_ref().map(|value| c_string(value.as_bytes(), "a mount option")).transpose()?;
            parameters.push((c_string(key.as_bytes(), "a mount option")?, value));
        }
        self.steps.push(Step::Mount {
            target: target(at, false, strict)?,
            source: MountSource::Filesystem {
                kind: c_string(kind, "a mount type")?,
                parameters,
                attributes: MountAttrFlags::from_bits_retain(options.set as u32),
            },
            label: kind.to_owned(),
        });
        Ok(())
    }

    fn bind(&mut self, mount: &Mount, options: &MountOptions) -> Result<(), CreateError> {
        let to = mount.destination();
        let from = mount.source().as_ref().ok_or_else(|| {
            CreateError::Invalid(format!("the bind mount at {} has no source", to.display()))
        })?;
        let from = self.bundle.join(from);
        let take = || -> rustix::io::Result<(OwnedFd, bool)> {
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            flags.set(OpenTreeFlags::AT_RECURSIVE, options.recursive);
            let tree = open_tree(CWD, &from, flags)?;
            rootfs::private(&tree)?;
            if options.set | options.clear != 0 {
                // Setting an atime mode needs the old one cleared.
                let atime = if (options.set | options.clear) & 0x70 == 0 { 0 } else { 0x70 };
                sys::mount_setattr(tree.as_fd(), options.set, options.clear | atime, 0, false)?;
            }
            if options.propagation != 0 && options.propagation != libc::MS_PRIVATE {
                sys::mount_setattr(tree.as_fd(), 0, 0, options.propagation, true)?;
            }
            let stat = rustix::fs::fstat(&tree)?;
            Ok((tree, FileType::from_raw_mode(stat.st_mode) != FileType::Directory))
        };
        let (tree, file) = take().map_err(|errno| CreateError::BindSource {
            from: from.clone(),
            to: to.clone(),
            source: errno.into(),
        })?;
        self.steps.push(Step::Mount {
            target: target(to, file, false)?,
            source: MountSource::Tree(tree),
            label: from.display().to_string(),
        });
        Ok(())
    }

    /// v2: one mount. v1 and hybrid: a tmpfs with a directory per hierarchy, sealed afterwards. The container sees its
    /// own group as the root of each, by its cgroup namespace.
    fn cgroup_mounts(&mut self, at: &Path, options: &MountOptions) -> Result<(), CreateError> {
        let Some(cgroups) = self.cgroups else { return Ok(()) };
        let mut own = MountOptions { data: Vec::new(), ..options.clone() };
        if cgroups.v1.is_empty() {
            return self.filesystem(at, "cgroup2", &own, true);
        }
        let mut tmpfs = MountOptions { set: options.set & !1, ..MountOptions::default() };
        tmpfs.data = vec![("mode".to_owned(), Some("755".to_owned()))];
        self.filesystem(at, "tmpfs", &tmpfs, true)?;
        for hierarchy in &cgroups.v1 {
            if hierarchy.controllers.iter().any(|name| name == "cpuset") {
                continue;
            }
            own.data = hierarchy.controllers.iter().map(|name| (name.clone(), None)).collect();
            let name = hierarchy.mount.file_name().unwrap_or_default();
            self.filesystem(&at.join(name), "cgroup", &own, true)?;
        }
        if cgroups.unified.is_some() {
            own.data = Vec::new();
            self.filesystem(&at.join("unified"), "cgroup2", &own, true)?;
        }
        if options.set & 1 != 0 {
            self.steps.push(Step::Seal(target(at, false, true)?));
        }
        Ok(())
    }

    fn devices(&mut self, extra: &[LinuxDevice]) -> Result<(), CreateError> {
        for (name, major, minor) in DEVICES {
            self.steps.push(Step::Device {
                target: target(&Path::new("/dev").join(name), true, false)?,
                kind: FileType::CharacterDevice,
                dev: makedev(major, minor),
                mode: 0o666,
                uid: Uid::ROOT,
                gid: Gid::ROOT,
            });
        }
        for device in extra {
            let kind = match device.typ() {
                LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
                LinuxDeviceType::B => FileType::BlockDevice,
                LinuxDeviceType::P => FileType::Fifo,
                LinuxDeviceType::A => return Err(CreateError::Invalid("a device of type \"a\"".to_owned())),
            };
            let number = |number: i64| {
                u32::try_from(number).map_err(|_| CreateError::Invalid(format!("device number {number}")))
            };
            self.steps.push(Step::Device {
                target: target(device.path(), true, false)?,
                kind,
                dev: makedev(number(device.major())?, number(device.minor())?),
                mode: device.file_mode().unwrap_or(0o666) & 0o7777,
                uid: Uid::from_raw(device.uid().unwrap_or(0)),
                gid: Gid::from_raw(device.gid().unwrap_or(0)),
            });
        }
        for (name, to) in LINKS {
            self.steps.push(Step::Symlink {
                directory: c"dev".to_owned(),
                name: c_string(name, "a name")?,
                to: c_string(to, "a path")?,
            });
        }
        Ok(())
    }

    fn kernel_settings(&mut self, spec: &Spec, linux: &Linux, flags: u64) -> Result<(), CreateError> {
        let own_uts = flags & libc::CLONE_NEWUTS as u64 != 0;
        let names = [(spec.hostname(), true), (spec.domainname(), false)];
        for (name, host) in names.into_iter().filter_map(|(name, host)| Some((name.as_ref()?, host))) {
            if !own_uts {
                return Err(CreateError::Invalid("a host name without a UTS namespace".to_owned()));
            }
            if name.len() > 64 {
                return Err(CreateError::Invalid(format!(
                    "a host name of {} bytes; at most 64 can be",
                    name.len()
                )));
            }
            let name = name.clone().into_bytes();
            self.steps.push(if host { Step::Hostname(name) } else { Step::Domainname(name) });
        }
        let joins = |kind| {
            let mut steps = self.steps.iter();
            steps.any(|step| matches!(step, Step::JoinNamespace(_, joined) if *joined == kind))
        };
        let own_net = flags & libc::CLONE_NEWNET as u64 != 0 || joins(LinkNameSpaceType::Network);
        let own_ipc = flags & libc::CLONE_NEWIPC as u64 != 0;
        let mut settings: Vec<_> = linux.sysctl().iter().flatten().collect();
        settings.sort();
        for (key, value) in settings {
            let path = key.replace('.', "/");
            let ipc = path.starts_with("fs/mqueue/")
                || ["kernel/msg", "kernel/sem", "kernel/shm"].iter().any(|prefix| path.starts_with(prefix));
            let allowed = (path.starts_with("net/") && own_net) || (ipc && own_ipc);
            if !allowed || path.split('/').any(|part| matches!(part, "" | "..")) {
                return Err(CreateError::Invalid(format!(
                    "sysctl {key:?} is not in a namespace of the container's own"
                )));
            }
            self.steps.push(Step::Sysctl {
                path: c_string(format!("sys/{path}"), "a sysctl")?,
                value: value.clone().into_bytes(),
            });
        }
        Ok(())
    }

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

    fn process(
        &mut self,
        process: &Process,
        linux: &Linux,
    ) -> Result<(String, Vec<CString>, Confinement), CreateError> {
        if let Some(score) = process.oom_score_adj() {
            self.steps.push(Step::OomScore(score.to_string().into_bytes()));
        }
        for limit in process.rlimits().iter().flatten() {
            self.steps.push(Step::Rlimit {
                name: limit.typ().to_string(),
                resource: rlimit_number(limit.typ()),
                soft: limit.soft(),
                hard: limit.hard(),
            });
        }
        let capabilities = capabilities::plan(process.capabilities().as_ref())?;
        let confinement = confine::plan(linux.seccomp().as_ref(), process, capabilities.sets)?;
        self.steps.extend(capabilities.drop_bounding.into_iter().map(Step::DropBounding));
        let user = process.user();
        let groups = user.additional_gids().as_deref().unwrap_or_default();
        if let Some(id) = [user.uid(), user.gid()].iter().chain(groups).find(|id| **id > ID_MAX) {
            return Err(CreateError::Invalid(format!("user or group {id}: at most {ID_MAX} can be")));
        }
        self.steps.push(Step::Credentials {
            groups: groups.iter().map(|gid| Gid::from_raw(*gid)).collect(),
            gid: Gid::from_raw(user.gid()),
            uid: Uid::from_raw(user.uid()),
            capabilities: confinement.until_then,
            ambient: capabilities.ambient,
        });
        if process.no_new_privileges() == Some(true) {
            self.steps.push(Step::NoNewPrivileges);
        }
        let cwd = process.cwd();
        if !cwd.is_absolute() {
            return Err(CreateError::Invalid(format!(
                "the working directory {} is not absolute",
                cwd.display()
            )));
        }
        self.steps
            .push(Step::WorkingDirectory(c_string(cwd.as_os_str().as_bytes(), "the working directory")?));
        self.steps.push(Step::Umask(user.umask().unwrap_or(DEFAULT_UMASK) & 0o777));
        let args = process.args().as_deref().unwrap_or_default();
        let command = args.first().filter(|command| !command.is_empty()).cloned();
        let command = command.ok_or_else(|| CreateError::Invalid("no command specified".to_owned()))?;
        let programs = programs(&command, process.env().as_deref().unwrap_or_default())?;
        Ok((command, programs, confinement))
    }
}

/// Where a program may be: itself if it has a slash, else in each directory of the environment's `PATH` (execvp(3)).
fn programs(command: &str, env: &[String]) -> Result<Vec<CString>, CreateError> {
    if command.contains('/') {
        return Ok(vec![c_string(command, "the command")?]);
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    let directories = path.unwrap_or("/bin:/usr/bin").split(':');
    directories
        .map(|directory| {
            let directory = if directory.is_empty() { "." } else { directory };
            c_string(format!("{directory}/{command}"), "the command")
        })
        .collect()
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

fn rlimit_number(typ: PosixRlimitType) -> u32 {
    match typ {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
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

    #[test]
    fn programs_come_from_the_last_path_variable() {
        let env = ["PATH=/x".to_owned(), "PATH=/a::/b".to_owned()];
        let found = programs("sh", &env).unwrap();
        assert_eq!(found, [c"/a/sh".to_owned(), c"./sh".to_owned(), c"/b/sh".to_owned()]);
        assert_eq!(programs("./sh", &env).unwrap(), [c"./sh".to_owned()]);
    }
}
