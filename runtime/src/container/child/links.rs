//! Making a mount's target where a link in the image leads to what is not there yet.
//!
//! The kernel resolves links, and makes directories, but not both at once. So links are taken apart here, as text and one
//! component at a time: every component is opened below the root with no link left in its path, and what is missing is
//! made below the descriptor of its parent. A link that appears meanwhile is an error, never followed.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::paths::in_root;

/// Longest path that the kernel takes, with its zero byte (limits.h, `PATH_MAX`).
const PATH_BYTES: usize = 4096;

/// Most links on the way (the kernel's own bound).
const LINKS_MAX: u32 = 40;

/// A path below the root without `.`, `..` and doubled slashes.
struct Path {
    bytes: [u8; PATH_BYTES],
    length: usize,
}

impl Path {
    const EMPTY: Self = Self { bytes: [0; PATH_BYTES], length: 0 };

    /// Appends, cleaning as it goes. Nothing that stands before a `..` is a link: the kernel would say the same.
    fn push(&mut self, path: &[u8]) -> Result<(), Errno> {
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    let kept = self.bytes.iter().take(self.length).rposition(|byte| *byte == b'/');
                    self.length = kept.unwrap_or(0);
                }
                name => {
                    let slash = usize::from(self.length > 0);
                    let end = self.length + slash + name.len();
                    // The zero byte has to fit too.
                    let room = self.bytes.get_mut(self.length..end).filter(|_| end < PATH_BYTES);
                    let room = room.ok_or(Errno::NAMETOOLONG)?;
                    if let Some((first, rest)) = room.split_first_mut().filter(|_| slash == 1) {
                        *first = b'/';
                        rest.copy_from_slice(name);
                    } else if let Some(room) = self.bytes.get_mut(self.length..end) {
                        room.copy_from_slice(name);
                    }
                    self.length = end;
                }
            }
        }
        Ok(())
    }

    fn get(&self, from: usize, to: usize) -> &[u8] {
        self.bytes.get(from..to).unwrap_or_default()
    }

    /// The end of the component that starts there.
    fn end(&self, start: usize) -> usize {
        let rest = self.get(start, self.length);
        start + rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len())
    }

    /// Calls with a part as the kernel wants it.
    fn with<T>(
        &mut self,
        from: usize,
        to: usize,
        call: impl FnOnce(&CStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let byte = self.bytes.get_mut(to).ok_or(Errno::NAMETOOLONG)?;
        let kept = std::mem::replace(byte, 0);
        let text = self.bytes.get(from..=to).unwrap_or_default();
        let result = match CStr::from_bytes_with_nul(text) {
            Ok(text) => call(text),
            Err(_) => Err(Errno::INVAL),
        };
        if let Some(byte) = self.bytes.get_mut(to) {
            *byte = kept;
        }
        result
    }
}

/// Makes a file or directory, and the directories above it, wherever links lead.
pub(super) fn make(root: BorrowedFd<'_>, path: &CStr, file: bool) -> Result<(), Errno> {
    let mut path = {
        let mut cleaned = Path::EMPTY;
        cleaned.push(path.to_bytes())?;
        cleaned
    };
    let mut links = 0;
    let mut start = 0;
    while start < path.length {
        let end = path.end(start);
        let last = end == path.length;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        match path.with(0, end, |part| openat2(root, part, flags, Mode::empty(), how)) {
            Ok(fd) if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::Symlink => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP);
                }
                let mut bytes = [0_u8; PATH_BYTES];
                let length = rustix::fs::readlinkat_raw(&fd, c"", &mut bytes[..])?;
                let link = bytes.get(..length).unwrap_or_default();
                let mut next = Path::EMPTY;
                if link.first() != Some(&b'/') {
                    next.push(path.get(0, start))?;
                }
                next.push(link)?;
                next.push(path.get(end, path.length))?;
                path = next;
                start = 0;
                continue;
            }
            Ok(_) => {}
            Err(Errno::NOENT) => {
                let above = match start.checked_sub(1) {
                    Some(above) => path.with(0, above, |part| in_root(root, part, true))?,
                    None => in_root(root, c".", true)?,
                };
                path.with(start, end, |name| make_one(above.as_fd(), name, file && last))?;
            }
            Err(errno) => return Err(errno),
        }
        start = end + 1;
    }
    Ok(())
}

fn make_one(above: BorrowedFd<'_>, name: &CStr, file: bool) -> Result<(), Errno> {
    if file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        return rustix::fs::openat(above, name, flags, Mode::from_raw_mode(0o644)).map(drop);
    }
    rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o755))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn paths_are_cleaned_and_have_a_bound() {
        let mut path = Path::EMPTY;
        path.push(b"/a//b/./c/../../../../d").unwrap();
        assert_eq!(path.get(0, path.length), b"d");
        path.push(b"e").unwrap();
        assert_eq!(path.get(0, path.length), b"d/e");
        assert_eq!(path.push(&[b'x'; PATH_BYTES - 4]), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn what_links_lead_to_is_made_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root_path = dir.path().join("root");
        std::fs::create_dir_all(root_path.join("etc")).unwrap();
        symlink("/run/deep/hosts", root_path.join("etc/hosts")).unwrap();
        symlink("../../../../../out/side", root_path.join("etc/up")).unwrap();
        symlink("turn", root_path.join("turn")).unwrap();
        let root = openat2(CWD, &root_path, OFlags::PATH, Mode::empty(), ResolveFlags::empty()).unwrap();
        make(root.as_fd(), c"etc/hosts", true).unwrap();
        assert!(root_path.join("run/deep/hosts").is_file());
        make(root.as_fd(), c"etc/up/more", false).unwrap();
        assert!(root_path.join("out/side/more").is_dir(), "the way out ends at the root");
        assert!(!dir.path().join("out").exists());
        assert_eq!(make(root.as_fd(), c"turn/x", false), Err(Errno::LOOP));
        // What is there stays.
        make(root.as_fd(), c"etc/hosts", true).unwrap();
    }
}
