//! A bundle, a root directory and a host to be harmed, for one attempt.

use std::cell::RefCell;
use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

/// Longest wait for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(15);

/// Rounds of a race within the ordinary tests.
const ROUNDS: u32 = 1_000;

/// The directories of one attempt.
pub(crate) struct House {
    dir: tempfile::TempDir,
    /// A copy of the command: some attacks overwrite it.
    runtime: PathBuf,
    weakness: Option<&'static str>,
    /// Where the containers' cgroups go: a place of this attempt's own.
    parent: String,
    notes: RefCell<String>,
}

impl House {
    pub(crate) fn new(program: &Path, weakness: Option<&'static str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("bundle/rootfs");
        for name in ["proc", "dev", "sys", "vol"] {
            std::fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        std::fs::copy(std::env::current_exe().unwrap(), rootfs.join("probe")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        let runtime = dir.path().join("runtime");
        std::fs::copy(program, &runtime).unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        let parent = format!("skep-attack-{name}");
        let house = Self { dir, runtime, weakness, parent, notes: RefCell::default() };
        assert_eq!(house.run(&["spec", "-b", house.bundle().to_str().unwrap()]).code, 0);
        house.probe(&["exit", "0"]);
        house
    }

    /// How often a race is to be run; `part` is by how much a round is dearer than a mount.
    pub(crate) fn rounds(&self, part: u32) -> u32 {
        let given = std::env::var("SKEP_ATTACK_ROUNDS").ok().map(|text| text.parse::<u32>().unwrap());
        let rounds = given.unwrap_or(ROUNDS / part);
        // There the first harm ends it, and luck must not decide whether there is one.
        if self.is_weakened() { rounds.saturating_mul(10) } else { rounds }
    }

    /// Something to be told beside the outcome.
    pub(crate) fn note(&self, text: &str) {
        self.notes.borrow_mut().push_str(&format!("; {text}"));
    }

    pub(crate) fn is_weakened(&self) -> bool {
        self.weakness.is_some()
    }

    /// Where the containers' cgroups are, in every hierarchy.
    pub(crate) fn parent(&self) -> &str {
        &self.parent
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.path().join("bundle/rootfs")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command's own file.
    pub(crate) fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// A directory of the host's that no container has anything to do with.
    pub(crate) fn outside(&self) -> PathBuf {
        self.path("outside")
    }

    /// What was changed in it.
    pub(crate) fn harm_outside(&self) -> Option<String> {
        let Ok(names) = std::fs::read_dir(self.outside()) else {
            return Some("a directory of the host's is gone".to_owned());
        };
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "secret")
            .collect();
        names.sort();
        let secret = std::fs::read_to_string(self.outside().join("secret")).unwrap_or_default();
        if secret != "secret" {
            return Some(format!("a file of the host's reads {secret:?}"));
        }
        let first = names.first()?;
        Some(format!("{} made on the host, {first} for one", names.len()))
    }

    /// Links in a directory of the rootfs that lead out of it, in both ways: their names.
    pub(crate) fn links_out(&self) -> [&'static str; 2] {
        symlink(self.outside(), self.rootfs().join("abs")).unwrap();
        symlink("../../outside", self.rootfs().join("rel")).unwrap();
        ["abs", "rel"]
    }

    /// Changes the specification.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.bundle().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        config["linux"]["cgroupsPath"] = format!("/{}/one", self.parent).into();
        config["root"]["readonly"] = false.into();
        change(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
    }

    /// Sets the probe's words.
    pub(crate) fn probe(&self, words: &[&str]) {
        let args: Vec<&str> = std::iter::once("/probe").chain(words.iter().copied()).collect();
        self.change(|config| config["process"]["args"] = json!(args));
    }

    /// Takes mounts out of the specification.
    pub(crate) fn without_mounts(&self, gone: impl Fn(&str) -> bool) {
        self.change(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| !gone(mount["destination"].as_str().unwrap()));
        });
    }

    pub(crate) fn add_mount(&self, mount: Value) {
        self.change(|config| config["mounts"].as_array_mut().unwrap().push(mount));
    }

    /// The command with these words, to be run in the bundle.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(self.path("root")).args(words).current_dir(self.bundle());
        command.stdin(Stdio::null()).env("SKEP_RUNTIME_WEAK", self.weakness.unwrap_or_default());
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

    /// A container that goes on, whose output goes to the file `name`.
    pub(crate) fn start(&self, id: &str, name: &str) -> Child {
        let out = std::fs::File::create(self.path(name)).unwrap();
        self.command(&["run", id]).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap()
    }

    /// A container with a terminal, to its end: what came out of that; `None` if it was refused.
    pub(crate) fn run_in_terminal(&self) -> Option<String> {
        self.change(|config| config["process"]["terminal"] = true.into());
        let path = self.path("console");
        let listener = UnixListener::bind(&path).unwrap();
        let code = self.run(&["run", "--detach", "--console-socket", path.to_str().unwrap(), "one"]).code;
        std::fs::remove_file(&path).unwrap();
        if code != 0 {
            return None;
        }
        let (socket, _) = listener.accept().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 64];
        recvmsg(&socket, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let master = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let (mut text, mut master) = (Vec::new(), std::fs::File::from(master.unwrap()));
        // The end of a terminal is an error (EIO).
        drop(master.read_to_end(&mut text));
        self.run(&["delete", "--force", "one"]).fine();
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// What such a container has written.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits until it has written that.
    pub(crate) fn wait_for(&self, name: &str, text: &str) {
        let start = Instant::now();
        while !self.read(name).contains(text) {
            assert!(start.elapsed() < PATIENCE, "waited too long for {text:?}: {:?}", self.read(name));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The end: what was noted.
    pub(crate) fn close(self) -> String {
        self.notes.take()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // An attack may have overwritten the attempt's own command. Nothing may panic here.
        let command = |words: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_skep-runtime"));
            command.arg("--root").arg(self.path("root")).args(words).stdin(Stdio::null()).output()
        };
        let listed = command(&["list", "-q"]).map(|done| String::from_utf8_lossy(&done.stdout).into_owned());
        for id in listed.iter().flat_map(|ids| ids.lines()) {
            drop(command(&["delete", "--force", id]));
        }
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for mount in text.lines().filter(|line| line.contains(" - cgroup")) {
            let place = mount.split(' ').nth(4).unwrap_or("/");
            let place = Path::new(place).join(&self.parent);
            drop(std::fs::remove_dir(place));
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
    /// The end of what it did, whatever that was: most attacks on a sound build are refused.
    pub(crate) fn any(self) {}

    /// It went as it should.
    pub(crate) fn fine(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }
}
