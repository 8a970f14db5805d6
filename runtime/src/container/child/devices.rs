//! Device nodes, fifos and links of a container.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::message::Note;
use super::mounts::attach;
use super::paths::{in_root, resolve};
use crate::container::plan::{Devices, Node};

/// All of one directory. What is there already stays, but for links that replace it.
pub(super) fn make_devices(root: BorrowedFd<'_>, devices: &Devices, note: &mut Note) -> Result<(), Errno> {
    let directory = match devices.directory.prefixes.is_empty() {
        true => in_root(root, c".", true)?,
        false => resolve(root, &devices.directory)?.fd,
    };
    for node in &devices.nodes {
        let made = make_node(directory.as_fd(), node);
        if made.is_err() {
            note.add(node.name.to_bytes());
        }
        made?;
    }
    for (name, to, replace) in &devices.links {
        match rustix::fs::symlinkat(to, &directory, name) {
            Err(Errno::EXIST) if *replace => {
                rustix::fs::unlinkat(&directory, name, AtFlags::empty())?;
                rustix::fs::symlinkat(to, &directory, name)?;
            }
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                note.add(name.to_bytes());
                return Err(errno);
            }
        }
    }
    Ok(())
}

fn make_node(directory: BorrowedFd<'_>, node: &Node) -> Result<(), Errno> {
    if let Some(host) = &node.host {
        return bind(directory, node, host.as_fd());
    }
    // The process's umask is 0.
    match rustix::fs::mknodat(directory, &node.name, node.kind, Mode::from_raw_mode(node.mode), node.dev) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        // No right to make nodes after all: this process came in a user namespace.
        Err(Errno::PERM) if node.kind != FileType::Fifo => {
            return bind(directory, node, of_the_host(node)?.as_fd());
        }
        Err(errno) => return Err(errno),
    }
    if node.uid == Uid::ROOT && node.gid == Gid::ROOT {
        return Ok(());
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(directory, &node.name, Some(node.uid), Some(node.gid), flags)
}

/// The host's node of the same path, if it is that device.
fn of_the_host(node: &Node) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, node.path.as_c_str(), flags)?;
    let stat = rustix::fs::fstat(&tree)?;
    if FileType::from_raw_mode(stat.st_mode) != node.kind || stat.st_rdev != node.dev {
        return Err(Errno::NODEV);
    }
    Ok(tree)
}

/// The host's node over an empty file.
fn bind(directory: BorrowedFd<'_>, node: &Node, host: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, &node.name, flags, Mode::empty()) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(directory, &node.name, flags, Mode::empty())?;
    attach(host, place.as_fd())
}
