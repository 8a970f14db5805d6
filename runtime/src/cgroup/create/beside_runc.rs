//! The same resources through runc or crun, where they are installed: the kernel's files must have the same values.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::tests::{Scratch, scratch};
use super::tests_v2;
use super::*;
use crate::cgroup::Driver;

/// Files that a container's resources set.
const FILES: [(&str, &str); 16] = [
    ("memory", "memory.limit_in_bytes"),
    ("memory", "memory.memsw.limit_in_bytes"),
    ("memory", "memory.soft_limit_in_bytes"),
    ("memory", "memory.swappiness"),
    ("memory", "memory.oom_control"),
    ("cpu", "cpu.shares"),
    ("cpu", "cpu.cfs_quota_us"),
    ("cpu", "cpu.cfs_period_us"),
    ("cpuset", "cpuset.cpus"),
    ("cpuset", "cpuset.mems"),
    ("pids", "pids.max"),
    ("devices", "devices.list"),
    ("blkio", "blkio.throttle.read_bps_device"),
    ("blkio", "blkio.throttle.write_bps_device"),
    ("blkio", "blkio.throttle.read_iops_device"),
    ("blkio", "blkio.throttle.write_iops_device"),
];

fn values(group: &Cgroup) -> Vec<String> {
    let value = |(controller, file): &(&str, &str)| {
        let path = group.v1(controller)?.join(file);
        let text = std::fs::read_to_string(path).ok()?;
        // The order of exceptions is that in which they were written.
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("oom_kill ")).collect();
        lines.sort_unstable();
        Some(format!("{file}: {}", lines.join(", ")))
    };
    FILES.iter().filter_map(value).collect()
}

/// All files of a v2 group that hold settings, with their values.
fn settings(group: &Cgroup) -> Vec<String> {
    // What tells of use and of the past differs from group to group, and so does what is only to be written.
    // Limits on reserved huge pages are set since runc 1.2 only.
    const OTHERS: [&str; 10] =
        ["current", "stat", "numa_stat", "events", "peak", "pressure", "procs", "threads", "kill", "rsvd"];
    let directory = group.unified().unwrap();
    let names =
        std::fs::read_dir(directory).unwrap().flatten().filter_map(|one| one.file_name().into_string().ok());
    let mut values: Vec<String> = names
        .filter(|name| !OTHERS.iter().any(|word| name.split('.').any(|part| part == *word)))
        .filter_map(|name| {
            let text = std::fs::read_to_string(directory.join(&name)).ok()?;
            Some(format!("{name}: {}", text.trim()))
        })
        .collect();
    values.sort_unstable();
    values
}

/// A container of runc's or crun's, removed at the end.
struct Runc {
    program: &'static str,
    directory: tempfile::TempDir,
}

impl Runc {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.arg("--root").arg(self.directory.path().join("state")).args(arguments);
        command.current_dir(self.directory.path());
        command
    }

    /// `None`: there is no runc, or no static busybox for a container.
    fn run(program: &'static str, cgroups_path: &str, resources: &Value) -> Option<Self> {
        let runc = Self { program, directory: tempfile::tempdir().unwrap() };
        let bundle = runc.directory.path();
        let spec = runc.command(&["spec"]).status().ok()?;
        let bin = bundle.join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("sleep")).ok()?;
        assert!(spec.success());
        let config = bundle.join("config.json");
        let mut spec: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["sleep", "1000"]);
        spec["linux"]["cgroupsPath"] = json!(cgroups_path);
        spec["linux"]["resources"] = resources.clone();
        std::fs::write(&config, spec.to_string()).unwrap();
        let mut run = runc.command(&["run", "-d", "container"]);
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(run.status().unwrap().success());
        Some(runc)
    }
}

impl Drop for Runc {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "-f", "container"]).status();
    }
}

fn beside(
    scratch: Option<Scratch>,
    program: &'static str,
    resources: &Value,
) -> Option<(Scratch, Runc, Cgroup)> {
    let scratch = scratch?;
    let path = format!("/{}/runc", scratch.parent);
    let runc = Runc::run(program, &path, resources)?;
    let theirs = scratch.cgroups.place(Some(Path::new(&path)), "unused", Driver::Cgroupfs).unwrap();
    let resources = serde_json::from_value(resources.clone()).unwrap();
    scratch.group.make(&scratch.cgroups, Some(&resources), None).unwrap();
    Some((scratch, runc, theirs))
}

#[test]
fn limits_are_those_that_runc_sets() {
    let block = std::fs::read_dir("/sys/block").into_iter().flatten().flatten().next();
    let device = block.and_then(|entry| std::fs::read_to_string(entry.path().join("dev")).ok());
    let mut resources = json!({
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": true, "type": "b", "major": 7, "access": "r"}],
        "memory": {"limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432, "swappiness": 10,
            "disableOOMKiller": true},
        "cpu": {"shares": 300, "quota": 5000, "period": 20000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33},
    });
    if let Some((Ok(major), Ok(minor))) = device
        .as_deref()
        .and_then(|text| text.trim().split_once(':'))
        .map(|(a, b)| (a.parse::<i64>(), b.parse::<i64>()))
    {
        let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
        resources["blockIO"] = json!({"throttleReadBpsDevice": rate(1000), "throttleWriteBpsDevice": rate(2000),
            "throttleReadIOPSDevice": rate(30), "throttleWriteIOPSDevice": rate(40)});
    }
    let Some((scratch, runc, theirs)) = beside(scratch(), "runc", &resources) else { return };
    assert_eq!(values(&scratch.group), values(&theirs));
    // The statistics of runc's own group, as both tell them.
    // Ours first: counters grow, and runc leaves out what is zero.
    let mut stats = theirs.stats().unwrap();
    let output = runc.command(&["events", "--stats", "container"]).output().unwrap();
    let event: Value = serde_json::from_slice(&output.stdout).unwrap();
    // runc does not look for a controller in the v2 tree beside v1.
    stats.hugetlb.clear();
    let ours = serde_json::to_value(stats).unwrap();
    for part in ["cpuset", "pids"] {
        assert_eq!(ours[part], event["data"][part]);
    }
    assert_eq!(ours["memory"]["usage"]["limit"], event["data"]["memory"]["usage"]["limit"]);
    same_keys(&ours, &event["data"]);
}

/// What runc tells since its version 1.2, and what it leaves out as zero though it was none a moment before.
const NOT_ALWAYS: [&str; 3] = ["psi", "max", "cache"];

/// Whatever we tell runc tells too, under the same name and in the same form.
fn same_keys(ours: &Value, theirs: &Value) {
    for (key, value) in ours.as_object().into_iter().flatten() {
        if NOT_ALWAYS.contains(&key.as_str()) && theirs.get(key).is_none() {
            continue;
        }
        assert!(theirs.get(key).is_some(), "{key} in {theirs}");
        assert_eq!(value.is_object(), theirs[key].is_object(), "{key}");
        same_keys(value, &theirs[key]);
    }
}

#[test]
fn a_group_without_limits_is_as_runc_has_it() {
    let resources = json!({"devices": [{"allow": true, "access": "rwm"}]});
    if let Some((scratch, _runc, theirs)) = beside(scratch(), "runc", &resources) {
        assert_eq!(values(&scratch.group), values(&theirs));
    }
    for program in ["runc", "crun"] {
        if let Some((scratch, _runc, theirs)) = beside(tests_v2::scratch(), program, &resources) {
            assert_eq!(settings(&scratch.group), settings(&theirs), "{program}");
        }
    }
}

#[test]
fn the_settings_of_a_v2_group_are_those_that_runc_and_crun_make() {
    let mut resources = json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432},
        // No shares: releases of runc and crun differ in what weight they make of them.
        "cpu": {"quota": 5000, "period": 20000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
        "unified": {"memory.high": "50331648", "cgroup.max.depth": "5"},
    });
    if let Some((major, minor)) = tests_v2::block_device() {
        let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
        resources["blockIO"] = json!({"throttleReadBpsDevice": rate(1_048_576),
            "throttleWriteBpsDevice": rate(2_097_152), "throttleReadIOPSDevice": rate(300),
            "throttleWriteIOPSDevice": rate(400)});
    }
    for program in ["runc", "crun"] {
        let Some((scratch, runc, theirs)) = beside(tests_v2::scratch(), program, &resources) else {
            continue;
        };
        assert_eq!(settings(&scratch.group), settings(&theirs), "{program}");
        if program == "crun" {
            continue;
        }
        let ours = serde_json::to_value(theirs.stats().unwrap()).unwrap();
        let output = runc.command(&["events", "--stats", "container"]).output().unwrap();
        let event: Value = serde_json::from_slice(&output.stdout).unwrap();
        for part in ["cpuset", "pids"] {
            assert_eq!(ours[part], event["data"][part]);
        }
        for (part, field) in [("usage", "limit"), ("swap", "limit")] {
            assert_eq!(ours["memory"][part][field], event["data"]["memory"][part][field], "{part}");
        }
        same_keys(&ours, &event["data"]);
    }
}
