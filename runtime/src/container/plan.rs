//! The flat plan that a container's first process carries out: everything parsed, opened and allocated before.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Dev;
use rustix::mount::{MountAttrFlags, MountFlags};
use rustix::process::{Gid, Uid};
use rustix::thread::CapabilitySets;

use super::attribute::Attribute;
use super::mounts::Propagation;
use super::net_devices::NetDevices;
use super::resctrl::Membership;
use crate::seccomp::Filter;
use crate::sys::CStringArray;

/// A container's plan.
pub(super) struct Plan {
    /// What a process between the creator and the init does first.
    pub(super) entry: Option<Entry>,
    /// What the creator does for the init at [`Step::Maps`].
    pub(super) outside: Outside,
    /// Namespaces made by the clone.
    pub(super) clone_flags: u64,
    /// In order.
    pub(super) steps: Vec<Step>,
    /// After the program was found and the other descriptors were closed: what may forbid such things. Numbered on
    /// from `steps`.
    pub(super) last: Vec<Step>,
    /// The filter among them.
    pub(super) filter: Option<Arc<Filter>>,
    /// `argv[0]` as the spec has it, for messages.
    pub(super) command: String,
    /// Where the program may be, in the order of `PATH`.
    pub(super) programs: Vec<CString>,
    pub(super) argv: CStringArray,
    pub(super) envp: CStringArray,
    /// Read end: a byte opens it, its end closes it for good.
    pub(super) gate: OwnedFd,
    /// Write end: what happens up to the gate.
    pub(super) status: OwnedFd,
    /// What happens after it, if somebody else than the parent opens it.
    pub(super) told: Option<OwnedFd>,
    /// Descriptors from 3 on that the program gets.
    pub(super) preserved: u32,
    /// Programs that run after the gate, before the exec.
    pub(super) start_hooks: Vec<HookPlan>,
    /// What hooks inside the container's namespaces need.
    pub(super) hook_files: Option<HookFiles>,
    /// For the creator, after the clone: devices to move in.
    pub(super) net_devices: Option<NetDevices>,
    /// For the creator, after the clone: the group of caches and memory bandwidth to join.
    pub(super) resctrl: Option<Membership>,
}

/// The work of a process between the creator and the init, which is the init's elder sibling (`CLONE_PARENT`).
#[derive(Default)]
pub(super) struct Entry {
    /// Processors to run on until the group is joined.
    pub(super) affinity: Option<Step>,
    /// Text for `oom_score_adj`, which takes the host's rights and is handed down to the init.
    pub(super) oom_score: Option<Vec<u8>>,
    /// Files of groups, for `0` to be written into, while the host's are in sight.
    pub(super) cgroups: Vec<OwnedFd>,
    /// In order; what is refused for want of privilege is tried again after the user namespace.
    pub(super) joins: Vec<Join>,
    /// Text for `timens_offsets` of a new time namespace.
    pub(super) time_offsets: Option<Vec<u8>>,
}

/// A namespace to join.
pub(super) struct Join {
    /// A namespace, or a process whose namespaces they are.
    pub(super) fd: OwnedFd,
    /// `CLONE_NEW*`.
    pub(super) typ: u64,
}

impl Join {
    /// The user namespace is it, or is among them.
    pub(super) fn is_user(&self) -> bool {
        self.typ & libc::CLONE_NEWUSER as u64 != 0
    }
}

/// What only a process outside of the new user namespace may do.
#[derive(Default)]
pub(super) struct Outside {
    /// Text for `uid_map`; empty: no new user namespace.
    pub(super) uid_map: Vec<u8>,
    pub(super) gid_map: Vec<u8>,
    pub(super) oom_score: Option<Vec<u8>>,
}

impl Outside {
    pub(super) fn is_empty(&self) -> bool {
        self.uid_map.is_empty()
    }
}

/// A program that the child runs.
pub(super) struct HookPlan {
    pub(super) path: CString,
    /// Its place among those of its kind.
    pub(super) index: u32,
    pub(super) argv: CStringArray,
    /// `None`: the process's.
    pub(super) envp: Option<CStringArray>,
    pub(super) timeout_ms: Option<i32>,
}

/// Standard descriptors of the hooks that the child runs.
pub(super) struct HookFiles {
    /// The state before the gate, filled by the creator.
    pub(super) creating: OwnedFd,
    /// The state after it.
    pub(super) created: OwnedFd,
    /// A pipe for their output, the end of which is told if one fails.
    pub(super) output: (OwnedFd, OwnedFd),
}

/// One step. Errors are reported by its index.
pub(super) enum Step {
    /// Something of the process itself.
    Attribute(Attribute),
    /// Write oneself into a v1 group.
    JoinCgroup(OwnedFd),
    /// Only now, when all groups are joined, do they become the namespace's root.
    NewCgroupNamespace,
    /// A session of one's own: no controlling terminal of the host.
    Session,
    Stdio([OwnedFd; 3]),
    JoinNamespace(Join),
    /// A new network namespace's loopback device is down.
    Loopback,
    /// Wait for the creator to make the group around this process.
    Placement,
    /// Wait for the creator to write the ID maps.
    Maps,
    /// User 0 of the new user namespace.
    BecomeRoot,
    /// The root of a container that runs already.
    OpenRoot,
    /// The host's procfs, for a process whose own might be refused.
    GivenProc(OwnedFd),
    /// A terminal from the container's devpts: the controlling one, and the standard descriptors; its master goes over
    /// this socket.
    Terminal {
        console: OwnedFd,
        /// Rows and columns.
        size: Option<(u16, u16)>,
        /// Bind it here.
        target: Option<Target>,
    },
    /// The standard descriptors' files belong to the user, so that `/dev/stdout` can be opened again.
    OwnStdio(Uid),
    /// Wait for the creator to run hooks.
    RuntimeHooks,
    /// Run a hook here.
    Hook(HookPlan),
    /// Nothing that is mounted from here on reaches the host. With `slave`, what the host mounts still comes in, so that
    /// copies of its mounts can go on with that.
    PrivateMounts {
        slave: bool,
    },
    /// A mount namespace for as long as the mounts are made, for a container that has the host's.
    BorrowMounts,
    /// The host's `/dev/null`, checked to be it, for masking files (CVE-2025-31133).
    OpenNull,
    /// A procfs of this PID namespace that no mount can cover, for writing below `/proc` (CVE-2025-52881).
    OpenProc {
        /// Where it stands until the root covers it and pivot_root(2) leaves it behind: the kernel waits at the end of
        /// each mount that is attached nowhere (an RCU grace period), and at the end of the host's tree just once.
        over: Option<CString>,
    },
    AttachRoot(RootMount),
    Mount {
        target: Target,
        source: MountSource,
        label: String,
    },
    /// New options for what is mounted at the target already.
    Remount(Target, Remount),
    /// Make what was mounted at the target read-only, now that all is in it.
    Seal(Target),
    /// Make a directory if there is none, owned by the user.
    Directory(Target, Uid, Gid),
    Devices(Devices),
    Symlink {
        directory: CString,
        name: CString,
        to: CString,
    },
    Sysctl {
        path: CString,
        value: Vec<u8>,
    },
    Hostname(Vec<u8>),
    Domainname(Vec<u8>),
    ReadonlyPath(CString),
    /// With the label of an empty directory's filesystem.
    MaskedPath(CString, Option<CString>),
    ReadonlyRoot,
    /// The root becomes `/` and the host's mounts go.
    PivotRoot,
    /// The root becomes `/` of this process alone, in a mount namespace that is not the container's.
    Chroot,
    /// The same with a detached copy of the whole root, after going back from the borrowed mount namespace to this one.
    ReturnMounts(OwnedFd),
    /// As `Chroot`, into the root of a container that runs already.
    EnterRoot(OwnedFd),
    /// The same where pivot_root(2) cannot leave the old root. The host's procfs and sysfs mounts, which go first.
    MoveRoot(Vec<CString>),
    /// How mounts below the new root spread.
    RootPropagation(Propagation),
    OomScore(Vec<u8>),
    /// Wait for the creator to set the limits that follow: to raise them takes the host's rights. What it could not do
    /// is tried once more.
    Limits,
    Rlimit {
        name: String,
        limit: Limit,
    },
    /// By number.
    DropBounding(u8),
    /// User, groups and capabilities, in the only order that works.
    Credentials {
        groups: Vec<Gid>,
        gid: Gid,
        uid: Uid,
        capabilities: CapabilitySets,
        ambient: Vec<rustix::thread::CapabilitySet>,
    },
    NoNewPrivileges,
    /// Forbids system calls, all from here on included.
    Seccomp(Arc<Filter>),
    /// Leaves these capabilities of those that the process has.
    Capabilities(CapabilitySets),
    WorkingDirectory(CString),
    /// The file mode creation mask of the program.
    Umask(u32),
}

/// A resource limit, the resource by the kernel's number (setrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) resource: u32,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// The root filesystem, before it is attached.
pub(super) enum RootMount {
    /// A detached mount, and the host directory that it is attached over in the new mount namespace; without one of its
    /// own the container lives in the detached tree.
    Detached { mount: OwnedFd, over: Option<CString> },
    /// For kernels without `lowerdir+` (before 6.7): mount(2)'s options, which name the layers by the numbers of these
    /// descriptors. The child opens the paths again under the same numbers: overlayfs takes no layer that was opened
    /// in another mount namespace.
    Legacy { over: CString, data: CString, layers: Vec<(CString, OwnedFd)> },
}

/// What gets mounted.
pub(super) enum MountSource {
    /// A detached copy of a host's directory or file.
    Tree(OwnedFd),
    /// A copy that is only made when its turn comes.
    Copy(Box<Copy>),
    Filesystem(Box<Filesystem>),
}

/// A directory or file to be copied by the child: so are mounts in the order of the spec, which shows in the container's
/// mount table (Linux lists them by age since 6.8), and may be copies of earlier ones.
pub(super) struct Copy {
    pub(super) from: CopyFrom,
    pub(super) recursive: bool,
    /// A user namespace whose ID maps hold for the mount, and whether for those below it too.
    pub(super) idmap: Option<(OwnedFd, bool)>,
    pub(super) changes: Vec<Change>,
}

/// What is copied.
pub(super) enum CopyFrom {
    /// Of the host, by a path without links, and what it has to be.
    Host { path: CString, identity: (u64, u64) },
    /// Of the container's own root, by the path below it.
    Root(CString),
}

/// A change of a mount's attributes (mount_setattr(2)).
pub(super) struct Change {
    pub(super) set: u64,
    pub(super) clear: u64,
    /// The propagation; 0 leaves it.
    pub(super) mode: u64,
    pub(super) recursive: bool,
    /// What it is about, for a person.
    pub(super) what: &'static str,
}

/// A new filesystem.
pub(super) struct Filesystem {
    pub(super) kind: CString,
    /// For fsconfig(2), the source among them.
    pub(super) parameters: Vec<(CString, Option<CString>)>,
    pub(super) attributes: MountAttrFlags,
    /// The same for mount(2), for what fsconfig(2) does not take.
    pub(super) source: CString,
    pub(super) flags: MountFlags,
    pub(super) data: CString,
    /// Asks for what only mount(2) can do.
    pub(super) legacy_only: bool,
    pub(super) propagation: Vec<Propagation>,
    /// A user namespace whose ID maps hold for the mount.
    pub(super) idmap: Option<OwnedFd>,
    /// A directory that it covers gives its root the mode.
    pub(super) keep_mode: bool,
    /// A directory that it covers is copied into it.
    pub(super) copy_up: bool,
    /// The SELinux label of its root.
    pub(super) file_label: Option<CString>,
    /// What to attach if the kernel does not let the container make it.
    pub(super) instead: Option<OwnedFd>,
}

/// New options for a mounted filesystem.
pub(super) struct Remount {
    pub(super) flags: MountFlags,
    pub(super) data: CString,
    pub(super) propagation: Vec<Propagation>,
}

/// Nodes and links of one directory, made if missing.
pub(super) struct Devices {
    pub(super) directory: Target,
    pub(super) nodes: Vec<Node>,
    /// Name, target, and whether what is there is replaced.
    pub(super) links: Vec<(CString, CString, bool)>,
}

/// One device node.
pub(super) struct Node {
    pub(super) name: CString,
    pub(super) kind: rustix::fs::FileType,
    pub(super) dev: Dev,
    pub(super) mode: u32,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    /// The host's node of that path, for who may not make nodes: its path, and itself if that is known beforehand.
    pub(super) path: CString,
    pub(super) host: Option<OwnedFd>,
}

/// A place below the root, made if missing.
pub(super) struct Target {
    /// `a`, `a/b`, `a/b/c`.
    pub(super) prefixes: Vec<CString>,
    /// `a`, `b`, `c`.
    pub(super) names: Vec<CString>,
    /// The last one is a file if it has to be made.
    pub(super) file: bool,
    /// No link on the way: `/proc` and `/sys` must be where they seem to be (CVE-2019-19921).
    pub(super) strict: bool,
    /// One of the files of procfs that may be covered.
    pub(super) in_proc: bool,
}

impl Target {
    /// Once more, for a later step.
    pub(super) fn copy(&self) -> Self {
        Self { prefixes: self.prefixes.clone(), names: self.names.clone(), ..*self }
    }

    fn shown(&self) -> String {
        format!("/{}", self.prefixes.last().map(|path| path.to_string_lossy()).unwrap_or_default())
    }
}

impl Plan {
    /// Whether the init comes to the gate without anything done for it from outside while it waits.
    pub(super) fn asks_nothing(&self) -> bool {
        let asks =
            |step: &Step| matches!(step, Step::Placement | Step::Limits | Step::Maps | Step::RuntimeHooks);
        let listened_to = self.filter.as_ref().is_some_and(|filter| filter.listener().is_some());
        self.entry.is_none() && !listened_to && !self.steps.iter().any(asks)
    }

    /// Every step that an error can name, in the order of their numbers.
    pub(super) fn describe(&self) -> Vec<String> {
        let mut all: Vec<String> = self.steps.iter().chain(&self.last).map(Step::describe).collect();
        if let Some(entry) = &self.entry {
            all.extend(entry.joins.iter().map(Join::describe));
            all.push("join the cgroup".to_owned());
            all.push("make the time namespace and set its offsets".to_owned());
            all.push("make a process in new namespaces".to_owned());
            all.push(entry.affinity.as_ref().map(Step::describe).unwrap_or_default());
            all.extend(entry.oom_score.as_deref().map(describe_oom_score));
        }
        all
    }

    /// The limits that the creator sets at [`Step::Limits`].
    pub(super) fn limits(&self) -> Vec<Limit> {
        if !self.steps.iter().any(|step| matches!(step, Step::Limits)) {
            return Vec::new();
        }
        let limits = self.steps.iter().filter_map(|step| match step {
            Step::Rlimit { limit, .. } => Some(*limit),
            _ => None,
        });
        limits.collect()
    }
}

fn describe_oom_score(value: &[u8]) -> String {
    format!("set process.oomScoreAdj to {}", String::from_utf8_lossy(value))
}

impl Join {
    fn describe(&self) -> String {
        let names = [
            (libc::CLONE_NEWUSER as u64, "user"),
            (libc::CLONE_NEWPID as u64, "PID"),
            (libc::CLONE_NEWNET as u64, "network"),
            (libc::CLONE_NEWIPC as u64, "IPC"),
            (libc::CLONE_NEWUTS as u64, "UTS"),
            (libc::CLONE_NEWNS as u64, "mount"),
            (libc::CLONE_NEWCGROUP as u64, "cgroup"),
            (crate::sys::CLONE_NEWTIME, "time"),
        ];
        let names: Vec<_> =
            names.iter().filter(|(flag, _)| self.typ & flag != 0).map(|(_, name)| *name).collect();
        format!("join the given {} namespace", names.join(", "))
    }
}

impl Step {
    /// For a person.
    pub(super) fn describe(&self) -> String {
        let shown = |text: &CString| text.to_string_lossy().into_owned();
        match self {
            Self::Attribute(attribute) => attribute.describe(),
            Self::JoinCgroup(_) => "join the cgroup".to_owned(),
            Self::NewCgroupNamespace => "make the cgroup namespace".to_owned(),
            Self::Session => "make a session".to_owned(),
            Self::Stdio(_) => "set the standard descriptors".to_owned(),
            Self::JoinNamespace(join) => join.describe(),
            Self::Loopback => "bring the loopback device up".to_owned(),
            Self::Placement => "be put into the cgroup".to_owned(),
            Self::Maps => "write the user namespace's ID maps".to_owned(),
            Self::BecomeRoot => "become root of the user namespace".to_owned(),
            Self::OpenRoot => "open the container's root".to_owned(),
            Self::GivenProc(_) => "take the given procfs".to_owned(),
            Self::Terminal { .. } => "set up the terminal".to_owned(),
            Self::OwnStdio(uid) => format!("give the standard descriptors to user {}", uid.as_raw()),
            Self::RuntimeHooks => "run the runtime's hooks".to_owned(),
            Self::Hook(hook) => format!("run the hook {}", shown(&hook.path)),
            Self::BorrowMounts => "make a mount namespace".to_owned(),
            Self::PrivateMounts { .. } => "make mounts private".to_owned(),
            Self::OpenNull => "open the host's /dev/null".to_owned(),
            Self::OpenProc { .. } => "open a private procfs".to_owned(),
            Self::AttachRoot(_) => "attach the root filesystem".to_owned(),
            Self::Mount { target, label, .. } => {
                format!("error mounting {label:?} to rootfs at {:?}", target.shown())
            }
            Self::Seal(target) => format!("make {} read-only", target.shown()),
            Self::Directory(target, ..) => format!("make the directory {}", target.shown()),
            Self::Remount(target, _) => format!("change the mount at {}", target.shown()),
            Self::Devices(devices) => format!("make devices in {}", devices.directory.shown()),
            Self::Symlink { directory, name, .. } => format!("link /{}/{}", shown(directory), shown(name)),
            Self::Sysctl { path, value } => {
                format!("set /proc/{} to {:?}", shown(path), String::from_utf8_lossy(value))
            }
            Self::Hostname(_) => "set the host name".to_owned(),
            Self::Domainname(_) => "set the domain name".to_owned(),
            Self::ReadonlyPath(path) => format!("make /{} read-only", shown(path)),
            Self::MaskedPath(path, _) => format!("mask /{}", shown(path)),
            Self::ReadonlyRoot => "make the root filesystem read-only".to_owned(),
            // By its name, as in runc: who sees it looks for --no-pivot.
            Self::PivotRoot => "pivot_root".to_owned(),
            Self::Chroot | Self::ReturnMounts(_) | Self::EnterRoot(_) | Self::MoveRoot(_) => {
                "change the root".to_owned()
            }
            Self::RootPropagation(_) => "set the root's propagation".to_owned(),
            Self::OomScore(value) => describe_oom_score(value),
            Self::Limits => "be given limits".to_owned(),
            Self::Rlimit { name, limit } => format!("set {name} to {}:{}", limit.soft, limit.hard),
            Self::DropBounding(number) => format!("drop capability {number}"),
            Self::Credentials { uid, gid, .. } => {
                format!("become user {}:{} with its capabilities", uid.as_raw(), gid.as_raw())
            }
            Self::NoNewPrivileges => "forbid new privileges".to_owned(),
            Self::Seccomp(_) => "load the seccomp filter".to_owned(),
            Self::Capabilities(_) => "reduce the capabilities".to_owned(),
            Self::WorkingDirectory(path) => super::attribute::chdir_text(path),
            Self::Umask(_) => "set the umask".to_owned(),
        }
    }
}
