//! The system calls that neither rustix nor nix wrap, or wrap with an allocation or a lock, each with its proof.
//!
//! Everything here may be called between clone and exec: no allocation, no lock, no errno through thread-local
//! storage that another thread could hold.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::{CStr, c_char, c_long};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use rustix::io::Errno;

/// `struct clone_args` of clone3(2), version 2.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// clone3(2)'s flag; libc's constant of that name does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The flags that clone(2) takes too: the lowest byte is the signal there.
const CLONE_FLAGS: u64 = 0xffff_ff00;

/// clone(2)'s flag for time namespaces, as clone3(2) and unshare(2) take it; libc has none.
pub(crate) const CLONE_NEWTIME: u64 = 0x80;

/// mount_setattr(2)'s flag for ID-mapped mounts.
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// A cloned child.
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

pub(crate) fn result(returned: c_long) -> Result<c_long, Errno> {
    if returned == -1 {
        // SAFETY: errno is this thread's own; libc::syscall has just set it. In a fresh clone it is the copy of the
        // calling thread's, at the same address.
        Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
    } else {
        Ok(returned)
    }
}

/// clone3(2), or clone(2) where that is denied, like fork: the child gets a copy of this thread's memory, in new namespaces (`flags`) and, given its
/// directory, in a v2 cgroup. `body` runs in the child and never returns.
///
/// The caller keeps one promise that no type can express: `body` must not allocate, lock or panic, for another thread
/// of the parent may have held the allocator's lock at the moment of the clone.
pub(crate) fn clone_child(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> Infallible, // `!`, as far as a closure can say it
) -> Result<Child, Errno> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        // A sibling ends with the signal that this process ends with (clone(2), CLONE_PARENT).
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given; without CLONE_VM the child runs on a copy of this stack,
    // so returning into this frame is sound, and `body` ends it by exec or _exit.
    let pid = result(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) });
    let pid = match pid {
        // A filter that cannot look into clone3's arguments says that there is no such call (Docker's default).
        Err(Errno::NOSYS) if cgroup.is_none() && flags & !CLONE_FLAGS == 0 => {
            let flags = args.flags | args.exit_signal;
            // SAFETY: without CLONE_VM the child runs on a copy of this stack, as with clone3; with CLONE_PIDFD the
            // third argument is where the kernel stores the descriptor, and `pidfd` outlives the call; the other two
            // are not read without their flags.
            result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) })?
        }
        pid => pid?,
    };
    if pid == 0 {
        body();
    }
    // SAFETY: the kernel stored a new descriptor, owned by nobody else, before the call returned in the parent.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: pid as i32, pidfd })
}

/// mount_setattr(2) on the mount that `mount` refers to.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = MountAttr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    set_attributes(mount, &attr, recursive)
}

/// mount_setattr(2) that makes a detached mount show IDs as `userns` maps them.
pub(crate) fn mount_idmap(
    mount: BorrowedFd<'_>,
    userns: BorrowedFd<'_>,
    recursive: bool,
) -> Result<(), Errno> {
    let userns_fd = userns.as_raw_fd() as u64;
    let attr = MountAttr { attr_set: MOUNT_ATTR_IDMAP, userns_fd, ..MountAttr::default() };
    set_attributes(mount, &attr, recursive)
}

fn set_attributes(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a valid empty C string and `attr` a valid mount_attr of the size given; both outlive the call.
    result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// A program's arguments or environment: C strings and the null-terminated array of pointers to them that exec wants,
/// made before the clone.
pub(crate) struct CStringArray {
    pointers: Vec<*const c_char>,
    _strings: Vec<std::ffi::CString>,
    _room: Option<Rc<[Cell<u8>]>>,
}

impl CStringArray {
    pub(crate) fn new(strings: Vec<std::ffi::CString>) -> Self {
        Self::with_room(strings, None)
    }

    /// One more string at the end whose bytes may still change; its last one is made a zero and must stay that.
    pub(crate) fn with_room(strings: Vec<std::ffi::CString>, room: Option<Rc<[Cell<u8>]>>) -> Self {
        let last = room.as_ref().and_then(|room| room.last());
        if let Some(last) = last {
            last.set(0);
        }
        // A cell has the layout of what is in it, and the array keeps the room alive.
        let extra = last.and(room.as_ref()).map(|room| room.as_ptr().cast::<c_char>());
        let pointers = strings.iter().map(|string| string.as_ptr());
        let pointers = pointers.chain(extra).chain([std::ptr::null()]).collect();
        Self { pointers, _strings: strings, _room: room }
    }
}

/// execve(2). Returns only if it failed.
pub(crate) fn execve(path: &CStr, argv: &CStringArray, envp: &CStringArray) -> Errno {
    // SAFETY: `path` is a C string; both arrays end with a null pointer and their pointers lead into C strings that
    // the same value owns, and whose last byte stays zero.
    let returned = unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr()) };
    result(c_long::from(returned)).err().unwrap_or(Errno::NOEXEC)
}

/// execveat(2) of the file that a descriptor refers to. Returns only if it failed.
pub(crate) fn execveat(program: &OwnedFd, argv: &CStringArray, envp: &CStringArray) -> Errno {
    // SAFETY: as for `execve`; the path is an empty C string.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    result(returned).err().unwrap_or(Errno::NOEXEC)
}

/// Ends the process now, without destructors or exit handlers (which belong to the parent's copy).
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// pause(2): sleeps until a signal is handled.
pub(crate) fn pause() {
    // SAFETY: pause has no preconditions.
    unsafe { libc::pause() };
}

/// Every signal back to its default, none blocked: exec keeps ignored signals ignored and blocked ones blocked.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; SIGKILL, SIGSTOP and glibc's own two are refused, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let empty: u64 = 0;
    // SAFETY: the kernel reads eight bytes, the size of its sigset_t on every Linux architecture but MIPS.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// Lets the signals by which people end a program end this one too. The first process of a PID namespace gets none that it
/// has no handler for (pid_namespaces(7)). An exec sets them back.
pub(crate) fn end_on_signals() {
    extern "C" fn end(signal: libc::c_int) {
        exit_now(128 + signal)
    }
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        let handler = end as extern "C" fn(libc::c_int);
        // SAFETY: the handler takes a signal's number and calls nothing but _exit(2), which is async-signal-safe.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Closes every descriptor from 3 + `preserved` on but these (close_range(2)), so that none leaks into the container
/// (CVE-2024-21626).
///
/// For a child between clone and exec: owners of the closed ones still stand in its copy of the parent's memory, and
/// must never be dropped there.
pub(crate) fn close_all_but(preserved: u32, kept: [Option<&OwnedFd>; 6]) -> Result<(), Errno> {
    let mut kept = kept.map(|fd| fd.map_or(u32::MAX, |fd| fd.as_raw_fd() as u32));
    kept.sort_unstable();
    let mut first = preserved.saturating_add(3);
    for fd in kept {
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd.saturating_add(1));
    }
    if first < u32::MAX { close_range(first, u32::MAX) } else { Ok(()) }
}

/// Closes every descriptor from this number on, under the conditions of [`close_all_but`].
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    close_range(first, u32::MAX)
}

/// Closes a copy of a descriptor of the parent's, under the conditions of [`close_all_but`].
pub(crate) fn close_one(fd: &OwnedFd) -> Result<(), Errno> {
    let number = fd.as_raw_fd() as u32;
    close_range(number, number)
}

fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: the process is a child between clone and exec that never drops an owner of these descriptors.
    result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// dup2(2): a copy under a number of a process about to exec: 0, 1 and 2, or a descriptor that is replaced by another
/// and stays open for its owner.
pub(crate) fn dup_to(fd: impl AsFd, number: RawFd) -> Result<(), Errno> {
    // SAFETY: the caller is a child between clone and exec; a descriptor that is replaced stays open for its owner.
    result(c_long::from(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) })).map(drop)
}

/// prctl(2) with numbers only.
pub(crate) fn prctl(option: i32, argument: u64) -> Result<(), Errno> {
    // SAFETY: only called with options whose arguments are numbers.
    result(c_long::from(unsafe { libc::prctl(option, argument, 0, 0, 0) })).map(drop)
}

/// pidfd_send_signal(2) with any signal number, real-time ones included.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed; the kernel fills it in as kill(2) does.
    result(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) })
        .map(drop)
}

/// unshare(2) with flags of namespaces (`NEW…`), which are the calling thread's own afterwards.
pub(crate) fn unshare(flags: rustix::thread::UnshareFlags) -> Result<(), Errno> {
    // SAFETY: no caller gives the flag for descriptors, the one by which a thread would lose what others open for it.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// unshare(2) with a flag that rustix does not know, under the same conditions.
pub(crate) fn unshare_raw(flag: u64) -> Result<(), Errno> {
    // SAFETY: as for `unshare`; no memory is involved.
    result(c_long::from(unsafe { libc::unshare(flag as i32) })).map(drop)
}

/// setns(2): joins the namespace, or these namespaces of the process, that `fd` refers to.
pub(crate) fn join(fd: &OwnedFd, types: u64) -> Result<(), Errno> {
    // SAFETY: called only by a process with one thread, between clone and exec; no memory is involved.
    result(c_long::from(unsafe { libc::setns(fd.as_raw_fd(), types as i32) })).map(drop)
}

/// Brings the loopback device of this network namespace up (netdevice(7)).
pub(crate) fn loopback_up() -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: the structure is plain numbers, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as _;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: an owned socket, and a structure of the kind that this request reads.
    result(c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) })).map(drop)
}

/// The `CLONE_NEW*` flag of a namespace's descriptor (ioctl_ns(2), NS_GET_NSTYPE).
pub(crate) fn namespace_type(fd: &OwnedFd) -> Result<u64, Errno> {
    // SAFETY: the request takes no argument.
    result(c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) })).map(|typ| typ as u64)
}

/// getcwd(2) without an allocation: the path and its zero byte go into `buffer`.
pub(crate) fn current_directory(buffer: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    result(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) }).map(drop)
}

/// prlimit(2) on a process, or this one, by the kernel's own number of the resource.
pub(crate) fn set_rlimit(pid: Option<i32>, resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: pid 0 is this process; `limit` is valid for reads, and the old limit is not asked for.
    result(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid.unwrap_or(0),
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
    .map(drop)
}

/// Gives back memory that can be had again: pages of the program's code and constants, which are the file's and come
/// back from the page cache one by one as they are touched (madvise(2), MADV_DONTNEED), and what the heap keeps in stock.
pub(crate) fn give_back_memory() {
    extern "C" fn forget(
        info: *mut libc::dl_phdr_info,
        _: libc::size_t,
        _: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: dl_iterate_phdr(3) gives a valid structure, and the program's headers stay as long as the program.
        let (base, headers) = unsafe {
            let info = &*info;
            (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
        };
        for header in
            headers.iter().filter(|one| one.p_type == libc::PT_LOAD && one.p_flags & libc::PF_W == 0)
        {
            let first = (base + header.p_vaddr).next_multiple_of(PAGE);
            let end = (base + header.p_vaddr + header.p_memsz) / PAGE * PAGE;
            if first < end {
                // SAFETY: whole pages of a segment that is never written, so that they are as they are in the file.
                unsafe {
                    libc::madvise(first as *mut libc::c_void, (end - first) as usize, libc::MADV_DONTNEED)
                };
            }
        }
        0
    }
    /// A multiple of every page size that Linux has.
    const PAGE: u64 = 64 * 1024;
    // SAFETY: the function has the right type, keeps nothing and does not unwind; the heap's own function is always
    // allowed.
    unsafe {
        libc::malloc_trim(0);
        libc::dl_iterate_phdr(Some(forget), std::ptr::null_mut());
    }
}

/// Takes a descriptor that this process inherited under a number told by its former self. `None` if it is not open.
///
/// The caller vouches that nobody in this process owns that number: it was left open on purpose across exec, and is
/// asked for once, before anything else is opened.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl on any number is harmless; the ownership is the caller's promise above.
    unsafe {
        if number < 3 || libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) == -1 {
            return None;
        }
        Some(OwnedFd::from_raw_fd(number))
    }
}

/// Makes `command` run in a session of its own, and (`orphan`) as nobody's child: a middle process ends at once, so
/// that the program belongs to init or the nearest subreaper and no signal to the caller's session reaches it.
pub(crate) fn detach(command: &mut std::process::Command, orphan: bool) {
    use std::os::unix::process::CommandExt as _;
    let body = move || {
        // SAFETY: both calls are async-signal-safe and take no pointers.
        unsafe {
            if libc::setsid() == -1 {
                return Err(std::io::Error::last_os_error());
            }
            if orphan {
                match libc::fork() {
                    -1 => return Err(std::io::Error::last_os_error()),
                    0 => {}
                    _ => libc::_exit(0),
                }
            }
        }
        Ok(())
    };
    // SAFETY: `body` neither allocates nor locks (an error is made from an errno alone).
    unsafe { command.pre_exec(body) };
}

/// Makes `command` lead a session and process group of its own, so that it can be killed with its descendants, and end
/// when this thread does.
pub(crate) fn lead_session(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let parent = std::process::id() as i32;
    let body = move || {
        // SAFETY: the calls are async-signal-safe and take no pointers.
        let done = unsafe {
            libc::setsid() != -1
                && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) != -1
                // It may have ended before it was asked for.
                && libc::getppid() == parent
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: `body` neither allocates nor locks (an error is made from an errno alone).
    unsafe { command.pre_exec(body) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of this program's file in this process's memory (proc_pid_smaps(5)): counted page by page, where the
    /// sums of proc_pid_status(5) lag behind before Linux 6.2.
    fn of_files() -> u64 {
        let program = std::env::current_exe().unwrap();
        let program = program.to_str().unwrap();
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut ours = false;
        let mut sum = 0;
        for line in text.lines() {
            if let Some(rss) = line.strip_prefix("Rss:").filter(|_| ours) {
                sum += rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            } else if line.split(' ').next().is_some_and(|word| word.contains('-')) {
                ours = line.ends_with(program);
            }
        }
        sum
    }

    #[test]
    fn what_is_given_back_is_had_again() {
        // Other tests touch pages all the while.
        let less = (0..100).any(|_| {
            let before = of_files();
            give_back_memory();
            of_files() < before
        });
        assert!(less);
        assert_eq!(format!("{:?}", Errno::NOENT), format!("{:?}", Errno::from_raw_os_error(2)));
    }
}
