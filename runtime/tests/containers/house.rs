//! A keeper and its directories for one test, and the check that nothing is left of them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use skep_runtime::keeper::{
    self, ContainerInfo, ContainerStatus, CreateContainer, Exit, KeeperClient, KeeperOptions, LogOptions,
    Rootfs,
};
use skep_runtime::spec::{default_spec, oci::Spec, write_bundle};

/// Longest wait for anything that should happen, on a busy emulator too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The keeper's process.
pub(crate) fn keeper(args: &[String]) -> ExitCode {
    let [run, state, parent, respawn @ ..] = args else { panic!("keeper RUN STATE PARENT [DAEMON…]") };
    let mut options = KeeperOptions::new(run, state, parent);
    if !respawn.is_empty() {
        options.respawn = Some(respawn.iter().map(OsString::from).collect());
    }
    match keeper::main(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A daemon that says hello, leaves its pid in a file, and waits to be killed.
pub(crate) fn fake_daemon(args: &[String]) -> ExitCode {
    let [run, pid_file] = args else { panic!("fake-daemon RUN PID_FILE") };
    let client = KeeperClient::connect(Path::new(run)).unwrap();
    client.hello_daemon().unwrap();
    let temporary = format!("{pid_file}.new");
    std::fs::write(&temporary, std::process::id().to_string()).unwrap();
    std::fs::rename(&temporary, pid_file).unwrap();
    loop {
        std::thread::park();
    }
}

/// One layer with the probe in it, shared by all tests of this process.
fn layer() -> &'static Path {
    static LAYER: OnceLock<tempfile::TempDir> = OnceLock::new();
    LAYER
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let exe = std::env::current_exe().unwrap();
            std::fs::copy(exe, dir.path().join("probe")).unwrap();
            std::fs::create_dir(dir.path().join("etc")).unwrap();
            std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0:r:/root:/probe\n").unwrap();
            std::fs::write(dir.path().join("etc/script"), "not a program\n").unwrap();
            dir
        })
        .path()
}

/// Removes the shared layer: statics are not dropped.
pub(crate) fn remove_layer() {
    let _ = std::fs::remove_dir_all(layer());
}

pub(crate) struct House {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) options: KeeperOptions,
    pub(crate) client: KeeperClient,
    command: Vec<OsString>,
    mounts_before: usize,
}

impl Drop for House {
    /// After a failure: what the keeper said, and its end.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.options.run_dir.join("keeper.log")).unwrap_or_default();
            eprintln!("--- keeper.log\n{log}---");
            drop(
                KeeperClient::connect_or_spawn(&self.options, &self.command)
                    .and_then(|client| client.shutdown(true)),
            );
        }
    }
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with_respawn(&|_| Vec::new())
    }

    pub(crate) fn with_respawn(respawn: &dyn Fn(&Path) -> Vec<String>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let parent = format!("skep-runtime-test/{}-{number}", std::process::id());
        let options = KeeperOptions::new(dir.path().join("run"), dir.path().join("state"), parent);
        let mut command: Vec<OsString> = vec![std::env::current_exe().unwrap().into(), "keeper".into()];
        command.extend([options.run_dir.clone().into(), options.state_dir.clone().into()]);
        command.push(options.cgroup_parent.clone().into());
        command.extend(respawn(dir.path()).into_iter().map(OsString::from));
        let mounts_before = host_mounts();
        let client = KeeperClient::connect_or_spawn(&options, &command).unwrap();
        Self { dir, options, client, command, mounts_before }
    }

    /// Connects again, to a new keeper if the old one is gone.
    pub(crate) fn reconnect(&mut self) {
        self.client = KeeperClient::connect_or_spawn(&self.options, &self.command).unwrap();
    }

    /// A request for a container that runs the probe with these words.
    pub(crate) fn request(
        &self,
        id: &str,
        words: &[&str],
        change: impl FnOnce(&mut Spec),
    ) -> CreateContainer {
        let bundle = self.dir.path().join("bundles").join(id);
        let mut spec = default_spec();
        let mut process = spec.process().clone().unwrap();
        let args = std::iter::once("/probe").chain(words.iter().copied());
        process.set_args(Some(args.map(str::to_owned).collect()));
        spec.set_process(Some(process));
        change(&mut spec);
        write_bundle(&bundle, &spec).unwrap();
        for name in ["upper", "work"] {
            std::fs::create_dir_all(bundle.join(name)).unwrap();
        }
        CreateContainer {
            id: id.to_owned(),
            rootfs: Rootfs::Overlay {
                lower: vec![layer().to_path_buf()],
                upper: bundle.join("upper"),
                work: bundle.join("work"),
            },
            log: Some(LogOptions::new(bundle.join("log"))),
            bundle,
            netns: false,
            start: true,
            note: String::new(),
        }
    }

    /// Runs the probe to its end.
    pub(crate) fn run(&self, id: &str, words: &[&str], change: impl FnOnce(&mut Spec)) -> (Exit, String) {
        let request = self.request(id, words, change);
        self.client.create(&request, None).unwrap();
        let exit = self.wait_exit(id);
        (exit, self.output(id, "stdout"))
    }

    pub(crate) fn wait_exit(&self, id: &str) -> Exit {
        wait("the container's end", || match self.client.get(id).unwrap().status {
            ContainerStatus::Exited(exit) => Some(exit),
            _ => None,
        })
    }

    /// What a container wrote to a stream so far.
    pub(crate) fn output(&self, id: &str, stream: &str) -> String {
        let log = self.dir.path().join("bundles").join(id).join("log");
        let mut output = String::new();
        for path in [log.with_extension("1"), log] {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            // The last line may be half written when it is read: a write of two pages is seen page by page.
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                if line["stream"] == stream {
                    output.push_str(line["log"].as_str().unwrap());
                }
            }
        }
        output
    }

    pub(crate) fn cgroup_directories(&self) -> Vec<PathBuf> {
        cgroup_directories(&self.options.cgroup_parent)
    }

    pub(crate) fn info(&self, id: &str) -> ContainerInfo {
        self.client.get(id).unwrap()
    }

    /// The end: the keeper goes, and nothing of it is left.
    pub(crate) fn close(self) {
        let keeper = self.client.ping().unwrap();
        self.client.shutdown(true).unwrap();
        wait("the keeper's end", || (!alive(keeper as i32)).then_some(()));
        assert_eq!(cgroup_directories(&self.options.cgroup_parent), Vec::<PathBuf>::new());
        assert_eq!(host_mounts(), self.mounts_before, "mounts of the host");
        assert_eq!(std::fs::read_dir(self.options.state_dir.join("containers")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(self.options.run_dir.join("io")).map_or(0, Iterator::count), 0);
        assert_eq!(processes_with(self.dir.path()), BTreeSet::new());
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

pub(crate) fn alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // A zombie is dead, whoever has to bury it.
    !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

pub(crate) fn kill_9(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn host_mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

/// Whether this kernel's mounted cgroup hierarchies, of whichever version, have a controller.
pub(crate) fn has_controller(name: &str) -> bool {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter_map(|line| line.split_once(" - cgroup")).any(|(left, right)| {
        let mount = Path::new(left.split(' ').nth(4).unwrap());
        let v2 = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        right.trim_end().split([' ', ',']).any(|word| word == name)
            || v2.split_whitespace().any(|word| word == name)
    })
}

fn cgroup_directories(parent: &str) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts =
        text.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let mut found: Vec<_> =
        mounts.map(|mount| Path::new(mount).join(parent)).filter(|path| path.exists()).collect();
    found.sort();
    found
}

/// Living processes whose command line names this directory.
fn processes_with(dir: &Path) -> BTreeSet<i32> {
    let dir = dir.to_str().unwrap();
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(dir)
    })
    .collect()
}
