//! Groups on the kernel that is there. They need root, and skip what the host has in another form.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;
use crate::cgroup::{Driver, OomEvent};

/// A group that is removed with everything in it.
pub(super) struct Scratch {
    pub(super) cgroups: Cgroups,
    pub(super) group: Cgroup,
    pub(super) parent: String,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.group.kill();
        let _ = self.group.remove();
        self.cgroups.remove_parent(&self.parent);
    }
}

/// `None`: not root, or not v1.
pub(super) fn scratch() -> Option<Scratch> {
    let cgroups = Cgroups::detect().ok()?;
    if !rustix::process::geteuid().is_root()
        || ["memory", "cpu", "pids", "devices", "freezer", "cpuset"]
            .iter()
            .any(|name| cgroups.hierarchy(name).is_none())
    {
        return None;
    }
    Some(Scratch::new(cgroups))
}

impl Scratch {
    pub(super) fn new(cgroups: Cgroups) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = format!("skep-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = PathBuf::from(format!("/{parent}/group"));
        let group = cgroups.place(Some(&path), "unused", Driver::Cgroupfs).unwrap();
        Self { cgroups, group, parent }
    }

    pub(super) fn make(&self, json: &str) -> Result<(), CgroupError> {
        self.group.make(&self.cgroups, Some(&resources(json)), None)
    }

    pub(super) fn update(&self, json: &str) -> Result<(), CgroupError> {
        self.group.update(&self.cgroups, &resources(json))
    }

    fn read(&self, controller: &str, file: &str) -> String {
        std::fs::read_to_string(self.group.v1(controller).unwrap().join(file)).unwrap().trim().to_owned()
    }

    /// A shell that has joined the group in every hierarchy before it runs the script.
    pub(super) fn run(&self, script: &str) -> Child {
        let joins: String = self
            .group
            .directories()
            .iter()
            .map(|one| format!("echo $$ > {}/cgroup.procs; ", one.path.display()))
            .collect();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{joins} echo; {script}")]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The empty line says that it has joined.
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        child
    }
}

pub(super) fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

#[test]
fn systemd_is_told_both_numbers_of_a_quota() {
    let Some(scratch) = scratch().or_else(tests_v2::scratch) else { return };
    scratch.make(r#"{"cpu":{"quota":5000,"period":20000}}"#).unwrap();
    for (given, quota, period) in [
        (r#"{"cpu":{"period":50000}}"#, Some(5000), Some(50000)),
        (r#"{"cpu":{"quota":9000}}"#, Some(9000), Some(20000)),
        (r#"{"cpu":{"quota":-1,"period":30000}}"#, Some(-1), Some(30000)),
        (r#"{"cpu":{"shares":100}}"#, None, None),
    ] {
        let told = scratch.group.with_quota(&resources(given));
        let cpu = told.cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (quota, period), "{given}");
    }
    assert!(scratch.group.with_quota(&LinuxResources::default()).cpu().is_none());
}

#[test]
fn limits_are_set_and_can_be_raised_and_lowered() {
    let Some(scratch) = scratch() else { return };
    scratch
        .make(
            r#"{"memory":{"limit":67108864,"swap":134217728,"reservation":33554432,"swappiness":10},
            "cpu":{"shares":512,"quota":5000,"period":10000,"cpus":"0","mems":"0"},"pids":{"limit":10},
            "devices":[{"allow":false,"access":"rwm"}]}"#,
        )
        .unwrap();
    let memory = |scratch: &Scratch| {
        ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"].map(|file| scratch.read("memory", file))
    };
    assert_eq!(memory(&scratch), ["67108864", "134217728"]);
    assert_eq!(scratch.read("memory", "memory.swappiness"), "10");
    assert_eq!(scratch.read("cpu", "cpu.shares"), "512");
    assert_eq!(scratch.read("cpuset", "cpuset.cpus"), "0");
    assert_eq!(scratch.read("pids", "pids.max"), "10");
    assert!(scratch.read("devices", "devices.list").contains("c 1:3 rwm"));
    for (limit, swap) in [("268435456", "536870912"), ("33554432", "67108864"), ("67108864", "67108864")] {
        scratch.update(&format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#)).unwrap();
        assert_eq!(memory(&scratch), [limit, swap]);
    }
    scratch.update(r#"{"cpu":{"quota":200000,"period":1000000}}"#).unwrap();
    scratch.update(r#"{"cpu":{"quota":1000,"period":1000}}"#).unwrap();
    assert_eq!(scratch.read("cpu", "cpu.cfs_period_us"), "1000");
    assert_eq!(scratch.read("pids", "pids.max"), "10", "what is not given stays");
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let Some(scratch) = scratch() else { return };
    assert!(matches!(
        scratch.make(r#"{"memory":{"limit":67108864},"cpu":{"cpus":"5000"}}"#),
        Err(CgroupError::Limit { .. })
    ));
    for root in scratch.cgroups.v1.iter().map(|one| &one.mount).chain(&scratch.cgroups.unified) {
        assert!(!root.join(&scratch.parent).exists(), "{}", root.display());
    }
    let error = scratch.make(r#"{"unified":{"memory.max":"1"}}"#).unwrap_err();
    assert!(matches!(error, CgroupError::UnifiedOnV1), "{error}");
}

#[test]
fn what_the_host_lacks_is_refused_by_name() {
    let Some(scratch) = scratch() else { return };
    for (controller, json) in [
        ("net_cls", r#"{"network":{"classID":1}}"#),
        ("hugetlb", r#"{"hugepageLimits":[{"pageSize":"2MB","limit":2097152}]}"#),
        ("rdma", r#"{"rdma":{"mlx5_1":{"hcaHandles":3}}}"#),
    ] {
        let in_v2 = scratch.cgroups.v2_controllers.iter().any(|name| name == controller);
        if !in_v2 && scratch.cgroups.hierarchy(controller).is_none() {
            assert!(scratch.make(json).unwrap_err().to_string().contains(controller));
        }
    }
}

#[test]
fn a_group_in_use_is_refused_and_frozen_processes_can_be_killed() {
    let Some(scratch) = scratch() else { return };
    scratch.make("{}").unwrap();
    let mut child = scratch.run("exec sleep 1000");
    assert!(matches!(scratch.make("{}"), Err(CgroupError::NotEmpty { processes: 1, .. })));
    assert_eq!(scratch.group.processes(), [i32::try_from(child.id()).unwrap()]);
    scratch.group.freeze().unwrap();
    assert!(scratch.group.is_frozen());
    scratch.group.thaw().unwrap();
    assert!(!scratch.group.is_frozen());
    scratch.group.freeze().unwrap();
    let rebuilt = Cgroup::from_paths(&scratch.group.paths(), None);
    rebuilt.kill();
    assert!(!child.wait().unwrap().success());
    rebuilt.remove().unwrap();
    assert!(!scratch.group.exists());
}

#[test]
fn processes_of_groups_below_are_found_and_removed() {
    let Some(scratch) = scratch() else { return };
    scratch.make("{}").unwrap();
    let below = scratch.group.v1("pids").unwrap().join("below");
    std::fs::create_dir(&below).unwrap();
    let mut child =
        scratch.run(&format!("echo $$ > {}/cgroup.procs; echo; exec sleep 1000", below.display()));
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    assert_eq!(scratch.group.all_processes(), [i32::try_from(child.id()).unwrap()]);
    scratch.group.kill();
    child.wait().unwrap();
    scratch.group.remove().unwrap();
    assert!(!below.exists());
}

pub(super) fn wait(events: &crate::cgroup::OomEvents) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let patience = PollTimeout::from(60_000_u16);
    let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(events), PollFlags::POLLIN)];
    assert_eq!(poll(&mut polled, patience), Ok(1), "waited too long for an event");
}

#[test]
fn stats_and_the_end_of_memory_are_told() {
    let Some(scratch) = scratch() else { return };
    scratch.make(r#"{"memory":{"limit":8388608,"swap":8388608},"pids":{"limit":20}}"#).unwrap();
    let mut events = scratch.group.oom_events().unwrap();
    assert_eq!(events.read().unwrap(), None);
    let mut child = scratch.run("x=y; while :; do x=$x$x; done");
    wait(&events);
    assert_eq!(events.read().unwrap(), Some(OomEvent::Oom));
    child.wait().unwrap();
    let stats = scratch.group.stats().unwrap();
    assert_eq!(stats.memory.usage.limit, 8_388_608);
    assert!(scratch.group.usage().oom_kills > Some(0));
    assert_eq!(stats.pids.limit, 20);
    assert!(stats.cpu.usage.total > 0);
    assert!(!stats.cpuset.cpus.is_empty());
    scratch.group.remove().unwrap();
    wait(&events);
    assert_eq!(events.read().unwrap(), Some(OomEvent::Gone));
}

#[test]
fn the_keepers_groups_join_a_further_hierarchy_only_for_a_limit_that_needs_it() {
    let Some(scratch) = scratch() else { return };
    let make = |id: &str, json: &str| {
        let limits = crate::cgroup::Limits::from_oci(&resources(json));
        scratch.cgroups.create(&scratch.parent, id, &limits).unwrap()
    };
    let plain = make("plain", r#"{"memory":{"limit":67108864}}"#);
    let pinned = make("pinned", r#"{"cpu":{"cpus":"0"},"pids":{"limit":0}}"#);
    assert!(plain.v1("cpuset").is_none());
    assert!(pinned.v1("cpuset").is_some());
    assert_eq!(scratch.cgroups.group(&scratch.parent, "pinned").unwrap(), pinned);
    let max = std::fs::read_to_string(pinned.v1("pids").unwrap().join("pids.max")).unwrap();
    assert_eq!(max.trim(), "max");
    plain.remove().unwrap();
    pinned.remove().unwrap();
    assert!(!pinned.v1("cpuset").unwrap().exists());
}
