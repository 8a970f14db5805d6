//! Mounting inside the container's mount namespace.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
    MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, fspick, mount, mount_change, mount_remount, move_mount, open_tree,
    unmount,
};

use super::copy_up::copy_directory;
use super::message::Note;
use super::paths::{Place, in_root, resolve, resolve_as};
use crate::container::mounts::Propagation;
use crate::container::plan::{Change, Copy, CopyFrom, Filesystem, MountSource, Remount, RootMount, Target};
use crate::sys;

/// Most lines of a filesystem's log that are told.
const LOG_LINES_MAX: usize = 4;

/// The root filesystem in its place: the plan's own descriptor, or one opened here.
pub(in crate::container) enum Root<'a> {
    Given(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Root<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Given(fd) => *fd,
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

fn open(over: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::open(over, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Attaches a detached mount over a directory of the host's tree.
pub(super) fn attach_over(mount: BorrowedFd<'_>, over: &CStr) -> Result<(), Errno> {
    attach(mount, open(over)?.as_fd())
}

pub(in crate::container) fn attach_root(root: &RootMount) -> Result<Root<'_>, Errno> {
    match root {
        RootMount::Detached { mount, over } => {
            let Some(over) = over else { return Ok(Root::Given(mount.as_fd())) };
            let place = match open(over) {
                // The root of a user namespace may not be let in. Where the mount stands only matters to hooks.
                Err(Errno::ACCESS | Errno::PERM) => open(c"/")?,
                other => other?,
            };
            attach(mount.as_fd(), place.as_fd())?;
            Ok(Root::Given(mount.as_fd()))
        }
        RootMount::Legacy { over, data, layers } => {
            for (path, number) in layers {
                sys::dup_to(open(path)?, number.as_raw_fd())?;
            }
            mount(c"overlay", over.as_c_str(), c"overlay", MountFlags::empty(), data.as_c_str())?;
            open(over).map(Root::Opened)
        }
    }
}

pub(super) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags)
}

/// One mount of the spec.
pub(super) fn mount_one(
    root: BorrowedFd<'_>,
    target: &Target,
    source: &MountSource,
    note: &mut Note,
) -> Result<(), Errno> {
    let copied = match source {
        MountSource::Copy(wanted) => Some(copy(root, target, wanted, note)?),
        _ => None,
    };
    let file = copied.as_ref().map_or(target.file, |copied| copied.1);
    let place = resolve_as(root, target, file).inspect_err(|errno| {
        if target.strict && matches!(*errno, Errno::LOOP | Errno::NOTDIR) {
            note.add(b"it must be mounted on ordinary directory, not a link");
        }
    })?;
    match source {
        MountSource::Copy(_) => {
            let (tree, _) = copied.ok_or(Errno::BADF)?;
            attach_copy(tree.as_fd(), place.fd.as_fd(), note)
        }
        MountSource::Tree(tree) => attach_copy(tree.as_fd(), place.fd.as_fd(), note),
        MountSource::Filesystem(wanted) => match new_filesystem(root, target, &place, wanted, note) {
            // The kernel has reasons to refuse a container its own view of the cgroups (cgroup_namespaces(7)).
            Err(Errno::PERM | Errno::BUSY) if wanted.instead.is_some() => {
                let tree = wanted.instead.as_ref().ok_or(Errno::PERM)?;
                attach(tree.as_fd(), place.fd.as_fd())
            }
            other => other,
        },
    }
}

/// Attaches a copy. That it is a directory and the place is none, or the other way round, is told as engines expect it;
/// to the kernel it is one invalid argument of many.
fn attach_copy(tree: BorrowedFd<'_>, place: BorrowedFd<'_>, note: &mut Note) -> Result<(), Errno> {
    let directory = |fd| {
        rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    };
    match attach(tree, place) {
        Err(Errno::INVAL) if directory(tree) != directory(place) => Err(Errno::NOTDIR),
        done => told(done, b"move_mount", note),
    }
}

/// A detached copy of what is there now, and whether it is a file.
fn copy(
    root: BorrowedFd<'_>,
    target: &Target,
    wanted: &Copy,
    note: &mut Note,
) -> Result<(OwnedFd, bool), Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, wanted.recursive);
    let tree = match &wanted.from {
        CopyFrom::Host { path, .. } => {
            open_tree(rustix::fs::CWD, path, flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)
        }
        CopyFrom::Root(path) => {
            let source = told(in_root(root, path, false), b"its source in the container", note)?;
            open_tree(&source, c"", flags | OpenTreeFlags::AT_EMPTY_PATH)
        }
    };
    let tree = told(tree, b"open_tree", note)?;
    let stat = rustix::fs::fstat(&tree)?;
    if let CopyFrom::Host { identity, .. } = &wanted.from
        && *identity != (stat.st_dev, stat.st_ino)
    {
        note.add(b"another file has taken the source's name");
        return Err(Errno::STALE);
    }
    if target.strict && !target.in_proc && rustix::fs::fstatfs(&tree)?.f_type != rustix::fs::PROC_SUPER_MAGIC
    {
        note.add(b"it is no procfs, which alone goes over /proc");
        return Err(Errno::ACCESS);
    }
    if let Some((userns, recursive)) = &wanted.idmap {
        told(sys::mount_idmap(tree.as_fd(), userns.as_fd(), *recursive), b"idmap", note)?;
    }
    for change in &wanted.changes {
        let Change { set, clear, mode, recursive, what } = change;
        told(sys::mount_setattr(tree.as_fd(), *set, *clear, *mode, *recursive), what.as_bytes(), note)?;
    }
    Ok((tree, FileType::from_raw_mode(stat.st_mode) != FileType::Directory))
}

fn new_filesystem(
    root: BorrowedFd<'_>,
    target: &Target,
    place: &Place,
    wanted: &Filesystem,
    note: &mut Note,
) -> Result<(), Errno> {
    // A tmpfs over a directory of the image keeps that one's mode.
    let mut digits = [0; 5];
    let kept = if wanted.keep_mode && place.existed {
        Some(rustix::fs::fstat(&place.fd)?.st_mode & 0o7777)
    } else {
        None
    };
    let mode = kept.and_then(|mode| octal(mode, &mut digits));
    let made = if wanted.legacy_only {
        by_mount(wanted, place.fd.as_fd(), note)?;
        None
    } else {
        match filesystem(wanted, mode, note) {
            Ok(made) => Some(made),
            // What fsconfig(2) does not take in words, mount(2) may (a value of more than 255 bytes, say). If not,
            // the first answer says more.
            Err(errno @ (Errno::INVAL | Errno::NOSYS)) => {
                by_mount(wanted, place.fd.as_fd(), &mut Note::EMPTY.clone()).map_err(|_| errno)?;
                *note = Note::EMPTY;
                None
            }
            Err(errno) => return Err(errno),
        }
    };
    let (made, attached) = match made {
        Some(made) => (made, false),
        // What was mounted, not what it was mounted on.
        None => (resolve(root, target)?.fd, true),
    };
    if let (Some(mode), true) = (kept, attached) {
        rustix::fs::chmodat(&made, c".", Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    if let Some(userns) = &wanted.idmap {
        told(sys::mount_idmap(made.as_fd(), userns.as_fd(), false), b"idmap", note)?;
    }
    if wanted.copy_up && place.existed {
        told(copy_directory(place.fd.as_fd(), made.as_fd()), b"tmpcopyup", note)?;
    }
    if let Some(label) = &wanted.file_label {
        told(set_label(made.as_fd(), label), b"mountLabel", note)?;
    }
    for Propagation { mode, recursive } in &wanted.propagation {
        told(sys::mount_setattr(made.as_fd(), 0, 0, *mode, *recursive), b"propagation", note)?;
    }
    if attached { Ok(()) } else { told(attach(made.as_fd(), place.fd.as_fd()), b"move_mount", note) }
}

/// A detached mount of a new filesystem.
fn filesystem(wanted: &Filesystem, mode: Option<&CStr>, note: &mut Note) -> Result<OwnedFd, Errno> {
    let context = fsopen(wanted.kind.as_c_str(), FsOpenFlags::FSOPEN_CLOEXEC);
    let context = context.inspect_err(|errno| refused(*errno, b"fsopen", wanted, note))?;
    if let Some(mode) = mode {
        fsconfig_set_string(&context, c"mode", mode)?;
    }
    for (key, value) in &wanted.parameters {
        let set = match value {
            Some(value) => fsconfig_set_string(&context, key.as_c_str(), value.as_c_str()),
            None => fsconfig_set_flag(&context, key.as_c_str()),
        };
        if set.is_err() {
            note.add(b"option ");
            note.add(key.to_bytes());
            read_log(context.as_fd(), note);
        }
        set?;
    }
    let made = fsconfig_create(&context)
        .and_then(|()| fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, wanted.attributes));
    if made.is_err() {
        read_log(context.as_fd(), note);
    }
    made
}

/// mount(2) on the place, by way of the working directory: no path in the container can be exchanged meanwhile.
fn by_mount(wanted: &Filesystem, place: BorrowedFd<'_>, note: &mut Note) -> Result<(), Errno> {
    rustix::process::fchdir(place)?;
    let (source, kind) = (wanted.source.as_c_str(), wanted.kind.as_c_str());
    let mounted = mount(source, c".", kind, wanted.flags, wanted.data.as_c_str());
    mounted.inspect_err(|errno| refused(*errno, b"mount", wanted, note))
}

/// "No such device" means the filesystem here.
fn refused(errno: Errno, call: &[u8], wanted: &Filesystem, note: &mut Note) {
    if errno == Errno::NODEV {
        note.add(b"this kernel has no ");
        note.add(wanted.kind.to_bytes());
        note.add(b" filesystem");
    } else {
        note.add(call);
    }
}

pub(super) fn remount(
    root: BorrowedFd<'_>,
    target: &Target,
    wanted: &Remount,
    note: &mut Note,
) -> Result<(), Errno> {
    rustix::process::fchdir(resolve(root, target)?.fd)?;
    told(mount_remount(c".", wanted.flags, wanted.data.as_c_str()), b"mount", note)?;
    for Propagation { mode, recursive } in &wanted.propagation {
        let mut flags = MountPropagationFlags::from_bits_retain(*mode as u32);
        flags.set(MountPropagationFlags::REC, *recursive);
        told(mount_change(c".", flags), b"propagation", note)?;
    }
    Ok(())
}

/// An empty read-only directory for masking others, made once and copied from then on.
pub(super) fn empty_directory(empty: &mut Option<OwnedFd>, label: Option<&CString>) -> Result<(), Errno> {
    if empty.is_none() {
        let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        if let Some(label) = label {
            fsconfig_set_string(&context, c"context", label.as_c_str())?;
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
        *empty = Some(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?);
    }
    Ok(())
}

/// A file gets `/dev/null` over it, a directory the empty one.
pub(super) fn mask(
    null: BorrowedFd<'_>,
    empty: &mut Option<OwnedFd>,
    label: Option<&CString>,
    place: BorrowedFd<'_>,
) -> Result<(), Errno> {
    if FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode) != FileType::Directory {
        return attach(copy_of(null)?.as_fd(), place);
    }
    if let Some(empty) = empty {
        return attach(copy_of(empty.as_fd())?.as_fd(), place);
    }
    empty_directory(empty, label)?;
    attach(empty.as_ref().ok_or(Errno::BADF)?.as_fd(), place)
}

/// A detached copy of one mount.
pub(super) fn copy_of(mount: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount, c"", flags)
}

/// The root over "/" and a change of root, for a root filesystem that pivot_root(2) refuses to leave (a ramdisk).
///
/// The host's own procfs and sysfs stay reachable that way for whoever breaks out of the changed root, and their being
/// there would let the container mount unmasked ones: they go first.
pub(super) fn move_root(root: BorrowedFd<'_>, host: &[CString]) -> Result<(), Errno> {
    for path in host {
        match unmount(path.as_c_str(), UnmountFlags::DETACH) {
            // Gone with one above it.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::INVAL | Errno::PERM) => {
                mount(c"tmpfs", path.as_c_str(), c"tmpfs", MountFlags::empty(), None)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    rustix::process::fchdir(root)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, c"", rustix::fs::CWD, c"/", flags)?;
    rustix::process::chroot(c".")?;
    rustix::process::chdir(c"/")
}

/// Makes a mount read-only. One in a detached tree cannot be changed any more (mount_setattr(2)), but its filesystem can:
/// what is sealed is the container's own.
pub(super) fn seal(place: BorrowedFd<'_>) -> Result<(), Errno> {
    match sys::mount_setattr(place, super::READ_ONLY, 0, 0, false) {
        Err(Errno::INVAL) => {
            let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
            let context = fspick(place, c"", flags)?;
            fsconfig_set_flag(&context, c"ro")?;
            fsconfig_reconfigure(&context)
        }
        other => other,
    }
}

fn set_label(made: BorrowedFd<'_>, label: &CString) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(made, c".", flags, Mode::empty())?;
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::fsetxattr(directory, c"security.selinux", label.to_bytes(), flags)
}

/// Says what was called when it failed.
fn told<T>(result: Result<T, Errno>, call: &[u8], note: &mut Note) -> Result<T, Errno> {
    if result.is_err() {
        note.add(call);
    }
    result
}

/// What the kernel wrote about the failure (fsopen(2)'s message queue).
fn read_log(context: BorrowedFd<'_>, note: &mut Note) {
    let mut buffer = [0_u8; 512];
    for _ in 0..LOG_LINES_MAX {
        let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) else { return };
        let line = buffer.get(..length).unwrap_or_default().trim_ascii();
        if !note.is_empty() {
            note.add(b": ");
        }
        note.add(line.strip_prefix(b"e ").unwrap_or(line));
    }
}

/// A mode as text, four digits.
fn octal(mode: u32, digits: &mut [u8; 5]) -> Option<&CStr> {
    for (place, shift) in digits.iter_mut().zip([9, 6, 3, 0]) {
        *place = b'0' + ((mode >> shift) & 7) as u8;
    }
    CStr::from_bytes_until_nul(digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_four_digits() {
        assert_eq!(octal(0o1777, &mut [0; 5]), Some(c"1777"));
        assert_eq!(octal(0o5, &mut [0; 5]), Some(c"0005"));
    }
}
