//! Containers are contained: limits, namespaces, capabilities, paths, as the kernel has them for the process of a task.

use crate::support::helper::{self, STOPPED, TASK};
use crate::support::playground::Playground;
use crate::support::processes::{self, Process, cgroup_value};
use crate::support::{wait_for, wait_until};

/// Docker's default capabilities (moby `oci/caps/defaults.go`) as a bit set.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

const MEMORY: u64 = 64 << 20;

fn process_of(playground: &Playground, service: &str) -> Process {
    let tasks = playground.wait_for_tasks(1, service, 1, |_| true);
    playground.container(tasks[0].node, &tasks[0].container)
}

fn status(process: Process, name: &str) -> String {
    let status = process.file("status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// Mounts of a process: mount point, type, options of the mount.
fn mounts(process: Process) -> Vec<(String, String, String)> {
    let text = process.file("mountinfo");
    let mounts = text.lines().map(|line| {
        let (mount, rest) = line.split_once(" - ").unwrap();
        let fields: Vec<&str> = mount.split(' ').collect();
        let kind = rest.split(' ').next().unwrap();
        (fields[4].to_owned(), kind.to_owned(), fields[5].to_owned())
    });
    mounts.collect()
}

/// The last mount at a path, which is the one that is seen.
fn mount_at(process: Process, path: &str) -> Option<(String, String)> {
    mounts(process).into_iter().rev().find(|mount| mount.0 == path).map(|mount| (mount.1, mount.2))
}

fn is_read_only(options: &str) -> bool {
    options.split(',').any(|option| option == "ro")
}

#[test]
fn a_container_has_namespaces_capabilities_and_paths_of_its_own() {
    let playground = Playground::up("inside", 1);
    playground.ok(1, &["service", "create", "-d", "--name", "plain", "--hostname", "inside", "whoami"]);
    let all_dropped = [
        "service",
        "create",
        "-d",
        "--name",
        "bare",
        "--cap-drop",
        "ALL",
        "--read-only",
        "whoami",
        "--port",
        "8080",
    ];
    playground.ok(1, &all_dropped);
    let process = process_of(&playground, "plain");
    let host = playground.init(1);
    for kind in ["mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let own = process.namespace(kind);
        assert!(!own.is_empty(), "{kind}");
        assert_ne!(own, host.namespace(kind), "{kind} is the host's");
        assert_ne!(own, processes::own().namespace(kind), "{kind} is this machine's");
    }
    let numbers = status(process, "NSpid");
    assert_eq!(numbers.split_whitespace().last(), Some("1"), "process 1 in its own namespace: {numbers}");

    for (name, expected) in [
        ("CapBnd", DEFAULT_CAPABILITIES),
        ("CapEff", DEFAULT_CAPABILITIES),
        ("CapPrm", DEFAULT_CAPABILITIES),
        ("CapInh", 0),
        ("CapAmb", 0),
    ] {
        let set = u64::from_str_radix(&status(process, name), 16).unwrap();
        assert_eq!(set, expected, "{name} is {set:x}");
    }

    // SECCOMP_MODE_FILTER, by Docker's default profile.
    assert_eq!(status(process, "Seccomp"), "2");

    assert_eq!(mount_at(process, "/").unwrap().0, "overlay");
    let mounted = mounts(process);
    for path in ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/sys"] {
        // Not every kernel has all of them.
        if !std::path::Path::new(path).exists() {
            continue;
        }
        let (_, options) =
            mount_at(process, path).unwrap_or_else(|| panic!("{path} is not mounted: {mounted:#?}"));
        assert!(is_read_only(&options), "{path} is {options}");
    }
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"] {
        if std::path::Path::new(path).exists() {
            assert!(mount_at(process, path).is_some(), "{path} is not masked: {mounted:#?}");
        }
    }
    let disk = playground.disk(1);
    let visible =
        mounted.iter().find(|mount| mount.0.contains("skep") || mount.0.starts_with(disk.to_str().unwrap()));
    assert_eq!(visible, None, "the host's disk is seen from inside");
    assert!(!is_read_only(&mount_at(process, "/").unwrap().1));
    let written = process.path("root/etc/hostname");
    assert_eq!(std::fs::read_to_string(written).unwrap(), "inside\n");

    let bare = process_of(&playground, "bare");
    for name in ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status(bare, name), 16).unwrap(), 0, "{name}");
    }
    assert!(is_read_only(&mount_at(bare, "/").unwrap().1));
    assert_ne!(bare.namespace("net"), process.namespace("net"));
}

#[test]
fn a_task_without_capabilities_may_serve_on_any_port() {
    let playground = Playground::up("port80", 1);
    // As in Docker, whose containers have net.ipv4.ip_unprivileged_port_start=0.
    playground
        .ok(1, &["service", "create", "-d", "--name", "web", "--cap-drop", "ALL", "-p", "8080:80", "whoami"]);
    wait_until("an answer", || playground.call(1, 8080).is_ok());
}

#[test]
fn limits_are_set_in_the_cgroup_of_the_task() {
    let playground = Playground::up("cgroups", 1);
    let limits = ["--limit-cpu", "0.5", "--limit-memory", "64m", "--limit-pids", "50"];
    playground.ok(1, &[&["service", "create", "-d", "--name", "tight"], &limits[..], &["whoami"]].concat());
    playground.ok(1, &["service", "create", "-d", "--name", "free", "whoami"]);
    let process = process_of(&playground, "tight");
    let memory = cgroup_value(process, "memory", &["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(memory, MEMORY.to_string());
    let cpu = cgroup_value(process, "cpu", &["cpu.cfs_quota_us", "cpu.max"]);
    assert_eq!(cpu.split(' ').next(), Some("50000"));
    assert_eq!(cgroup_value(process, "pids", &["pids.max"]), "50");

    let free = process_of(&playground, "free");
    let cpu = cgroup_value(free, "cpu", &["cpu.cfs_quota_us", "cpu.max"]);
    assert!(["-1", "max"].contains(&cpu.split(' ').next().unwrap()), "{cpu}");
    assert_ne!(cgroup_value(free, "memory", &["memory.limit_in_bytes", "memory.max"]), MEMORY.to_string());
    assert_ne!(
        processes::cgroup_folder(free, "memory"),
        processes::cgroup_folder(process, "memory"),
        "a cgroup a container"
    );
}

#[test]
fn a_task_that_takes_too_much_is_stopped_and_the_reason_told() {
    let playground = Playground::up("greedy", 1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("helper.tar");
    std::fs::write(&file, helper::image("helper:1")).unwrap();
    playground.ok(1, &["image", "load", "-q", "-i", file.to_str().unwrap()]);
    let start = |name: &str, task: &str, limit: [&str; 2]| {
        let variable = format!("{TASK}={task}");
        let create =
            ["service", "create", "-d", "--name", name, "--restart-condition", "none", "--env", &variable];
        playground.ok(1, &[&create[..], &limit, &["helper:1"]].concat());
    };
    start("eater", "eat", ["--limit-memory", "64m"]);
    start("forker", "fork", ["--limit-pids", "30"]);
    start("modest", "fork", ["--limit-pids", "1000"]);
    let ended = |service: &str| {
        wait_for(&format!("the end of {service}"), || {
            let tasks = playground.try_tasks(1, service)?;
            tasks.into_iter().find(|task| ["failed", "complete", "rejected"].contains(&task.state.as_str()))
        })
    };
    let eater = ended("eater");
    assert_eq!(eater.error, "task: non-zero exit (137) (out of memory)", "{eater:?}");
    let forker = ended("forker");
    assert_eq!(forker.error, format!("task: non-zero exit ({STOPPED})"), "{forker:?}");
    let modest = ended("modest");
    assert_eq!((modest.state.as_str(), modest.error.as_str()), ("complete", ""), "{modest:?}");
}
