//! The container's first process, from the clone to the exec. System calls only: no allocation, no lock, no panic.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount, mount_change, move_mount, open_tree, unmount,
};
use rustix::thread::UnshareFlags;

use super::plan::{MountSource, Plan, RootMount, Step, Target};
use crate::{seccomp, sys};

/// What the child says over the status pipe. The pipe's end is the word "exec succeeded".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// At the gate, with a seccomp listener under this number (0: none).
    Ready { listener: u32 },
    /// A step failed.
    Failed { step: u32, errno: Errno },
    /// There is no program of that name.
    NotFound,
    /// The program cannot be executed.
    NotExecutable(Errno),
}

impl Message {
    pub(super) const SIZE: usize = 12;

    fn encode(self) -> [u8; Self::SIZE] {
        let (kind, step, errno) = match self {
            Self::Ready { listener } => (1_u32, listener, 0),
            Self::Failed { step, errno } => (2, step, errno.raw_os_error()),
            Self::NotFound => (3, 0, 0),
            Self::NotExecutable(errno) => (4, 0, errno.raw_os_error()),
        };
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&step.to_ne_bytes());
        bytes[8..].copy_from_slice(&errno.to_ne_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        let step = u32::from_ne_bytes([e, f, g, h]);
        // rustix knows no errno outside of this range.
        let errno = Errno::from_raw_os_error(i32::from_ne_bytes([i, j, k, l]).clamp(1, 4095));
        match u32::from_ne_bytes([a, b, c, d]) {
            1 => Some(Self::Ready { listener: step }),
            2 => Some(Self::Failed { step, errno }),
            3 => Some(Self::NotFound),
            4 => Some(Self::NotExecutable(errno)),
            _ => None,
        }
    }
}

/// Descriptors that earlier steps open for later ones.
#[derive(Default)]
struct Opened {
    null: Option<OwnedFd>,
    proc: Option<OwnedFd>,
    root: Option<OwnedFd>,
    /// The number of the seccomp listener, closed by the exec; 0 is none.
    listener: u32,
}

/// Carries out the plan. Never returns.
pub(super) fn run(plan: &Plan) -> std::convert::Infallible {
    // A process of the container that shares a namespace with this one must not ptrace it (CVE-2016-9962).
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0);
    sys::reset_signals();
    // Modes of nodes and directories are meant as they stand.
    rustix::process::umask(Mode::empty());
    let mut opened = Opened::default();
    for (index, step) in plan.steps.iter().enumerate() {
        if let Err(errno) = carry_out(step, &mut opened) {
            fail(plan, Message::Failed { step: index as u32, errno });
        }
    }
    let program = match find_program(plan) {
        Ok(program) => program,
        Err(message) => fail(plan, message),
    };
    // Not only on exec: the gate's other end is among them, and the keeper's lock and connections, which must not live
    // on in a child that waits.
    if let Err(errno) = sys::close_all_but(&plan.gate, &plan.status) {
        fail(plan, Message::Failed { step: u32::MAX, errno });
    }
    for (index, step) in plan.last.iter().enumerate() {
        if let Err(errno) = carry_out(step, &mut opened) {
            fail(plan, Message::Failed { step: (plan.steps.len() + index) as u32, errno });
        }
    }
    let ready = Message::Ready { listener: opened.listener };
    if rustix::io::write(&plan.status, &ready.encode()).is_err() {
        sys::exit_now(FAILED);
    }
    let mut byte = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(&plan.gate, &mut byte)) {
        Ok(1) => {}
        // The keeper is gone or does not want it.
        _ => sys::exit_now(FAILED),
    }
    let errno = sys::execve(program, &plan.argv, &plan.envp);
    let _ = rustix::io::write(&plan.status, &Message::NotExecutable(errno).encode());
    // As a shell and Docker have it.
    sys::exit_now(if errno == Errno::NOENT { 127 } else { 126 })
}

/// Exit code of a child whose failure was told over the pipe, or that nobody wants.
const FAILED: i32 = 125;

fn fail(plan: &Plan, message: Message) -> ! {
    let _ = rustix::io::write(&plan.status, &message.encode());
    sys::exit_now(FAILED)
}

fn find_program(plan: &Plan) -> Result<&CStr, Message> {
    let mut refused = None;
    for program in &plan.programs {
        match rustix::fs::statat(CWD, program, AtFlags::empty()) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                refused = refused.or(Some(Errno::ISDIR));
            }
            Ok(_) => {
                match rustix::fs::accessat(CWD, program, rustix::fs::Access::EXEC_OK, AtFlags::empty()) {
                    Ok(()) => return Ok(program),
                    Err(errno) => refused = Some(errno),
                }
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => refused = Some(errno),
        }
    }
    Err(refused.map_or(Message::NotFound, Message::NotExecutable))
}

fn carry_out(step: &Step, opened: &mut Opened) -> Result<(), Errno> {
    match step {
        Step::JoinCgroup(procs) => rustix::io::write(procs, b"0").map(drop),
        Step::NewCgroupNamespace => unshare_cgroup(),
        Step::Session => rustix::process::setsid().map(drop),
        Step::Stdio(fds) => {
            for (number, fd) in fds.iter().enumerate() {
                sys::dup_to(fd, number as i32)?;
            }
            Ok(())
        }
        Step::JoinNamespace(fd, kind) => rustix::thread::move_into_link_name_space(fd.as_fd(), Some(*kind)),
        Step::PrivateMounts => mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
        Step::OpenNull => {
            let null = rustix::fs::open(c"/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let stat = rustix::fs::fstat(&null)?;
            let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
            if !device || stat.st_rdev != rustix::fs::makedev(1, 3) {
                return Err(Errno::NODEV);
            }
            opened.null = Some(null);
            Ok(())
        }
        Step::OpenProc => {
            let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            opened.proc = Some(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?);
            Ok(())
        }
        Step::AttachRoot(root) => {
            opened.root = Some(attach_root(root)?);
            Ok(())
        }
        Step::Mount { target, source, .. } => {
            let place = resolve(root(opened)?, target)?;
            match source {
                MountSource::Tree(tree) => attach(tree.as_fd(), place.as_fd()),
                MountSource::Filesystem { kind, parameters, attributes } => {
                    let made = filesystem(kind, parameters, *attributes)?;
                    attach(made.as_fd(), place.as_fd())
                }
            }
        }
        Step::Seal(target) => {
            let place = resolve(root(opened)?, target)?;
            sys::mount_setattr(place.as_fd(), READ_ONLY, 0, 0, false)
        }
        Step::Directory(target, uid, gid) => make_directory(root(opened)?, target, *uid, *gid),
        Step::Device { target, kind, dev, mode, uid, gid } => {
            let (parent, name) = resolve_parent(root(opened)?, target)?;
            match rustix::fs::mknodat(&parent, name, *kind, Mode::from_raw_mode(*mode), *dev) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Ok(()),
                Err(errno) => return Err(errno),
            }
            rustix::fs::chownat(&parent, name, Some(*uid), Some(*gid), AtFlags::SYMLINK_NOFOLLOW)
        }
        Step::Symlink { directory, name, to } => {
            let directory = in_root(root(opened)?, directory, false)?;
            match rustix::fs::symlinkat(to, &directory, name) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(errno) => Err(errno),
            }
        }
        Step::Sysctl { path, value } => write_proc(opened, path, value),
        Step::Hostname(name) => rustix::system::sethostname(name),
        Step::Domainname(name) => rustix::system::setdomainname(name),
        Step::ReadonlyPath(path) => match in_root(root(opened)?, path, false) {
            Ok(place) => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_EMPTY_PATH
                    | OpenTreeFlags::AT_RECURSIVE;
                let copy = open_tree(&place, c"", flags)?;
                sys::mount_setattr(copy.as_fd(), READ_ONLY, 0, 0, true)?;
                attach(copy.as_fd(), place.as_fd())
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(errno),
        },
        Step::MaskedPath(path) => match in_root(root(opened)?, path, false) {
            Ok(place) => mask(opened, place.as_fd()),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(errno),
        },
        Step::ReadonlyRoot => sys::mount_setattr(root(opened)?, READ_ONLY, 0, 0, false),
        Step::PivotRoot => {
            rustix::process::fchdir(root(opened)?)?;
            // The old root ends up on top of the new one and is taken off again (pivot_root(2), NOTES).
            rustix::process::pivot_root(c".", c".")?;
            unmount(c".", UnmountFlags::DETACH)?;
            rustix::process::chdir(c"/")
        }
        Step::OomScore(value) => write_proc(opened, c"self/oom_score_adj", value),
        Step::Rlimit { resource, soft, hard, .. } => sys::set_rlimit(*resource, *soft, *hard),
        Step::DropBounding(number) => sys::prctl(libc::PR_CAPBSET_DROP, u64::from(*number)),
        Step::Credentials { groups, gid, uid, capabilities, ambient } => {
            rustix::thread::set_keep_capabilities(true)?;
            rustix::thread::set_thread_groups(groups)?;
            rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
            rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
            rustix::thread::set_keep_capabilities(false)?;
            rustix::thread::clear_ambient_capability_set()?;
            rustix::thread::set_capabilities(None, *capabilities)?;
            for capability in ambient {
                rustix::thread::configure_capability_in_ambient_set(*capability, true)?;
            }
            // A change of user made the process dumpable or not as it pleased (prctl(2)).
            sys::prctl(libc::PR_SET_DUMPABLE, 0)
        }
        Step::NoNewPrivileges => rustix::thread::set_no_new_privs(true),
        Step::Seccomp(filter) => {
            opened.listener = seccomp::load_filter(filter.program(), filter.flags())? as u32;
            Ok(())
        }
        Step::Capabilities(sets) => rustix::thread::set_capabilities(None, *sets),
        Step::WorkingDirectory(path) => {
            rustix::process::chdir(path)?;
            // A directory outside of the root shows as "(unreachable)…" (CVE-2024-21626).
            let mut buffer = [0_u8; 4096];
            sys::current_directory(&mut buffer)?;
            if buffer[0] == b'/' { Ok(()) } else { Err(Errno::ACCESS) }
        }
        Step::Umask(mask) => {
            rustix::process::umask(Mode::from_raw_mode(*mask));
            Ok(())
        }
    }
}

/// `MOUNT_ATTR_RDONLY` of mount_setattr(2).
const READ_ONLY: u64 = 1;

fn unshare_cgroup() -> Result<(), Errno> {
    sys::unshare(UnshareFlags::NEWCGROUP)
}

fn root(opened: &Opened) -> Result<BorrowedFd<'_>, Errno> {
    opened.root.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
}

/// The one way into the root filesystem.
fn in_root(root: BorrowedFd<'_>, path: &CStr, strict: bool) -> Result<OwnedFd, Errno> {
    let mut flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    flags.set(ResolveFlags::NO_SYMLINKS, strict);
    loop {
        match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags) {
            // Somebody renamed or mounted meanwhile (openat2(2)).
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The target, made if missing.
fn resolve(root: BorrowedFd<'_>, target: &Target) -> Result<OwnedFd, Errno> {
    let last = target.prefixes.len().checked_sub(1).ok_or(Errno::INVAL)?;
    match in_root(root, &target.prefixes[last], target.strict) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    for (index, (prefix, name)) in target.prefixes.iter().zip(&target.names).enumerate() {
        match in_root(root, prefix, target.strict) {
            Ok(_) => continue,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        if target.file && index == last {
            // Without O_EXCL a dangling link in the image (resolv.conf) makes the file it names, inside the root.
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
            let mut how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            how.set(ResolveFlags::NO_SYMLINKS, target.strict);
            drop(openat2(root, prefix, flags, Mode::from_raw_mode(0o644), how)?);
        } else {
            let parent = parent(root, target, index)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    in_root(root, &target.prefixes[last], target.strict)
}

fn parent(root: BorrowedFd<'_>, target: &Target, index: usize) -> Result<OwnedFd, Errno> {
    match index.checked_sub(1) {
        Some(above) => in_root(root, &target.prefixes[above], target.strict),
        None => in_root(root, c".", false),
    }
}

fn resolve_parent<'a>(root: BorrowedFd<'_>, target: &'a Target) -> Result<(OwnedFd, &'a CStr), Errno> {
    let last = target.prefixes.len().checked_sub(1).ok_or(Errno::INVAL)?;
    Ok((parent(root, target, last)?, &target.names[last]))
}

fn make_directory(
    root: BorrowedFd<'_>,
    target: &Target,
    uid: rustix::process::Uid,
    gid: rustix::process::Gid,
) -> Result<(), Errno> {
    let last = target.prefixes.len().checked_sub(1).ok_or(Errno::INVAL)?;
    match in_root(root, &target.prefixes[last], target.strict) {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let made = resolve(root, target)?;
    rustix::fs::chownat(&made, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

pub(super) fn attach_root(root: &RootMount) -> Result<OwnedFd, Errno> {
    let open = |over: &CStr| {
        rustix::fs::open(over, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    };
    match root {
        RootMount::Detached { mount, over } => {
            let place = open(over)?;
            attach(mount.as_fd(), place.as_fd())?;
        }
        RootMount::Legacy { over, data, layers } => {
            for (path, number) in layers {
                sys::dup_to(open(path)?, number.as_raw_fd())?;
            }
            mount(c"overlay", over.as_c_str(), c"overlay", MountFlags::empty(), data.as_c_str())?;
        }
    }
    let (RootMount::Detached { over, .. } | RootMount::Legacy { over, .. }) = root;
    open(over)
}

fn filesystem(
    kind: &CStr,
    parameters: &[(std::ffi::CString, Option<std::ffi::CString>)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in parameters {
        match value {
            Some(value) => fsconfig_set_string(&context, key.as_c_str(), value.as_c_str())?,
            None => fsconfig_set_flag(&context, key.as_c_str())?,
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags)
}

/// A file gets `/dev/null` over it, a directory an empty read-only tmpfs.
fn mask(opened: &Opened, place: BorrowedFd<'_>) -> Result<(), Errno> {
    if FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode) == FileType::Directory {
        let empty = filesystem(c"tmpfs", &[], MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        return attach(empty.as_fd(), place);
    }
    let null = opened.null.as_ref().ok_or(Errno::BADF)?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = open_tree(null, c"", flags)?;
    attach(copy.as_fd(), place)
}

fn write_proc(opened: &Opened, path: &CStr, value: &[u8]) -> Result<(), Errno> {
    let proc = opened.proc.as_ref().ok_or(Errno::BADF)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    if rustix::io::write(&file, value)? == value.len() { Ok(()) } else { Err(Errno::IO) }
}
