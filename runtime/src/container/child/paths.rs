//! The one way into the root filesystem, and the one to procfs.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::links;
use crate::container::plan::Target;
use crate::weak::{self, Weakness};

/// How often a path is opened before who disturbs it has won. On a busy host a second try is enough; one who renames on
/// purpose needs more luck each time.
const DISTURBED_MAX: usize = 1000;

/// What holds for every path in the root filesystem.
fn rule(strict: bool) -> ResolveFlags {
    if weak::has(Weakness::Paths) {
        return ResolveFlags::empty();
    }
    let mut rule = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rule.set(ResolveFlags::NO_SYMLINKS, strict);
    rule
}

/// The one way into the root filesystem.
pub(super) fn in_root(root: BorrowedFd<'_>, path: &CStr, strict: bool) -> Result<OwnedFd, Errno> {
    let flags = rule(strict);
    undisturbed(|| openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags))
}

/// Tries again when somebody renamed or mounted meanwhile (openat2(2), `EAGAIN`).
fn undisturbed(mut open: impl FnMut() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 1..DISTURBED_MAX {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    open()
}

/// Where a mount goes.
pub(super) struct Place {
    pub(super) fd: OwnedFd,
    /// It was there before.
    pub(super) existed: bool,
}

/// The target, made if missing.
pub(super) fn resolve(root: BorrowedFd<'_>, target: &Target) -> Result<Place, Errno> {
    resolve_as(root, target, target.file)
}

/// The target for a file or a directory, made as such if missing.
pub(super) fn resolve_as(root: BorrowedFd<'_>, target: &Target, file: bool) -> Result<Place, Errno> {
    let last = target.prefixes.last().ok_or(Errno::INVAL)?;
    // Without links first: then the path's own text says where it leads, and nothing is left to check.
    match in_root(root, last, true) {
        Ok(fd) => return Ok(Place { fd, existed: true }),
        Err(Errno::LOOP) if !target.strict => match in_root(root, last, false) {
            Ok(fd) => {
                harmless(root, fd.as_fd(), target.in_proc)?;
                return Ok(Place { fd, existed: true });
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        },
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let fd = match make(root, target, file).and_then(|()| in_root(root, last, target.strict)) {
        // A link that leads to nothing.
        Err(Errno::NOENT) if !target.strict => {
            links::make(root, last, file)?;
            let fd = in_root(root, last, false)?;
            harmless(root, fd.as_fd(), target.in_proc)?;
            fd
        }
        other => other?,
    };
    Ok(Place { fd, existed: false })
}

/// Refuses the root itself and procfs as what a link in the image led to: mounts there could cover files that the
/// runtime and the kernel trust (CVE-2019-16884, CVE-2023-27561).
fn harmless(root: BorrowedFd<'_>, place: BorrowedFd<'_>, in_proc: bool) -> Result<(), Errno> {
    let (here, top) = (rustix::fs::fstat(place)?, rustix::fs::fstat(root)?);
    if (here.st_dev, here.st_ino) == (top.st_dev, top.st_ino) {
        return Err(Errno::BUSY);
    }
    if !in_proc && rustix::fs::fstatfs(place)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
        return Err(Errno::ACCESS);
    }
    Ok(())
}

/// Makes the target's last component and those before it, as far as they are missing.
fn make(root: BorrowedFd<'_>, target: &Target, file: bool) -> Result<(), Errno> {
    let last = target.prefixes.len().saturating_sub(1);
    // From the end: mostly only the last one is missing.
    let mut first = last;
    let mut parent = loop {
        let Some(above) = first.checked_sub(1) else { break in_root(root, c".", false)? };
        match in_root(root, &target.prefixes[above], target.strict) {
            Ok(fd) => break fd,
            Err(Errno::NOENT) => first = above,
            Err(errno) => return Err(errno),
        }
    };
    for (index, (prefix, name)) in target.prefixes.iter().zip(&target.names).enumerate().skip(first) {
        if file && index == last {
            // Without O_EXCL a dangling link in the image (resolv.conf) makes the file it names, inside the root.
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
            let mode = Mode::from_raw_mode(0o644);
            return undisturbed(|| openat2(root, prefix, flags, mode, rule(target.strict))).map(drop);
        }
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        if index != last {
            parent = in_root(root, prefix, target.strict)?;
        }
    }
    Ok(())
}

pub(super) fn make_directory(
    root: BorrowedFd<'_>,
    target: &Target,
    uid: rustix::process::Uid,
    gid: rustix::process::Gid,
) -> Result<(), Errno> {
    let last = target.prefixes.last().ok_or(Errno::INVAL)?;
    match in_root(root, last, target.strict) {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    make(root, target, false)?;
    let made = in_root(root, last, target.strict)?;
    rustix::fs::chownat(&made, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

/// Writes below a procfs that no mount of the container can cover.
pub(super) fn write_proc(proc: BorrowedFd<'_>, path: &CStr, value: &[u8]) -> Result<(), Errno> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    if weak::has(Weakness::Procfs) {
        resolve = ResolveFlags::empty();
    }
    let file = undisturbed(|| openat2(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve))?;
    if rustix::io::write(&file, value)? == value.len() { Ok(()) } else { Err(Errno::IO) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_disturbs_without_end_is_not_waited_for() {
        let mut tries = 0;
        let mut open = |good: usize| {
            tries = 0;
            undisturbed(|| {
                tries += 1;
                if tries == good {
                    Ok(rustix::fs::open("/", OFlags::PATH, Mode::empty())?)
                } else {
                    Err(Errno::AGAIN)
                }
            })
        };
        assert!(open(DISTURBED_MAX).is_ok());
        assert_eq!(open(usize::MAX).unwrap_err(), Errno::AGAIN);
        assert_eq!(tries, DISTURBED_MAX);
    }
}
