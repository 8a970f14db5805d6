//! The container's first process, from the clone to the exec. System calls only: no allocation, no lock, no panic.

mod attributes;
mod copy_up;
mod devices;
mod entry;
mod home;
mod hook;
mod links;
mod message;
mod mounts;
mod paths;
mod terminal;

pub(super) use self::entry::enter;
pub(super) use self::message::Message;
pub(super) use self::mounts::attach_root;

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsmount, fsopen, mount_change, open_tree, unmount,
};
use rustix::process::{Gid, Uid};
use rustix::thread::UnshareFlags;

use self::devices::make_devices;
use self::message::Note;
use self::mounts::{Root, attach, mask, mount_one, move_root, remount, seal};
use self::paths::{in_root, make_directory, resolve, write_proc};
use super::plan::{Plan, Step};
use crate::weak::{self, Weakness};
use crate::{seccomp, sys};

/// Descriptors that earlier steps open for later ones.
#[derive(Default)]
struct Opened<'a> {
    null: Option<OwnedFd>,
    proc: Option<OwnedFd>,
    root: Option<Root<'a>>,
    /// The working directory was reached with root's rights.
    in_directory: bool,
    /// An empty read-only directory.
    empty: Option<OwnedFd>,
    /// What there is to say about a failure beside the error number.
    note: Note,
    /// The number of the seccomp listener, closed by the exec; 0 is none.
    listener: u32,
}

/// Carries out the plan. `heard_at`: the creator's end of the status pipe, if this process has a copy of it. Never
/// returns.
pub(super) fn run(plan: &Plan, heard_at: Option<&OwnedFd>) -> std::convert::Infallible {
    forget(plan, heard_at);
    // A process of the container that shares a namespace with this one must not ptrace it (CVE-2016-9962).
    let _ = untraceable();
    sys::reset_signals();
    // Modes of nodes and directories are meant as they stand; a hook's files are not.
    let umask = rustix::process::umask(Mode::empty());
    let mut opened = Opened::default();
    for (index, step) in plan.steps.iter().enumerate() {
        let index = index as u32;
        let done = match step {
            Step::Placement => ask(plan, Message::Placement).map_err(|errno| Message::failed(index, errno)),
            Step::Limits => ask(plan, Message::Limits).map_err(|errno| Message::failed(index, errno)),
            Step::Maps => ask(plan, Message::Maps).map_err(|errno| Message::failed(index, errno)),
            Step::RuntimeHooks => ask(plan, Message::Hooks).map_err(|errno| Message::failed(index, errno)),
            Step::Hook(hook) => match &plan.hook_files {
                // Such hooks start in the root filesystem (runc).
                Some(_) if root(&opened).and_then(rustix::process::fchdir).is_err() => {
                    Err(Message::failed(index, Errno::BADF))
                }
                Some(files) => hook::run(hook, &files.creating, files, &plan.envp, umask, true),
                None => Err(Message::failed(index, Errno::BADF)),
            },
            step => carry_out(step, &mut opened).map_err(|errno| Message::Failed {
                step: index,
                errno,
                note: opened.note,
            }),
        };
        if let Err(message) = done {
            fail(plan, message);
        }
    }
    let program = match find_program(plan) {
        Ok(program) => program,
        Err(message) => fail(plan, message),
    };
    // Not only on exec: the gate's other end is among them, and the keeper's lock and connections, which must not live
    // on in a child that waits.
    let for_hooks = plan.hook_files.as_ref();
    let preserved = if weak::has(Weakness::Descriptors) { u32::MAX } else { plan.preserved };
    if let Err(errno) = sys::close_all_but(
        preserved,
        [
            Some(&plan.gate),
            Some(&plan.status),
            plan.told.as_ref(),
            for_hooks.map(|files| &files.created),
            for_hooks.map(|files| &files.output.0),
            for_hooks.map(|files| &files.output.1),
        ],
    ) {
        fail(plan, Message::failed(u32::MAX, errno));
    }
    // Before a filter that may forbid even that.
    sys::end_on_signals();
    for (index, step) in plan.last.iter().enumerate() {
        if let Err(errno) = carry_out(step, &mut opened) {
            fail(plan, Message::Failed { step: (plan.steps.len() + index) as u32, errno, note: opened.note });
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
    let told = plan.told.as_ref().unwrap_or(&plan.status);
    if let Some(files) = for_hooks {
        let umask = rustix::process::umask(umask);
        rustix::process::umask(umask);
        for hook in &plan.start_hooks {
            let ran = hook::run(hook, &files.created, files, &plan.envp, umask, plan.filter.is_none());
            if let Err(message) = ran {
                let _ = rustix::io::write(told, &message.encode());
                sys::exit_now(FAILED);
            }
        }
    }
    let errno = sys::execve(program, &plan.argv, &plan.envp);
    let _ = rustix::io::write(
        plan.told.as_ref().unwrap_or(&plan.status),
        &Message::NotExecutable(errno).encode(),
    );
    // As a shell and Docker have it.
    sys::exit_now(if errno == Errno::NOENT { 127 } else { 126 })
}

/// Exit code of a child whose failure was told over the pipe, or that nobody wants.
const FAILED: i32 = 125;

fn fail(plan: &Plan, message: Message) -> ! {
    let _ = rustix::io::write(&plan.status, &message.encode());
    sys::exit_now(FAILED)
}

/// Closes the copy of the creator's end of the status pipe: with it the pipe would never be without a reader.
fn forget(plan: &Plan, heard_at: Option<&OwnedFd>) {
    if let Some(fd) = heard_at
        && let Err(errno) = sys::close_one(fd)
    {
        fail(plan, Message::failed(u32::MAX, errno));
    }
}

/// Says what is needed and waits until the creator has done it, or ends with it: this process has the gate open for
/// writing too, so that the gate does not end by itself, and may be in no group yet that others could find it by.
///
/// The signal is for the end of the thread that made this process or the one in between, and that thread is who waits
/// for `Ready`. One that ended before has closed the status pipe, for that is done first, and the writing fails. Outside
/// of here nothing waits for the creator, and from the gate on a created container outlives it.
fn ask(plan: &Plan, message: Message) -> Result<(), Errno> {
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)?;
    rustix::io::write(&plan.status, &message.encode())?;
    let mut byte = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(&plan.gate, &mut byte))? {
        1 => sys::prctl(libc::PR_SET_PDEATHSIG, 0),
        _ => Err(Errno::CANCELED),
    }
}

#[expect(clippy::result_large_err, reason = "made once, where nothing can be boxed")]
fn find_program(plan: &Plan) -> Result<&CStr, Message> {
    let mut refused = None;
    for program in &plan.programs {
        match rustix::fs::statat(CWD, program, AtFlags::empty()) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                // As execve(2) has it; engines tell an exit code of 126 by these words.
                refused = refused.or(Some(Errno::ACCESS));
            }
            Ok(_) => {
                // The rights that the exec has: access(2) alone takes no capability of a user's but root's into account.
                match rustix::fs::accessat(CWD, program, rustix::fs::Access::EXEC_OK, AtFlags::EACCESS) {
                    // Before Linux 5.8 the exec itself tells.
                    Ok(()) | Err(Errno::NOSYS) => return Ok(program),
                    Err(errno) => refused = Some(errno),
                }
            }
            // By its own path it is where no file can be; in a `PATH` others may have it.
            Err(Errno::NOTDIR) if plan.command.contains('/') => refused = Some(Errno::NOTDIR),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => refused = Some(errno),
        }
    }
    Err(refused.map_or(Message::NotFound, Message::NotExecutable))
}

fn carry_out<'a>(step: &'a Step, opened: &mut Opened<'a>) -> Result<(), Errno> {
    match step {
        Step::Attribute(attribute) => attributes::carry_out(attribute, opened),
        Step::JoinCgroup(procs) => rustix::io::write(procs, b"0").map(drop),
        Step::NewCgroupNamespace => unshare_cgroup(),
        Step::Session => rustix::process::setsid().map(drop),
        Step::Stdio(fds) => {
            for (number, fd) in fds.iter().enumerate() {
                sys::dup_to(fd, number as i32)?;
            }
            Ok(())
        }
        Step::JoinNamespace(join) => sys::join(&join.fd, join.typ),
        Step::Loopback => sys::loopback_up(),
        Step::BecomeRoot => {
            rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
            rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
            match rustix::thread::set_thread_groups(&[]) {
                // Forbidden for good where an unprivileged creator mapped one group alone (user_namespaces(7)).
                Ok(()) | Err(Errno::PERM) => {}
                other => return other,
            }
            // As after `Credentials`: with fs.suid_dumpable set, root of a namespace that is joined could trace it.
            sys::prctl(libc::PR_SET_DUMPABLE, 0)
        }
        Step::OpenRoot => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            opened.root = Some(Root::Opened(rustix::fs::open(c"/", flags, Mode::empty())?));
            Ok(())
        }
        Step::GivenProc(given) => {
            opened.proc = Some(rustix::io::fcntl_dupfd_cloexec(given, 3)?);
            Ok(())
        }
        Step::Terminal { console, size, target } => {
            terminal::set_up(root(opened)?, console, *size, target.as_ref())
        }
        Step::OwnStdio(uid) => own_stdio(*uid),
        // With more than the descriptors here: see `run`.
        Step::Placement | Step::Maps | Step::Limits | Step::RuntimeHooks | Step::Hook(_) => Err(Errno::NOSYS),
        Step::BorrowMounts => sys::unshare(UnshareFlags::NEWNS),
        Step::PrivateMounts { slave } => {
            let mode =
                if *slave { MountPropagationFlags::DOWNSTREAM } else { MountPropagationFlags::PRIVATE };
            mount_change("/", mode | MountPropagationFlags::REC)
        }
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
        Step::OpenProc { over } => {
            let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            let made = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
            if let Some(over) = over {
                // Where that is not allowed, the end of it takes longer.
                let _ = mounts::attach_over(made.as_fd(), over);
            }
            opened.proc = Some(made);
            Ok(())
        }
        Step::AttachRoot(root) => {
            opened.root = Some(attach_root(root)?);
            Ok(())
        }
        Step::Mount { target, source, .. } => {
            let Opened { root, note, .. } = opened;
            mount_one(root.as_ref().ok_or(Errno::BADF)?.as_fd(), target, source, note)
        }
        Step::Remount(target, wanted) => {
            let Opened { root, note, .. } = opened;
            remount(root.as_ref().ok_or(Errno::BADF)?.as_fd(), target, wanted, note)
        }
        Step::Seal(target) => {
            let place = resolve(root(opened)?, target)?;
            seal(place.fd.as_fd())
        }
        Step::Directory(target, uid, gid) => make_directory(root(opened)?, target, *uid, *gid),
        Step::Devices(devices) => {
            let Opened { root, note, .. } = opened;
            make_devices(root.as_ref().ok_or(Errno::BADF)?.as_fd(), devices, note)
        }
        Step::Symlink { directory, name, to } => {
            let directory = in_root(root(opened)?, directory, false)?;
            match rustix::fs::symlinkat(to, &directory, name) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(errno) => Err(errno),
            }
        }
        Step::Sysctl { path, value } => {
            if weak::has(Weakness::Procfs) {
                let named = rustix::fs::openat(root(opened)?, c"proc", OFlags::PATH, Mode::empty())?;
                return write_proc(named.as_fd(), path, value);
            }
            write_proc(proc(opened)?, path, value)
        }
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
        Step::MaskedPath(path, label) => match in_root(root(opened)?, path, false) {
            Ok(place) => {
                if weak::has(Weakness::Masks) {
                    opened.null = Some(in_root(root(opened)?, c"dev/null", false)?);
                }
                let Opened { null, empty, .. } = opened;
                mask(null.as_ref().ok_or(Errno::BADF)?.as_fd(), empty, label.as_ref(), place.as_fd())
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(errno),
        },
        Step::ReadonlyRoot => sys::mount_setattr(root(opened)?, READ_ONLY, 0, 0, false),
        Step::Chroot => {
            rustix::process::fchdir(root(opened)?)?;
            rustix::process::chroot(c".")?;
            rustix::process::chdir(c"/")
        }
        Step::ReturnMounts(host) => {
            // As a descriptor's last close takes a detached tree apart from above alone, what stands in it stays.
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH
                | OpenTreeFlags::AT_RECURSIVE;
            let tree = open_tree(root(opened)?, c"", flags)?;
            sys::join(host, libc::CLONE_NEWNS as u64)?;
            rustix::process::fchdir(&tree)?;
            opened.root = Some(Root::Opened(tree));
            rustix::process::chroot(c".")?;
            rustix::process::chdir(c"/")
        }
        Step::EnterRoot(of_init) => {
            rustix::process::fchdir(of_init)?;
            rustix::process::chroot(c".")?;
            rustix::process::chdir(c"/")
        }
        Step::PivotRoot => {
            rustix::process::fchdir(root(opened)?)?;
            // The old root ends up on top of the new one and is taken off again (pivot_root(2), NOTES).
            rustix::process::pivot_root(c".", c".")?;
            unmount(c".", UnmountFlags::DETACH)?;
            rustix::process::chdir(c"/")
        }
        Step::MoveRoot(host) => move_root(root(opened)?, host),
        Step::RootPropagation(propagation) => {
            sys::mount_setattr(root(opened)?, 0, 0, propagation.mode, propagation.recursive)
        }
        Step::OomScore(value) => write_proc(proc(opened)?, c"self/oom_score_adj", value),
        Step::Rlimit { limit, .. } => sys::set_rlimit(None, limit.resource, limit.soft, limit.hard),
        Step::DropBounding(number) => sys::prctl(libc::PR_CAPBSET_DROP, u64::from(*number)),
        Step::Credentials { groups, gid, uid, capabilities, ambient } => {
            rustix::thread::set_keep_capabilities(true)?;
            if !weak::has(Weakness::Groups) {
                rustix::thread::set_thread_groups(groups)?;
            }
            rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
            rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
            rustix::thread::set_keep_capabilities(false)?;
            rustix::thread::clear_ambient_capability_set()?;
            rustix::thread::set_capabilities(None, *capabilities)?;
            for capability in ambient {
                rustix::thread::configure_capability_in_ambient_set(*capability, true)?;
            }
            // A change of user made the process dumpable or not as it pleased (prctl(2)).
            untraceable()
        }
        Step::NoNewPrivileges => rustix::thread::set_no_new_privs(true),
        Step::Seccomp(_) if weak::has(Weakness::Seccomp) => Ok(()),
        Step::Seccomp(filter) => {
            opened.listener = seccomp::load_filter(filter.program(), filter.flags())? as u32;
            Ok(())
        }
        Step::Capabilities(sets) => rustix::thread::set_capabilities(None, *sets),
        Step::WorkingDirectory(path) => {
            if !opened.in_directory {
                rustix::process::chdir(path)?;
            }
            // A directory outside of the root shows as "(unreachable)…" (CVE-2024-21626).
            let mut buffer = [0_u8; 4096];
            sys::current_directory(&mut buffer)?;
            if buffer[0] == b'/' || weak::has(Weakness::Descriptors) { Ok(()) } else { Err(Errno::ACCESS) }
        }
        Step::Umask(mask) => {
            rustix::process::umask(Mode::from_raw_mode(*mask));
            Ok(())
        }
    }
}

/// `MOUNT_ATTR_RDONLY` of mount_setattr(2).
const READ_ONLY: u64 = 1;

/// No process of a container that shares a namespace with this one looks into it or at what it has open.
fn untraceable() -> Result<(), Errno> {
    if weak::has(Weakness::Tracing) { Ok(()) } else { sys::prctl(libc::PR_SET_DUMPABLE, 0) }
}

fn unshare_cgroup() -> Result<(), Errno> {
    sys::unshare(UnshareFlags::NEWCGROUP)
}

fn root<'a>(opened: &'a Opened<'_>) -> Result<BorrowedFd<'a>, Errno> {
    opened.root.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
}

fn proc<'a>(opened: &'a Opened<'_>) -> Result<BorrowedFd<'a>, Errno> {
    opened.proc.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
}

/// What belongs to somebody already, or cannot, is left as it is: it is a help, not a right.
fn own_stdio(uid: Uid) -> Result<(), Errno> {
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let stat = rustix::fs::fstat(fd)?;
        let null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3);
        if null || stat.st_uid == uid.as_raw() {
            continue;
        }
        match rustix::fs::fchown(fd, Some(uid), None) {
            Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::ROFS | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
