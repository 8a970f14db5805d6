//! The process between the creator and the init: it joins what takes effect in its children, makes the init as its own
//! younger sibling, tells its number and ends.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{FAILED, Message, fail, run};
use crate::container::plan::{Entry, Plan, Step};
use crate::sys;

/// Carries out the entry. Never returns.
pub(in crate::container) fn enter(
    plan: &Plan,
    entry: &Entry,
    into_cgroup: Option<BorrowedFd<'_>>,
    heard_at: &OwnedFd,
) -> std::convert::Infallible {
    super::forget(plan, Some(heard_at));
    let first = plan.steps.len() + plan.last.len();
    let after = first + entry.joins.len();
    let failed = |step: usize, errno| -> ! { fail(plan, Message::failed(step as u32, errno)) };
    // While the file is this user's, which it is not once nobody may trace the process.
    if let Some(score) = &entry.oom_score
        && let Err(errno) = write_own(c"/proc/self/oom_score_adj", score)
    {
        failed(after + 4, errno);
    }
    let _ = super::untraceable();
    if let Some(Step::Attribute(affinity)) = &entry.affinity
        && let Err(errno) = super::attributes::carry_out(affinity, &mut super::Opened::default())
    {
        failed(after + 3, errno);
    }
    for procs in &entry.cgroups {
        if let Err(errno) = rustix::io::write(procs, b"0") {
            failed(after, errno);
        }
    }
    if let Some(offsets) = &entry.time_offsets
        && let Err(errno) = time_namespace(offsets)
    {
        failed(after + 1, errno);
    }
    // Before the user namespace with the host's rights, after it with those in it.
    let mut left = 0_u32;
    for (index, join) in entry.joins.iter().enumerate().filter(|(_, join)| !join.is_user()) {
        match sys::join(&join.fd, join.typ) {
            Ok(()) => {}
            Err(Errno::PERM) => left |= 1 << index,
            Err(errno) => failed(first + index, errno),
        }
    }
    let later = |index: usize| left & (1 << index) != 0;
    let users = entry.joins.iter().enumerate().filter(|(_, join)| join.is_user());
    for (index, join) in users.chain(entry.joins.iter().enumerate().filter(|(index, _)| later(*index))) {
        if let Err(errno) = sys::join(&join.fd, join.typ) {
            failed(first + index, errno);
        }
    }
    let flags = plan.clone_flags | libc::CLONE_PARENT as u64;
    match sys::clone_child(flags, into_cgroup, || run(plan, None)) {
        Ok(child) => {
            let told = rustix::io::write(&plan.status, &Message::Entered { pid: child.pid }.encode());
            sys::exit_now(if told.is_ok() { 0 } else { FAILED })
        }
        Err(errno) => failed(after + 2, errno),
    }
}

/// The offsets can be set until the first process is in it (time_namespaces(7)), which is the init.
fn time_namespace(offsets: &[u8]) -> Result<(), Errno> {
    sys::unshare_raw(sys::CLONE_NEWTIME)?;
    write_own(c"/proc/self/timens_offsets", offsets)
}

/// Writes a file of the host's procfs, which is still the one in sight.
fn write_own(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::io::write(&file, text)? == text.len() { Ok(()) } else { Err(Errno::IO) }
}
