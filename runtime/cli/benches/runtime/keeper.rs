//! The node's way: requests to a keeper.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use skep_runtime::keeper::{self, CreateContainer, KeeperClient, KeeperOptions, Rootfs};
use skep_runtime::spec::{confine, default_spec, write_bundle};

use super::Bundles;
use super::stats::Series;

/// Containers at once.
const PARALLEL: usize = 200;

/// So many starts of one before as many of the other: what the kernel has to clean up after a container is not charged to
/// the other's next one.
const BLOCK: usize = 10;

/// A keeper that nobody asked for anything for so long has given back what it does not use.
const REST: Duration = Duration::from_secs(7);

/// The keeper's process: `keeper RUN STATE PARENT`.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let [run, state, parent] = args else { return ExitCode::FAILURE };
    match keeper::main(KeeperOptions::new(run, state, parent)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

struct House<'a> {
    bundles: &'a Bundles,
    options: KeeperOptions,
    client: KeeperClient,
    network: OwnedFd,
}

impl House<'_> {
    fn request(&self, id: &str) -> CreateContainer {
        let bundle = self.bundles.directory().join("node/bundles").join(id);
        let mut spec = default_spec();
        confine(&mut spec).unwrap();
        let mut process = spec.process().clone().unwrap();
        process.set_args(Some(["/bin/probe", "wait"].map(str::to_owned).to_vec()));
        spec.set_process(Some(process));
        write_bundle(&bundle, &spec).unwrap();
        for name in ["upper", "work"] {
            std::fs::create_dir_all(bundle.join(name)).unwrap();
        }
        CreateContainer {
            id: id.to_owned(),
            rootfs: Rootfs::Overlay {
                lower: vec![self.bundles.rootfs()],
                upper: bundle.join("upper"),
                work: bundle.join("work"),
            },
            log: None,
            bundle,
            netns: true,
            start: true,
            note: String::new(),
        }
    }

    /// The request until the program runs.
    fn start(&self, client: &KeeperClient, id: &str) -> Duration {
        let request = self.request(id);
        let start = Instant::now();
        client.create(&request, Some(self.network.as_fd())).unwrap();
        start.elapsed()
    }
}

/// Measures what is wanted of `start`, `parallel` and `memory`.
pub(crate) fn measure(view: &str, bundles: &Bundles, rounds: usize, wants: &dyn Fn(&str) -> bool) {
    let directory = bundles.directory().join("node");
    let parent = format!("skep-bench-{}", std::process::id());
    let options = KeeperOptions::new(bundles.run().join("keeper"), directory.join("state"), parent);
    let command: Vec<OsString> = vec![
        std::env::current_exe().unwrap().into(),
        "keeper".into(),
        options.run_dir.clone().into(),
        options.state_dir.clone().into(),
        options.cgroup_parent.clone().into(),
    ];
    let client = KeeperClient::connect_or_spawn(&options, &command).unwrap();
    let keeper = client.ping().unwrap();
    let house = House { bundles, options, client, network: network_namespace() };
    if wants("start") {
        println!(
            "\nstart, request to exec; {view}; network namespace from the pool; Docker's seccomp filter"
        );
        let (mut ours, mut crun) = (Series::default(), Series::default());
        for _ in 0..rounds.div_ceil(BLOCK) {
            for _ in 0..BLOCK {
                ours.add(house.start(&house.client, "one"));
                house.client.delete("one").unwrap();
            }
            for _ in 0..BLOCK {
                crun_start(bundles).into_iter().for_each(|time| crun.add(time));
            }
        }
        println!("{}", ours.row("keeper"));
        if crun.median().is_nan() {
            println!("  crun                         left out: it does not run here");
        } else {
            println!("{}", crun.row("crun run --detach"));
            println!("{}", ours.ratio(&crun, "crun"));
        }
    }
    if wants("parallel") || wants("memory") {
        let empty = memory(keeper);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for number in 0..PARALLEL {
                let house = &house;
                scope.spawn(move || {
                    let client = KeeperClient::connect(&house.options.run_dir).unwrap();
                    house.start(&client, &format!("p{number}"));
                });
            }
        });
        println!(
            "\nparallel: {PARALLEL} containers started at once in {:.0} ms",
            start.elapsed().as_secs_f64() * 1000.0
        );
        let full = memory(keeper);
        std::thread::sleep(REST);
        let rest = memory(keeper);
        println!("\nmemory of the keeper, KiB");
        for (name, figure) in [("RSS", 0), ("PSS", 1), ("private", 2)] {
            let [empty, full, rest] = [empty, full, rest].map(|figures: [u64; 3]| figures[figure]);
            let each = (full as f64 - empty as f64) / PARALLEL as f64;
            println!(
                "  {name:<8} without containers {empty:6}  with {PARALLEL} {full:6}  each {each:6.1}  at rest {rest:6}"
            );
        }
    }
    house.client.shutdown(true).unwrap();
    while Path::new(&format!("/proc/{keeper}")).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One as the node's pool has it: made before, and joined by descriptor.
fn network_namespace() -> OwnedFd {
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
    })
    .join()
    .unwrap()
}

/// The same from a command line. `None`: it does not run here.
fn crun_start(bundles: &Bundles) -> Option<Duration> {
    let root = bundles.run().join("crun-start");
    let crun = |arguments: &[&str]| {
        let mut command = Command::new("crun");
        command.arg("--root").arg(&root).args(arguments).current_dir(bundles.bundle("waiting"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let start = Instant::now();
    let started = crun(&["run", "--detach", "bench"]).status().ok()?.success();
    let time = start.elapsed();
    crun(&["delete", "--force", "bench"]).status().ok()?;
    started.then_some(time)
}

/// RSS, PSS and private memory (proc_pid_smaps(5)), KiB.
fn memory(pid: u32) -> [u64; 3] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let figure = |key: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
    };
    [figure("Rss:"), figure("Pss:"), figure("Private_Clean:") + figure("Private_Dirty:")]
}
