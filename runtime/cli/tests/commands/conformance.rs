//! What other runtimes' own test suites ask of the command, as cases of ours.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use serde_json::{Value, json};

use super::cases::Case;
use super::house::{House, wait};

pub(crate) const CASES: &[Case] = &[
    ("failed_hooks_are_named_with_their_words", failed_hooks_are_named_with_their_words),
    ("hooks_start_where_and_with_what_runcs_do", hooks_start_where_and_with_what_runcs_do),
    ("kill_reaches_all_without_a_pid_namespace", kill_reaches_all_without_a_pid_namespace),
    ("a_created_container_ends_by_a_signal", a_created_container_ends_by_a_signal),
    ("a_process_file_needs_no_user", a_process_file_needs_no_user),
    ("mounts_are_made_in_their_order", mounts_are_made_in_their_order),
    ("mounts_of_the_container_are_bound", mounts_of_the_container_are_bound),
    ("a_link_to_nothing_is_a_mount_point", a_link_to_nothing_is_a_mount_point),
    ("a_proc_that_is_a_link_is_refused", a_proc_that_is_a_link_is_refused),
    ("the_hosts_mount_namespace_is_left_alone", the_hosts_mount_namespace_is_left_alone),
    ("capabilities_count_for_the_exec", capabilities_count_for_the_exec),
    ("a_created_init_holds_no_foreign_descriptor", a_created_init_holds_no_foreign_descriptor),
    ("debug_lines_warnings_and_last_words", debug_lines_warnings_and_last_words),
    ("events_and_groups_have_runcs_words", events_and_groups_have_runcs_words),
    ("a_root_can_follow_the_hosts", a_root_can_follow_the_hosts),
    ("the_hosts_cgroup_options_are_left_alone", the_hosts_cgroup_options_are_left_alone),
    ("a_failed_first_hook_has_the_last_ones_run", a_failed_first_hook_has_the_last_ones_run),
    ("without_linux_the_namespaces_are_the_callers", without_linux_the_namespaces_are_the_callers),
    ("a_remount_changes_the_mount_that_is_there", a_remount_changes_the_mount_that_is_there),
    ("a_directory_over_a_file_is_named_so", a_directory_over_a_file_is_named_so),
    ("capabilities_that_are_not_given_are_told", capabilities_that_are_not_given_are_told),
    ("a_deadline_needs_all_processors", a_deadline_needs_all_processors),
    ("a_frozen_cgroup_is_refused_and_left", a_frozen_cgroup_is_refused_and_left),
];

/// A hook on the host's side: this program, as the probe.
fn host_hook(words: &[&str]) -> Value {
    let args: Vec<_> = std::iter::once("/probe").chain(words.iter().copied()).collect();
    json!({ "path": std::env::current_exe().unwrap(), "args": args })
}

/// A hook in the container.
fn inner_hook(words: &[&str]) -> Value {
    let mut hook = host_hook(words);
    hook["path"] = "/probe".into();
    hook
}

fn add_mount(config: &mut Value, kind: &str, source: &Path, destination: &str, options: &[&str]) {
    let mount = json!({ "type": kind, "source": source, "destination": destination, "options": options });
    config["mounts"].as_array_mut().unwrap().push(mount);
}

fn without_namespace(config: &mut Value, kind: &str) {
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|entry| entry["type"] != kind);
}

fn failed_hooks_are_named_with_their_words() {
    let house = House::new();
    house.probe(&["say", "ran", ""]);
    type Hook = fn(&[&str]) -> Value;
    let kinds: [(&str, Hook); 5] = [
        ("prestart", host_hook),
        ("createRuntime", host_hook),
        ("createContainer", host_hook),
        ("startContainer", inner_hook),
        ("poststart", host_hook),
    ];
    for (kind, hook) in kinds {
        let hooks = [hook(&["exit", "0"]), hook(&["complain", "no luck"])];
        house.change(|config| config["hooks"] = json!({ kind: hooks }));
        let done = house.run(&["run", "one"]);
        assert_ne!(done.code, 0, "{kind}");
        assert!(done.err.contains(&format!("error running {kind} hook #1: ")), "{}", done.err);
        assert!(done.err.contains("no luck"), "{}", done.err);
        assert!(kind == "poststart" || !done.out.contains("ran"), "{kind}");
    }
    house.close();
}

fn hooks_start_where_and_with_what_runcs_do() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    let start = |hook: Value| {
        house.change(|config| {
            config["process"]["env"] = json!(["GIVEN=yes"]);
            config["hooks"] =
                json!({ "createContainer": [host_hook(&["touch", "made"])], "startContainer": [hook] });
        });
        house.run(&["run", "one"]).code
    };
    assert_eq!(start(inner_hook(&["need-env", "GIVEN", "yes"])), 0);
    assert!(house.bundle().join("rootfs/made").exists(), "the root filesystem is the working directory");
    let mut own = inner_hook(&["need-env", "GIVEN", "yes"]);
    own["env"] = json!(["OTHER=1"]);
    assert_ne!(start(own), 0, "an environment of its own is all that it gets");
    house.close();
}

fn kill_reaches_all_without_a_pid_namespace() {
    let house = House::new();
    house.probe(&["sleep"]);
    house.change(|config| without_namespace(config, "pid"));
    assert_eq!(house.run(&["run", "-d", "one"]).code, 0);
    assert_eq!(house.run(&["exec", "-d", "one", "/probe", "sleep"]).code, 0);
    // With the init gone the others still are to be ended.
    let pid = house.run(&["state", "one"]).json()["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    house.wait_status("one", "stopped");
    let killed = house.run(&["kill", "one", "KILL"]);
    assert_eq!(killed.code, 0, "{}", killed.err);
    wait("their end", || (house.run(&["ps", "-f", "json", "one"]).out == "null\n").then_some(()));
    assert!(house.run(&["kill", "one", "KILL"]).err.contains("container not running"));
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    assert_eq!(house.run(&["run", "-d", "one"]).code, 0);
    let killed = house.run(&["kill", "one", "KILL"]);
    assert_eq!(killed.code, 0, "{}", killed.err);
    house.wait_status("one", "stopped");
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    house.close();
}

fn a_created_container_ends_by_a_signal() {
    let house = House::new();
    house.probe(&["sleep"]);
    assert_eq!(house.run(&["create", "one"]).code, 0);
    assert_eq!(house.run(&["kill", "one", "TERM"]).code, 0);
    house.wait_status("one", "stopped");
    assert_eq!(house.run(&["delete", "one"]).code, 0);
    house.close();
}

fn a_process_file_needs_no_user() {
    let house = House::new();
    house.probe(&["sleep"]);
    assert_eq!(house.run(&["run", "-d", "one"]).code, 0);
    let file = house.path("process.json");
    std::fs::write(&file, json!({ "args": ["/probe", "exit", "4"], "cwd": "/" }).to_string()).unwrap();
    let done = house.run(&["exec", "-p", file.to_str().unwrap(), "one"]);
    assert_eq!(done.code, 4, "{}", done.err);
    assert_eq!(house.run(&["delete", "-f", "one"]).code, 0);
    house.close();
}

/// Where the mounts stand in the container's table.
fn places(mounts: &str, paths: &[&str]) -> Vec<usize> {
    let place = |path: &&str| {
        let mut lines = mounts.lines().map(|line| line.split(' ').nth(4).unwrap());
        lines.position(|at| at == *path).unwrap_or_else(|| panic!("no {path} in {mounts}"))
    };
    paths.iter().map(place).collect()
}

fn mounts_are_made_in_their_order() {
    let house = House::new();
    house.probe(&["read", "/proc/self/mountinfo"]);
    let source = house.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::create_dir(house.bundle().join("rootfs/masked")).unwrap();
    house.change(|config| {
        add_mount(config, "tmpfs", "tmpfs".as_ref(), "/first", &[]);
        add_mount(config, "bind", &source, "/second", &["bind", "ro"]);
        add_mount(config, "tmpfs", "tmpfs".as_ref(), "/third", &[]);
        config["linux"]["maskedPaths"] = json!(["/masked", "/masked/", "/masked"]);
    });
    let done = house.run(&["run", "one"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let order = places(&done.out, &["/proc", "/first", "/second", "/third"]);
    assert!(order.is_sorted(), "{order:?} in {}", done.out);
    assert!(done.out.lines().any(|line| line.contains(" /second ro")), "{}", done.out);
    let masked = done.out.lines().filter(|line| line.split(' ').nth(4) == Some("/masked"));
    assert_eq!(masked.count(), 1, "a path is masked once: {}", done.out);
    house.close();
}

fn mounts_of_the_container_are_bound() {
    let house = House::new();
    house.probe(&["read", "/copy/inner/fact"]);
    let source = house.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("fact"), "from the host\n").unwrap();
    let rootfs = house.bundle().join("rootfs");
    for user_namespace in [false, true] {
        house.change(|config| {
            if user_namespace {
                config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
                let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
                (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) = (map.clone(), map);
            } else {
                add_mount(config, "tmpfs", "tmpfs".as_ref(), "/outer", &[]);
                add_mount(config, "bind", &source, "/outer/inner", &["bind"]);
                // Both named as the host sees them.
                let copy = rootfs.join("copy");
                add_mount(config, "bind", &rootfs.join("outer"), copy.to_str().unwrap(), &["rbind"]);
            }
        });
        let done = house.run(&["run", "one"]);
        assert_eq!((done.code, done.out.as_str()), (0, "from the host\n"), "{}", done.err);
    }
    house.close();
}

fn a_link_to_nothing_is_a_mount_point() {
    let house = House::new();
    house.probe(&["read", "/run/deep/hosts"]);
    let rootfs = house.bundle().join("rootfs");
    std::fs::create_dir(rootfs.join("etc")).unwrap();
    symlink("/run/deep/hosts", rootfs.join("etc/hosts")).unwrap();
    let source = house.path("hosts");
    std::fs::write(&source, "a host\n").unwrap();
    house.change(|config| add_mount(config, "bind", &source, "/etc/hosts", &["bind"]));
    let done = house.run(&["run", "one"]);
    assert_eq!((done.code, done.out.as_str()), (0, "a host\n"), "{}", done.err);
    house.close();
}

fn a_proc_that_is_a_link_is_refused() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    let rootfs = house.bundle().join("rootfs");
    std::fs::rename(rootfs.join("proc"), rootfs.join("other")).unwrap();
    symlink("/other", rootfs.join("proc")).unwrap();
    let done = house.run(&["run", "one"]);
    assert!(done.code == 1 && done.err.contains("must be mounted on ordinary directory"), "{}", done.err);
    house.close();
}

fn the_hosts_mount_namespace_is_left_alone() {
    let house = House::new();
    house.probe(&["sleep"]);
    house.change(|config| without_namespace(config, "mount"));
    let refused = house.run(&["run", "one"]);
    assert!(refused.err.contains("without a private MNT namespace"), "{}", refused.err);
    house.change(|config| {
        (config["linux"]["maskedPaths"], config["linux"]["readonlyPaths"]) = (json!([]), json!([]));
    });
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let done = house.run(&["run", "-d", "one"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let inside = house.run(&["exec", "one", "/probe", "namespace", "mnt"]);
    let ours = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_eq!(inside.out.trim(), ours.to_str().unwrap(), "{}", inside.err);
    let root = house.run(&["exec", "one", "/probe", "list", "/"]);
    assert!(root.out.contains("probe\n") && !root.out.contains("home\n"), "{}", root.out);
    let after = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    assert_eq!(before, after, "nothing of the container's is in the host's table");
    assert_eq!(house.run(&["delete", "-f", "one"]).code, 0);
    house.close();
}

fn capabilities_count_for_the_exec() {
    let house = House::new();
    house.probe(&["exit", "6"]);
    let probe = house.bundle().join("rootfs/probe");
    std::fs::set_permissions(probe, std::fs::Permissions::from_mode(0o744)).unwrap();
    house.change(|config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        config["process"]["capabilities"] = json!({});
    });
    let refused = house.run(&["run", "one"]);
    assert!(refused.code == 1 && refused.err.contains("permission denied"), "{}", refused.err);
    house.change(|config| {
        let sets = ["bounding", "effective", "permitted", "inheritable", "ambient"];
        let sets = sets.map(|set| (set.to_owned(), json!(["CAP_DAC_OVERRIDE"])));
        config["process"]["capabilities"] = sets.into_iter().collect();
    });
    let done = house.run(&["run", "one"]);
    assert_eq!(done.code, 6, "{}", done.err);
    house.close();
}

fn a_created_init_holds_no_foreign_descriptor() {
    let house = House::new();
    house.probe(&["sleep"]);
    assert_eq!(house.run(&["create", "one"]).code, 0);
    let pid = &house.run(&["state", "one"]).json()["pid"];
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut seen = 0;
    for file in files.map(|entry| entry.unwrap()) {
        if file.file_name().to_str().unwrap().parse::<u32>().unwrap() < 3 {
            continue;
        }
        let target = std::fs::read_link(file.path()).unwrap();
        let pipe = target.to_str().unwrap().starts_with("pipe:");
        assert!(pipe || target.ends_with("exec.fifo"), "{}", target.display());
        seen += usize::from(!pipe);
    }
    assert_eq!(seen, 2);
    assert_eq!(house.run(&["delete", "-f", "one"]).code, 0);
    house.close();
}

fn debug_lines_warnings_and_last_words() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    house.change(|config| {
        config["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL"]);
        config["process"]["capabilities"]["ambient"] = json!(["CAP_KILL", "CAP_AUDIT_WRITE"]);
    });
    let done = house.run(&["--debug", "run", "one"]);
    for text in [
        "level=debug msg=\"nsexec container setup\"",
        "msg=\"child process in init(): ",
        "msg=\"init: closing the pipe to signal completion\"",
        "can't raise ambient capability CAP_AUDIT_WRITE: ",
    ] {
        assert!(done.err.contains(text), "{text} in {}", done.err);
    }
    assert!(!done.err.contains("CAP_KILL"), "{}", done.err);
    assert!(!house.run(&["run", "one"]).err.contains("level=debug"));
    // A script without its interpreter fails in the exec itself.
    let script = house.bundle().join("rootfs/run.sh");
    std::fs::write(&script, "#!/not/there\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    house.change(|config| {
        config["process"]["args"] = json!(["/run.sh"]);
        config["process"]["capabilities"]["ambient"] = json!([]);
    });
    let done = house.run(&["run", "one"]);
    assert_eq!((done.code, done.err.as_str()), (1, "exec /run.sh: no such file or directory\n"));
    house.close();
}

fn events_and_groups_have_runcs_words() {
    let house = House::new();
    house.probe(&["sleep"]);
    assert_eq!(house.run(&["run", "-d", "one"]).code, 0);
    let stats = house.run(&["events", "--stats", "one"]).out;
    assert!(stats.starts_with("{\"type\":\"stats\",\"id\":\"one\",\"data\":{"), "{stats}");
    for (group, text) in [("..", "bad sub cgroup path"), ("nothing:/", "unknown controller nothing")] {
        let done = house.run(&["exec", "--cgroup", group, "one", "/probe", "exit", "0"]);
        assert!(done.code == 255 && done.err.contains(text), "{}", done.err);
    }
    assert_eq!(house.run(&["delete", "-f", "one"]).code, 0);
    house.close();
}

fn a_frozen_cgroup_is_refused_and_left() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    let (group, file, word) = house.freezer();
    std::fs::create_dir_all(&group).unwrap();
    std::fs::write(group.join(file), word).unwrap();
    for command in ["run", "create"] {
        let done = house.run(&[command, "one"]);
        assert!(done.code == 1 && done.err.contains("cgroup unexpectedly frozen"), "{}", done.err);
        assert!(group.exists(), "it is somebody else's");
    }
    std::fs::remove_dir(group).unwrap();
    house.close();
}

fn a_root_can_follow_the_hosts() {
    let house = House::new();
    house.probe(&["read", "/proc/self/mountinfo"]);
    let follows = || {
        // In a mount namespace whose mounts are shared, whatever the host's are.
        let inner = house.command(&["run", "one"]);
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "shared"]).arg(inner.get_program()).args(inner.get_args());
        let done = house.finish(command.current_dir(house.bundle()));
        assert_eq!(done.code, 0, "{}", done.err);
        let root = done.out.lines().find(|line| line.split(' ').nth(4) == Some("/"));
        root.unwrap().split(' ').any(|word| word.starts_with("master:"))
    };
    assert!(!follows(), "a root is private");
    house.change(|config| config["linux"]["rootfsPropagation"] = "slave".into());
    assert!(follows(), "or as it is asked for");
    house.close();
}

fn a_failed_first_hook_has_the_last_ones_run() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    let made = house.path("made");
    let made = made.to_str().unwrap();
    for kind in ["prestart", "createRuntime", "createContainer"] {
        house.change(|config| {
            config["hooks"] = json!({
                kind: [if kind == "createContainer" { inner_hook } else { host_hook }(&["exit", "1"])],
                "poststop": [host_hook(&["touch", made])],
            });
        });
        assert_eq!(house.run(&["create", "one"]).code, 1, "{kind}");
        std::fs::remove_file(made).unwrap();
    }
    // What never began has nothing to be cleaned up after.
    house.change(|config| config["process"]["args"] = json!([]));
    assert_eq!(house.run(&["create", "one"]).code, 1);
    assert!(!Path::new(made).exists());
    house.close();
}

fn without_linux_the_namespaces_are_the_callers() {
    let house = House::new();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    house.probe(&["sleep"]);
    house.change(|config| {
        config.as_object_mut().unwrap().remove("linux");
        config.as_object_mut().unwrap().remove("hostname");
        config["mounts"] = json!([]);
    });
    let text = std::fs::read(house.bundle().join("config.json")).unwrap();
    let (spec, _) = skep_runtime::spec::parse_spec(&text).unwrap();
    assert!(spec.linux().as_ref().unwrap().namespaces().is_none());
    // Its group has the container's name, for there is no place for another.
    let name = format!("test-{}", std::process::id());
    assert_eq!(house.run(&["run", "-d", &name]).code, 0);
    let pid = house.run(&["state", &name]).json()["pid"].as_i64().unwrap();
    let net = std::fs::read_link(format!("/proc/{pid}/ns/net"));
    assert_eq!(house.run(&["delete", "--force", &name]).code, 0);
    assert_eq!(net.unwrap(), own);
    house.close();
}

fn a_remount_changes_the_mount_that_is_there() {
    let house = House::new();
    house.probe(&["read", "/proc/self/mountinfo"]);
    let source = house.path("source");
    std::fs::create_dir(&source).unwrap();
    house.change(|config| {
        add_mount(config, "bind", &source, "/x", &["bind"]);
        config["mounts"].as_array_mut().unwrap().extend([
            json!({ "destination": "/x", "options": ["remount", "bind", "ro"] }),
            json!({ "destination": "/proc", "options": ["remount", "bind", "ro", "nosuid"] }),
        ]);
    });
    let done = house.run(&["run", "one"]);
    assert_eq!(done.code, 0, "{}", done.err);
    for place in ["/x", "/proc"] {
        let mounts: Vec<&str> =
            done.out.lines().filter(|line| line.split(' ').nth(4) == Some(place)).collect();
        assert_eq!(mounts.len(), 1, "{place}: {mounts:?}");
        assert!(mounts[0].split(' ').nth(5).unwrap().split(',').any(|word| word == "ro"), "{mounts:?}");
    }
    house.close();
}

fn a_directory_over_a_file_is_named_so() {
    let house = House::new();
    house.probe(&["exit", "0"]);
    let source = house.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(house.bundle().join("rootfs/file"), "").unwrap();
    house.change(|config| add_mount(config, "bind", &source, "/file", &["bind"]));
    let done = house.run(&["run", "one"]);
    let words = "to rootfs at \\\"/file\\\": not a directory";
    assert!(done.code == 1 && done.err.contains(words), "{}", done.err);
    // So is a source that is not there.
    house.change(|config| {
        config["mounts"].as_array_mut().unwrap().last_mut().unwrap()["source"] = "/no".into()
    });
    let done = house.run(&["run", "one"]);
    let words = "error mounting \\\"/no\\\" to rootfs at \\\"/file\\\": no such file or directory";
    assert!(done.code == 1 && done.err.contains(words), "{}", done.err);
    house.close();
}

fn capabilities_that_are_not_given_are_told() {
    let house = House::new();
    house.probe(&["sleep"]);
    let had = std::fs::read_to_string("/proc/self/status").unwrap();
    let had = had.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim().to_owned();
    // CAP_SYS_RESOURCE, which few machines withhold from root.
    let lacks = u64::from_str_radix(&had, 16).unwrap() & (1 << 24) == 0;
    house.change(|config| {
        for set in ["bounding", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_CHOWN", "CAP_SYS_RESOURCE"]);
        }
    });
    let done = house.run(&["run", "-d", "one"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(done.err.contains("lacks itself: [CAP_SYS_RESOURCE]"), lacks, "{}", done.err);
    let words = ["exec", "--cap", "NOPE", "--cap", "CAP_KILL", "one", "/probe", "exit", "0"];
    let exec = house.run(&words);
    assert_eq!(exec.code, 0, "{}", exec.err);
    assert!(exec.err.contains("ignoring unknown or unavailable capabilities: [NOPE]"), "{}", exec.err);
    assert_eq!(house.run(&["delete", "--force", "one"]).code, 0);
    house.close();
}

/// Mount points of cgroup hierarchies in this thread's sight, and each one's options.
fn cgroup_mounts(kind: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(" - "));
    let lines = lines.filter(|(_, right)| right.split(' ').next().unwrap().starts_with(kind));
    let word = |text: &str, number: usize| text.split(' ').nth(number).unwrap().to_owned();
    lines.map(|(left, right)| (word(left, 4), word(right, 2))).collect()
}

/// The options of the v2 tree, which are the same wherever it is mounted, without `rw`.
fn tree_options() -> String {
    let options = cgroup_mounts("cgroup2").pop().map(|found| found.1).unwrap_or_default();
    options.split(',').filter(|word| *word != "rw").collect::<Vec<_>>().join(",")
}

/// Mounts the v2 tree instead of all that is in this thread's sight. From the host's cgroup namespace that also sets the
/// whole tree's options (cgroups(7)).
fn mount_tree(options: &str) {
    for (path, _) in cgroup_mounts("cgroup").iter().rev() {
        unmount(path.as_str(), UnmountFlags::DETACH).unwrap();
    }
    let data = std::ffi::CString::new(options).unwrap();
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), Some(data.as_c_str())).unwrap();
}

fn the_hosts_cgroup_options_are_left_alone() {
    let house = House::new();
    house.probe(&["list", "/sys/fs/cgroup"]);
    house.change(|config| without_namespace(config, "cgroup"));
    // A thread with mounts of its own, where the v2 tree is alone: of other hosts' the container sees its own groups.
    let test = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        // Without a mount of it there is nobody who has set any.
        let before = tree_options();
        mount_tree("nsdelegate");
        let done = house.run(&["run", "one"]);
        let after = tree_options();
        mount_tree(&before);
        drop(std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(house.parent())));
        assert_eq!(done.code, 0, "{}", done.err);
        assert!(done.out.lines().any(|name| name == house.parent()), "it sees the host's tree: {}", done.out);
        assert_eq!(after, "nsdelegate");
    };
    std::thread::scope(|scope| scope.spawn(test).join()).unwrap();
    house.close();
}

fn a_deadline_needs_all_processors() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let house = House::new();
    house.probe(&["exit", "0"]);
    house.change(|config| {
        config["linux"]["resources"]["cpu"] = json!({ "cpus": "0" });
        config["process"]["scheduler"] =
            json!({ "policy": "SCHED_DEADLINE", "runtime": 42_000, "deadline": 1_000_000, "period": 1_000_000 });
    });
    let done = house.run(&["run", "one"]);
    // A kernel may have none for version 1.
    if !done.err.contains("this host has no cpuset cgroup controller") {
        assert!(
            done.code == 1 && done.err.contains("can't be used together with AllowedCPUs"),
            "{}",
            done.err
        );
    }
    house.close();
}
