//! bpf(2): loads a device program and makes it the only one of ours on a v2 group.
//!
//! # Safety
//! The one system call gets a zeroed union of the size that the kernel knows since Linux 4.15 or later; the buffers
//! that it points to outlive the call.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Rule;
use super::program::{Instruction, assemble};
use crate::cgroup::CgroupError;
use crate::sys;

const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;
const PROG_GET_FD_BY_ID: u32 = 13;
const PROG_QUERY: u32 = 16;

const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

/// The kernel allows no more programs of one type on a group.
const PROGRAMS_MAX: usize = 64;

/// The part of `union bpf_attr` for `BPF_PROG_LOAD`, up to the name.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// For `BPF_PROG_ATTACH` and `_DETACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
    padding: u32,
}

/// For `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// For `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
    padding: u32,
}

fn bpf<T>(command: u32, attribute: &mut T) -> Result<i32, Errno> {
    // SAFETY: `attribute` is one of the structs above, valid for reads and writes of its size, without padding bytes.
    let returned =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if returned < 0 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    } else {
        Ok(returned as i32)
    }
}

fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: bpf(2) has just returned this new descriptor to us.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Attaches the program for `rules` to the group at `path` in place of the programs that are there.
pub(in crate::cgroup) fn attach(path: &Path, rules: &[Rule]) -> Result<(), CgroupError> {
    let failed = |action| move |errno: Errno| CgroupError::Bpf { action, source: errno.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let group = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| CgroupError::io("open", path)(errno.into()))?;
    let group = group.as_raw_fd() as u32;
    let old = attached(group).map_err(failed("list the device programs of the group"))?;
    let program = assemble(rules);
    // The kernel refuses to have one twice in a group; only in place of itself it may come.
    let program = if old.len() > 1 { load(&program).map(Arc::new) } else { loaded(program) };
    let program = program.map_err(failed("load the device program"))?;
    let mut attach = Attach {
        target: group,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        ..Attach::default()
    };
    // One is replaced without a moment in which nothing, or both, apply.
    if let [one] = &old[..] {
        attach.flags |= REPLACE;
        attach.replaced = one.as_raw_fd() as u32;
    }
    bpf(PROG_ATTACH, &mut attach).map_err(failed("attach the device program"))?;
    if old.len() > 1 {
        for one in &old {
            let program = one.as_raw_fd() as u32;
            let mut detach =
                Attach { target: group, program, kind: ATTACH_CGROUP_DEVICE, ..Attach::default() };
            bpf(PROG_DETACH, &mut detach).map_err(failed("detach an older device program"))?;
        }
    }
    Ok(())
}

/// Programs that this process has loaded, latest used first.
static LOADED: Mutex<VecDeque<(Vec<Instruction>, Arc<OwnedFd>)>> = Mutex::new(VecDeque::new());

/// So many are kept: a node's containers have few different rules, and to have one checked and compiled takes the kernel
/// a tenth of a container's start. Each is a descriptor.
const LOADED_MAX: usize = 8;

/// The kernel's program of these instructions. One program may be attached to many groups.
fn loaded(program: Vec<Instruction>) -> Result<Arc<OwnedFd>, Errno> {
    let mut kept = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = kept.iter().position(|(instructions, _)| *instructions == program);
    let found = match known.and_then(|index| kept.remove(index)) {
        Some(found) => found,
        None => {
            let descriptor = Arc::new(load(&program)?);
            (program, descriptor)
        }
    };
    let descriptor = Arc::clone(&found.1);
    kept.push_front(found);
    kept.truncate(LOADED_MAX);
    Ok(descriptor)
}

fn load(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let license = c"Apache-2.0";
    let mut attribute = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    attribute.name[..12].copy_from_slice(b"skep_devices");
    match bpf(PROG_LOAD, &mut attribute) {
        // Kernels before 5.11 count programs as locked memory. A limit that cannot be raised is told by the load itself.
        Err(Errno::PERM) => {
            let unlimited = libc::RLIM_INFINITY;
            let _ = sys::set_rlimit(None, libc::RLIMIT_MEMLOCK, unlimited, unlimited);
            bpf(PROG_LOAD, &mut attribute).map(owned)
        }
        other => other.map(owned),
    }
}

/// The device programs on the group. Those that a security module hides are left alone: they can only deny more.
fn attached(group: u32) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0_u32; PROGRAMS_MAX];
    let mut query = Query {
        target: group,
        kind: ATTACH_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: PROGRAMS_MAX as u32,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut query)?;
    let mut programs = Vec::new();
    for id in ids.iter().take(query.count as usize) {
        match bpf(PROG_GET_FD_BY_ID, &mut ById { id: *id, ..ById::default() }) {
            Ok(descriptor) => programs.push(owned(descriptor)),
            // Gone in the meantime, or hidden.
            Err(Errno::NOENT | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(programs)
}

/// How many device programs are on the group.
#[cfg(test)]
pub(super) fn count(group: &std::fs::File) -> usize {
    attached(group.as_raw_fd() as u32).unwrap().len()
}

/// Attaches one more program, as somebody else might.
#[cfg(test)]
pub(super) fn add(group: &std::fs::File, rules: &[Rule]) {
    let program = load(&assemble(rules)).unwrap();
    let mut attach = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        ..Attach::default()
    };
    bpf(PROG_ATTACH, &mut attach).unwrap();
}
