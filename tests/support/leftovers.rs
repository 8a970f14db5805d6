//! What must be gone when a playground is.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use skep_netns::{Namespace, Netlink};

use super::processes::{self, Process};

const DISKS: &str = "/var/lib/skep-playground";
const SOCKETS: &str = "/run/skep-playground";
const CGROUP: &str = "skep-playground";

/// Whether a text speaks of a playground's paths or cgroups.
fn mentions(text: &str, name: &str) -> bool {
    let path = format!("{CGROUP}/{name}");
    text.match_indices(&path).any(|(at, _)| {
        let next = text[at + path.len()..].chars().next();
        next.is_none_or(|letter| matches!(letter, '/' | '\0' | '\n' | ' '))
    })
}

/// The processes of a playground: its hosts, daemons, keepers, containers.
pub(crate) fn processes_of(name: &str) -> Vec<Process> {
    let own = processes::own();
    let belongs = |process: &Process| {
        let arguments = process.arguments();
        let named = arguments.windows(2).any(|pair| pair[0] == "--name" && pair[1] == name);
        named
            || arguments.iter().any(|argument| mentions(argument, name))
            || mentions(&process.file("cgroup"), name)
    };
    processes::all().into_iter().filter(|process| *process != own && belongs(process)).collect()
}

/// Every process in a namespace of a playground's, whatever the process looks like. Namespaces are known by numbers,
/// which the kernel gives out again: only a process that was there before says that one is left.
pub(crate) fn inside(name: &str) -> BTreeSet<Process> {
    let own = namespaces(processes::own());
    let theirs: BTreeSet<String> = processes_of(name)
        .into_iter()
        .flat_map(namespaces)
        .filter(|namespace| !own.contains(namespace))
        .collect();
    processes::all().into_iter().filter(|process| !namespaces(*process).is_disjoint(&theirs)).collect()
}

fn namespaces(process: Process) -> BTreeSet<String> {
    let kinds = ["mnt", "net", "pid", "uts", "ipc", "cgroup"];
    kinds.iter().map(|kind| process.namespace(kind)).filter(|namespace| !namespace.is_empty()).collect()
}

/// What is left of a playground that is down: a line for each thing. `inside` were in its namespaces.
pub(crate) fn of(name: &str, subnet: u8, inside: &BTreeSet<Process>) -> Vec<String> {
    let mut found = Vec::new();
    for process in processes_of(name) {
        found.push(format!("process {} {:?} in {:?}", process.pid, process.arguments(), process.cgroups()));
    }
    for process in inside.iter().filter(|process| process.lives()) {
        found.push(format!("process {} {:?}, which holds namespaces", process.pid, process.arguments()));
    }
    for process in processes::all() {
        for line in process.file("mountinfo").lines().filter(|line| mentions(line, name)) {
            found.push(format!("mount in the namespace of process {}: {line}", process.pid));
        }
    }
    for folder in cgroup_roots() {
        let folder = folder.join(CGROUP).join(name);
        if folder.exists() {
            found.push(format!("cgroup {}", folder.display()));
        }
    }
    for folder in [DISKS, SOCKETS] {
        let folder = Path::new(folder).join(name);
        if folder.exists() {
            found.push(format!("folder {}", folder.display()));
        }
    }
    found.extend(shared(subnet));
    found
}

/// What playgrounds share: it must be gone unless another one has it.
fn shared(subnet: u8) -> Vec<String> {
    // The lock that every change of a playground takes: none comes or goes while this looks.
    let folder = File::open("/run").unwrap();
    let _lock = Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    let mut found = Vec::new();
    let others = others();
    if !others.contains(&subnet) {
        let link = format!("skpg{subnet}");
        let here = Namespace::current().unwrap();
        if Netlink::new_in(&here).unwrap().find_link(&link).unwrap().is_some() {
            found.push(format!("link {link}"));
        }
    }
    if others.is_empty() {
        let folders = cgroup_roots().into_iter().map(|root| root.join(CGROUP));
        for folder in folders.chain([PathBuf::from(DISKS), PathBuf::from(SOCKETS)]) {
            if folder.exists() {
                found.push(format!("folder {} though no playground is left", folder.display()));
            }
        }
    }
    found
}

/// The subnets of the playgrounds that are there.
fn others() -> Vec<u8> {
    let folders = fs::read_dir(DISKS).into_iter().flatten().flatten();
    let records = folders.filter_map(|folder| {
        let text = fs::read(folder.path().join("playground.json")).ok()?;
        let record: Value = serde_json::from_slice(&text).ok()?;
        u8::try_from(record["subnet"].as_u64()?).ok()
    });
    records.collect()
}

/// Where cgroup hierarchies are mounted.
fn cgroup_roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| matches!(fields[2], "cgroup" | "cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .collect()
}
