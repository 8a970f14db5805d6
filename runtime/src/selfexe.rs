//! A program whose file no container can reach to write it.
//!
//! The init of a container is, up to its exec, a process of the runtime's own program, and `/proc/PID/exe` leads to that
//! program's file on the host; so does a container's program that calls itself `#!/proc/self/exe` (CVE-2019-5736). A
//! link of procfs opens the file through the mount that it was executed from. So the program is executed again through a
//! mount of this one file that is read-only and attached nowhere; where such a mount cannot be made, from a sealed copy
//! in memory.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags, memfd_create};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::sys::{self, CStringArray};
use crate::weak::{self, Weakness};

/// `MOUNT_ATTR_RDONLY` (mount_setattr(2)).
const READ_ONLY: u64 = 1;

const SELF: &str = "/proc/self/exe";

/// Why the program could not be protected.
#[derive(Debug, thiserror::Error)]
#[error("cannot execute this program again from where containers cannot write it ({step}): {source}")]
pub struct SealError {
    step: &'static str,
    #[source]
    source: io::Error,
}

/// Executes this program again, with the same arguments, if its file could be written through procfs. Returns in the
/// protected program, with the program's path.
///
/// To be called before this process has threads, or anything that an exec loses.
///
/// # Errors
/// [`SealError`]; to go on then is to trust the containers.
pub fn seal() -> Result<PathBuf, SealError> {
    if weak::has(Weakness::Program)
        || is_sealed().map_err(|source| SealError { step: "look at it", source })?
    {
        // Set below: where the program is now, it has no path.
        return Ok(std::env::args_os().next().map(PathBuf::from).unwrap_or_default());
    }
    let path = std::fs::read_link(SELF).map_err(|source| SealError { step: "find it", source })?;
    let program = match read_only_mount() {
        Ok(program) => program,
        Err(_) => sealed_copy().map_err(|source| SealError { step: "copy it", source })?,
    };
    let c_string = |text: Vec<u8>| CString::new(text).unwrap_or_default();
    let arguments = std::env::args_os().skip(1).map(|argument| c_string(argument.into_vec()));
    let first = c_string(path.as_os_str().as_bytes().to_vec());
    let argv = CStringArray::new(std::iter::once(first).chain(arguments).collect());
    let environment = std::env::vars_os().map(|(key, value)| {
        let mut text = key.into_vec();
        text.push(b'=');
        text.extend_from_slice(value.as_bytes());
        c_string(text)
    });
    let envp = CStringArray::new(environment.collect());
    let errno = sys::execveat(&program, &argv, &envp);
    Err(SealError { step: "execute it", source: errno.into() })
}

fn is_sealed() -> io::Result<bool> {
    if rustix::fs::statvfs(SELF)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    // Only a file in memory can be asked for its seals.
    let file = rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
}

fn read_only_mount() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(rustix::fs::CWD, SELF, flags)?;
    sys::mount_setattr(mount.as_fd(), READ_ONLY, 0, 0, false)?;
    Ok(mount)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(memfd_create("program", flags)?);
    io::copy(&mut File::open(SELF)?, &mut copy)?;
    copy.seek(SeekFrom::Start(0))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // A program that is open for writing anywhere is not executed (execve(2), ETXTBSY).
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&copy));
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_way_leaves_a_file_that_can_be_written() {
        for program in [read_only_mount().unwrap(), sealed_copy().unwrap()] {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&program));
            let opened = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            let written = opened.and_then(|file| rustix::io::write(file, b"evil"));
            assert!(written.is_err(), "{written:?}");
        }
    }
}
