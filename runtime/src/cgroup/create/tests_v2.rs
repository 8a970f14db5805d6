//! Groups on a kernel where version 2 alone is mounted. They need root, and skip what is another host.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use super::tests::{Scratch, resources, wait};
use super::*;
use crate::cgroup::{Driver, OomEvent};

/// `None`: not root, or not pure v2.
pub(super) fn scratch() -> Option<Scratch> {
    let cgroups = Cgroups::detect().ok()?;
    (rustix::process::geteuid().is_root() && cgroups.is_pure_v2()).then(|| Scratch::new(cgroups))
}

fn read(scratch: &Scratch, file: &str) -> String {
    let path = scratch.group.unified().unwrap().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
}

fn check(scratch: &Scratch, expected: &[(&str, &str)]) {
    for (file, value) in expected {
        assert_eq!(read(scratch, file), *value, "{file}");
    }
}

/// A block device to limit: a loop device, whose module the guest has.
pub(super) fn block_device() -> Option<(i64, i64)> {
    let find = || {
        let entry = std::fs::read_dir("/sys/block").ok()?.flatten().next()?;
        let text = std::fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    find().or_else(|| {
        let _ = Command::new("modprobe").arg("loop").status();
        find()
    })
}

#[test]
fn every_limit_is_in_its_file() {
    let Some(scratch) = scratch() else { return };
    scratch
        .make(
            r#"{"memory":{"limit":67108864,"swap":100663296,"reservation":33554432},
            "cpu":{"shares":512,"quota":5000,"period":10000,"burst":1000,"cpus":"0","mems":"0"},
            "pids":{"limit":10},"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
        )
        .unwrap();
    let expected = [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("cpu.weight", "59"),
        ("cpu.max", "5000 10000"),
        ("cpu.max.burst", "1000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("pids.max", "10"),
        ("hugetlb.2MB.max", "4194304"),
        ("hugetlb.2MB.rsvd.max", "4194304"),
    ];
    check(&scratch, &expected);
    // Up, down, and the same for both; what is not given stays.
    for (limit, swap, left) in [
        ("268435456", "536870912", "268435456"),
        ("33554432", "67108864", "33554432"),
        ("67108864", "67108864", "0"),
        ("-1", "-1", "max"),
    ] {
        scratch.update(&format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#)).unwrap();
        check(&scratch, &[("memory.max", &limit.replace("-1", "max")), ("memory.swap.max", left)]);
    }
    scratch.update(r#"{"cpu":{"quota":200000,"period":1000000}}"#).unwrap();
    check(&scratch, &[("cpu.max", "200000 1000000"), ("cpu.max.burst", "1000"), ("pids.max", "10")]);
    scratch.update(r#"{"cpu":{"quota":1000,"period":1000}}"#).unwrap();
    check(&scratch, &[("cpu.max", "1000 1000"), ("memory.low", "33554432")]);
    scratch.update(r#"{"cpu":{"burst":0,"idle":1},"pids":{"limit":-1}}"#).unwrap();
    check(&scratch, &[("cpu.max.burst", "0"), ("cpu.idle", "1"), ("pids.max", "max")]);
}

#[test]
fn devices_are_throttled_and_unified_is_written_as_it_is() {
    let Some(scratch) = scratch() else { return };
    let Some((major, minor)) = block_device() else { return };
    let rate = |rate: u64| format!(r#"[{{"major":{major},"minor":{minor},"rate":{rate}}}]"#);
    let io = |bytes: u64, operations: u64| {
        format!(
            r#""throttleReadBpsDevice":{},"throttleWriteBpsDevice":{},"throttleReadIOPSDevice":{},
            "throttleWriteIOPSDevice":{}"#,
            rate(bytes),
            rate(bytes),
            rate(operations),
            rate(operations)
        )
    };
    let unified = r#""memory.high":"1048576","cgroup.max.descendants":"3","pids.max":"44""#;
    let json = format!(r#"{{"blockIO":{{{}}},"unified":{{{unified}}}}}"#, io(1_048_576, 100));
    scratch.make(&json).unwrap();
    let line = format!("{major}:{minor} rbps=1048576 wbps=1048576 riops=100 wiops=100");
    let expected = [
        ("io.max", line.as_str()),
        ("memory.high", "1048576"),
        ("cgroup.max.descendants", "3"),
        ("pids.max", "44"),
    ];
    check(&scratch, &expected);
    scratch.update(&format!(r#"{{"blockIO":{{{}}}}}"#, io(0, 0))).unwrap();
    check(&scratch, &[("io.max", "")]);
    let error = scratch.update(r#"{"unified":{"nosuch.max":"1"}}"#).unwrap_err();
    assert!(matches!(&error, CgroupError::UnifiedController { controller, .. } if controller == "nosuch"));
    let error = scratch.update(r#"{"unified":{"memory.nosuch":"1"}}"#).unwrap_err().to_string();
    assert!(error.contains("memory.nosuch"), "{error}");
}

#[test]
fn what_v2_or_this_host_lacks_is_refused_by_name_and_leaves_nothing() {
    let Some(scratch) = scratch() else { return };
    for (name, json) in [
        ("swappiness", r#"{"memory":{"limit":67108864,"swappiness":10}}"#),
        ("disableOOMKiller", r#"{"memory":{"disableOOMKiller":true}}"#),
        ("realtimeRuntime", r#"{"cpu":{"realtimeRuntime":100}}"#),
        ("cpuset.cpus", r#"{"memory":{"limit":67108864},"cpu":{"cpus":"5000"}}"#),
        ("hugetlb.3MB.max", r#"{"hugepageLimits":[{"pageSize":"3MB","limit":1}]}"#),
        ("net_cls", r#"{"network":{"classID":1}}"#),
        ("rdma.max", r#"{"rdma":{"nosuch0":{"hcaHandles":3}}}"#),
    ] {
        let error = scratch.make(json).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
        let parent = scratch.cgroups.unified.as_ref().unwrap().join(&scratch.parent);
        assert!(!parent.exists(), "{name} leaves {}", parent.display());
    }
}

#[test]
fn processes_freeze_thaw_and_die_frozen_and_groups_below_are_removed() {
    let Some(scratch) = scratch() else { return };
    scratch.make("{}").unwrap();
    let below = scratch.group.unified().unwrap().join("below/further");
    std::fs::create_dir_all(&below).unwrap();
    let mut deep = scratch.run(&format!("echo $$ > {}/cgroup.procs; echo; exec sleep 1000", below.display()));
    deep.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let mut child = scratch.run("exec sleep 1000");
    assert!(matches!(scratch.make("{}"), Err(CgroupError::NotEmpty { processes: 2, .. })));
    assert_eq!(scratch.group.processes(), [child.id() as i32]);
    scratch.group.freeze().unwrap();
    assert!(scratch.group.is_frozen());
    check(&scratch, &[("cgroup.events", "populated 1\nfrozen 1")]);
    scratch.group.thaw().unwrap();
    assert!(!scratch.group.is_frozen());
    scratch.group.freeze().unwrap();
    let rebuilt = Cgroup::from_paths(&scratch.group.paths(), None);
    rebuilt.kill();
    assert!(!child.wait().unwrap().success() && !deep.wait().unwrap().success());
    rebuilt.remove().unwrap();
    assert!(!scratch.group.exists());
    // A group that is frozen before anything is in it would hang what joins it.
    scratch.make("{}").unwrap();
    scratch.group.freeze().unwrap();
    assert!(matches!(scratch.make("{}"), Err(CgroupError::Frozen { .. })));
}

#[test]
fn stats_and_the_end_of_memory_are_told() {
    let Some(scratch) = scratch() else { return };
    scratch.make(r#"{"memory":{"limit":8388608,"swap":8388608},"pids":{"limit":20}}"#).unwrap();
    let mut events = scratch.group.oom_events().unwrap();
    assert_eq!(events.read().unwrap(), None);
    let mut child = scratch.run("x=y; while :; do x=$x$x; done");
    let seen = |events: &mut crate::cgroup::OomEvents, wanted: OomEvent| {
        loop {
            wait(events);
            match events.read().unwrap() {
                Some(event) if event == wanted => return,
                Some(OomEvent::Gone) => panic!("gone before {wanted:?}"),
                _ => {}
            }
        }
    };
    seen(&mut events, OomEvent::Oom);
    child.wait().unwrap();
    seen(&mut events, OomEvent::Gone);
    let stats = scratch.group.stats().unwrap();
    assert_eq!((stats.memory.usage.limit, stats.pids.limit), (8_388_608, 20));
    assert!(scratch.group.usage().oom_kills > Some(0));
    assert!(stats.cpu.usage.total > 0 && stats.memory.raw.contains_key("anon"));
}

#[test]
fn device_rules_hold_and_are_replaced() {
    let Some(scratch) = scratch() else { return };
    let rule = |allow: bool, rest: &str| format!(r#"{{"allow":{allow},"access":"rwm"{rest}}}"#);
    let kmsg = rule(true, r#","type":"c","major":1,"minor":11"#);
    scratch.make(&format!(r#"{{"devices":[{}]}}"#, rule(false, ""))).unwrap();
    let opens = |path: &str| {
        let script = format!("(exec 3<{path}) 2>/dev/null && echo yes || echo no");
        let mut child = scratch.run(&script);
        let mut text = String::new();
        child.stdout.as_mut().unwrap().read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        text.trim() == "yes"
    };
    assert!(opens("/dev/null") && !opens("/dev/kmsg"));
    scratch.update(&format!(r#"{{"devices":[{},{kmsg}]}}"#, rule(false, ""))).unwrap();
    assert!(opens("/dev/kmsg"));
    // One that is not about devices leaves them.
    scratch.update(r#"{"pids":{"limit":50}}"#).unwrap();
    assert!(opens("/dev/kmsg"));
    scratch.update(&format!(r#"{{"devices":[{}]}}"#, rule(false, ""))).unwrap();
    assert!(opens("/dev/null") && !opens("/dev/kmsg"));
}

#[test]
fn controllers_are_handed_down_below_another_group() {
    let Some(scratch) = scratch() else { return };
    let path = format!("/{}/deep/deeper/group", scratch.parent);
    let group = scratch.cgroups.place(Some(Path::new(&path)), "unused", Driver::Cgroupfs).unwrap();
    group
        .make(&scratch.cgroups, Some(&resources(r#"{"memory":{"limit":67108864},"pids":{"limit":5}}"#)), None)
        .unwrap();
    let file = |name: &str| std::fs::read_to_string(group.unified().unwrap().join(name)).unwrap();
    assert_eq!((file("memory.max").as_str(), file("pids.max").as_str()), ("67108864\n", "5\n"));
    let controllers = file("cgroup.controllers");
    for name in &scratch.cgroups.v2_controllers {
        assert!(controllers.split_whitespace().any(|one| one == name), "{name} in {controllers}");
    }
    let again = scratch.cgroups.place(Some(Path::new(&path)), "unused", Driver::Cgroupfs).unwrap();
    again.remove().unwrap();
    scratch.cgroups.remove_parent(&format!("{}/deep/deeper", scratch.parent));
}

#[test]
fn below_a_group_with_processes_there_are_threaded_groups() {
    let Some(scratch) = scratch() else { return };
    let parent = scratch.cgroups.unified.as_ref().unwrap().join(&scratch.parent);
    std::fs::create_dir(&parent).unwrap();
    let procs = parent.join("cgroup.procs");
    let mut above = Command::new("sleep").arg("1000").spawn().unwrap();
    write(&procs, &above.id().to_string()).unwrap();
    let refused = scratch.make(r#"{"memory":{"limit":67108864}}"#);
    let made = scratch.make(r#"{"cpu":{"shares":512},"pids":{"limit":7}}"#);
    let kind = scratch.group.unified().map(|path| std::fs::read_to_string(path.join("cgroup.type")));
    let mut child = made.is_ok().then(|| scratch.run("exec sleep 1000"));
    let found = scratch.group.processes();
    scratch.group.kill();
    let ended = child.as_mut().map(|child| child.wait().unwrap().success());
    let removed = scratch.group.remove();
    above.kill().unwrap();
    above.wait().unwrap();
    assert!(matches!(refused, Err(CgroupError::Threaded { .. })), "{refused:?}");
    made.unwrap();
    assert_eq!(kind.unwrap().unwrap(), "threaded\n");
    assert_eq!((found, ended), (vec![child.unwrap().id() as i32], Some(false)));
    removed.unwrap();
}

#[test]
fn who_joins_a_group_that_hands_controllers_down_goes_where_its_init_is() {
    let Some(scratch) = scratch() else { return };
    scratch.make("{}").unwrap();
    let group = scratch.group.unified().unwrap();
    let below = group.join("init.scope");
    std::fs::create_dir(&below).unwrap();
    let mut init = scratch.run(&format!("echo $$ > {}/cgroup.procs; echo; exec sleep 1000", below.display()));
    init.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let mut joiner = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = joiner.id() as i32;
    let join = || {
        for procs in scratch.group.open_procs(init.id() as i32).unwrap() {
            rustix::io::write(procs, pid.to_string().as_bytes()).unwrap();
        }
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()
    };
    let before = join();
    write(&group.join("cgroup.subtree_control"), "+pids").unwrap_err();
    // With nobody in the group itself it can hand down.
    write(&below.join("cgroup.procs"), &pid.to_string()).unwrap();
    write(&group.join("cgroup.subtree_control"), "+pids +memory").unwrap();
    write(&scratch.cgroups.unified.as_ref().unwrap().join("cgroup.procs"), &pid.to_string()).unwrap();
    let after = join();
    scratch.group.kill();
    joiner.wait().unwrap();
    init.wait().unwrap();
    assert!(before.ends_with("/group\n"), "{before}");
    assert!(after.ends_with("/group/init.scope\n"), "{after}");
}
