//! `tmpcopyup`: what an image has in a directory, copied into the tmpfs that is about to cover it.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

/// Deepest tree that is copied: each level takes stack, and the stack's size is the caller's thread's.
const DEPTH_MAX: u32 = 64;

/// Longest target of a link, and its zero byte.
const LINK_BYTES: usize = 4096;

/// Copied at a time: the most that sendfile(2) takes.
const CHUNK: usize = 0x7fff_f000;

const OPEN: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Copies everything below `from` to `to`, with owners, modes and times. No link is followed.
pub(super) fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    copy_entries(from, to, DEPTH_MAX)
}

fn copy_entries(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, c".", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
    let mut entries = RawDir::new(&from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from.as_fd(), to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<(), Errno> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let depth = depth.checked_sub(1).ok_or(Errno::LOOP)?;
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let flags = OPEN | OFlags::DIRECTORY;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let copy = rustix::fs::openat(to, name, flags, Mode::empty())?;
            copy_entries(source.as_fd(), copy.as_fd(), depth)?;
        }
        FileType::RegularFile => copy_file(from, to, name)?,
        FileType::Symlink => copy_link(from, to, name)?,
        kind => rustix::fs::mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?,
    }
    copy_attributes(to, name, &stat)
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let source = rustix::fs::openat(from, name, OPEN | OFlags::RDONLY, Mode::empty())?;
    let flags = OPEN | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let copy = rustix::fs::openat(to, name, flags, Mode::empty())?;
    while rustix::fs::sendfile(&copy, &source, None, CHUNK)? > 0 {}
    Ok(())
}

#[inline(never)]
fn copy_link(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut buffer = [0_u8; LINK_BYTES];
    // The last byte stays zero.
    let room = buffer.get_mut(..LINK_BYTES - 1).ok_or(Errno::NAMETOOLONG)?;
    rustix::fs::readlinkat_raw(from, name, room)?;
    let target = CStr::from_bytes_until_nul(&buffer).map_err(|_| Errno::NAMETOOLONG)?;
    rustix::fs::symlinkat(target, to, name)
}

fn copy_attributes(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // After the owner, whose change takes set-user-ID away.
        rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_tree_is_copied_with_its_attributes_and_links_stay_links() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| from.path().join(name);
        std::fs::create_dir_all(path("a/b")).unwrap();
        std::fs::write(path("a/b/file"), vec![b'x'; 100_000]).unwrap();
        std::fs::set_permissions(path("a/b/file"), PermissionsExt::from_mode(0o4751)).unwrap();
        std::fs::set_permissions(path("a"), PermissionsExt::from_mode(0o1700)).unwrap();
        symlink("/etc/passwd", path("link")).unwrap();
        for number in 0..200 {
            std::fs::write(path(&format!("many-{number}")), "").unwrap();
        }
        let open = |dir: &tempfile::TempDir| std::fs::File::open(dir.path()).unwrap();
        copy_directory(open(&from).as_fd(), open(&to).as_fd()).unwrap();
        let copy = |name: &str| to.path().join(name);
        assert_eq!(std::fs::read(copy("a/b/file")).unwrap(), vec![b'x'; 100_000]);
        let (old, new) = (path("a/b/file").metadata().unwrap(), copy("a/b/file").metadata().unwrap());
        assert_eq!((new.mode(), new.mtime_nsec()), (old.mode(), old.mtime_nsec()));
        assert_eq!(copy("a").metadata().unwrap().mode() & 0o7777, 0o1700);
        assert_eq!(std::fs::read_link(copy("link")).unwrap().to_str(), Some("/etc/passwd"));
        assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 202);
    }

    #[test]
    fn too_deep_a_tree_is_refused() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let deep = (0..=DEPTH_MAX).fold(from.path().to_path_buf(), |path, _| path.join("d"));
        std::fs::create_dir_all(deep).unwrap();
        let open = |dir: &tempfile::TempDir| std::fs::File::open(dir.path()).unwrap();
        assert_eq!(copy_directory(open(&from).as_fd(), open(&to).as_fd()), Err(Errno::LOOP));
    }
}
