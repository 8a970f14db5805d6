//! One container's control group, in every hierarchy at once.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::{CgroupError, write};
use crate::sys;

/// How often an emptied group that is still busy is tried again, with waits of 1, 2, 4, … ms: about 2 s in all. The
/// kernel keeps a group busy for a moment after its last process became a zombie.
const REMOVE_TRIES: u32 = 11;

/// Rounds of killing before giving up on a group without `cgroup.kill`; each round catches what forked in the last.
const KILL_ROUNDS: usize = 100;

/// What a group uses now. `None`: its controller is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory, page cache included, in bytes.
    pub memory: Option<u64>,
    /// CPU time since the start, in nanoseconds.
    pub cpu: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// A container's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    directories: Vec<Directory>,
}

/// The group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// The v1 hierarchy's controllers; `None`: the v2 tree.
    pub(super) v1: Option<Vec<String>>,
}

impl Cgroup {
    pub(super) fn new(directories: Vec<Directory>) -> Self {
        Self { directories }
    }

    pub(super) fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// The v2 directory, for `CLONE_INTO_CGROUP`.
    pub(crate) fn open_unified(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(path) = self.unified() else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty());
        fd.map(Some).map_err(|errno| CgroupError::io("open", path)(errno.into()))
    }

    /// Every hierarchy's `cgroup.procs`, for a process to write itself into.
    pub(crate) fn open_procs(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let mut fds = self.open_v1_procs()?;
        if let Some(unified) = self.unified() {
            let path = unified.join("cgroup.procs");
            let fd = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            fds.push(fd.map_err(|errno| CgroupError::io("open", &path)(errno.into()))?);
        }
        Ok(fds)
    }

    /// The v1 directories' `cgroup.procs`, for a process to write itself into.
    pub(crate) fn open_v1_procs(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let mut fds = Vec::new();
        for directory in self.directories.iter().filter(|directory| directory.v1.is_some()) {
            let path = directory.path.join("cgroup.procs");
            let fd = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            fds.push(fd.map_err(|errno| CgroupError::io("open", &path)(errno.into()))?);
        }
        Ok(fds)
    }

    /// Processes in the group, as this PID namespace numbers them.
    pub fn processes(&self) -> Vec<i32> {
        let Some(directory) = self.directories.first() else { return Vec::new() };
        let text = std::fs::read_to_string(directory.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
    }

    /// Sends `signal` to every process that is in the group now.
    pub fn signal(&self, signal: i32) {
        for pid in self.processes() {
            // One that has just ended is no error.
            let _ = sys::kill(pid, signal);
        }
    }

    /// Kills every process in the group, also those being forked. They may take a moment to be gone.
    pub fn kill(&self) {
        if let Some(unified) = self.unified()
            && write(&unified.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for _ in 0..KILL_ROUNDS {
            if self.processes().is_empty() {
                return;
            }
            self.signal(libc::SIGKILL);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes the group from every hierarchy. What is gone already is fine.
    ///
    /// # Errors
    /// The first directory that stays busy; the others are tried all the same.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut first = Ok(());
        for directory in &self.directories {
            let removed = remove_directory(&directory.path);
            first = first.and(removed);
        }
        first
    }

    /// What the group uses now.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for Directory { path, v1 } in &self.directories {
            let has = |name: &str| v1.as_ref().is_some_and(|list| list.iter().any(|one| one == name));
            let number =
                |file: &str| std::fs::read_to_string(path.join(file)).ok()?.trim().parse::<u64>().ok();
            if has("memory") {
                usage.memory = number("memory.usage_in_bytes");
                usage.oom_kills = keyed(&path.join("memory.oom_control"), "oom_kill");
            }
            if has("cpuacct") {
                usage.cpu = number("cpuacct.usage");
            }
            if has("pids") {
                usage.pids = number("pids.current");
            }
            if v1.is_none() {
                usage.memory = usage.memory.or_else(|| number("memory.current"));
                usage.oom_kills = usage.oom_kills.or_else(|| keyed(&path.join("memory.events"), "oom_kill"));
                let micros = || keyed(&path.join("cpu.stat"), "usage_usec");
                usage.cpu = usage.cpu.or_else(|| micros().map(|micros| micros.saturating_mul(1000)));
                usage.pids = usage.pids.or_else(|| number("pids.current"));
            }
        }
        usage
    }

    fn unified(&self) -> Option<&Path> {
        self.directories
            .iter()
            .find(|directory| directory.v1.is_none())
            .map(|directory| directory.path.as_path())
    }
}

/// The value after `key` in a file of "key value" lines.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|pair| pair.0 == key)?.1.trim().parse().ok()
}

fn remove_directory(path: &Path) -> Result<(), CgroupError> {
    for attempt in 0..REMOVE_TRIES {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
            // Busy: a process on its way out, or groups below this one.
            Err(rustix::io::Errno::BUSY) if attempt + 1 < REMOVE_TRIES => {
                for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        remove_directory(&entry.path())?;
                    }
                }
                std::thread::sleep(Duration::from_millis(1 << attempt));
            }
            Err(errno) => return Err(CgroupError::io("remove", path)(io::Error::from(errno))),
        }
    }
    Ok(())
}
