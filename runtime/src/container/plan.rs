//! The flat plan that a container's first process carries out: everything parsed, opened and allocated before.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Dev;
use rustix::mount::{MountAttrFlags, MountFlags};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySets, LinkNameSpaceType};

use super::mounts::Propagation;
use crate::seccomp::Filter;
use crate::sys::CStringArray;

/// A container's plan.
pub(super) struct Plan {
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
    JoinNamespace(OwnedFd, LinkNameSpaceType),
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
    /// The same where pivot_root(2) cannot leave the old root. The host's procfs and sysfs mounts, which go first.
    MoveRoot(Vec<CString>),
    /// How mounts below the new root spread.
    RootPropagation(Propagation),
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
    Filesystem(Box<Filesystem>),
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

impl Step {
    /// For a person.
    pub(super) fn describe(&self) -> String {
        let shown = |text: &CString| text.to_string_lossy().into_owned();
        match self {
            Self::JoinCgroup(_) => "join the cgroup".to_owned(),
            Self::NewCgroupNamespace => "make the cgroup namespace".to_owned(),
            Self::Session => "make a session".to_owned(),
            Self::Stdio(_) => "set the standard descriptors".to_owned(),
            Self::JoinNamespace(_, kind) => format!("join the given namespace ({kind:?})"),
            Self::PrivateMounts => "make mounts private".to_owned(),
            Self::OpenNull => "open the host's /dev/null".to_owned(),
            Self::OpenProc => "open a private procfs".to_owned(),
            Self::AttachRoot(_) => "attach the root filesystem".to_owned(),
            Self::Mount { target, label, .. } => format!("mount {label} at {}", target.shown()),
            Self::Seal(target) => format!("make {} read-only", target.shown()),
            Self::Directory(target, ..) => format!("make the directory {}", target.shown()),
            Self::Remount(target, _) => format!("change the mount at {}", target.shown()),
            Self::Devices(devices) => format!("make devices in {}", devices.directory.shown()),
            Self::Symlink { directory, name, .. } => format!("link /{}/{}", shown(directory), shown(name)),
            Self::Sysctl { path, .. } => format!("set /proc/{}", shown(path)),
            Self::Hostname(_) => "set the host name".to_owned(),
            Self::Domainname(_) => "set the domain name".to_owned(),
            Self::ReadonlyPath(path) => format!("make /{} read-only", shown(path)),
            Self::MaskedPath(path, _) => format!("mask /{}", shown(path)),
            Self::ReadonlyRoot => "make the root filesystem read-only".to_owned(),
            Self::PivotRoot | Self::MoveRoot(_) => "change the root".to_owned(),
            Self::RootPropagation(_) => "set the root's propagation".to_owned(),
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
