//! The cases, by what they are about.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use skep_runtime::keeper::{
    ClientError, ContainerStatus, Event, KeeperEvents, LogOptions, Outcome, RefusalKind, Rootfs,
};
use skep_runtime::spec::oci::{
    LinuxMemory, LinuxNamespaceType, LinuxPids, LinuxResources, Mount, PosixRlimitBuilder, PosixRlimitType,
    Spec,
};

use super::house::{House, alive, has_controller, wait};

pub(crate) type Case = (&'static str, fn());

pub(crate) const CASES: &[Case] = &[
    ("create_start_kill_delete", create_start_kill_delete),
    ("a_container_is_alone", a_container_is_alone),
    ("capabilities_are_dockers", capabilities_are_dockers),
    ("paths_are_masked_and_read_only", paths_are_masked_and_read_only),
    ("memory_limit_kills", memory_limit_kills),
    ("pids_limit_holds", pids_limit_holds),
    ("codes_signals_and_logs", codes_signals_and_logs),
    ("events_come", events_come),
    ("missing_and_broken_programs_are_named", missing_and_broken_programs_are_named),
    ("bad_requests_change_nothing", bad_requests_change_nothing),
    ("links_do_not_lead_out", links_do_not_lead_out),
    ("binds_users_limits_and_sysctls", binds_users_limits_and_sysctls),
    ("a_read_only_root_and_a_directory_root", a_read_only_root_and_a_directory_root),
    ("a_given_network_namespace_is_joined", a_given_network_namespace_is_joined),
    ("many_layers_with_long_paths", many_layers_with_long_paths),
];

pub(crate) fn plain(_: &mut Spec) {}

pub(crate) fn mount(destination: &str, source: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_source(Some(source.to_path_buf()))
        .set_typ(Some("bind".to_owned()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

pub(crate) fn add_mount(spec: &mut Spec, mount: Mount) {
    let mut mounts = spec.mounts().clone().unwrap();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
}

fn with_resources(spec: &mut Spec, change: impl FnOnce(&mut LinuxResources)) {
    let mut linux = spec.linux().clone().unwrap();
    let mut resources = linux.resources().clone().unwrap();
    change(&mut resources);
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
}

pub(crate) fn report(house: &House, id: &str, change: impl FnOnce(&mut Spec)) -> BTreeMap<String, String> {
    let (exit, output) = house.run(id, &["report"], change);
    assert_eq!(exit.code(), 0, "{output} {}", house.output(id, "stderr"));
    serde_json::from_str(&output).unwrap()
}

pub(crate) fn refusal(result: Result<i32, ClientError>) -> (RefusalKind, String) {
    match result {
        Err(ClientError::Refused(refusal)) => (refusal.kind, refusal.message),
        other => panic!("{other:?}"),
    }
}

fn create_start_kill_delete() {
    let house = House::new();
    let mut request = house.request("one", &["wait-term", "7"], plain);
    request.start = false;
    request.note = "mine".to_owned();
    let pid = house.client.create(&request, None).unwrap();
    assert_eq!(house.info("one").status, ContainerStatus::Created);
    house.client.start("one").unwrap();
    let info = house.info("one");
    assert_eq!((info.pid, info.status, info.note.as_str()), (Some(pid), ContainerStatus::Running, "mine"));
    wait("ready", || (house.output("one", "stdout") == "ready\n").then_some(()));
    house.client.kill("one", 15, false).unwrap();
    assert_eq!(house.wait_exit("one").code(), 7);
    house.client.delete("one").unwrap();
    assert!(house.client.list().unwrap().is_empty());
    // One at the gate, and one that runs, go as well.
    let mut request = house.request("two", &["sleep"], plain);
    request.start = false;
    house.client.create(&request, None).unwrap();
    house.client.delete("two").unwrap();
    let pid = house.client.create(&house.request("three", &["sleep"], plain), None).unwrap();
    house.client.delete("three").unwrap();
    assert!(!alive(pid));
    house.close();
}

fn a_container_is_alone() {
    let house = House::new();
    let report = report(&house, "r", |spec| {
        spec.set_hostname(Some("hive".to_owned()));
    });
    assert_eq!(report["self"], "1");
    assert_eq!(report["hostname"], "hive");
    assert_eq!(report["cwd"], "/");
    assert_eq!(report["fds"], "3", "descriptors leak");
    assert_eq!(report["Groups"], "");
    assert_eq!(report["Umask"], "0022");
    for name in ["mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
        assert_ne!(report[name], host, "{name}");
    }
    assert!(report["mounts"].lines().any(|line| line.contains(" / / ") && line.contains(" - overlay ")));
    assert!(!report["mounts"].contains("/etc/resolv"), "no host mount is seen");
    for line in report["groups"].lines() {
        let (_, path) = line.rsplit_once(':').unwrap();
        assert!(!path.contains("skep-runtime-test"), "the group's own path is seen: {line}");
    }
    let (_, devices) = house.run("d", &["list", "/dev"], plain);
    let expected = "[\"fd\",\"full\",\"mqueue\",\"null\",\"ptmx\",\"pts\",\"random\",\"shm\",\"stderr\",\"stdin\",\
                    \"stdout\",\"tty\",\"urandom\",\"zero\"]\n";
    // The link to the kernel's memory is there where that is.
    let core = if Path::new("/proc/kcore").exists() { "\"core\"," } else { "" };
    assert_eq!(devices, expected.replacen('[', &format!("[{core}"), 1));
    assert_eq!(house.run("n", &["write", "/dev/null", "x"], plain).1, "written\n");
    house.close();
}

fn capabilities_are_dockers() {
    let house = House::new();
    let root = report(&house, "root", plain);
    // What `docker run` shows for its 14 capabilities.
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(root[set], "00000000a80425fb", "{set}");
    }
    assert_eq!((root["CapInh"].as_str(), root["CapAmb"].as_str()), ("0000000000000000", "0000000000000000"));
    assert_eq!(root["NoNewPrivs"], "0");
    let user = report(&house, "user", |spec| {
        let process = spec.process_mut().as_mut().unwrap();
        process.user_mut().set_uid(1000).set_gid(1001).set_additional_gids(Some(vec![5, 6]));
        process.set_no_new_privileges(Some(true));
    });
    assert_eq!(user["Uid"], "1000\t1000\t1000\t1000");
    assert_eq!(user["Gid"], "1001\t1001\t1001\t1001");
    assert_eq!(user["Groups"], "5 6");
    assert_eq!(user["NoNewPrivs"], "1");
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(user[set], "0000000000000000", "{set}");
    }
    house.close();
}

fn paths_are_masked_and_read_only() {
    let house = House::new();
    // A machine may lack some of the paths; these it has.
    assert!(std::fs::read("/proc/interrupts").is_ok_and(|bytes| !bytes.is_empty()));
    assert_eq!(house.run("a", &["read", "/proc/interrupts"], plain).1, "");
    assert_eq!(
        house.run("b", &["list", "/proc/scsi"], plain).0.code(),
        if Path::new("/proc/scsi").exists() { 0 } else { 101 }
    );
    let read_only = format!("error Some({})\n", libc::EROFS);
    assert_eq!(house.run("c", &["write", "/proc/sys/kernel/domainname", "x"], plain).1, read_only);
    assert_eq!(house.run("e", &["write", "/sys/kernel/mm/ksm/run", "0"], plain).1, read_only);
    let (_, mine) = house.run("f", &["list", "/sys/fs/cgroup"], plain);
    assert_ne!(mine, "[]\n");
    // Without masks the same file is full: the test would see it.
    let (_, unmasked) = house.run("g", &["read", "/proc/interrupts"], |spec| {
        spec.linux_mut().as_mut().unwrap().set_masked_paths(None);
    });
    assert!(unmasked.contains("CPU0"), "{unmasked}");
    house.close();
}

fn memory_limit_kills() {
    let house = House::new();
    let limited = |spec: &mut Spec| {
        with_resources(spec, |resources| {
            let mut memory = LinuxMemory::default();
            memory.set_limit(Some(32 << 20)).set_swap(Some(32 << 20));
            resources.set_memory(Some(memory));
        });
    };
    if has_controller("memory") {
        let (exit, _) = house.run("m", &["eat", "96"], limited);
        assert_eq!((exit.code(), exit.oom_killed), (137, true));
    } else {
        // Never a container without the limit that was asked for.
        let (_, text) = refusal(house.client.create(&house.request("m", &["eat", "96"], limited), None));
        assert!(text.contains("no memory cgroup controller"), "{text}");
    }
    let (exit, output) = house.run("n", &["eat", "96"], plain);
    assert_eq!((exit.code(), exit.oom_killed, output.as_str()), (0, false, "ate 96\n"));
    house.close();
}

fn pids_limit_holds() {
    let house = House::new();
    let limit = |limit| {
        move |spec: &mut Spec| {
            with_resources(spec, |resources| {
                let mut pids = LinuxPids::default();
                pids.set_limit(limit);
                resources.set_pids(Some(pids));
            });
        }
    };
    let (exit, output) = house.run("p", &["fork", "20"], limit(5));
    assert_eq!(exit.code(), 0, "{}", house.output("p", "stderr"));
    assert!(output.contains("stopped at 4 by WouldBlock"), "{output}");
    assert_eq!(house.run("q", &["fork", "20"], limit(-1)).1, "forked 20\n");
    house.close();
}

fn codes_signals_and_logs() {
    let house = House::new();
    let (exit, _) = house.run("code", &["exit", "42"], plain);
    assert_eq!((exit.outcome, exit.code()), (Outcome::Code(42), 42));
    house.client.create(&house.request("killed", &["sleep"], plain), None).unwrap();
    house.client.kill("killed", 9, true).unwrap();
    let exit = house.wait_exit("killed");
    assert_eq!((exit.outcome, exit.code()), (Outcome::Signal(9), 137));
    house.run("say", &["say", "to out", "to err"], plain);
    assert_eq!(
        (house.output("say", "stdout"), house.output("say", "stderr")),
        ("to out\n".into(), "to err\n".into())
    );
    // More than the log's bound: two files, none too long, the newest lines there.
    let mut request = house.request("long", &["lines", "20000"], plain);
    request.log = Some(LogOptions { path: request.bundle.join("log"), max_size: 100_000 });
    house.client.create(&request, None).unwrap();
    house.wait_exit("long");
    for name in ["log", "log.1"] {
        assert!(std::fs::metadata(request.bundle.join(name)).unwrap().len() <= 100_000);
    }
    assert!(house.output("long", "stdout").ends_with("line 19998\nline 19999\n"));
    house.close();
}

fn events_come() {
    let house = House::new();
    let mut events = KeeperEvents::connect(&house.options.run_dir).unwrap();
    assert!(events.next().unwrap().is_none());
    house.run("e", &["exit", "3"], plain);
    let event = wait("the event", || events.next().unwrap());
    let Event::Exited { id, exit } = event;
    assert_eq!((id.as_str(), exit.code()), ("e", 3));
    house.close();
    assert!(matches!(wait("the end", || events.next().err()), ClientError::Closed));
}

fn missing_and_broken_programs_are_named() {
    let house = House::new();
    let run = |id: &str, args: &[&str]| {
        let request = house.request(id, &[], |spec| {
            let process = spec.process_mut().as_mut().unwrap();
            process.set_args(Some(args.iter().map(|arg| (*arg).to_owned()).collect()));
        });
        refusal(house.client.create(&request, None))
    };
    let expected = "exec: \"nosuch\": executable file not found in $PATH";
    assert_eq!(run("a", &["nosuch"]), (RefusalKind::CommandNotFound, expected.to_owned()));
    let expected = "exec: \"/bin/no\": stat /bin/no: no such file or directory";
    assert_eq!(run("b", &["/bin/no"]), (RefusalKind::CommandNotFound, expected.to_owned()));
    let expected = "exec: \"/etc/script\": permission denied";
    assert_eq!(run("c", &["/etc/script"]), (RefusalKind::CommandNotExecutable, expected.to_owned()));
    assert_eq!(run("d", &["/etc"]).0, RefusalKind::CommandNotExecutable);
    assert_eq!(run("e", &[]), (RefusalKind::Invalid, "wrong in the spec: no command specified".to_owned()));
    assert!(house.client.list().unwrap().is_empty());
    assert!(house.cgroup_directories().iter().all(|path| {
        std::fs::read_dir(path).unwrap().all(|entry| entry.unwrap().file_type().unwrap().is_file())
    }));
    // Executable, and no program: only exec can tell.
    let mut request = house.request("f", &[], |spec| {
        spec.process_mut().as_mut().unwrap().set_args(Some(vec!["/script".to_owned()]));
    });
    let Rootfs::Overlay { upper, .. } = &request.rootfs else { panic!() };
    std::fs::write(upper.join("script"), "not a program").unwrap();
    std::fs::set_permissions(upper.join("script"), PermissionsExt::from_mode(0o755)).unwrap();
    let expected = (RefusalKind::CommandNotExecutable, "exec /script: exec format error".to_owned());
    assert_eq!(refusal(house.client.create(&request, None)), expected);
    request.start = false;
    house.client.create(&request, None).unwrap();
    assert!(house.client.start("f").is_err());
    assert_eq!(house.wait_exit("f").code(), 126);
    house.close();
}

fn bad_requests_change_nothing() {
    let house = House::new();
    for id in ["../evil", "a/b", "..", "", ".hidden", "a b"] {
        let mut request = house.request("x", &["exit", "0"], plain);
        request.id = id.to_owned();
        assert_eq!(refusal(house.client.create(&request, None)).0, RefusalKind::Invalid, "{id}");
    }
    let mut request = house.request("x", &["exit", "0"], plain);
    request.netns = true;
    assert_eq!(refusal(house.client.create(&request, None)).0, RefusalKind::Invalid);
    request.netns = false;
    request.rootfs = Rootfs::Directory("/no/such/root".into());
    let (kind, text) = refusal(house.client.create(&request, None));
    assert!(kind == RefusalKind::Failed && text.contains("/no/such/root"), "{text}");
    let request = house.request("y", &["exit", "0"], |spec| {
        add_mount(spec, mount("/data", Path::new("/no/such/source"), &["rbind"]));
    });
    assert!(refusal(house.client.create(&request, None)).1.contains("/no/such/source"));
    let request = house.request("y", &["exit", "0"], |spec| {
        add_mount(spec, mount("/proc/sys/net", Path::new("/tmp"), &["rbind"]));
    });
    assert_eq!(refusal(house.client.create(&request, None)).0, RefusalKind::Invalid);
    house.client.create(&house.request("z", &["sleep"], plain), None).unwrap();
    assert_eq!(
        refusal(house.client.create(&house.request("z", &["sleep"], plain), None)).0,
        RefusalKind::Exists
    );
    for signal in [0, 65, -9] {
        assert!(house.client.kill("z", signal, false).is_err());
    }
    assert!(house.client.start("z").is_err());
    assert!(house.client.shutdown(false).is_err());
    assert_eq!(house.client.list().unwrap().len(), 1);
    house.close();
}

fn links_do_not_lead_out() {
    let house = House::new();
    let outside = tempfile::tempdir().unwrap();
    let source = house.dir.path().join("source");
    std::fs::write(&source, "bound\n").unwrap();
    let request = |id: &str, target: &str, prepare: &dyn Fn(&Path)| {
        let request = house.request(id, &["read", target], |spec| {
            add_mount(spec, mount(target, &source, &["bind", "ro"]));
        });
        let Rootfs::Overlay { upper, .. } = &request.rootfs else { panic!() };
        prepare(upper);
        request
    };
    // A link to a host directory: what it names is looked for, and made, inside the root.
    let absolute = outside.path().to_owned();
    let escape = request("a", "/data/new/file", &|upper| symlink(&absolute, upper.join("data")).unwrap());
    house.client.create(&escape, None).unwrap();
    assert_eq!(house.wait_exit("a").code(), 0);
    assert_eq!(house.output("a", "stdout"), "bound\n");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was made on the host");
    let escape =
        request("b", "/up/new/file", &|upper| symlink("../../../../../../tmp", upper.join("up")).unwrap());
    house.client.create(&escape, None).unwrap();
    assert_eq!(house.wait_exit("b").code(), 0);
    assert_eq!(house.output("b", "stdout"), "bound\n");
    assert!(!Path::new("/tmp/new/file").exists(), "nothing was made on the host");
    // A dangling link as a file's target makes the file that it names, inside.
    let dangling =
        request("c", "/resolv", &|upper| symlink("/run/../resolv.real", upper.join("resolv")).unwrap());
    let Rootfs::Overlay { upper, .. } = dangling.rootfs.clone() else { panic!() };
    std::fs::create_dir(upper.join("run")).unwrap();
    house.client.create(&dangling, None).unwrap();
    assert_eq!(house.wait_exit("c").code(), 0);
    assert_eq!(house.output("c", "stdout"), "bound\n");
    // /dev as a link: no node appears on the host.
    let dev = request("d", "/file", &|upper| symlink(&absolute, upper.join("dev")).unwrap());
    // Refused or made inside; the host is looked at below.
    drop(house.client.create(&dev, None));
    // /proc as a link is refused.
    let proc = request("e", "/file", &|upper| symlink("/etc", upper.join("proc")).unwrap());
    let (_, text) = refusal(house.client.create(&proc, None));
    assert!(text.contains("ordinary directory"), "{text}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    house.close();
}

fn binds_users_limits_and_sysctls() {
    let house = House::new();
    let hosts = house.dir.path().join("hosts");
    std::fs::write(&hosts, "10.0.0.1 me\n").unwrap();
    let with_hosts = |options: &'static [&'static str]| {
        let hosts = hosts.clone();
        move |spec: &mut Spec| add_mount(spec, mount("/etc/hosts", &hosts, options))
    };
    assert_eq!(house.run("a", &["read", "/etc/hosts"], with_hosts(&["rbind"])).1, "10.0.0.1 me\n");
    let read_only = format!("error Some({})\n", libc::EROFS);
    assert_eq!(house.run("b", &["write", "/etc/hosts", "x"], with_hosts(&["bind", "ro"])).1, read_only);
    assert_eq!(house.run("c", &["write", "/etc/hosts", "x"], with_hosts(&["bind"])).1, "written\n");
    assert_eq!(std::fs::read_to_string(&hosts).unwrap(), "x");
    let limit = |soft: u64, hard: u64| {
        move |spec: &mut Spec| {
            let limit =
                PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(soft).hard(hard);
            let limit = limit.build().unwrap();
            spec.process_mut().as_mut().unwrap().set_rlimits(Some(vec![limit]));
        }
    };
    let limits = report(&house, "d", limit(100, 200));
    let line = limits["limits"].lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
    assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["100", "200"]);
    // More than the kernel gives anybody.
    let (_, text) =
        refusal(house.client.create(&house.request("e", &["exit", "0"], limit(1, 1 << 40)), None));
    assert!(text.contains("RLIMIT_NOFILE") && text.contains("not permitted"), "{text}");
    let sysctl = |key: &'static str| {
        move |spec: &mut Spec| {
            let settings = [(key.to_owned(), "0".to_owned())].into();
            spec.linux_mut().as_mut().unwrap().set_sysctl(Some(settings));
        }
    };
    let port_start = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(house.run("f", &["read", port_start], sysctl("net.ipv4.ip_unprivileged_port_start")).1, "0\n");
    for key in ["kernel.core_pattern", "vm.swappiness", "net/../kernel/panic", "net.//.kernel.panic"] {
        let request = house.request("g", &["exit", "0"], sysctl(key));
        assert_eq!(refusal(house.client.create(&request, None)).0, RefusalKind::Invalid, "{key}");
    }
    let made = report(&house, "h", |spec| {
        let process = spec.process_mut().as_mut().unwrap();
        process.set_cwd("/made/for/you".into());
        process.set_oom_score_adj(Some(321));
    });
    assert_eq!(made["cwd"], "/made/for/you");
    house.close();
}

fn a_read_only_root_and_a_directory_root() {
    let house = House::new();
    let read_only = format!("error Some({})\n", libc::EROFS);
    let freeze = |spec: &mut Spec| {
        spec.root_mut().as_mut().unwrap().set_readonly(Some(true));
    };
    assert_eq!(house.run("a", &["write", "/x", "x"], freeze).1, read_only);
    assert_eq!(house.run("b", &["write", "/dev/shm/x", "x"], freeze).1, "written\n");
    let mut request = house.request("c", &["write", "/x", "x"], plain);
    let Rootfs::Overlay { lower, .. } = &request.rootfs else { panic!() };
    let root = house.dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::copy(lower[0].join("probe"), root.join("probe")).unwrap();
    request.rootfs = Rootfs::Directory(root.clone());
    house.client.create(&request, None).unwrap();
    assert_eq!(house.wait_exit("c").code(), 0);
    assert_eq!(std::fs::read_to_string(root.join("x")).unwrap(), "x");
    house.close();
}

fn a_given_network_namespace_is_joined() {
    let house = House::new();
    let pid = house.client.create(&house.request("a", &["sleep"], plain), None).unwrap();
    let path = format!("/proc/{pid}/ns/net");
    let netns = std::fs::File::open(&path).unwrap();
    let mut request = house.request("b", &["report"], plain);
    request.netns = true;
    house.client.create(&request, Some(netns.as_fd())).unwrap();
    house.wait_exit("b");
    let report: BTreeMap<String, String> = serde_json::from_str(&house.output("b", "stdout")).unwrap();
    assert_eq!(report["net"], std::fs::read_link(&path).unwrap().display().to_string());
    drop(netns);
    // Without one in the spec it is the host's.
    let host = self::report(&house, "c", |spec| {
        let linux = spec.linux_mut().as_mut().unwrap();
        let mut namespaces = linux.namespaces().clone().unwrap();
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
        linux.set_namespaces(Some(namespaces));
    });
    assert_eq!(host["net"], std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string());
    house.close();
}

fn many_layers_with_long_paths() {
    let house = House::new();
    let mut request = house.request("a", &["list", "/"], plain);
    let Rootfs::Overlay { lower, .. } = &mut request.rootfs else { panic!() };
    for number in 0..100 {
        // Colons and commas would need escaping in mount(2)'s options; some are too long for fsconfig(2).
        let long = "x".repeat(if number % 2 == 0 { 20 } else { 240 });
        let layer = house.dir.path().join("layers").join(format!("{number}:,{long}"));
        std::fs::create_dir_all(&layer).unwrap();
        std::fs::write(layer.join(format!("file{number}")), "").unwrap();
        lower.insert(0, layer);
    }
    house.client.create(&request, None).unwrap();
    assert_eq!(house.wait_exit("a").code(), 0);
    let names: Vec<String> = serde_json::from_str(&house.output("a", "stdout")).unwrap();
    assert_eq!(names.iter().filter(|name| name.starts_with("file")).count(), 100);
    house.close();
}
