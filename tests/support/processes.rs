//! Processes as `/proc` shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process that cannot be mistaken for another that got its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Process {
    /// Its number on this machine.
    pub pid: i32,
    /// When it started, in ticks since boot.
    started: u64,
}

impl Process {
    fn now(pid: i32) -> Option<Self> {
        let fields = stat(pid)?;
        let dead = matches!(fields.first().map(String::as_str), Some("Z" | "X"));
        let started = fields.get(19)?.parse().ok()?;
        (!dead).then_some(Self { pid, started })
    }

    /// Whether it still lives (a zombie does not).
    pub(crate) fn lives(self) -> bool {
        Self::now(self.pid) == Some(self)
    }

    /// Kills it, without warning.
    #[track_caller]
    pub(crate) fn kill(self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends it a signal.
    #[track_caller]
    pub(crate) fn signal(self, signal: Signal) {
        assert!(self.lives(), "process {} is not there any more", self.pid);
        kill(Pid::from_raw(self.pid), signal).unwrap();
    }

    /// A file of its folder in `/proc`.
    pub(crate) fn file(self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The path of a file of its folder in `/proc`.
    pub(crate) fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// What a namespace link points to, as `net:[4026531840]`.
    pub(crate) fn namespace(self, kind: &str) -> String {
        let link = fs::read_link(self.path("ns").join(kind));
        link.map(|target| target.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Its command line.
    pub(crate) fn arguments(self) -> Vec<String> {
        self.file("cmdline").split('\0').map(str::to_owned).collect()
    }

    /// Its cgroup in each hierarchy: controllers and path; the empty name is the v2 tree.
    pub(crate) fn cgroups(self) -> BTreeMap<String, String> {
        let lines = self.file("cgroup");
        let cgroups = lines.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
        });
        cgroups.collect()
    }
}

/// The fields of `/proc/PID/stat` after the program's name.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// All processes that live now.
pub(crate) fn all() -> Vec<Process> {
    let folders = fs::read_dir("/proc").unwrap().flatten();
    folders.filter_map(|folder| Process::now(folder.file_name().to_str()?.parse().ok()?)).collect()
}

/// This process.
pub(crate) fn own() -> Process {
    Process::now(nix::unistd::getpid().as_raw()).unwrap()
}

/// Where a cgroup of a process is mounted, by controller: its folder.
pub(crate) fn cgroup_folder(process: Process, controller: &str) -> Option<PathBuf> {
    let cgroups = process.cgroups();
    let has = |names: &str| names.split(',').any(|name| name == controller);
    let (names, path) = cgroups.iter().find(|(names, _)| has(names)).or_else(|| cgroups.get_key_value(""))?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let root = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let fits = match fields[2] {
            "cgroup" => !names.is_empty() && fields[3].split(',').any(|option| option == controller),
            "cgroup2" => names.is_empty(),
            _ => false,
        };
        fits.then(|| PathBuf::from(fields[1]))
    })?;
    Some(root.join(path.trim_start_matches('/')))
}

/// The value of the first of these files that the cgroup of a process has.
#[track_caller]
pub(crate) fn cgroup_value(process: Process, controller: &str, files: &[&str]) -> String {
    let folder = cgroup_folder(process, controller).unwrap_or_else(|| panic!("no cgroup for {controller}"));
    let value = files.iter().find_map(|file| fs::read_to_string(folder.join(file)).ok());
    value.unwrap_or_else(|| panic!("none of {files:?} in {}", folder.display())).trim().to_owned()
}
