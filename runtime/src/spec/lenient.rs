//! Specs as other runtimes read them.
//!
//! The types of the OCI crate refuse some of what runc and the specification itself accept: capabilities that nobody
//! knows (to be ignored with a warning), members that are null, a process without a user, two names that the crate
//! spells differently. A spec that the types take is taken as it is; one that they refuse is mended in these places
//! alone, and otherwise refused with the first error and the member that has it.

use oci_spec::runtime::{Capability, Process, Spec};
use serde::de::{DeserializeOwned, Error as _};
use serde_json::{Map, Value};

/// The five sets of `process.capabilities`.
const CAPABILITY_SETS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];

/// The spec's names of scheduler flags, and the crate's.
const SCHEDULER_FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
];

/// Reads a spec. The second part is what a person should know about it.
///
/// # Errors
/// It is none, with the place.
pub fn parse_spec(text: &[u8]) -> Result<(Spec, Vec<String>), serde_json::Error> {
    let (mut spec, warnings): (Spec, _) = parse(text, |spec, warnings| {
        if let Some(process) = spec.get_mut("process").and_then(Value::as_object_mut) {
            mend(process, warnings);
        }
    })?;
    if spec.linux().is_none() {
        // The crate's default is a container of its own taste; without a word the namespaces are the caller's.
        spec.set_linux(Some(serde_json::from_str("{}")?));
    }
    Ok((spec, warnings))
}

/// Reads a process, as `exec` is given one.
///
/// # Errors
/// It is none, with the place.
pub fn parse_process(text: &[u8]) -> Result<(Process, Vec<String>), serde_json::Error> {
    parse(text, mend)
}

fn parse<T: DeserializeOwned>(
    text: &[u8],
    mend: impl FnOnce(&mut Map<String, Value>, &mut Vec<String>),
) -> Result<(T, Vec<String>), serde_json::Error> {
    let error = match serde_json::from_slice(text) {
        Ok(value) => return Ok((value, Vec::new())),
        Err(error) => error,
    };
    let Ok(original) = serde_json::from_slice::<Value>(text) else { return Err(error) };
    let mut mended = original.clone();
    drop_nulls(&mut mended);
    let mut warnings = Vec::new();
    if let Some(members) = mended.as_object_mut() {
        mend(members, &mut warnings);
    }
    if mended == original {
        // Once more, for the member's name, which costs too much for specs that are read.
        let again = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(text));
        return Err(again.err().map_or(error, located));
    }
    // What was mended may not have been all: then it is the rest that is wrong.
    Ok((serde_path_to_error::deserialize(mended).map_err(located)?, warnings))
}

/// Members whose errors engines and tests know by runc's words.
const RUNCS_WORDS: [(&str, &str); 2] = [
    ("linux.memoryPolicy.flags", "invalid memory policy flag"),
    ("linux.memoryPolicy", "invalid memory policy mode or nodes"),
];

/// The error with the member's path before it.
fn located(error: serde_path_to_error::Error<serde_json::Error>) -> serde_json::Error {
    let path = error.path().to_string();
    let inner = error.into_inner();
    if path == "." {
        return inner;
    }
    match RUNCS_WORDS.iter().find(|(member, _)| path.starts_with(member)) {
        Some((_, words)) => serde_json::Error::custom(format_args!("{path}: {words}: {inner}")),
        None => serde_json::Error::custom(format_args!("{path}: {inner}")),
    }
}

/// A member that is null is one that is not there.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn mend(process: &mut Map<String, Value>, warnings: &mut Vec<String>) {
    process.entry("user").or_insert_with(|| Value::Object(Map::new()));
    if let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) {
        let mut unknown = Vec::new();
        for set in CAPABILITY_SETS {
            if let Some(names) = sets.get_mut(set).and_then(Value::as_array_mut) {
                names.retain(|name| {
                    let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
                    // What is no text at all is an error, and stays one.
                    if let (false, Some(name)) = (known, name.as_str()) {
                        unknown.push(name.to_owned());
                    }
                    known || !name.is_string()
                });
            }
        }
        unknown.sort();
        unknown.dedup();
        if !unknown.is_empty() {
            warnings.push(format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" ")));
        }
    }
    let flags = process.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        for (name, theirs) in SCHEDULER_FLAGS {
            if flag == name {
                *flag = Value::from(theirs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use oci_spec::runtime::LinuxSchedulerFlag;
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<(Spec, Vec<String>), serde_json::Error> {
        parse_spec(value.to_string().as_bytes())
    }

    #[test]
    fn unknown_capabilities_are_ignored_with_a_warning() {
        let sets = json!({"bounding": ["CAP_CHOWN", "CAP_TO_FLY"], "effective": ["CAP_TO_FLY", "x"], "ambient": null});
        let (spec, warnings) =
            read(&json!({"ociVersion": "1.3.0", "process": {"cwd": "/", "capabilities": sets}})).unwrap();
        assert_eq!(warnings, ["ignoring unknown or unavailable capabilities: [CAP_TO_FLY x]"]);
        let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
        assert_eq!(sets.effective().as_ref().unwrap().len(), 0);
        assert_eq!(sets.ambient(), &None);
    }

    #[test]
    fn what_is_really_wrong_stays_an_error() {
        for (process, word) in [
            (json!({"cwd": "/", "capabilities": {"bounding": ["CAP_X", 7]}}), "string"),
            (
                json!({"cwd": "/", "rlimits": [{"type": "RLIMIT_BOGUS", "hard": 1, "soft": 1}]}),
                "RLIMIT_BOGUS",
            ),
            (json!({"cwd": "/", "user": {"uid": -1}}), "-1"),
            (json!({"cwd": "/", "user": {"uid": 4_294_967_296_u64}}), "4294967296"),
            (json!({"user": {}}), "cwd"),
            (json!({"cwd": "/", "scheduler": {"policy": "SCHED_X"}}), "SCHED_X"),
            (json!({"cwd": "/", "ioPriority": {"class": "IOPRIO_X"}}), "IOPRIO_X"),
        ] {
            let error = read(&json!({"ociVersion": "1.3.0", "process": process})).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(parse_spec(b"{").unwrap_err().to_string().contains("line 1"));
        let error = parse_spec(br#"{"ociVersion": "1.3.0"} x"#).unwrap_err().to_string();
        assert!(error.contains("trailing"), "{error}");
    }

    #[test]
    fn errors_name_the_member() {
        for (spec, words) in [
            (
                json!({"process": {"cwd": "/", "rlimits": [{"type": "RLIMIT_BOGUS", "hard": 1, "soft": 1}]}}),
                "process.rlimits[0].type: unknown variant `RLIMIT_BOGUS`",
            ),
            // After a mend too.
            (
                json!({"hostname": null, "linux": {"resources": {"pids": {"limit": "x"}}}}),
                "linux.resources.pids.limit: invalid type: string",
            ),
            (
                json!({"linux": {"memoryPolicy": {"nodes": "0"}}}),
                "linux.memoryPolicy: invalid memory policy mode or nodes: missing field `mode`",
            ),
            (
                json!({"linux": {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["bad"]}}}),
                "linux.memoryPolicy.flags[0]: invalid memory policy flag: unknown variant `bad`",
            ),
        ] {
            let mut spec = spec;
            spec["ociVersion"] = "1.3.0".into();
            let error = read(&spec).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }

    #[test]
    fn a_process_needs_no_user_and_no_odd_spelling() {
        let (process, warnings) = parse_process(
            br#"{"cwd": "/", "scheduler": {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RESET_ON_FORK"]}}"#,
        )
        .unwrap();
        assert!(warnings.is_empty());
        let flags = process.scheduler().as_ref().unwrap().flags().clone().unwrap();
        assert_eq!(flags, [LinuxSchedulerFlag::SchedFlagDLOverrun, LinuxSchedulerFlag::SchedResetOnFork]);
        // What is written is read again.
        assert_eq!(parse_process(&serde_json::to_vec(&process).unwrap()).unwrap().0, process);
    }

    #[test]
    fn scheduler_flags_have_the_specs_names() {
        let scheduler = json!({"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
        let (process, _) =
            parse_process(json!({"cwd": "/", "scheduler": scheduler}).to_string().as_bytes()).unwrap();
        let flags = process.scheduler().as_ref().unwrap().flags().clone().unwrap();
        assert_eq!(flags, [LinuxSchedulerFlag::SchedResetOnFork]);
    }

    /// Paths of all members of an object.
    fn members(value: &Value, at: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (key, member) in object {
                    let at = format!("{at}.{key}");
                    members(member, &at, found);
                    found.insert(at);
                }
            }
            Value::Array(list) => list.iter().for_each(|member| members(member, at, found)),
            _ => {}
        }
    }

    #[test]
    fn no_member_of_the_specs_newer_parts_is_lost() {
        let spec = json!({
            "ociVersion": "1.3.0",
            "hostname": "h",
            "domainname": "d",
            "process": {
                "cwd": "/", "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [5], "username": "x"},
                "terminal": true, "consoleSize": {"height": 1, "width": 2}, "args": ["a"], "env": ["A=b"],
                "noNewPrivileges": true, "apparmorProfile": "p", "selinuxLabel": "l", "oomScoreAdj": 0,
                "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 1},
                "scheduler": {"policy": "SCHED_OTHER", "nice": 1, "priority": 1, "flags": ["SCHED_RESET_ON_FORK"],
                    "runtime": 1, "deadline": 1, "period": 1},
                "execCPUAffinity": {"initial": "0", "final": "1"},
                "rlimits": [{"type": "RLIMIT_CORE", "hard": u64::MAX, "soft": u64::MAX}],
            },
            "linux": {
                "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
                "netDevices": {"eth0": {"name": "eth1"}},
                "intelRdt": {"closID": "c", "schemata": ["a"], "l3CacheSchema": "b", "memBwSchema": "c",
                    "enableMonitoring": true},
                "personality": {"domain": "LINUX32", "flags": ["X"]},
                "timeOffsets": {"monotonic": {"secs": 1, "nanosecs": 2}},
                "mountLabel": "m", "rootfsPropagation": "slave", "sysctl": {"net.x": "1"},
                "cgroupsPath": "/c", "maskedPaths": ["/p"], "readonlyPaths": ["/q"],
                "uidMappings": [{"containerID": 0, "hostID": 1, "size": 2}],
                "namespaces": [{"type": "time", "path": "/n"}],
            },
        });
        let read = serde_json::to_value(read(&spec).unwrap().0).unwrap();
        let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
        members(&spec, "", &mut before);
        members(&read, "", &mut after);
        let lost: Vec<_> = before.difference(&after).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}
