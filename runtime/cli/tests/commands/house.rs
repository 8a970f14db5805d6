//! A bundle and a root directory for one test, and the check that nothing is left of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything that should happen, on a busy emulator too.
const PATIENCE: Duration = Duration::from_secs(60);

/// One test's directories.
pub(crate) struct House {
    dir: tempfile::TempDir,
    /// Where the containers' cgroups go: a place of this test's own.
    parent: String,
}

impl House {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("bundle/rootfs");
        for name in ["proc", "dev", "sys"] {
            std::fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        std::fs::copy(std::env::current_exe().unwrap(), rootfs.join("probe")).unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        let house = Self { parent: format!("skep-test-{name}"), dir };
        assert_eq!(house.run(&["spec", "-b", house.bundle().to_str().unwrap()]).code, 0);
        house.change(|_| {});
        house
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory of the containers' cgroups, in a hierarchy's root.
    pub(crate) fn parent(&self) -> &str {
        &self.parent
    }

    /// Changes the specification. The container runs the probe without a terminal.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.bundle().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        config["linux"]["cgroupsPath"] = format!("/{}/one", self.parent).into();
        change(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
    }

    /// The place of the container's cgroup in the hierarchy that freezes, the file for that, and the word.
    pub(crate) fn freezer(&self) -> (PathBuf, &'static str, &'static str) {
        let name = format!("{}/one", self.parent);
        let v1 = Path::new("/sys/fs/cgroup/freezer");
        if v1.is_dir() {
            (v1.join(name), "freezer.state", "FROZEN")
        } else {
            (Path::new("/sys/fs/cgroup").join(name), "cgroup.freeze", "1")
        }
    }

    /// Sets the probe's words.
    pub(crate) fn probe(&self, words: &[&str]) {
        self.change(|config| {
            config["process"]["args"] = std::iter::once("/probe").chain(words.iter().copied()).collect();
        });
    }

    /// The command with these words, to be run in the bundle.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skep-runtime"));
        command.arg("--root").arg(self.path("root")).args(words).current_dir(self.bundle());
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end. Files take the output, not pipes: a container that lives on holds them open.
    pub(crate) fn run(&self, words: &[&str]) -> Done {
        self.finish(&mut self.command(words))
    }

    pub(crate) fn finish(&self, command: &mut Command) -> Done {
        let out = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        let err = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        let status = command.stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap()).status().unwrap();
        let text = |file: &tempfile::NamedTempFile| std::fs::read_to_string(file.path()).unwrap();
        Done { code: status.code().unwrap_or(-1), out: text(&out), err: text(&err) }
    }

    pub(crate) fn status(&self, id: &str) -> String {
        let done = self.run(&["state", id]);
        assert_eq!(done.code, 0, "{}", done.err);
        done.json()["status"].as_str().unwrap().to_owned()
    }

    pub(crate) fn wait_status(&self, id: &str, status: &str) {
        wait(status, || (self.status(id) == status).then_some(()));
    }

    /// The end: nothing is left.
    pub(crate) fn close(self) {
        let root = self.path("root");
        if root.exists() {
            assert_eq!(std::fs::read_dir(root).unwrap().count(), 0, "state");
        }
        let groups = cgroup_directories(&format!("{}/one", self.parent));
        assert_eq!(groups, Vec::<PathBuf>::new(), "cgroups");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "mounts");
        assert_eq!(processes_in(&self.bundle()), BTreeSet::new(), "processes");
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // After a failure too: containers, then what the runtime leaves alone, the parent of their cgroups.
        let ids = self.run(&["list", "-q"]).out;
        for id in ids.lines() {
            drop(self.run(&["delete", "--force", id]));
        }
        for path in cgroup_directories(&self.parent) {
            drop(std::fs::remove_dir(path));
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Waits for a condition, never for time alone.
pub(crate) fn wait<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn cgroup_directories(name: &str) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = text.lines().filter(|line| line.contains(" - cgroup"));
    let mounts = mounts.filter_map(|line| line.split(' ').nth(4));
    let mut found: Vec<_> =
        mounts.map(|mount| Path::new(mount).join(name)).filter(|path| path.exists()).collect();
    found.sort();
    found
}

/// Living processes that run the bundle's probe.
fn processes_in(bundle: &Path) -> BTreeSet<i32> {
    let probe = rustix::fs::stat(bundle.join("rootfs/probe")).unwrap();
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let program = rustix::fs::stat(format!("/proc/{pid}/exe"));
        program.is_ok_and(|program| (program.st_dev, program.st_ino) == (probe.st_dev, probe.st_ino))
    })
    .collect()
}
