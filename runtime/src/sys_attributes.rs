//! The system calls that give a process its scheduling, memory and keyring attributes. Like [`crate::sys`], everything
//! here may be called between clone and exec.
#![allow(unsafe_code)]

use std::ffi::CStr;

use rustix::io::Errno;

use crate::sys::result;

/// `struct sched_attr` of sched_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    pub(crate) util_min: u32,
    pub(crate) util_max: u32,
}

/// keyctl(2)'s operations.
const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
const KEYCTL_SETPERM: i32 = 5;
const KEYCTL_DESCRIBE: i32 = 6;

/// `IOPRIO_WHO_PROCESS` of ioprio_set(2).
const IOPRIO_WHO_PROCESS: i32 = 1;

/// sched_setattr(2) on the calling thread.
pub(crate) fn set_scheduler(attr: &SchedAttr) -> Result<(), Errno> {
    // SAFETY: `attr` is a valid sched_attr whose `size` is that of the type; the kernel only reads it.
    result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) }).map(drop)
}

/// sched_setaffinity(2) on the calling thread; bit n of the words is processor n.
pub(crate) fn set_affinity(mask: &[u64]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `size_of_val(mask)` bytes.
    result(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) })
        .map(drop)
}

/// ioprio_set(2) on the calling thread.
pub(crate) fn set_io_priority(value: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    result(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// personality(2).
pub(crate) fn set_personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    result(unsafe { libc::syscall(libc::SYS_personality, u64::from(persona)) }).map(drop)
}

/// set_mempolicy(2); bit n of the words is node n.
pub(crate) fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<(), Errno> {
    // The kernel takes one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { size_of_val(nodes) * 8 + 1 };
    let pointer = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the kernel reads the words that hold `bits` - 1 bits, which `nodes` has; a null pointer with no bits is
    // the empty set.
    result(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) }).map(drop)
}

/// Joins the session keyring of that name, made if there is none (keyctl_join_session_keyring(3)). Returns its number.
pub(crate) fn join_session_keyring(name: &CStr) -> Result<i32, Errno> {
    // SAFETY: `name` is a C string.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    result(key).map(|key| key as i32)
}

/// What the kernel says of a key (keyctl_describe(3)), as much of it as fits.
pub(crate) fn describe_key(key: i32, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes, and only if all fits; it returns how long all is.
    let length =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_DESCRIBE, key, buffer.as_mut_ptr(), buffer.len()) };
    let length = result(length)? as usize;
    if length <= buffer.len() { Ok(length) } else { Err(Errno::OVERFLOW) }
}

/// keyctl_setperm(3).
pub(crate) fn set_key_permissions(key: i32, permissions: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    result(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, permissions) }).map(drop)
}

/// Closes a descriptor of a process between clone and exec, whose owner stands in its copy of the parent's memory and
/// is never dropped there.
pub(crate) fn close_in_child(number: i32) {
    // SAFETY: see above; an error (no such descriptor) changes nothing.
    unsafe { libc::close(number) };
}
