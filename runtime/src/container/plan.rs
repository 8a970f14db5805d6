//! The flat plan that a container's first process carries out: everything parsed, opened and allocated before.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Dev;
use rustix::mount::MountAttrFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::CapabilitySets;

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
}

/// The work of a process between the creator and the init, which is the init's elder sibling (`CLONE_PARENT`).
pub(super) struct Entry {
    /// `cgroup.procs` of groups to join while the host's are in sight.
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
    pub(super) argv: CStringArray,
    pub(super) envp: CStringArray,
    pub(super) timeout_ms: Option<i32>,
}

/// Standard descriptors of the hooks that the child runs.
pub(super) struct HookFiles {
    /// The state before the gate, filled by the creator.
    pub(super) creating: OwnedFd,
    /// The state after it.
    pub(super) created: OwnedFd,
    /// For their output.
    pub(super) null: OwnedFd,
}

/// One step. Errors are reported by its index.
pub(super) enum Step {
    /// Write oneself into a v1 group.
    JoinCgroup(OwnedFd),
    /// Only now, when all groups are joined, do they become the namespace's root.
    NewCgroupNamespace,
    /// A session of one's own: no controlling terminal of the host.
    Session,
    Stdio([OwnedFd; 3]),
    JoinNamespace(Join),
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
    /// Nothing that is mounted from here on reaches the host.
    PrivateMounts,
    /// The host's `/dev/null`, checked to be it, for masking files (CVE-2025-31133).
    OpenNull,
    /// A procfs of this PID namespace that no mount can cover, for writing below `/proc` (CVE-2025-52881).
    OpenProc,
    AttachRoot(RootMount),
    Mount {
        target: Target,
        source: MountSource,
        label: String,
    },
    /// Make what was mounted at the target read-only, now that all is in it.
    Seal(Target),
    /// Make a directory if there is none, owned by the user.
    Directory(Target, Uid, Gid),
    Device {
        target: Target,
        kind: rustix::fs::FileType,
        dev: Dev,
        mode: u32,
        uid: Uid,
        gid: Gid,
    },
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
    MaskedPath(CString),
    ReadonlyRoot,
    /// The root becomes `/` and the host's mounts go.
    PivotRoot,
    OomScore(Vec<u8>),
    Rlimit {
        name: String,
        resource: u32,
        soft: u64,
        hard: u64,
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

/// The root filesystem, before it is attached.
pub(super) enum RootMount {
    /// A detached mount, and the host directory that it is attached over in the new mount namespace.
    Detached { mount: OwnedFd, over: CString },
    /// For kernels without `lowerdir+` (before 6.7): mount(2)'s options, which name the layers by the numbers of these
    /// descriptors. The child opens the paths again under the same numbers: overlayfs takes no layer that was opened
    /// in another mount namespace.
    Legacy { over: CString, data: CString, layers: Vec<(CString, OwnedFd)> },
}

/// What gets mounted.
pub(super) enum MountSource {
    /// A detached copy of a host's directory or file.
    Tree(OwnedFd),
    /// A new filesystem.
    Filesystem { kind: CString, parameters: Vec<(CString, Option<CString>)>, attributes: MountAttrFlags },
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
}

impl Target {
    fn shown(&self) -> String {
        format!("/{}", self.prefixes.last().map(|path| path.to_string_lossy()).unwrap_or_default())
    }
}

impl Plan {
    /// Every step that an error can name, in the order of their numbers.
    pub(super) fn describe(&self) -> Vec<String> {
        let mut all: Vec<String> = self.steps.iter().chain(&self.last).map(Step::describe).collect();
        if let Some(entry) = &self.entry {
            all.extend(entry.joins.iter().map(Join::describe));
            all.push("join the cgroup".to_owned());
            all.push("make the time namespace and set its offsets".to_owned());
            all.push("make a process in new namespaces".to_owned());
        }
        all
    }
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
            Self::JoinCgroup(_) => "join the cgroup".to_owned(),
            Self::NewCgroupNamespace => "make the cgroup namespace".to_owned(),
            Self::Session => "make a session".to_owned(),
            Self::Stdio(_) => "set the standard descriptors".to_owned(),
            Self::JoinNamespace(join) => join.describe(),
            Self::Maps => "write the user namespace's ID maps".to_owned(),
            Self::BecomeRoot => "become root of the user namespace".to_owned(),
            Self::OpenRoot => "open the container's root".to_owned(),
            Self::GivenProc(_) => "take the given procfs".to_owned(),
            Self::Terminal { .. } => "set up the terminal".to_owned(),
            Self::OwnStdio(uid) => format!("give the standard descriptors to user {}", uid.as_raw()),
            Self::RuntimeHooks => "run the runtime's hooks".to_owned(),
            Self::Hook(hook) => format!("run the hook {}", shown(&hook.path)),
            Self::PrivateMounts => "make mounts private".to_owned(),
            Self::OpenNull => "open the host's /dev/null".to_owned(),
            Self::OpenProc => "open a private procfs".to_owned(),
            Self::AttachRoot(_) => "attach the root filesystem".to_owned(),
            Self::Mount { target, label, .. } => format!("mount {label} at {}", target.shown()),
            Self::Seal(target) => format!("make {} read-only", target.shown()),
            Self::Directory(target, ..) => format!("make the directory {}", target.shown()),
            Self::Device { target, .. } => format!("make the device {}", target.shown()),
            Self::Symlink { directory, name, .. } => format!("link /{}/{}", shown(directory), shown(name)),
            Self::Sysctl { path, .. } => format!("set /proc/{}", shown(path)),
            Self::Hostname(_) => "set the host name".to_owned(),
            Self::Domainname(_) => "set the domain name".to_owned(),
            Self::ReadonlyPath(path) => format!("make /{} read-only", shown(path)),
            Self::MaskedPath(path) => format!("mask /{}", shown(path)),
            Self::ReadonlyRoot => "make the root filesystem read-only".to_owned(),
            Self::PivotRoot => "change the root".to_owned(),
            Self::OomScore(_) => "set the OOM score".to_owned(),
            Self::Rlimit { name, soft, hard, .. } => format!("set {name} to {soft}:{hard}"),
            Self::DropBounding(number) => format!("drop capability {number}"),
            Self::Credentials { uid, gid, .. } => {
                format!("become user {}:{} with its capabilities", uid.as_raw(), gid.as_raw())
            }
            Self::NoNewPrivileges => "forbid new privileges".to_owned(),
            Self::Seccomp(_) => "load the seccomp filter".to_owned(),
            Self::Capabilities(_) => "reduce the capabilities".to_owned(),
            Self::WorkingDirectory(path) => format!("change to the working directory {}", shown(path)),
            Self::Umask(_) => "set the umask".to_owned(),
        }
    }
}
