//! seccomp(2).
//!
//! # Safety
//! The kernel reads the program during the call and copies it; nothing here keeps a pointer.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use libc::{sock_filter, sock_fprog};
use rustix::io::Errno;

/// Loads a filter for this thread. With `SECCOMP_FILTER_FLAG_NEW_LISTENER` among the flags the answer is the number of
/// the listener, close-on-exec; else 0.
///
/// For a child between clone and exec: no allocation, no lock. An owner of the listener could not be dropped there
/// under just any filter, so it stays a number.
pub(crate) fn load_filter(program: &[sock_filter], flags: u32) -> Result<RawFd, Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    // The kernel does not write to the program, whatever the type says.
    let program = sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` is a valid sock_fprog, its pointer leads to as many instructions as it says, and both outlive
    // the call. What the thread may do afterwards is the caller's wish.
    let returned =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    RawFd::try_from(returned).ok().filter(|fd| *fd >= 0).ok_or_else(errno)
}

/// Whether the kernel knows all of these flags.
pub(super) fn kernel_knows(flags: u32) -> bool {
    // SAFETY: flags are looked at before the program is (kernel/seccomp.c); a null one is refused with EFAULT and
    // never read.
    let returned = unsafe {
        let none = std::ptr::null::<sock_fprog>();
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, none)
    };
    returned == -1 && errno() == Errno::FAULT
}

/// A copy of a descriptor of another process (pidfd_getfd(2), Linux 5.6).
pub(crate) fn take_descriptor(process: BorrowedFd<'_>, number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    let returned = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let fd = RawFd::try_from(returned).ok().filter(|fd| *fd >= 0).ok_or_else(errno)?;
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn errno() -> Errno {
    // SAFETY: errno is this thread's own, and a failed libc::syscall has just set it.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}
