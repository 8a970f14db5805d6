//! The cases, by what they are about.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::house::{House, wait};

pub(crate) type Case = (&'static str, fn());

/// What is done to a specification.
type Change = fn(&mut serde_json::Value);

pub(crate) const CASES: &[Case] = &[
    ("a_container_lives_from_create_to_delete", a_container_lives_from_create_to_delete),
    ("run_returns_the_programs_code_and_output", run_returns_the_programs_code_and_output),
    ("run_passes_signals_on", run_passes_signals_on),
    ("run_detached_and_kept", run_detached_and_kept),
    ("ids_do_not_lead_out_of_the_root", ids_do_not_lead_out_of_the_root),
    ("mistakes_have_runcs_words_and_codes", mistakes_have_runcs_words_and_codes),
    ("errors_are_in_the_log_and_on_standard_error", errors_are_in_the_log_and_on_standard_error),
    ("broken_bundles_leave_nothing", broken_bundles_leave_nothing),
    ("descriptors_are_preserved", descriptors_are_preserved),
    ("the_pidfd_socket_is_told", the_pidfd_socket_is_told),
    ("of_two_creates_of_one_id_one_wins", of_two_creates_of_one_id_one_wins),
    ("a_killed_create_leaves_what_others_can_clear", a_killed_create_leaves_what_others_can_clear),
    ("delete_force_clears_what_has_no_record", delete_force_clears_what_has_no_record),
    ("a_cgroup_of_somebody_elses_is_refused", a_cgroup_of_somebody_elses_is_refused),
    ("documents_are_json", documents_are_json),
    ("exec_pause_and_limits", exec_pause_and_limits),
    ("a_reader_that_has_gone_is_no_panic", a_reader_that_has_gone_is_no_panic),
];

fn a_container_lives_from_create_to_delete() {
    let house = House::new();
    house.probe(&["wait-term", "7"]);
    house.change(|config| config["annotations"] = serde_json::json!({ "a": "b" }));
    let pid_file = house.path("pid");
    let created = house.run(&["create", "--pid-file", pid_file.to_str().unwrap(), "one"]);
    assert_eq!((created.code, created.err.as_str()), (0, ""));
    let state = house.run(&["state", "one"]).json();
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    assert_eq!(state["pid"].to_string(), pid);
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], "one");
    assert_eq!(state["bundle"], house.bundle().to_str().unwrap());
    assert_eq!(state["rootfs"], house.bundle().join("rootfs").to_str().unwrap());
    assert_eq!(state["annotations"]["a"], "b");
    assert_eq!(state["owner"], "");
    assert!(state["created"].as_str().unwrap().ends_with('Z'));
    assert!(house.run(&["create", "one"]).err.contains("container with given ID already exists"));
    assert_eq!(house.run(&["start", "one"]).code, 0);
    assert_eq!(house.status("one"), "running");
    assert!(house.run(&["start", "one"]).err.contains("cannot start an already running container"));
    assert!(
        house
            .run(&["delete", "one"])
            .err
            .contains("cannot delete container one that is not stopped: running")
    );
    assert_eq!(house.run(&["ps", "-f", "json", "one"]).out, format!("[{pid}]\n"));
    let listed = house.run(&["list", "-f", "json"]).json();
    assert_eq!((&listed[0]["id"], &listed[0]["status"]), (&"one".into(), &"running".into()));
    assert_eq!(house.run(&["list", "-q"]).out, "one\n");
    assert_eq!(house.run(&["kill", "one", "KILL"]).code, 0);
    house.wait_status("one", "stopped");
    assert_eq!(house.run(&["state", "one"]).json()["pid"], 0);
    let again = house.run(&["kill", "one", "KILL"]);
    assert_eq!(again.code, 1);
    assert!(again.err.contains("container not running"));
    assert!(house.run(&["start", "one"]).err.contains("cannot start a container that has stopped"));
    assert_eq!(house.run(&["exec", "one", "x"]).code, 255);
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    // One that was never started goes too, and one that runs if it is forced.
    assert_eq!(house.run(&["create", "one"]).code, 0);
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    assert_eq!(house.run(&["run", "-d", "one"]).code, 0);
    assert_eq!(house.run(&["delete", "-f", "one"]).code, 0);
    house.close();
}

fn run_returns_the_programs_code_and_output() {
    let house = House::new();
    house.probe(&["exit", "5"]);
    assert_eq!(house.run(&["run", "one"]).code, 5);
    house.probe(&["say", "out", "err"]);
    let done = house.run(&["run", "one"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "out\n", "err\n"));
    house.close();
}

fn run_passes_signals_on() {
    let house = House::new();
    house.probe(&["wait-term", "9"]);
    let out = house.path("out");
    let mut child = house.command(&["run", "one"]);
    let mut child = child.stdout(std::fs::File::create(&out).unwrap()).spawn().unwrap();
    wait("the program", || (std::fs::read_to_string(&out).unwrap() == "ready\n").then_some(()));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    house.close();
}

fn run_detached_and_kept() {
    let house = House::new();
    house.probe(&["sleep"]);
    assert_eq!(house.run(&["run", "--detach", "one"]).code, 0);
    assert_eq!(house.status("one"), "running");
    assert_eq!(house.run(&["kill", "--all", "one", "9"]).code, 0);
    house.wait_status("one", "stopped");
    assert_eq!(house.run(&["kill", "--all", "one", "9"]).code, 0, "none is left to be killed");
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    house.probe(&["exit", "3"]);
    assert_eq!(house.run(&["run", "--keep", "one"]).code, 3);
    assert_eq!(house.status("one"), "stopped");
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    house.close();
}

fn ids_do_not_lead_out_of_the_root() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    let outside = house.path("evil");
    std::fs::create_dir(&outside).unwrap();
    for id in ["../evil", "a/b", "..", ".", "/", "a b", "ä"] {
        for command in ["run", "create", "state", "delete", "start", "kill"] {
            let done = house.run(&[command, id]);
            assert_eq!(done.code, 1, "{command} {id}");
            assert!(done.err.contains("invalid container ID format"), "{}", done.err);
        }
        assert_eq!(house.run(&["delete", "-f", id]).code, 1, "{id}");
    }
    assert!(house.run(&["run", ""]).err.contains("container id cannot be empty"));
    assert!(outside.exists());
    house.close();
}

fn mistakes_have_runcs_words_and_codes() {
    let house = House::new();
    for (words, code, text) in [
        (&["list"][..], 1, "no such file or directory"),
        (&["state", "nope"], 1, "container does not exist"),
        (&["delete", "nope"], 1, "container does not exist"),
        (&["delete", "-f", "nope"], 0, ""),
        (&["exec", "nope", "x"], 255, "exec failed: container does not exist"),
        (&["kill", "nope", "BAD"], 1, "container does not exist"),
        (&["state"], 1, "\\\"state\\\" requires exactly 1 argument(s)"),
        (&["kill", "a", "b", "c"], 1, "requires a maximum of 2 argument(s)"),
        (&["frobnicate"], 3, "No help topic for 'frobnicate'"),
        (&["state", "--foo", "x"], 1, "flag provided but not defined: -foo"),
        (&["run", "--preserve-fds", "3", "x"], 1, "unable to stat preserved-fd"),
        (&["run", "--console-socket", "/nope", "x"], 1, "cannot use console socket"),
        (&["run", "-b", "/nonexistent", "x"], 1, "chdir /nonexistent: no such file or directory"),
        (&["--log-format", "x", "list"], 1, "invalid log-format: x"),
        (&["--root", "/", "list"], 1, "--root argument should not be set to /"),
    ] {
        let done = house.run(words);
        assert_eq!(done.code, code, "{words:?} {}", done.err);
        assert!(done.err.contains(text), "{words:?} {}", done.err);
    }
    house.close();
}

fn errors_are_in_the_log_and_on_standard_error() {
    let house = House::new();
    house.change(|config| config["process"]["args"] = vec!["nosuch"].into());
    let log = house.path("log");
    let log = log.to_str().unwrap();
    let done = house.run(&["--log", log, "--log-format", "json", "run", "one"]);
    assert_eq!(done.code, 1);
    let text = "skep-runtime run failed: unable to start container process: exec: \"nosuch\": executable file not \
                found in $PATH";
    assert_eq!(done.err, format!("{text}\n"));
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(log).unwrap()).unwrap();
    assert_eq!((&line["level"], &line["msg"]), (&"error".into(), &text.into()));
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    house.close();
}

fn broken_bundles_leave_nothing() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    let good = std::fs::read(house.bundle().join("config.json")).unwrap();
    let changes: [(Change, &str); 6] = [
        (|config| config["root"]["path"] = "nope".into(), "invalid rootfs: stat"),
        (|config| config["process"]["args"] = serde_json::json!([]), "args must not be empty"),
        (|config| config["process"]["cwd"] = "rel".into(), "Cwd must be an absolute path"),
        (
            |config| drop(config.as_object_mut().unwrap().remove("process")),
            "process property must not be empty",
        ),
        (|config| config["process"]["args"] = vec!["/nope"].into(), "stat /nope: no such file or directory"),
        (|config| config["process"]["terminal"] = true.into(), "cannot allocate tty if runc will detach"),
    ];
    for (change, text) in changes {
        house.change(change);
        let done = house.run(&["create", "one"]);
        assert_eq!(done.code, 1, "{text}");
        assert!(done.err.contains(text), "{}", done.err);
        std::fs::write(house.bundle().join("config.json"), &good).unwrap();
    }
    std::fs::write(house.bundle().join("config.json"), "{").unwrap();
    assert_eq!(house.run(&["create", "one"]).code, 1);
    std::fs::remove_file(house.bundle().join("config.json")).unwrap();
    assert!(house.run(&["create", "one"]).err.contains("JSON specification file config.json not found"));
    house.close();
}

fn descriptors_are_preserved() {
    let house = House::new();
    house.probe(&["read-fd", "3"]);
    let handed = house.path("handed");
    std::fs::write(&handed, "handed in").unwrap();
    let inner = house.command(&["run", "--preserve-fds", "1", "one"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec 3< \"$0\"; exec \"$@\""]).arg(&handed).arg(inner.get_program());
    let done = house.finish(shell.args(inner.get_args()).current_dir(house.bundle()));
    assert_eq!((done.code, done.out.as_str()), (0, "handed in"), "{}", done.err);
    house.close();
}

fn the_pidfd_socket_is_told() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    let path = house.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(house.run(&["create", "--pidfd-socket", path.to_str().unwrap(), "one"]).code, 0);
    let (socket, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 64];
    let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(&socket, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut control, flags).unwrap();
    let pidfd = control.drain().find_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let info = format!("/proc/self/fdinfo/{}", pidfd.as_ref().unwrap().as_raw_fd());
    let info = std::fs::read_to_string(info).unwrap();
    let pid = house.run(&["state", "one"]).json()["pid"].to_string();
    assert!(info.lines().any(|line| line == format!("Pid:\t{pid}")), "{info}");
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    house.close();
}

fn of_two_creates_of_one_id_one_wins() {
    let house = House::new();
    house.probe(&["sleep"]);
    for _ in 0..10 {
        let start =
            || house.command(&["create", "one"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let children = [start(), start(), start()];
        let codes = children.map(|mut child| child.wait().unwrap().code().unwrap());
        let mut sorted = codes;
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 1]);
        assert_eq!(house.status("one"), "created");
        assert_eq!(house.run(&["delete", "one"]).code, 0);
    }
    house.close();
}

/// Killed at each of many moments: whatever is left, another `create` or a forced `delete` gets over it.
fn a_killed_create_leaves_what_others_can_clear() {
    let house = House::new();
    house.probe(&["sleep"]);
    for round in 0..40_u64 {
        let mut child = house.command(&["create", "one"]);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The moment is what is varied; nothing is hoped for from the time that passes.
        std::thread::sleep(std::time::Duration::from_micros(round * 250));
        let _ = kill_process(Pid::from_child(&child), Signal::KILL);
        let whole = child.wait().unwrap().success();
        if round % 2 == 0 || whole {
            let deleted = house.run(&["delete", "--force", "one"]);
            assert_eq!(deleted.code, 0, "round {round}: {}", deleted.err);
        }
        let created = house.run(&["create", "one"]);
        if created.err.contains("already exists") {
            // Killed after all was done.
            assert_eq!(house.status("one"), "created");
        } else {
            assert_eq!(created.code, 0, "round {round}: {}", created.err);
        }
        assert_eq!(house.run(&["delete", "--force", "one"]).code, 0);
    }
    house.close();
}

fn delete_force_clears_what_has_no_record() {
    let house = House::new();
    std::fs::create_dir_all(house.path("root/one")).unwrap();
    assert!(house.run(&["state", "one"]).err.contains("container does not exist"));
    assert_eq!(house.run(&["delete", "--force", "one"]).code, 0);
    house.close();
}

fn a_cgroup_of_somebody_elses_is_refused() {
    let house = House::new();
    house.probe(&["sleep"]);
    assert_eq!(house.run(&["create", "one"]).code, 0);
    let second = house.run(&["create", "two"]);
    assert_eq!(second.code, 1);
    assert!(second.err.contains("cgroup is not empty"), "{}", second.err);
    assert_eq!(house.status("one"), "created", "the first lives on");
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    house.close();
}

fn documents_are_json() {
    let house = House::new();
    let features = house.run(&["features"]).json();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert!(house.run(&["--version"]).out.starts_with("skep-runtime version "));
    // In runc's place it goes by runc's name.
    let link = house.path("runc");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_skep-runtime"), &link).unwrap();
    let called = |words: &[&str]| house.finish(std::process::Command::new(&link).args(words));
    assert!(called(&["--version"]).out.starts_with("runc version "));
    assert!(called(&["run", "-b", "/nonexistent", "one"]).err.contains("runc run failed: "));
    for name in ["checkpoint", "restore"] {
        let done = house.run(&[name, "--image-path", "/x", "one"]);
        assert!(done.code == 1 && done.err.contains("is not supported"), "{}", done.err);
        assert!(house.run(&[name, "--help"]).out.starts_with("NAME:\n   skep-runtime "), "{name}");
    }
    let exists = house.run(&["spec"]);
    assert_eq!(exists.code, 1);
    assert!(exists.err.contains("File config.json exists. Remove it first"));
    std::fs::create_dir(house.path("root")).unwrap();
    assert_eq!(house.run(&["list", "-f", "json"]).out, "null\n");
    house.close();
}

fn exec_pause_and_limits() {
    let house = House::new();
    house.probe(&["sleep"]);
    house.change(|config| {
        // In a directory that no one else makes.
        let device =
            serde_json::json!({ "path": "/dev/deep/down/null", "type": "c", "major": 1, "minor": 3 });
        config["linux"]["devices"] = serde_json::json!([device]);
    });
    assert_eq!(house.run(&["run", "-d", "one"]).code, 0);
    let exec = house.run(&["exec", "one", "/probe", "exit", "9"]);
    assert_eq!(exec.code, 9, "{}", exec.err);
    let device = house.run(&["exec", "one", "/probe", "read-fd", "../../../dev/deep/down/null"]);
    assert_eq!((device.code, device.out.as_str()), (0, ""), "{}", device.err);
    let missing = house.run(&["exec", "one", "nosuch"]);
    assert_eq!(missing.code, 255);
    assert!(missing.err.contains("executable file not found in $PATH"), "{}", missing.err);
    let nowhere = house.run(&["exec", "--cwd", "/nowhere", "one", "/probe", "exit", "0"]);
    let words = "chdir to cwd (\\\"/nowhere\\\") set in config.json failed: no such file or directory";
    assert!(nowhere.code == 255 && nowhere.err.contains(words), "{}", nowhere.err);
    assert_eq!(house.run(&["pause", "one"]).code, 0);
    assert_eq!(house.status("one"), "paused");
    assert!(house.run(&["exec", "one", "/probe"]).err.contains("cannot exec in a paused container"));
    assert!(house.run(&["pause", "one"]).err.contains("container not running"));
    assert_eq!(house.run(&["resume", "one"]).code, 0);
    assert!(house.run(&["resume", "one"]).err.contains("container not paused"));
    let update = house.run(&["update", "--pids-limit", "77", "one"]);
    assert_eq!(update.code, 0, "{}", update.err);
    if !skep_runtime::container::has_resctrl("L3") {
        let update = house.run(&["update", "--l3-cache-schema", "L3:0=f", "one"]);
        assert!(update.err.contains("Intel RDT/CAT: l3 cache schema is not enabled"), "{}", update.err);
    }
    let stats = house.run(&["events", "--stats", "one"]).json();
    assert_eq!((&stats["type"], &stats["data"]["pids"]["limit"]), (&"stats".into(), &77.into()));
    // A frozen one dies as well.
    assert_eq!(house.run(&["pause", "one"]).code, 0);
    assert_eq!(house.run(&["delete", "--force", "one"]).code, 0);
    house.close();
}

fn a_reader_that_has_gone_is_no_panic() {
    let house = House::new();
    house.probe(&["sleep"]);
    assert_eq!(house.run(&["run", "-d", "one"]).code, 0);
    for (words, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["help", "run"], 0),
        (&["run", "--help"], 0),
        (&["run"], 1),
        (&["run", "--nope"], 1),
        (&["list"], 1),
        (&["state", "one"], 1),
        (&["ps", "one"], 1),
        (&["ps", "-f", "json", "one"], 1),
        (&["events", "--stats", "one"], 1),
        (&["features"], 1),
    ] {
        for full in [false, true] {
            let (read, write) = std::io::pipe().unwrap();
            drop(read);
            let err = tempfile::NamedTempFile::new().unwrap();
            let mut command = house.command(words);
            // Another way for printing to fail.
            let out: Stdio =
                if full { std::fs::File::create("/dev/full").unwrap().into() } else { write.into() };
            let status = command.stdout(out).stderr(err.reopen().unwrap()).status().unwrap();
            let text = std::fs::read_to_string(err.path()).unwrap();
            assert_eq!(status.code(), Some(code), "{words:?}: {text}");
            assert!(!text.contains("panicked"), "{words:?}: {text}");
        }
    }
    assert_eq!(house.run(&["delete", "-f", "one"]).code, 0);
    house.close();
}
