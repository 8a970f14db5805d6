//! `run`, start to removed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

use super::stats::Series;
use super::{Bundles, SKEP_RUNTIME};

/// Rounds before the first that counts.
const WARM_UP: usize = 5;

/// Peers.
const PEERS: [&str; 2] = ["runc", "crun"];

struct Runtime {
    name: &'static str,
    program: PathBuf,
    root: PathBuf,
}

impl Runtime {
    fn run(&self, bundle: &Path) -> Result<std::time::Duration, String> {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).args(["run", "--bundle"]).arg(bundle).arg("bench");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let start = Instant::now();
        let child = command.spawn().map_err(|error| error.to_string())?;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let time = start.elapsed();
        if output.status.success() {
            return Ok(time);
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// Measures all of them in turn.
pub(crate) fn measure(view: &str, bundles: &Bundles, rounds: usize) {
    let runtimes = std::iter::once(("skep-runtime", SKEP_RUNTIME)).chain(PEERS.map(|peer| (peer, peer)));
    let runtimes: Vec<Runtime> = runtimes
        .map(|(name, program)| Runtime { name, program: program.into(), root: bundles.run().join(name) })
        .collect();
    for (bundle, title) in [("plain", "no filter"), ("confined", "Docker's seccomp filter")] {
        println!("\nrun, start to removed; {view}; {title}");
        let bundle = bundles.bundle(bundle);
        let mut taking_part = Vec::new();
        for runtime in &runtimes {
            match (0..WARM_UP).try_for_each(|_| runtime.run(&bundle).map(drop)) {
                Ok(()) => taking_part.push((runtime, Series::default())),
                Err(reason) => println!("  {:<28} left out: {reason}", runtime.name),
            }
        }
        for _ in 0..rounds {
            for (runtime, series) in &mut taking_part {
                series.add(runtime.run(&bundle).unwrap());
            }
        }
        let mut ours = None;
        for (runtime, series) in &taking_part {
            println!("{}", series.row(runtime.name));
            match ours {
                None => ours = Some(series),
                Some(ours) => println!("{}", ours.ratio(series, runtime.name)),
            }
        }
    }
}

/// Takes the v2 tree of a hybrid host out of this process's sight. `false`: there is none beside v1.
pub(crate) fn hide_unified() -> bool {
    let unified = mounts("cgroup2");
    if unified.is_empty() || mounts("cgroup").is_empty() {
        return false;
    }
    own_mounts();
    for path in unified {
        unmount(&path, UnmountFlags::DETACH).unwrap();
    }
    true
}

/// Shows this process the v2 tree alone. `false`: there is no other. Controllers that belong to v1 are in neither then.
pub(crate) fn hide_v1() -> bool {
    let v1 = mounts("cgroup");
    if v1.is_empty() {
        return false;
    }
    own_mounts();
    for path in v1.into_iter().chain(mounts("cgroup2")) {
        unmount(&path, UnmountFlags::DETACH).unwrap();
    }
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None).unwrap();
    true
}

fn mounts(kind: &str) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines = text.lines().filter(|line| line.contains(&format!(" - {kind} ")));
    lines.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

fn own_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}
