//! One container's control group, in every hierarchy at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::systemd::Unit;
use super::{CgroupError, write};
use crate::{process, sys};

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
    pub(super) unit: Option<Unit>,
}

/// The group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    /// The v1 hierarchy; `None`: the v2 tree.
    pub(crate) v1: Option<V1>,
}

/// What is to be known of a v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct V1 {
    pub(crate) mount: PathBuf,
    pub(crate) controllers: Vec<String>,
}

impl Directory {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.v1.as_ref().is_some_and(|v1| v1.controllers.iter().any(|one| one == controller))
    }

    /// A hierarchy that controls nothing. Who cannot have a group in it can do without.
    pub(super) fn is_only_a_name(&self) -> bool {
        self.v1.as_ref().is_some_and(|v1| v1.controllers.iter().all(|one| one.starts_with("name=")))
    }
}

impl Cgroup {
    pub(super) fn new(directories: Vec<Directory>) -> Self {
        Self { directories, unit: None }
    }

    pub(crate) fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// The directory that counts for questions about the whole group: the v2 one, or that of the first controller.
    pub(super) fn main(&self) -> Option<&Path> {
        let real =
            self.directories.iter().find(|directory| directory.v1.is_some() && !directory.is_only_a_name());
        real.or_else(|| self.directories.first()).map(|directory| directory.path.as_path())
    }

    /// The group's directory in the hierarchy of a v1 controller.
    pub(super) fn v1(&self, controller: &str) -> Option<&Path> {
        self.directories
            .iter()
            .find(|directory| directory.has(controller))
            .map(|directory| directory.path.as_path())
    }

    /// The group's directories: by controller (`name=…` for a named hierarchy), and by the empty name in the v2 tree.
    /// For a state file; [`Self::from_paths`] is its inverse.
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        let mut paths = BTreeMap::new();
        for directory in &self.directories {
            match &directory.v1 {
                None => drop(paths.insert(String::new(), directory.path.clone())),
                Some(v1) => {
                    paths.extend(v1.controllers.iter().map(|name| (name.clone(), directory.path.clone())))
                }
            }
        }
        paths
    }

    /// The group that has these [`Self::paths`], and the unit of [`Self::unit`] if systemd made it.
    pub fn from_paths(paths: &BTreeMap<String, PathBuf>, unit: Option<&str>) -> Self {
        let mut directories: Vec<Directory> = Vec::new();
        for (name, path) in paths.iter().filter(|(name, _)| !name.is_empty()) {
            let known = directories.iter_mut().find(|directory| directory.path == *path);
            match known.and_then(|directory| directory.v1.as_mut()) {
                Some(v1) => v1.controllers.push(name.clone()),
                None => directories.push(Directory {
                    path: path.clone(),
                    // Where it is mounted matters only for making the group.
                    v1: Some(V1 { mount: PathBuf::new(), controllers: vec![name.clone()] }),
                }),
            }
        }
        directories.extend(paths.get("").map(|path| Directory { path: path.clone(), v1: None }));
        Self { directories, unit: unit.map(Unit::existing) }
    }

    /// The systemd unit that the group belongs to.
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_ref().map(|unit| unit.name.as_str())
    }

    /// Whether the group is there.
    pub fn exists(&self) -> bool {
        self.main().is_some_and(Path::exists)
    }

    /// The v2 directory, for `CLONE_INTO_CGROUP`.
    pub(crate) fn open_unified(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(path) = self.unified() else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty());
        fd.map(Some).map_err(|errno| CgroupError::io("open", path)(errno.into()))
    }

    /// Every hierarchy's file for a process with one thread to write itself into, as `0`, that joins the container of `init`.
    pub(crate) fn open_procs(&self, init: i32) -> Result<Vec<OwnedFd>, CgroupError> {
        let mut fds = self.open_v1_tasks()?;
        if let Some(unified) = self.unified() {
            // A v2 group that hands controllers down takes no processes: an init that is a manager of its own group
            // has moved itself below, and others go where it is.
            let hands_down = std::fs::read_to_string(unified.join("cgroup.subtree_control"));
            let below = if hands_down.is_ok_and(|names| !names.trim().is_empty()) {
                directory_of(unified, init)
            } else {
                None
            };
            let path = below.as_deref().unwrap_or(unified).join("cgroup.procs");
            let fd = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            fds.push(fd.map_err(|errno| CgroupError::io("open", &path)(errno.into()))?);
        }
        Ok(fds)
    }

    /// The v1 directories' `tasks`, for a process with one thread to write itself into as `0`.
    ///
    /// Not `cgroup.procs`: to move a whole process the kernel stops all of the host from forking and ending, which costs
    /// milliseconds now and then (`cgroup_procs_write_start`). A thread that moves itself needs none of that.
    pub(crate) fn open_v1_tasks(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let mut fds = Vec::new();
        for directory in self.directories.iter().filter(|directory| directory.v1.is_some()) {
            let path = directory.path.join("tasks");
            match rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) if directory.is_only_a_name() => {}
                fd => fds.push(fd.map_err(|errno| CgroupError::io("open", &path)(errno.into()))?),
            }
        }
        Ok(fds)
    }

    /// Puts a process into the group, in every hierarchy.
    ///
    /// # Errors
    /// [`CgroupError::Io`]: the process is in some and not in others then.
    pub fn join(&self, pid: i32) -> Result<(), CgroupError> {
        for directory in self.directories.iter().filter(|directory| !directory.is_only_a_name()) {
            let path = directory.path.join("cgroup.procs");
            write(&path, &pid.to_string()).map_err(CgroupError::io("write", &path))?;
        }
        Ok(())
    }

    /// Processes in the group, as this PID namespace numbers them.
    pub fn processes(&self) -> Vec<i32> {
        self.main().map(processes_in).unwrap_or_default()
    }

    /// Processes in the group and in the groups below it, in whichever hierarchy.
    pub fn all_processes(&self) -> Vec<i32> {
        let mut all = BTreeSet::new();
        // Asking for one that is not there costs a fraction of opening two files in it.
        for directory in self.directories.iter().filter(|directory| directory.path.exists()) {
            collect(&directory.path, &mut all);
        }
        all.into_iter().collect()
    }

    /// Sends `signal` to every process that is in the group or below it now.
    pub fn signal(&self, signal: i32) {
        self.send(&self.all_processes(), signal);
    }

    /// A number from the list may be another process's by the time it is used: that one is not in the list when it is
    /// read again after the opening.
    fn send(&self, pids: &[i32], signal: i32) {
        let opened: Vec<_> = pids.iter().filter_map(|pid| Some((*pid, process::open(*pid).ok()?))).collect();
        let still = self.all_processes();
        for (_, process) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
            // One that has just ended is no error.
            let _ = sys::pidfd_signal(process.as_fd(), signal);
        }
    }

    /// Kills every process in the group and below it, also those being forked and those that are frozen. They may take
    /// a moment to be gone.
    pub fn kill(&self) {
        if let Some(unified) = self.unified()
            && write(&unified.join("cgroup.kill"), "1").is_ok()
        {
            self.let_die();
            return;
        }
        for _ in 0..KILL_ROUNDS {
            let processes = self.all_processes();
            if processes.is_empty() {
                return;
            }
            self.send(&processes, libc::SIGKILL);
            self.let_die();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes the group and those below it from every hierarchy, and its systemd unit. What is gone already is fine.
    ///
    /// # Errors
    /// The first directory that stays busy; the others are tried all the same.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut first = self.unit.as_ref().map_or(Ok(()), Unit::stop);
        for directory in &self.directories {
            let removed = remove_directory(&directory.path);
            first = first.and(removed);
        }
        first
    }

    /// What the group uses now.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for directory in &self.directories {
            let path = &directory.path;
            let has = |name: &str| directory.has(name);
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
            if directory.v1.is_none() {
                usage.memory = usage.memory.or_else(|| number("memory.current"));
                usage.oom_kills = usage.oom_kills.or_else(|| keyed(&path.join("memory.events"), "oom_kill"));
                let micros = || keyed(&path.join("cpu.stat"), "usage_usec");
                usage.cpu = usage.cpu.or_else(|| micros().map(|micros| micros.saturating_mul(1000)));
                usage.pids = usage.pids.or_else(|| number("pids.current"));
            }
        }
        usage
    }

    pub(super) fn unified(&self) -> Option<&Path> {
        self.directories
            .iter()
            .find(|directory| directory.v1.is_none())
            .map(|directory| directory.path.as_path())
    }
}

fn processes_in(path: &Path) -> Vec<i32> {
    let numbers = |text: String| -> Vec<i32> {
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
    };
    match std::fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => numbers(text),
        // A threaded group of v2 tells of threads only.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let threads = std::fs::read_to_string(path.join("cgroup.threads")).map(numbers);
            let leaders: BTreeSet<i32> = threads.unwrap_or_default().into_iter().map(leader_of).collect();
            leaders.into_iter().collect()
        }
        Err(_) => Vec::new(),
    }
}

/// The process that a thread belongs to. One that has just ended is left as it is: its number is nobody's.
fn leader_of(thread: i32) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(thread)
}

/// The group at `path` or below it that a process is in.
fn directory_of(path: &Path, pid: i32) -> Option<PathBuf> {
    if processes_in(path).contains(&pid) {
        return Some(path.to_path_buf());
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.find_map(|entry| directory_of(&entry.path(), pid))
}

fn collect(path: &Path, all: &mut BTreeSet<i32>) {
    all.extend(processes_in(path));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), all);
        }
    }
}

/// The value after `key` in a file of "key value" lines.
pub(super) fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|pair| pair.0 == key)?.1.trim().parse().ok()
}

pub(super) fn remove_directory(path: &Path) -> Result<(), CgroupError> {
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
