//! What a container costs, beside runc and crun, in turn and in one run: `just bench-runtime`.
//!
//! - `run`: a command's whole life, start to removed, of a static `true`; with no filter and with a filter of the size
//!   of Docker's. crun refuses a host whose v1 hierarchies stand beside a v2 tree that has controllers, so it takes part
//!   where the v2 tree is out of sight.
//! - `start`: in the node's way, a request to a keeper until the program runs, in a network namespace that was made
//!   before; beside `crun run --detach`, which does the same.
//! - `parallel`: two hundred such requests at once.
//! - `memory`: what the keeper holds, and what a running container adds to it.
//!
//! Needs root. A peer that is not installed is left out. No figure is judged here.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "runtime/keeper.rs"]
mod keeper;
#[path = "runtime/run.rs"]
mod run;
#[path = "runtime/stats.rs"]
mod stats;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// This package's program.
const SKEP_RUNTIME: &str = env!("CARGO_BIN_EXE_skep-runtime");

/// What a container runs: this very program, or a smaller one that does nothing.
const BUSYBOX: &str = "/bin/busybox";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("keeper") => return keeper::main(&args[2..]),
        Some("wait") => loop {
            std::thread::park();
        },
        _ => {}
    }
    if args[0].ends_with("true") {
        return ExitCode::SUCCESS;
    }
    assert!(rustix::process::geteuid().is_root(), "containers are made here: this needs root");
    let wanted: Vec<&str> =
        args[1..].iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let wants = |what: &str| wanted.is_empty() || wanted.contains(&what);
    let scratch = tempfile::tempdir().unwrap();
    // Where a runtime keeps its state: /run is a tmpfs on most hosts, and this one on every.
    let run = tempfile::tempdir_in("/dev/shm").unwrap();
    let bundles = Bundles::make(scratch.path(), run.path());
    let node = ["start", "parallel", "memory"].iter().any(|what| wants(what));
    let measure = |view: &str| {
        if wants("run") {
            run::measure(view, &bundles, rounds);
        }
        if node {
            keeper::measure(view, &bundles, rounds, &wants);
        }
    };
    measure("as this host has its cgroups");
    if run::hide_unified() {
        measure("v1 alone in sight");
    }
    if run::hide_v1() {
        measure("v2 alone in sight, without controllers");
    }
    ExitCode::SUCCESS
}

/// Bundles on disk.
pub(crate) struct Bundles {
    directory: PathBuf,
    run: PathBuf,
}

impl Bundles {
    fn make(directory: &Path, run: &Path) -> Self {
        let root = directory.join("rootfs");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        let this = std::env::current_exe().unwrap();
        let small = if Path::new(BUSYBOX).exists() { Path::new(BUSYBOX) } else { &this };
        std::fs::copy(small, root.join("bin/true")).unwrap();
        std::fs::copy(&this, root.join("bin/probe")).unwrap();
        let bundles = Self { directory: directory.to_path_buf(), run: run.to_path_buf() };
        bundles.write("plain", &["/bin/true"], false);
        bundles.write("confined", &["/bin/true"], true);
        bundles.write("waiting", &["/bin/probe", "wait"], true);
        bundles
    }

    fn write(&self, name: &str, args: &[&str], confined: bool) {
        let bundle = self.bundle(name);
        std::fs::create_dir_all(&bundle).unwrap();
        let written =
            std::process::Command::new(SKEP_RUNTIME).args(["spec", "--bundle"]).arg(&bundle).status();
        assert!(written.unwrap().success());
        let path = bundle.join("config.json");
        let mut spec: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        // Debian's crun knows no newer one.
        spec["ociVersion"] = serde_json::json!("1.0.2");
        spec["process"]["args"] = serde_json::json!(args);
        spec["process"]["terminal"] = serde_json::json!(false);
        spec["root"]["path"] = serde_json::json!(self.directory.join("rootfs"));
        if confined {
            let mut docker = skep_runtime::spec::default_spec();
            skep_runtime::spec::confine(&mut docker).unwrap();
            let seccomp = docker.linux().as_ref().and_then(|linux| linux.seccomp().clone());
            spec["linux"]["seccomp"] = serde_json::to_value(seccomp).unwrap();
        }
        std::fs::write(path, spec.to_string()).unwrap();
    }

    pub(crate) fn bundle(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// For a runtime's state.
    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}
