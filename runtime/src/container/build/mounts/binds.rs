//! Copies of the host's mounts and of the container's own.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, FileType};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::super::Builder;
use crate::container::CreateError;
use crate::container::mounts::{
    self, ATIME, MountOptions, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY,
};
use crate::container::plan::{Change, Copy, CopyFrom, MountSource, Step, Target};
use crate::sys;

/// Flags that a mount of a more privileged user namespace keeps.
const LOCKABLE: u64 = RDONLY | NOSUID | NODEV | NOEXEC;

impl Builder<'_> {
    pub(super) fn bind(
        &mut self,
        mount: &Mount,
        options: &MountOptions,
        mut place: Target,
    ) -> Result<(), CreateError> {
        let to = mount.destination();
        let from = mount.source().as_ref().ok_or_else(|| {
            CreateError::Invalid(format!("the bind mount at {} has no source", to.display()))
        })?;
        let from = self.bundle.join(from);
        let idmap = self.mounts.id_maps(mount, options)?;
        let label = from.display().to_string();
        let bind = |errno: rustix::io::Errno| CreateError::BindSource {
            from: from.clone(),
            to: to.to_path_buf(),
            source: errno.into(),
        };
        let named = match self.mounts.inside(&from) {
            Some(inside) => Some((CopyFrom::Root(super::super::within(inside)?), false)),
            None if idmap.is_none() && !place.strict => self.mounts.by_name(&from).map_err(bind)?,
            None => None,
        };
        if let Some((source, file)) = named {
            let kept = if self.mounts.user_namespace { LOCKABLE | NOSYMFOLLOW } else { 0 };
            place.file = file;
            let copy = Copy {
                from: source,
                recursive: options.recursive,
                idmap: idmap.map(|userns| (userns, options.idmap == Some(true))),
                changes: changes(options, kept),
            };
            let source = MountSource::Copy(Box::new(copy));
            self.steps.push(Step::Mount { target: place, source, label });
            return Ok(());
        }
        let (tree, file) = self.take_tree(&from, to, options, idmap)?;
        if place.strict && !place.in_proc && !is_procfs(&tree) {
            return Err(CreateError::Invalid(format!("a mount of {} over /proc", from.display())));
        }
        place.file = file;
        let source = MountSource::Tree(tree);
        self.steps.push(Step::Mount { target: place, source, label });
        Ok(())
    }

    /// A detached copy of a host's file or directory with its options, and whether it is a file.
    pub(super) fn take_tree(
        &self,
        from: &Path,
        to: &Path,
        options: &MountOptions,
        idmap: Option<OwnedFd>,
    ) -> Result<(OwnedFd, bool), CreateError> {
        let bind = |errno: rustix::io::Errno| CreateError::BindSource {
            from: from.to_path_buf(),
            to: to.to_path_buf(),
            source: errno.into(),
        };
        let refused = |option: &str| {
            let option = option.to_owned();
            move |errno: rustix::io::Errno| CreateError::MountOption {
                from: from.to_path_buf(),
                to: to.to_path_buf(),
                option,
                source: errno.into(),
            }
        };
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, options.recursive);
        let tree = open_tree(CWD, from, flags).map_err(bind)?;
        if let Some(mode) = self.mounts.inherited() {
            sys::mount_setattr(tree.as_fd(), 0, 0, mode, true).map_err(refused("its propagation"))?;
        }
        if let Some(userns) = idmap {
            let recursive = options.idmap == Some(true);
            let mapped = sys::mount_idmap(tree.as_fd(), userns.as_fd(), recursive);
            mapped.map_err(|errno| CreateError::Idmap {
                filesystem: filesystem_of(from),
                from: from.to_path_buf(),
                to: to.to_path_buf(),
                source: errno.into(),
            })?;
        }
        let mut kept = 0;
        if self.mounts.user_namespace {
            if options.changed {
                kept =
                    locked(&tree, options).map_err(refused("flags that the host's mount does not have"))?;
            }
            if options.recursive_clear & LOCKABLE != 0 {
                return Err(refused("flags cleared recursively in a user namespace")(
                    rustix::io::Errno::PERM,
                ));
            }
        }
        for Change { set, clear, mode, recursive, what } in changes(options, kept) {
            sys::mount_setattr(tree.as_fd(), set, clear, mode, recursive).map_err(refused(what))?;
        }
        let stat = rustix::fs::fstat(&tree).map_err(bind)?;
        Ok((tree, FileType::from_raw_mode(stat.st_mode) != FileType::Directory))
    }
}

/// What the options of a bind mount change of the copy.
fn changes(options: &MountOptions, kept: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    if options.changed {
        let (set, clear) = exact(options, kept);
        changes.push(Change { set, clear, mode: 0, recursive: false, what: "the flags of its options" });
    }
    let (set, clear) = (options.recursive_set, options.recursive_clear);
    if set | clear != 0 {
        changes.push(Change { set, clear, mode: 0, recursive: true, what: "its recursive flags" });
    }
    changes.extend(options.propagation.iter().map(|wanted| Change {
        set: 0,
        clear: 0,
        mode: wanted.mode,
        recursive: wanted.recursive,
        what: "its propagation",
    }));
    changes
}

/// `MOUNT_ATTR_*` to set and to clear so that a bind mount has the flags of its options and, but for the access time,
/// no others of its source's (as mount(2)'s bind and remount).
fn exact(options: &MountOptions, kept: u64) -> (u64, u64) {
    let mut set = options.set & !(ATIME | NODIRATIME);
    let mut clear = (LOCKABLE | NOSYMFOLLOW) & !set & !kept;
    if options.atime {
        set |= options.set & (ATIME | NODIRATIME);
        clear |= ATIME | (NODIRATIME & !set);
    }
    (set, clear)
}

/// The flags that a bind mount has to keep from a mount of the host's: what its owner set there binds the container's
/// user namespace. Clearing one by name is refused.
fn locked(tree: &OwnedFd, options: &MountOptions) -> rustix::io::Result<u64> {
    use rustix::fs::StatVfsMountFlags;
    // ST_NOATIME, ST_NODIRATIME and ST_RELATIME of statvfs(3), which rustix does not name all.
    const ST_ATIMES: [u64; 3] = [0x400, 0x800, 0x1000];
    let flags = rustix::fs::fstatvfs(tree)?.f_flag;
    let has = |flag: u64| flags.contains(StatVfsMountFlags::from_bits_retain(flag));
    // These four have the same numbers in both interfaces.
    let present = LOCKABLE & flags.bits();
    let [noatime, nodiratime, relatime] = ST_ATIMES.map(has);
    let mode = match (noatime, relatime) {
        (true, _) => mounts::NOATIME,
        (_, true) => 0,
        _ => mounts::STRICTATIME,
    };
    let atime = mode | if nodiratime { NODIRATIME } else { 0 };
    let changes_atime = options.atime && options.set & (ATIME | NODIRATIME) != atime;
    if present & options.clear != 0 || changes_atime {
        return Err(rustix::io::Errno::PERM);
    }
    Ok(present)
}

fn is_procfs(tree: &OwnedFd) -> bool {
    rustix::fs::fstatfs(tree).is_ok_and(|stat| stat.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// The type of the filesystem that a path is on, for an error.
fn filesystem_of(path: &Path) -> String {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let find = || {
        let mount = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?.stx_mnt_id.to_string();
        let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let line = text.lines().find(|line| line.split(' ').next() == Some(&mount))?;
        line.split_once(" - ")?.1.split(' ').next().map(str::to_owned)
    };
    find().unwrap_or_else(|| "this filesystem".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> MountOptions {
        MountOptions::parse(&options.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_bind_mount_has_the_flags_it_asks_for_and_the_locked_ones() {
        let all = LOCKABLE | NOSYMFOLLOW;
        assert_eq!(exact(&parse("bind,ro"), 0), (RDONLY, all & !RDONLY));
        assert_eq!(exact(&parse("bind,ro"), NOSUID), (RDONLY, all & !RDONLY & !NOSUID));
        assert_eq!(exact(&parse("bind,dev"), 0), (0, all));
        // The access time is kept unless one was named.
        assert_eq!(exact(&parse("bind,rw,atime"), 0), (0, all));
        assert_eq!(exact(&parse("bind,relatime"), 0), (0, all | ATIME | NODIRATIME));
        assert_eq!(exact(&parse("bind,nodiratime"), 0), (NODIRATIME, all | ATIME));
    }
}
