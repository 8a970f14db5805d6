//! Containers of the host's own root, made and joined in the running kernel. Needs root.

use std::io::{Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;

use oci_spec::runtime::{HookBuilder, HooksBuilder, Process};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::*;
use crate::spec::default_spec;

/// A container and what it wrote.
struct Box {
    bundle: tempfile::TempDir,
    output: std::fs::File,
    spec: Spec,
}

impl Box {
    /// Runs a shell script in the host's root, with a procfs and devpts of its own.
    fn new(script: &str) -> Self {
        let mut spec = serde_json::to_value(default_spec()).unwrap();
        spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        spec["process"]["env"] = json!(["PATH=/usr/bin:/bin:/usr/sbin:/sbin"]);
        spec["mounts"] = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["ptmxmode=0666"]},
        ]);
        let object = spec["linux"].as_object_mut().unwrap();
        object.remove("maskedPaths");
        object.remove("readonlyPaths");
        Self {
            bundle: tempfile::tempdir().unwrap(),
            output: tempfile::tempfile().unwrap(),
            spec: serde_json::from_value(spec).unwrap(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut spec = serde_json::to_value(&self.spec).unwrap();
        change(&mut spec);
        self.spec = serde_json::from_value(spec).unwrap();
        self
    }

    fn stdio(&self) -> Stdio {
        let copy = || OwnedFd::from(self.output.try_clone().unwrap());
        Stdio { stdin: copy(), stdout: copy(), stderr: copy() }
    }

    fn options(&self) -> CreateOptions<'_> {
        static HOST: LazyLock<Rootfs> = LazyLock::new(|| Rootfs::Directory("/".into()));
        CreateOptions {
            id: "box",
            bundle: self.bundle.path(),
            spec: &self.spec,
            rootfs: &HOST,
            netns: None,
            stdio: self.stdio(),
            console: None,
            no_pivot: false,
            preserve_fds: 0,
            no_new_keyring: false,
            gate: Gate::Owner,
            cgroup: None,
            placement: None,
            root: None,
            filter: None,
            meanwhile: None,
        }
    }

    fn create_at(&self, gate: Gate, console: Option<OwnedFd>) -> Result<Container, CreateError> {
        create(CreateOptions { gate, console, ..self.options() })
    }

    fn create(&self) -> Result<Container, CreateError> {
        self.create_at(Gate::Owner, None)
    }

    fn run(&self) -> String {
        let mut container = self.create().unwrap();
        container.start().unwrap();
        container.wait().unwrap();
        self.text()
    }

    fn exec(&self, init: &Container, script: &str) -> String {
        let mut process: Process = self.spec.process().clone().unwrap();
        process.set_args(Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()));
        let output = tempfile::tempfile().unwrap();
        let copy = || OwnedFd::from(output.try_clone().unwrap());
        let start = crate::process::start_time(init.pid()).unwrap();
        let mut container = exec(ExecOptions {
            id: "box",
            init: &crate::process::Process::open(init.pid(), start).unwrap(),
            bundle: self.bundle.path(),
            spec: &self.spec,
            process: &process,
            stdio: Stdio { stdin: copy(), stdout: copy(), stderr: copy() },
            console: None,
            preserve_fds: 0,
            no_new_keyring: false,
            cgroup: None,
        })
        .unwrap();
        container.start().unwrap();
        container.wait().unwrap();
        read(&output)
    }

    fn text(&self) -> String {
        read(&self.output)
    }
}

fn read(file: &std::fs::File) -> String {
    let mut file = file.try_clone().unwrap();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// A container that waits, ended on every path.
struct Running(Container);

impl Running {
    fn start(container: Container) -> Self {
        let mut running = Self(container);
        running.0.start().unwrap();
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill(Signal::KILL));
        drop(self.0.wait());
    }
}

const IDS: &str = r#"[{"containerID": 0, "hostID": 100000, "size": 65536}]"#;

fn with_user_namespace(spec: &mut Value) {
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    spec["linux"]["uidMappings"] = serde_json::from_str(IDS).unwrap();
    spec["linux"]["gidMappings"] = serde_json::from_str(IDS).unwrap();
}

#[test]
fn a_user_namespace_has_its_map_and_its_root() {
    let script = "cat /proc/self/uid_map; id -u; cat /proc/self/oom_score_adj; ls -ln /proc/self/stat";
    let container = Box::new(script).with(with_user_namespace).with(|spec| {
        spec["process"]["oomScoreAdj"] = json!(123);
    });
    let text = container.run();
    let lines: Vec<&str> = text.lines().collect();
    let map: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(map, ["0", "100000", "65536"], "{text}");
    assert_eq!(&lines[1..3], ["0", "123"], "{text}");
}

#[test]
fn limits_and_score_of_an_exec_come_from_outside_of_its_user_namespace() {
    // With that capability of the host's, more than the namespace's root could.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    let may_raise = u64::from_str_radix(effective, 16).unwrap() & (1 << 24) != 0;
    let (bytes, score) = if may_raise { ("900000", -5) } else { ("700000", 123) };
    let container = Box::new("exec sleep 1000").with(with_user_namespace).with(|spec| {
        let limit: u64 = bytes.parse().unwrap();
        spec["process"]["oomScoreAdj"] = json!(score);
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_MSGQUEUE", "soft": limit, "hard": limit}]);
    });
    let init = Running::start(container.create().unwrap());
    let text = container.exec(&init.0, "grep msgqueue /proc/self/limits; cat /proc/self/oom_score_adj");
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["Max", "msgqueue", "size", bytes, bytes, "bytes", &score.to_string()]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", init.0.pid())).unwrap();
    assert!(
        limits.lines().any(|line| line.starts_with("Max msgqueue size") && line.contains(bytes)),
        "{limits}"
    );
}

#[test]
fn a_time_namespace_has_its_offsets() {
    let offsets = |spec: &mut Value| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000, "nanosecs": 0}});
    };
    let text = Box::new("cat /proc/uptime; echo $$").with(offsets).run();
    let uptime: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
    assert!(uptime > 1_000_000.0, "{text}");
    assert_eq!(text.lines().nth(1), Some("1"), "{text}");
    // With a user namespace, and without offsets.
    let text = Box::new("cat /proc/uptime").with(offsets).with(with_user_namespace).run();
    assert!(text.split_whitespace().next().unwrap().parse::<f64>().unwrap() > 1_000_000.0, "{text}");
    let text = Box::new("readlink /proc/self/ns/time")
        .with(|spec| spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"})))
        .run();
    let ours = std::fs::read_link("/proc/self/ns/time").unwrap();
    assert_ne!(text.trim(), ours.to_str().unwrap());
}

/// Links of all namespaces, as `/proc/PID/ns` has them.
fn namespaces(pid: &str) -> Vec<String> {
    let names = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time"];
    let links = names.map(|name| std::fs::read_link(format!("/proc/{pid}/ns/{name}")));
    links.map(|link| link.unwrap().to_str().unwrap().to_owned()).to_vec()
}

const SHOW: &str =
    "cd /proc/self/ns; for one in cgroup ipc mnt net pid user uts time; do readlink $one; done";

#[test]
fn another_containers_namespaces_are_joined_by_path() {
    for user in [false, true] {
        let first = Box::new("exec sleep 1000").with(|spec| {
            spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
            if user {
                with_user_namespace(spec);
            }
        });
        let first = Running::start(first.create().unwrap());
        let pid = first.0.pid().to_string();
        let join = |spec: &mut Value| {
            let mut list = Vec::new();
            for (typ, name) in [
                ("cgroup", "cgroup"),
                ("ipc", "ipc"),
                ("network", "net"),
                ("pid", "pid"),
                ("uts", "uts"),
                ("time", "time"),
                ("user", "user"),
            ] {
                if typ != "user" || user {
                    list.push(json!({"type": typ, "path": format!("/proc/{pid}/ns/{name}")}));
                }
            }
            list.push(json!({"type": "mount"}));
            spec["linux"]["namespaces"] = json!(list);
            spec.as_object_mut().unwrap().remove("hostname");
        };
        let text = Box::new(SHOW).with(join).run();
        let mut there = namespaces(&pid);
        let mut here: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(here.len(), there.len(), "{text}");
        // The mount namespace is its own.
        assert_ne!(here.remove(2), there.remove(2));
        assert_eq!(here, there, "{text}");
    }
}

#[test]
fn a_process_joins_a_running_container() {
    for user in [false, true] {
        let container = Box::new("exec sleep 1000").with(|spec| {
            spec["hostname"] = json!("joined");
            if user {
                with_user_namespace(spec);
            }
        });
        let init = Running::start(container.create().unwrap());
        let text = container.exec(&init.0, &format!("hostname; {SHOW}; cat /proc/1/comm; id -u"));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 11 && lines[0] == "joined", "{text}");
        assert_eq!(lines[1..9], namespaces(&init.0.pid().to_string()), "{text}");
        assert_eq!(lines[9..], ["sleep", "0"], "{text}");
    }
}

#[test]
fn a_hooks_files_have_the_callers_mask_and_not_the_set_ups() {
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("made");
    let mut container = Box::new("true");
    let script = format!("touch {}", to.display());
    let hook = HookBuilder::default().path("/bin/sh").args(["sh", "-c", &script].map(str::to_owned));
    let hook = hook.env(vec!["PATH=/usr/bin:/bin".to_owned()]).build().unwrap();
    container.spec.set_hooks(Some(HooksBuilder::default().create_container(vec![hook]).build().unwrap()));
    container.run();
    // A neighbour made by this process has the mode that its mask leaves.
    std::fs::write(place.path().join("own"), "").unwrap();
    let mode = |name: &str| std::fs::metadata(place.path().join(name)).unwrap().mode() & 0o777;
    assert_eq!(mode("made"), mode("own"));
    assert_ne!(mode("own"), 0o666, "without a mask this shows nothing");
}

#[test]
fn hooks_run_where_and_when_they_should() {
    let container = Box::new("echo program; cat /marker.$(hostname) 2>/dev/null");
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("order");
    let hook = |name: &str| {
        // Which namespace, which process, which state: one line a hook.
        let script = format!(
            "echo {name} $(readlink /proc/self/ns/mnt) $(cat | tr -d ' ' | grep -oE '\"(status|pid)\":\"?[a-z0-9]+' \
             | tr -d '\"' | sort | tr '\\n' ' ') >> {}",
            to.display()
        );
        HookBuilder::default()
            .path("/bin/sh")
            .args(["sh", "-c", &script].map(str::to_owned))
            .env(vec!["PATH=/usr/bin:/bin".to_owned()])
            .build()
            .unwrap()
    };
    let mut container = container;
    #[allow(deprecated)]
    let hooks = HooksBuilder::default()
        .prestart(vec![hook("prestart")])
        .create_runtime(vec![hook("createRuntime")])
        .create_container(vec![hook("createContainer")])
        .start_container(vec![hook("startContainer")])
        .build()
        .unwrap();
    container.spec.set_hooks(Some(hooks));
    let mut made = container.create().unwrap();
    let lines = |expected: usize| {
        let text = std::fs::read_to_string(&to).unwrap();
        assert_eq!(text.lines().count(), expected, "{text}");
        text
    };
    let pid = made.pid();
    let inner = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let inner = inner.to_str().unwrap();
    let outer = namespaces("self")[2].clone();
    let created = lines(3);
    for (line, name) in created.lines().zip(["prestart", "createRuntime"]) {
        assert_eq!(line.trim(), format!("{name} {outer} pid:{pid} status:creating"));
    }
    assert_eq!(
        created.lines().nth(2).unwrap().trim(),
        format!("createContainer {inner} pid:1 status:creating")
    );
    made.start().unwrap();
    made.wait().unwrap();
    let started = lines(4);
    assert_eq!(
        started.lines().nth(3).unwrap().trim(),
        format!("startContainer {inner} pid:1 status:created")
    );
    assert!(container.text().starts_with("program\n"));
}

#[test]
fn a_failing_hook_ends_the_container_and_leaves_nothing() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let container = Box::new("true").with(|spec| {
            spec["hooks"] =
                json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}]});
        });
        let error = container.create().unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{kind}: {error}");
    }
    let container = Box::new("echo ran").with(|spec| {
        spec["hooks"] =
            json!({"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]});
    });
    let mut made = container.create().unwrap();
    let error = made.start().unwrap_err();
    assert!(matches!(error, StartError::Hook { .. }), "{error}");
    made.wait().unwrap();
    assert_eq!(container.text(), "");
}

#[test]
fn a_start_hook_runs_under_the_default_profile() {
    let mut container = Box::new("echo program");
    crate::spec::confine(&mut container.spec).unwrap();
    let container = container.with(|spec| {
        let hook = |script: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 60});
        let stays = "test \"$(grep -c 'Seccomp:.*2' /proc/self/status)\" = 1 || exit 1; echo because; exit 3";
        spec["hooks"] = json!({"startContainer": [hook("exit 0"), hook(stays)]});
    });
    let mut made = container.create().unwrap();
    let error = made.start().unwrap_err();
    made.wait().unwrap();
    let StartError::Hook { index: 1, reason } = &error else { panic!("{error}") };
    assert_eq!(reason, "exit status: 3: because");
}

#[test]
fn what_an_earlier_hooks_descendant_writes_is_no_later_hooks() {
    let place = tempfile::tempdir().unwrap();
    let (go, done) = (place.path().join("go"), place.path().join("done"));
    let script = format!(
        "(until test -e {}; do sleep 0.01; done; echo stale; touch {}) & exit 0",
        go.display(),
        done.display()
    );
    let container = Box::new("true").with(|spec| {
        let env = ["PATH=/usr/bin:/bin"];
        let hook = |script: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": env});
        spec["hooks"] = json!({"createContainer": [hook(&script)], "startContainer": [hook("exit 3")]});
    });
    let mut made = container.create().unwrap();
    std::fs::write(go, "").unwrap();
    let start = std::time::Instant::now();
    while !done.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "the descendant is gone");
        std::thread::yield_now();
    }
    let error = made.start().unwrap_err();
    made.wait().unwrap();
    let StartError::Hook { index: 0, reason } = &error else { panic!("{error}") };
    assert_eq!(reason, "exit status: 3");
}

/// Where the creator of the test below tells its init's number; set in the creator alone.
const CREATOR: &str = "SKEP_TEST_CREATOR";

/// Once with the init as a child of the creator's, once by the process in between.
#[test]
fn an_init_that_waits_for_its_creator_ends_with_it() {
    if let Some(told) = std::env::var_os(CREATOR) {
        let told = PathBuf::from(told);
        let place = |pid: i32| {
            let new = told.with_extension("new");
            std::fs::write(&new, pid.to_string()).unwrap();
            std::fs::rename(new, &told).unwrap();
            loop {
                std::thread::park();
            }
        };
        let container = Box::new("true").with(|spec| {
            if told.ends_with("between") {
                spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
            }
        });
        let gate = Gate::Named(told.parent().unwrap().to_owned());
        drop(create(CreateOptions { gate, placement: Some(Placement(&place)), ..container.options() }));
        unreachable!("placed for ever");
    }
    for name in ["child", "between"] {
        let dir = tempfile::tempdir().unwrap();
        let told = dir.path().join(name);
        let mut creator = std::process::Command::new(std::env::current_exe().unwrap());
        let this = "container::tests::an_init_that_waits_for_its_creator_ends_with_it";
        let creator = creator.args(["--exact", this]).env(CREATOR, &told).env("TMPDIR", dir.path());
        let mut creator = creator.stdout(std::process::Stdio::null()).spawn().unwrap();
        let init = loop {
            if let Ok(pid) = std::fs::read_to_string(&told) {
                break crate::process::open(pid.parse().unwrap()).unwrap();
            }
            assert!(creator.try_wait().unwrap().is_none(), "the creator has ended");
            std::thread::yield_now();
        };
        creator.kill().unwrap();
        creator.wait().unwrap();
        let ended = gate::ends_within(init.as_fd(), Duration::from_secs(60)).unwrap();
        if !ended {
            pidfd_send_signal(&init, Signal::KILL).unwrap();
        }
        assert!(ended, "{name}");
    }
}

#[test]
fn a_terminal_is_the_containers_own() {
    for user in [0, 1000] {
        let container = Box::new(
            "tty; stty size; echo to console > /dev/console; ls -ln $(tty); read line; echo got $line",
        )
        .with(|spec| {
            spec["process"]["terminal"] = json!(true);
            spec["process"]["consoleSize"] = json!({"height": 33, "width": 44});
            spec["process"]["user"] = json!({"uid": user, "gid": user});
        });
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut made = container.create_at(Gate::Owner, Some(theirs.into())).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 64];
        recvmsg(&ours, &mut [io::IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let master = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let mut master = std::fs::File::from(master.unwrap());
        made.start().unwrap();
        master.write_all(b"hello\n").unwrap();
        made.wait().unwrap();
        let mut bytes = Vec::new();
        // A terminal whose last holder is gone ends with EIO (pty(7)).
        drop(master.read_to_end(&mut bytes));
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.contains("/dev/pts/0") && text.contains("33 44") && text.contains("to console"),
            "{text}"
        );
        assert!(text.contains("got hello") && text.contains(&format!(" {user} ")), "{text}");
    }
}

#[test]
fn a_named_gate_is_passed_once_and_tells_what_became_of_it() {
    let container = Box::new("echo ran");
    let gate = tempfile::tempdir().unwrap();
    let made = container.create_at(Gate::Named(gate.path().to_owned()), None).unwrap();
    assert!(Gate::is_closed(gate.path()));
    Gate::pass(gate.path(), &container.spec, "sh", made.pidfd(), || {}).unwrap();
    made.wait().unwrap();
    assert_eq!(container.text(), "ran\n");
    assert!(!Gate::is_closed(gate.path()));
    assert!(matches!(
        Gate::pass(gate.path(), &container.spec, "sh", made.pidfd(), || {}),
        Err(StartError::Started)
    ));
    // One that was killed before.
    let gate = tempfile::tempdir().unwrap();
    let made = container.create_at(Gate::Named(gate.path().to_owned()), None).unwrap();
    made.kill(Signal::KILL).unwrap();
    made.wait().unwrap();
    assert!(matches!(
        Gate::pass(gate.path(), &container.spec, "sh", made.pidfd(), || {}),
        Err(StartError::Died)
    ));
    // One whose program is none.
    let gate = tempfile::tempdir().unwrap();
    let program = gate.path().join("garbage");
    std::fs::write(&program, "\0\0\0\0").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let container = Box::new("").with(|spec| spec["process"]["args"] = json!([program]));
    let made = container.create_at(Gate::Named(gate.path().to_owned()), None).unwrap();
    let error =
        Gate::pass(gate.path(), &container.spec, "garbage", made.pidfd(), || {}).unwrap_err().to_string();
    assert!(error.contains("garbage") && error.contains("exec format error"), "{error}");
    made.wait().unwrap();
}

#[test]
fn each_namespace_is_made_or_shared_as_the_spec_says() {
    let own = namespaces("self");
    for (index, typ) in [(0, "cgroup"), (1, "ipc"), (3, "network"), (4, "pid"), (6, "uts")] {
        let text = Box::new(SHOW)
            .with(|spec| {
                let list = spec["linux"]["namespaces"].as_array_mut().unwrap();
                list.retain(|one| one["type"] != typ);
                spec.as_object_mut().unwrap().remove("hostname");
            })
            .run();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[index], own[index], "{typ} is not shared: {text}");
        let others = lines.iter().zip(&own).enumerate().filter(|(other, _)| ![index, 5, 7].contains(other));
        for (_, (line, host)) in others {
            assert_ne!(line, host, "{text}");
        }
    }
}

#[test]
fn a_group_that_is_made_around_the_init_holds_it_before_it_does_anything() {
    let container = Box::new("cat /proc/self/cgroup");
    let asked = std::cell::Cell::new(0);
    let place = |pid: i32| {
        // It has not made its root yet: it sees what this process sees.
        let root = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert_eq!(root, std::env::current_dir().unwrap());
        asked.set(pid);
        Ok(())
    };
    let mut made =
        create(CreateOptions { placement: Some(Placement(&place)), ..container.options() }).unwrap();
    assert_eq!(asked.get(), made.pid());
    made.start().unwrap();
    made.wait().unwrap();
    // Who cannot make the group ends the container.
    let refuse = |_| Err(CgroupError::NotMounted);
    let error =
        create(CreateOptions { placement: Some(Placement(&refuse)), ..container.options() }).unwrap_err();
    assert!(matches!(error, CreateError::Cgroup(CgroupError::NotMounted)), "{error}");
}
