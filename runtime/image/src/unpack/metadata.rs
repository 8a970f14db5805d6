//! What an entry says about its owner, mode, times and attributes, in the kernel's types.

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::tarstream::Entry;

/// An operation of the kernel for an entry.
pub(super) type Step<T> = Result<T, (&'static str, Errno)>;

pub(super) fn owner(entry: &Entry) -> Result<(Uid, Gid), &'static str> {
    // The highest value means "leave as it is" to chown(2).
    let id = |n: u64| u32::try_from(n).ok().filter(|&n| n != u32::MAX).ok_or("an owner out of range");
    Ok((Uid::from_raw(id(entry.uid)?), Gid::from_raw(id(entry.gid)?)))
}

pub(super) fn permissions(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode & 0o7777)
}

pub(super) fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// The attributes that a layer may set. `trusted.*` would let it write overlayfs' own marks (redirects into
/// other folders); labels of this host's security modules are this host's.
pub(super) fn wanted_xattr(key: &[u8]) -> bool {
    key == b"security.capability"
        || key.starts_with(b"system.posix_acl_")
        || (key.starts_with(b"user.") && !key.starts_with(b"user.overlay."))
}

/// File systems without `user.*` or ACLs lose them; losing a capability would make a program fail later.
pub(super) fn xattr_result(key: &[u8], result: Option<Result<(), Errno>>) -> Step<()> {
    match result {
        Some(Err(Errno::NOTSUP | Errno::PERM)) if key != b"security.capability" => Ok(()),
        Some(Err(e)) => Err(("set an extended attribute", e)),
        _ => Ok(()),
    }
}
