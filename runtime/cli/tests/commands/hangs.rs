//! Hooks that never end, and what other commands can do meanwhile.

use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::house::{House, wait};

pub(crate) type Case = (&'static str, fn());

pub(crate) const CASES: &[Case] = &[
    ("a_hanging_create_is_seen_and_ended", a_hanging_create_is_seen_and_ended),
    ("a_killed_create_leaves_no_hanging_hook", a_killed_create_leaves_no_hanging_hook),
    ("a_hanging_start_holds_nobody_up", a_hanging_start_holds_nobody_up),
    ("what_a_cgroup_was_given_to_is_not_killed", what_a_cgroup_was_given_to_is_not_killed),
];

/// Adds a hook that tells its number and never ends.
fn hang(house: &House, kind: &str) {
    // Of the procfs that is in sight, which is the host's: the shell's own number may be another namespace's.
    let script = format!(
        "read pid rest < /proc/self/stat; echo $pid > {0}.new; mv {0}.new {0}; exec sleep 1000",
        house.path("hook").display()
    );
    house.change(|config| {
        let hook = serde_json::json!({ "path": "/bin/sh", "args": ["sh", "-c", script] });
        config["hooks"] = serde_json::json!({ kind: [hook] });
    });
}

/// Runs a command up to its hook: the command, and the hook's number on the host.
fn run_into_hook(house: &House, words: &[&str]) -> (Child, i32) {
    let child = house.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let path = house.path("hook");
    let pid = wait("the hook", || std::fs::read_to_string(&path).ok());
    std::fs::remove_file(path).unwrap();
    (child, pid.trim().parse().unwrap())
}

/// Waits for the end of a process that is nobody's child here.
fn wait_gone(pid: i32) {
    wait("its end", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
}

fn a_hanging_create_is_seen_and_ended() {
    let house = House::new();
    house.probe(&["sleep"]);
    for (kind, command) in
        [("createRuntime", "create"), ("createContainer", "create"), ("createRuntime", "run")]
    {
        hang(&house, kind);
        let (mut create, hook) = run_into_hook(&house, &[command, "one"]);
        assert_eq!(house.status("one"), "creating");
        assert_eq!(house.run(&["list", "-q"]).out, "one\n");
        assert!(house.run(&["kill", "one", "KILL"]).err.contains("container not running"));
        assert!(house.run(&["delete", "one"]).err.contains("that is not stopped: creating"));
        for other in ["start", "pause", "resume"] {
            assert!(house.run(&[other, "one"]).err.contains("container is being created"), "{other}");
        }
        assert!(create.try_wait().unwrap().is_none());
        let deleted = house.run(&["delete", "--force", "one"]);
        assert_eq!((deleted.code, deleted.err.as_str()), (0, ""), "{kind}");
        assert_eq!(create.wait().unwrap().code(), None, "it was killed");
        wait_gone(hook);
        assert!(house.run(&["state", "one"]).err.contains("container does not exist"));
    }
    house.close();
}

fn a_killed_create_leaves_no_hanging_hook() {
    let house = House::new();
    house.probe(&["sleep"]);
    for clear in [&["delete", "--force", "one"][..], &["delete", "one"], &["create", "one"]] {
        hang(&house, "createContainer");
        let (mut create, hook) = run_into_hook(&house, &["create", "one"]);
        kill_process(Pid::from_child(&create), Signal::KILL).unwrap();
        create.wait().unwrap();
        house.change(|config| drop(config.as_object_mut().unwrap().remove("hooks")));
        let cleared = house.run(clear);
        assert_eq!((cleared.code, cleared.err.as_str()), (0, ""), "{clear:?}");
        wait_gone(hook);
    }
    assert_eq!(house.status("one"), "created");
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    house.close();
}

fn a_hanging_start_holds_nobody_up() {
    let house = House::new();
    house.probe(&["sleep"]);
    hang(&house, "poststart");
    assert_eq!(house.run(&["create", "one"]).code, 0);
    let (mut start, hook) = run_into_hook(&house, &["start", "one"]);
    assert_eq!(house.status("one"), "running");
    assert!(house.run(&["start", "one"]).err.contains("cannot start an already running container"));
    assert_eq!(house.run(&["pause", "one"]).code, 0);
    assert_eq!(house.run(&["resume", "one"]).code, 0);
    assert_eq!(house.run(&["kill", "one", "KILL"]).code, 0);
    house.wait_status("one", "stopped");
    assert_eq!(house.run(&["delete", "--force", "one"]).code, 0);
    // Its container is gone; the failing hook has nothing left to undo.
    kill_process(Pid::from_raw(hook).unwrap(), Signal::KILL).unwrap();
    assert_eq!(start.wait().unwrap().code(), Some(1));

    hang(&house, "startContainer");
    house.change(|config| {
        config["hooks"]["startContainer"][0] = serde_json::json!({
            "path": "/probe", "args": ["/probe", "sleep"],
        });
    });
    assert_eq!(house.run(&["create", "one"]).code, 0);
    let mut start = house.command(&["start", "one"]);
    let mut start = start.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    house.wait_status("one", "running");
    assert_eq!(house.run(&["delete", "--force", "one"]).code, 0);
    // Whether it was killed before its program ran or after that nobody can tell; the command ends.
    start.wait().unwrap();
    house.close();
}

/// A container that ended, and one whose creation was killed, have the path of a group that is another's by now.
fn what_a_cgroup_was_given_to_is_not_killed() {
    let house = House::new();
    house.probe(&["sleep"]);
    assert_eq!(house.run(&["run", "-d", "one"]).code, 0);
    assert_eq!(house.run(&["kill", "one", "KILL"]).code, 0);
    house.wait_status("one", "stopped");
    hang(&house, "createRuntime");
    let (mut create, hook) = run_into_hook(&house, &["create", "two"]);
    kill_process(Pid::from_child(&create), Signal::KILL).unwrap();
    create.wait().unwrap();
    wait_gone(hook);
    house.change(|config| drop(config.as_object_mut().unwrap().remove("hooks")));
    assert_eq!(house.run(&["delete", "--force", "two"]).code, 0);
    // As of a creation that was killed before there was a process.
    let left = house.path("root/two");
    std::fs::create_dir(&left).unwrap();
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(house.path("root/one/state.json")).unwrap()).unwrap();
    record["id"] = "two".into();
    record["init"] = serde_json::Value::Null;
    std::fs::write(left.join("state.json"), record.to_string()).unwrap();

    assert_eq!(house.run(&["run", "-d", "three"]).code, 0);
    let pid = house.run(&["state", "three"]).json()["pid"].as_i64().unwrap();
    let three = pidfd_open(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), PidfdFlags::empty()).unwrap();
    let refused = house.run(&["create", "two"]);
    assert!(refused.err.contains("cgroup is not empty"), "{}", refused.err);
    for id in ["one", "two"] {
        std::fs::create_dir_all(&left).unwrap();
        std::fs::write(left.join("state.json"), record.to_string()).unwrap();
        let deleted = house.run(&["delete", "--force", id]);
        assert_eq!(deleted.code, 0, "{}", deleted.err);
        assert!(deleted.err.contains("not known to be its own"), "{}", deleted.err);
        assert_eq!(house.status("three"), "running", "after {id}");
    }
    rustix::process::pidfd_send_signal(&three, Signal::KILL).unwrap();
    assert_eq!(house.run(&["delete", "--force", "three"]).code, 0);
    house.close();
}
