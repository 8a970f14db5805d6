//! The cases that engines and other projects' suites brought: what is asked of a runtime beside its command line.

use std::os::unix::net::UnixDatagram;

use serde_json::json;

use super::house::{House, wait};

pub(crate) const CASES: &[super::Case] = &[
    ("a_new_network_has_its_loopback_device_up", a_new_network_has_its_loopback_device_up),
    ("devices_may_lie_in_the_root_itself", devices_may_lie_in_the_root_itself),
    ("a_failed_poststart_hook_destroys_the_container", a_failed_poststart_hook_destroys_the_container),
    ("a_start_hook_without_an_environment_gets_the_programs", start_hooks_environment),
    ("an_id_is_judged_before_a_cgroup_is_named_after_it", an_id_is_judged_before_a_cgroup_is_named_after_it),
    ("a_directory_is_refused_as_a_program_by_the_kernels_word", a_directory_is_refused_as_a_program),
    ("a_service_manager_hears_of_a_detached_container", a_service_manager_hears_of_a_detached_container),
    ("a_service_manager_hears_of_one_in_the_foreground", a_service_manager_hears_of_one_in_the_foreground),
    ("a_service_manager_hears_of_one_that_was_created", a_service_manager_hears_of_one_that_was_created),
    ("one_that_ends_before_it_is_ready_ends_the_wait", one_that_ends_before_it_is_ready_ends_the_wait),
];

fn a_new_network_has_its_loopback_device_up() {
    let house = House::new();
    // A device that is up and has no carrier to lose is "unknown"; else "down".
    house.probe(&["read-fd", "../../../sys/class/net/lo/operstate"]);
    let done = house.run(&["run", "one"]);
    assert_eq!((done.code, done.out.as_str()), (0, "unknown\n"), "{}", done.err);
    house.close();
}

fn devices_may_lie_in_the_root_itself() {
    let house = House::new();
    house.probe(&["read-fd", "../../../nothing"]);
    house.change(|config| {
        config["root"]["readonly"] = false.into();
        let device = |path| json!({ "path": path, "type": "c", "major": 1, "minor": 3 });
        config["linux"]["devices"] = json!([device("/nothing"), device("/sys/")]);
    });
    let done = house.run(&["run", "one"]);
    assert_eq!((done.code, done.out.as_str()), (0, ""), "{}", done.err);
    house.close();
}

fn a_failed_poststart_hook_destroys_the_container() {
    let house = House::new();
    let mark = house.path("stopped");
    house.probe(&["sleep"]);
    house.change(|config| {
        config["hooks"] = json!({
            "poststart": [{ "path": "/bin/false" }],
            "poststop": [{ "path": "/bin/sh", "args": ["sh", "-c", format!("echo stopped >{}", mark.display())] }],
        });
    });
    assert_eq!(house.run(&["create", "one"]).code, 0);
    let started = house.run(&["start", "one"]);
    assert_eq!(started.code, 1);
    assert!(started.err.contains("error running poststart hook"), "{}", started.err);
    assert!(house.run(&["state", "one"]).err.contains("container does not exist"));
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "stopped\n");
    house.close();
}

fn start_hooks_environment() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    house.change(|config| {
        config["process"]["env"] = json!(["FROM_THE_PROGRAM=yes"]);
        let args = ["/probe", "variable", "FROM_THE_PROGRAM", "yes"];
        config["hooks"] = json!({ "startContainer": [{ "path": "/probe", "args": args }] });
    });
    let done = house.run(&["run", "one"]);
    assert_eq!(done.code, 0, "{}", done.err);
    house.change(|config| config["hooks"]["startContainer"][0]["env"] = json!(["OTHER=yes"]));
    assert_eq!(house.run(&["run", "one"]).code, 1, "its own environment is all that it has");
    house.close();
}

fn an_id_is_judged_before_a_cgroup_is_named_after_it() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    house.change(|config| drop(config["linux"].as_object_mut().unwrap().remove("cgroupsPath")));
    for id in [".", "..", "a/b"] {
        let done = house.run(&["run", id]);
        assert_eq!(done.code, 1);
        assert!(done.err.contains("invalid container ID format"), "{}", done.err);
    }
    house.close();
}

fn a_directory_is_refused_as_a_program() {
    let house = House::new();
    house.probe(&["sleep"]);
    assert_eq!(house.run(&["run", "-d", "one"]).code, 0);
    let done = house.run(&["exec", "one", "/proc"]);
    assert_eq!(done.code, 255);
    assert!(done.err.contains("permission denied"), "{}", done.err);
    assert_eq!(house.run(&["delete", "--force", "one"]).code, 0);
    house.close();
}

/// What a service manager reads first: both messages.
fn heard(manager: &UnixDatagram) -> [String; 2] {
    [(), ()].map(|()| {
        let mut bytes = [0; 256];
        let count = manager.recv(&mut bytes).unwrap();
        std::str::from_utf8(&bytes[..count]).unwrap().to_owned()
    })
}

fn a_service_manager_hears_of_a_detached_container() {
    let house = House::new();
    let path = house.path("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    house.probe(&["notify", "sleep"]);
    let mut child = house.command(&["run", "-d", "one"]);
    let mut child = child.env("NOTIFY_SOCKET", &path).stdout(std::process::Stdio::null()).spawn().unwrap();
    let told = heard(&manager);
    let answer = drain_until_end(&mut child, &manager);
    assert_eq!(answer, 0);
    let pid = house.run(&["state", "one"]).json()["pid"].to_string();
    assert_eq!(told, ["READY=1\n".to_owned(), format!("MAINPID={pid}\n")]);
    // What is the init's alone is not told to others.
    assert_eq!(house.run(&["exec", "one", "/probe", "variable", "NOTIFY_SOCKET", ""]).code, 0);
    assert_eq!(house.run(&["delete", "--force", "one"]).code, 0);
    house.close();
}

fn a_service_manager_hears_of_one_in_the_foreground() {
    let house = House::new();
    let path = house.path("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    house.probe(&["notify", "7"]);
    let mut child = house.command(&["run", "one"]);
    let mut child = child.env("NOTIFY_SOCKET", &path).stdout(std::process::Stdio::null()).spawn().unwrap();
    let told = heard(&manager);
    assert_eq!(told, ["READY=1\n".to_owned(), format!("MAINPID={}\n", child.id())]);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    house.close();
}

fn a_service_manager_hears_of_one_that_was_created() {
    let house = House::new();
    let path = house.path("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    house.probe(&["notify", "sleep"]);
    assert_eq!(house.finish(house.command(&["create", "one"]).env("NOTIFY_SOCKET", &path)).code, 0);
    let mut child = house.command(&["start", "one"]).env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let told = heard(&manager);
    assert_eq!(drain_until_end(&mut child, &manager), 0);
    let pid = house.run(&["state", "one"]).json()["pid"].to_string();
    assert_eq!(told, ["READY=1\n".to_owned(), format!("MAINPID={pid}\n")]);
    assert_eq!(house.run(&["delete", "--force", "one"]).code, 0);
    house.close();
}

fn one_that_ends_before_it_is_ready_ends_the_wait() {
    let house = House::new();
    let path = house.path("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    house.probe(&["exit", "3"]);
    let create = |words: &[&str]| house.finish(house.command(words).env("NOTIFY_SOCKET", &path)).code;
    assert_eq!((create(&["run", "-d", "one"]), create(&["run", "two"])), (0, 3));
    assert!(manager.recv(&mut [0; 16]).is_err(), "nothing was told");
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    house.close();
}

/// Reads what is sent to a manager until the command ends: its exit code. The command asks whether all was read, by a
/// descriptor that is closed by not being taken.
fn drain_until_end(child: &mut std::process::Child, manager: &UnixDatagram) -> i32 {
    manager.set_nonblocking(true).unwrap();
    let status = wait("the command", || {
        while manager.recv(&mut [0; 256]).is_ok() {}
        child.try_wait().unwrap()
    });
    status.code().unwrap()
}
