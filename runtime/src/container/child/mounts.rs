//! Mounting inside the container's mount namespace.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree,
};

use crate::container::plan::RootMount;
use crate::sys;

pub(in crate::container) fn attach_root(root: &RootMount) -> Result<OwnedFd, Errno> {
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

pub(super) fn filesystem(
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

pub(super) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags)
}

/// A file gets `/dev/null` over it, a directory an empty read-only tmpfs.
pub(super) fn mask(null: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    if FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode) == FileType::Directory {
        let empty = filesystem(c"tmpfs", &[], MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        return attach(empty.as_fd(), place);
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = open_tree(null, c"", flags)?;
    attach(copy.as_fd(), place)
}
