//! Documents for the targets: bytes alone would seldom become JSON that gets far, so they say how a full document is
//! changed.

use serde_json::Value;
use skep_runtime::fuzzing;

/// A target: its name, and what it does with some bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target by name: what `fuzz_targets` gives to the fuzzer, and `tests/fuzz.rs` of the runtime runs without one.
pub const TARGETS: [Target; 11] = [
    ("bus", fuzzing::bus),
    ("config", |bytes| fuzzing::config(&document(CONFIG, bytes))),
    ("devices", |bytes| fuzzing::devices(&document(DEVICES, bytes))),
    ("hierarchies", fuzzing::hierarchies),
    ("keeper", |bytes| {
        // One client: its own bytes, or one of the requests there are, changed.
        let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
        match REQUESTS.get(usize::from(*first)) {
            Some(request) => fuzzing::keeper(&document(request, rest)),
            None => fuzzing::keeper(bytes),
        }
    }),
    ("message", fuzzing::message),
    ("process", |bytes| fuzzing::process(&document(PROCESS, bytes))),
    ("record", |bytes| fuzzing::record(&document(RECORD, bytes))),
    ("resources", |bytes| fuzzing::resources(&document(RESOURCES, bytes))),
    ("seccomp", |bytes| fuzzing::seccomp(&document(SECCOMP, bytes))),
    ("user", fuzzing::user),
];

/// Runs one of them.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.0 == name).expect("a target of that name");
    (target.1)(bytes);
}

/// A config with nearly every member there is.
pub const CONFIG: &str = include_str!("config.json");

/// A process, as `exec --process` is given one.
pub const PROCESS: &str = r#"{"terminal": false, "user": {"uid": 0, "gid": 0, "additionalGids": [1]}, "cwd": "/",
    "args": ["sh"], "env": ["PATH=/bin", "HOME=/"], "noNewPrivileges": true, "oomScoreAdj": 1,
    "capabilities": {"bounding": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]},
    "execCPUAffinity": {"initial": "0-1", "final": "0"},
    "scheduler": {"policy": "SCHED_BATCH", "nice": 1}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1},
    "rlimits": [{"type": "RLIMIT_CORE", "hard": 1, "soft": 1}]}"#;

/// A seccomp profile.
pub const SECCOMP: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "flags": [],
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "listenerPath": "/agent", "syscalls": [
        {"names": ["read", "socket", "semop", "getpid"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["clone", "accept4"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"},
            {"index": 1, "value": 4294967296, "op": "SCMP_CMP_GE"}]},
        {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "args": [
            {"index": 2, "value": 7, "op": "SCMP_CMP_LT"}]},
        {"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]}"#;

/// Rules for devices.
pub const DEVICES: &str = r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3,
    "access": "rwm"}, {"allow": false, "type": "b", "major": 8, "access": "w"},
    {"allow": true, "type": "b", "minor": 2, "access": "rm"}]"#;

/// Limits.
pub const RESOURCES: &str = r#"{"memory": {"limit": 65536, "reservation": 1, "swap": 65537, "swappiness": 1,
    "disableOOMKiller": true}, "cpu": {"shares": 2, "quota": 1, "burst": 1, "period": 1000, "realtimeRuntime": 1,
    "realtimePeriod": 1, "cpus": "0-1,3", "mems": "0", "idle": 1}, "pids": {"limit": 1},
    "blockIO": {"weight": 10, "leafWeight": 10, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 1}]},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 1}], "network": {"classID": 1, "priorities":
        [{"name": "lo", "priority": 1}]}, "rdma": {"x": {"hcaHandles": 1, "hcaObjects": 1}},
    "unified": {"memory.high": "1"}, "devices": [{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}]}"#;

/// A keeper's record.
pub const RECORD: &str = r#"{"info": {"id": "x", "pid": 1, "status": {"Exited": {"outcome": {"Code": 1}, "at": 1,
    "oom_killed": true}}, "bundle": "/b", "log": {"path": "/l", "max_size": 4096}, "created_at": 1, "started_at": 1,
    "note": ""}, "pid": 1, "pid_start": 1, "boot": ""}"#;

/// Requests to a keeper.
pub const REQUESTS: [&str; 13] = [
    r#""Ping""#,
    r#"{"Hello": {"daemon": 1}}"#,
    r#"{"Create": {"id": "x", "bundle": "/nowhere", "rootfs": {"Directory": "/nowhere"}, "netns": false, "log": null,
        "start": true, "note": "x"}}"#,
    r#"{"Create": {"id": "x", "bundle": "/nowhere", "rootfs": {"Overlay": {"lower": ["/a"], "upper": "/b", "work":
        "/c"}}, "netns": true, "log": {"path": "/nowhere/l", "max_size": 1}, "start": true, "note": "x"}}"#,
    r#"{"Start": {"id": "x"}}"#,
    r#"{"Kill": {"id": "x", "signal": 9, "all": true}}"#,
    r#"{"Delete": {"id": "x"}}"#,
    r#"{"Get": {"id": "x"}}"#,
    r#"{"List": {"after": "x"}}"#,
    r#""Subscribe""#,
    r#"{"Shutdown": {"force": true}}"#,
    r#""DaemonStopping""#,
    r#""Reexec""#,
];

/// Texts that mean something somewhere.
const TEXTS: [&str; 32] = [
    "",
    "/",
    ".",
    "..",
    "../..",
    "/proc",
    "/proc/self",
    "/proc/self/ns/net",
    "/sys",
    "/dev",
    "/dev/null",
    "/tmp",
    "a\0b",
    "\n",
    "%d",
    "0-3,7",
    "0-4294967295",
    "18446744073709551615",
    "-1",
    "bind",
    "rbind",
    "ro",
    "rro",
    "rshared",
    "idmap",
    "tmpcopyup",
    "remount",
    "size=1",
    "=",
    "a=b",
    "tmpfs",
    "cgroup",
];

/// Bytes that are JSON are themselves; others say how `base` is changed.
pub fn document(base: &str, bytes: &[u8]) -> Vec<u8> {
    if matches!(bytes.first(), Some(b'{' | b'[')) {
        return bytes.to_vec();
    }
    let mut value: Value = serde_json::from_str(base).expect("the base is JSON");
    let mut rest = bytes.iter().copied();
    while let Some(change) = rest.next() {
        walk(&mut value, change, &mut rest);
    }
    serde_json::to_vec(&value).expect("a value is JSON")
}

fn walk(value: &mut Value, change: u8, rest: &mut impl Iterator<Item = u8>) {
    let length = match value {
        Value::Object(members) => members.len(),
        Value::Array(list) => list.len(),
        _ => 0,
    };
    let at = usize::from(rest.next().unwrap_or_default()) % (length + 1);
    if change == 0 && at < length {
        match value {
            Value::Object(members) => {
                drop(members.keys().nth(at).cloned().and_then(|key| members.remove(&key)))
            }
            Value::Array(list) => drop(list.remove(at)),
            _ => {}
        }
        return;
    }
    let inner = match value {
        Value::Object(members) => members.values_mut().nth(at),
        Value::Array(list) => list.get_mut(at),
        _ => None,
    };
    match inner {
        Some(inner) => walk(inner, change, rest),
        None => put(value, change, rest),
    }
}

fn put(value: &mut Value, change: u8, rest: &mut impl Iterator<Item = u8>) {
    let mut byte = || rest.next().unwrap_or_default();
    *value = match (change % 9, &mut *value) {
        (1, _) => Value::from(byte() as i8),
        (2, _) => Value::from(i64::from_le_bytes(std::array::from_fn(|_| byte()))),
        (3, _) => Value::from(u64::MAX >> (byte() % 64)),
        (4, _) => Value::from(TEXTS[usize::from(byte()) % TEXTS.len()]),
        (5, Value::String(text)) => Value::from(format!("{text}{}", char::from(byte()))),
        (6, Value::Array(list)) => {
            let one = list.last().cloned().unwrap_or_default();
            list.extend(std::iter::repeat_n(one, usize::from(byte())));
            return;
        }
        (7, Value::Object(members)) => {
            let key = TEXTS[usize::from(byte()) % TEXTS.len()].to_owned();
            let one = members.values().next().cloned().unwrap_or_default();
            members.insert(key, one);
            return;
        }
        (8, _) => Value::Bool(byte() % 2 == 0),
        _ => Value::Null,
    };
}
