//! One layer tar to one directory that overlayfs can use as a lower layer.
//!
//! The path rule, without exception: nothing is opened by a path from the host's root. The parent of an entry is
//! opened with `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` from the descriptor of the layer's root, so a
//! symbolic link in a layer leads at most to another place of the same layer; the last name is used with calls
//! that never follow a link. What an entry replaces is moved to a trash directory outside the layer, in one
//! `rename`, and deleted later.
//!
//! Whiteouts (OCI image-spec, layer.md) become overlayfs' own: a character device 0:0 for `.wh.NAME`,
//! `trusted.overlay.opaque` for `.wh..wh..opq`. They speak only of lower layers, so an entry of the same layer
//! wins, wherever it stands in the tar.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags, makedev};
use rustix::io::Errno;

use crate::error::LayerError;
use crate::limits::{COPY_BUFFER_BYTES, LAYER_BYTES_MAX, LAYER_ENTRIES_MAX};
use crate::tarstream::{Entry, EntryKind, TarStream};

mod metadata;
mod path;

use metadata::{Step, owner, permissions, times, wanted_xattr, xattr_result};
use path::{Target, clean, split};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// Parents that no entry names.
const IMPLIED_MODE: u32 = 0o755;

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Unpacked {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// Unpacks a layer into the empty directory `root`; `trash` is an empty directory on the same file system.
/// Reads `reader` to its end.
pub(crate) fn unpack(
    reader: impl Read,
    root: BorrowedFd<'_>,
    trash: BorrowedFd<'_>,
) -> Result<Unpacked, LayerError> {
    let rule = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Unpacker::new(root, trash, rule).run(&mut TarStream::new(reader))
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    trash: BorrowedFd<'a>,
    trashed: u64,
    /// The path rule. Only tests weaken it, to see that their attacks are attacks.
    rule: ResolveFlags,
    /// Times of directories, set at the end because their entries change them.
    times: HashMap<Vec<u8>, (i64, u32)>,
    buffer: Vec<u8>,
    done: Unpacked,
}

impl<'a> Unpacker<'a> {
    fn new(root: BorrowedFd<'a>, trash: BorrowedFd<'a>, rule: ResolveFlags) -> Self {
        Self {
            root,
            trash,
            trashed: 0,
            rule,
            times: HashMap::new(),
            buffer: vec![0; COPY_BUFFER_BYTES],
            done: Unpacked::default(),
        }
    }

    fn run<R: Read>(mut self, tar: &mut TarStream<R>) -> Result<Unpacked, LayerError> {
        while let Some(entry) = tar.next_entry()? {
            self.done.entries += 1;
            self.done.bytes = self.done.bytes.saturating_add(entry.size);
            if self.done.entries > LAYER_ENTRIES_MAX {
                return Err(LayerError::Limit(format!("more than {LAYER_ENTRIES_MAX} entries")));
            }
            if self.done.bytes > LAYER_BYTES_MAX {
                return Err(LayerError::Limit(format!("more than {LAYER_BYTES_MAX} bytes")));
            }
            self.entry(&entry, tar)?;
        }
        tar.drain()?;
        self.set_directory_times()?;
        Ok(self.done)
    }

    fn entry<R: Read>(&mut self, entry: &Entry, tar: &mut TarStream<R>) -> Result<(), LayerError> {
        let path = clean(&entry.path).map_err(|reason| refused(&entry.path, reason))?;
        if path.is_empty() {
            // The layer's root itself: it may only be a directory (umoci CVE-2021-29136).
            if entry.kind != EntryKind::Directory {
                return Err(refused(&entry.path, "the root of a layer can only be a directory"));
            }
            let fail = |(step, errno)| failed(&entry.path, step, errno);
            self.directory_metadata(self.root, entry).map_err(fail)?;
            self.times.insert(Vec::new(), entry.mtime);
            return Ok(());
        }
        let target = split(&path);
        if let Some(hidden) = target.name.strip_prefix(WHITEOUT_PREFIX) {
            return self.whiteout(entry, &target, hidden).map_err(|e| e.of(&entry.path));
        }
        let fail = |(step, errno)| failed(&entry.path, step, errno);
        let parent = self.open_parent(target.parent).map_err(fail)?;
        let parent = parent.as_fd();
        match entry.kind {
            EntryKind::Directory => {
                let directory = self.make_directory(parent, target.name, 0o700).map_err(fail)?;
                self.directory_metadata(directory.as_fd(), entry).map_err(fail)?;
                self.times.insert(path.into_owned(), entry.mtime);
            }
            EntryKind::File => self.file(entry, parent, target.name, tar)?,
            EntryKind::Symlink => {
                self.make_way(parent, target.name).map_err(fail)?;
                rustix::fs::symlinkat(&entry.link[..], parent, target.name)
                    .map_err(|e| failed(&entry.path, "make a symbolic link", e))?;
                self.node_metadata(parent, target.name, entry).map_err(fail)?;
            }
            EntryKind::Hardlink => self.hardlink(entry, parent, target.name)?,
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                self.make_way(parent, target.name).map_err(fail)?;
                let kind = match entry.kind {
                    EntryKind::CharDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = makedev(entry.device.0, entry.device.1);
                rustix::fs::mknodat(parent, target.name, kind, Mode::from_raw_mode(0o600), device)
                    .map_err(|e| failed(&entry.path, "make a device node", e))?;
                self.node_metadata(parent, target.name, entry).map_err(fail)?;
            }
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        tar: &mut TarStream<R>,
    ) -> Result<(), LayerError> {
        let fail = |(step, errno)| failed(&entry.path, step, errno);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
        let file = match create() {
            Err(Errno::EXIST) => {
                self.make_way(parent, name).map_err(fail)?;
                create()
            }
            other => other,
        };
        let mut file = File::from(file.map_err(|e| failed(&entry.path, "create", e))?);
        loop {
            let n = tar.read_data(&mut self.buffer)?;
            if n == 0 {
                break;
            }
            file.write_all(&self.buffer[..n]).map_err(|source| LayerError::Io {
                path: show(&entry.path),
                step: "write",
                source,
            })?;
        }
        let (uid, gid) = owner(entry).map_err(|reason| refused(&entry.path, reason))?;
        // The order matters: chown takes set-user-ID and capabilities away.
        let set = || -> Step<()> {
            rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(|e| ("set the owner", e))?;
            for (key, value) in &entry.xattrs {
                xattr_result(
                    key,
                    wanted_xattr(key)
                        .then(|| rustix::fs::fsetxattr(&file, &key[..], value, XattrFlags::empty())),
                )?;
            }
            rustix::fs::fchmod(&file, permissions(entry)).map_err(|e| ("set the mode", e))?;
            rustix::fs::futimens(&file, &times(entry.mtime)).map_err(|e| ("set the time", e))
        };
        set().map_err(fail)
    }

    fn hardlink(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), LayerError> {
        let fail = |(step, errno)| failed(&entry.path, step, errno);
        let path = clean(&entry.link).map_err(|reason| refused(&entry.link, reason))?;
        if path.is_empty() {
            return Err(refused(&entry.path, "a hard link to the root of the layer"));
        }
        let source = split(&path);
        let source_parent = self
            .open(source.parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|e| failed(&entry.path, "open the folder of the hard link's target", e))?;
        let stat = rustix::fs::statat(&source_parent, source.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed(&entry.path, "find the hard link's target", e))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(refused(&entry.path, "a hard link to a directory"));
        }
        if let Some(existing) = stat_name(parent, name).map_err(fail)?
            && (existing.st_dev, existing.st_ino) == (stat.st_dev, stat.st_ino)
        {
            return Ok(());
        }
        self.make_way(parent, name).map_err(fail)?;
        // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is one more name of the link itself.
        rustix::fs::linkat(&source_parent, source.name, parent, name, AtFlags::empty())
            .map_err(|e| failed(&entry.path, "make a hard link", e))
    }

    fn whiteout(&mut self, entry: &Entry, target: &Target<'_>, hidden: &[u8]) -> Result<(), Fault> {
        if target.name == OPAQUE_MARKER {
            let directory = self.open_parent(target.parent)?;
            return Ok(self.make_opaque(directory.as_fd())?);
        }
        // Notes that aufs leaves for itself; Docker skips them too.
        if target.name.starts_with(WHITEOUT_META_PREFIX) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Fault::Refused("a whiteout of nothing"));
        }
        if entry.kind == EntryKind::Directory {
            return Err(Fault::Refused("a whiteout that is a directory"));
        }
        let parent = self.open_parent(target.parent)?;
        match stat_name(parent.as_fd(), hidden)? {
            None => rustix::fs::mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(|e| ("make a whiteout", e))?,
            // The directory is this layer's; what lower layers have in it is what goes.
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let directory = self.open_child(parent.as_fd(), hidden)?;
                self.make_opaque(directory.as_fd())?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn make_opaque(&self, directory: BorrowedFd<'_>) -> Step<()> {
        // Writing the same value again is constant work, so 1e5 markers stay linear (CVE-2026-95838).
        let path = proc_path(directory, None);
        rustix::fs::setxattr(&path[..], OPAQUE_XATTR, b"y", XattrFlags::empty())
            .map_err(|e| ("mark as opaque", e))
    }

    /// Opens a path below the layer's root by the path rule.
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        // EAGAIN: a rename elsewhere on the machine raced with the resolution (openat2(2)); bounded retries.
        for _ in 0..100 {
            match rustix::fs::openat2(self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), self.rule) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens the folder of an entry, and makes the ones that no entry named.
    fn open_parent(&mut self, path: &[u8]) -> Step<OwnedFd> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => return Err(("open the parent folder", e)),
        }
        let mut end = 0;
        let mut current =
            self.open(b"", OFlags::PATH | OFlags::DIRECTORY).map_err(|e| ("open the layer", e))?;
        for name in path.split(|&b| b == b'/') {
            end += name.len();
            let so_far = &path[..end];
            end += 1;
            current = match self.open(so_far, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    // Only a whiteout gives way; a file or a broken link does not, for no entry says so.
                    if stat_name(current.as_fd(), name)?.is_some_and(|s| !is_whiteout(&s)) {
                        return Err(("make the parent folder", Errno::NOTDIR));
                    }
                    let made = self.make_directory(current.as_fd(), name, IMPLIED_MODE)?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(IMPLIED_MODE))
                        .map_err(|e| ("set the mode", e))?;
                    made
                }
                Err(e) => return Err(("open the parent folder", e)),
            };
        }
        Ok(current)
    }

    /// Makes a directory, or takes the one that is there; anything else of that name goes.
    fn make_directory(&mut self, parent: BorrowedFd<'_>, name: &[u8], mode: u32) -> Step<OwnedFd> {
        let make = || rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode));
        let mut opaque = false;
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                if let Some(stat) = stat_name(parent, name)?
                    && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
                {
                    // A directory where this layer had a whiteout is new: nothing of the lower ones shows in it.
                    opaque = is_whiteout(&stat);
                    self.make_way(parent, name)?;
                    make().map_err(|e| ("make a folder", e))?;
                }
            }
            Err(e) => return Err(("make a folder", e)),
        }
        let directory = self.open_child(parent, name)?;
        if opaque {
            self.make_opaque(directory.as_fd())?;
        }
        Ok(directory)
    }

    /// Opens a directory by its last name, never through a link.
    fn open_child(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Step<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|e| ("open a folder", e))
    }

    /// Moves what has this name out of the layer.
    fn make_way(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Step<()> {
        let aside = self.trashed.to_string();
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(e) => return Err(("replace", e)),
        }
        self.trashed += 1;
        rustix::fs::renameat(parent, name, self.trash, &aside[..]).map_err(|e| ("replace", e))
    }

    fn directory_metadata(&self, directory: BorrowedFd<'_>, entry: &Entry) -> Step<()> {
        let (uid, gid) = owner(entry).map_err(|_| ("set the owner", Errno::INVAL))?;
        rustix::fs::fchown(directory, Some(uid), Some(gid)).map_err(|e| ("set the owner", e))?;
        for (key, value) in &entry.xattrs {
            xattr_result(
                key,
                wanted_xattr(key)
                    .then(|| rustix::fs::fsetxattr(directory, &key[..], value, XattrFlags::empty())),
            )?;
        }
        rustix::fs::fchmod(directory, permissions(entry)).map_err(|e| ("set the mode", e))
    }

    /// Owner, attributes, mode and time of something that cannot be opened for use: links, devices, fifos.
    fn node_metadata(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Step<()> {
        let (uid, gid) = owner(entry).map_err(|_| ("set the owner", Errno::INVAL))?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), nofollow)
            .map_err(|e| ("set the owner", e))?;
        let path = proc_path(parent, Some(name));
        for (key, value) in &entry.xattrs {
            xattr_result(
                key,
                wanted_xattr(key)
                    .then(|| rustix::fs::lsetxattr(&path[..], &key[..], value, XattrFlags::empty())),
            )?;
        }
        if entry.kind != EntryKind::Symlink {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node =
                rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|e| ("open the node", e))?;
            let stat = rustix::fs::fstat(&node).map_err(|e| ("look at the node", e))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                return Err(("set the mode", Errno::LOOP));
            }
            rustix::fs::chmodat(
                rustix::fs::CWD,
                &proc_path(node.as_fd(), None)[..],
                permissions(entry),
                AtFlags::empty(),
            )
            .map_err(|e| ("set the mode", e))?;
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), nofollow).map_err(|e| ("set the time", e))
    }

    fn set_directory_times(&mut self) -> Result<(), LayerError> {
        for (path, mtime) in std::mem::take(&mut self.times) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match self.open(&path, flags) {
                Ok(fd) => {
                    rustix::fs::futimens(&fd, &times(mtime)).map_err(|e| failed(&path, "set the time", e))?;
                }
                // A later entry has replaced it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(failed(&path, "open", e)),
            }
        }
        Ok(())
    }
}

/// Why an entry cannot be unpacked, before its path is added.
enum Fault {
    Refused(&'static str),
    Failed(&'static str, Errno),
}

impl From<(&'static str, Errno)> for Fault {
    fn from((step, errno): (&'static str, Errno)) -> Self {
        Self::Failed(step, errno)
    }
}

impl Fault {
    fn of(self, path: &[u8]) -> LayerError {
        match self {
            Self::Refused(reason) => refused(path, reason),
            Self::Failed(step, errno) => failed(path, step, errno),
        }
    }
}

fn refused(path: &[u8], reason: impl Into<String>) -> LayerError {
    LayerError::Entry { path: show(path), reason: reason.into() }
}

fn failed(path: &[u8], step: &'static str, errno: Errno) -> LayerError {
    LayerError::Io { path: show(path), step, source: io::Error::from(errno) }
}

fn show(path: &[u8]) -> String {
    path[..path.len().min(200)].escape_ascii().to_string()
}

fn stat_name(parent: BorrowedFd<'_>, name: &[u8]) -> Step<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(("look at what is there", e)),
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// This process's own name for a descriptor, or for a name in it: for calls that take only a path.
fn proc_path(fd: BorrowedFd<'_>, name: Option<&[u8]>) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

#[cfg(test)]
mod attack_tests;
#[cfg(test)]
mod tests;
