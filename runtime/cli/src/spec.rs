//! `spec`: a specification to begin with.

use std::path::Path;

use serde_json::{Value, json};
use skep_runtime::spec::oci::Spec;

use crate::error::Failure;
use crate::flags::Words;
use crate::help::SPEC_VERSION;

/// Name of the file.
const FILE: &str = "config.json";

/// `CGROUP2_SUPER_MAGIC` (statfs(2)).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Writes `config.json`, unless there is one.
pub(crate) fn write(words: &Words) -> Result<(), Failure> {
    if let Some(bundle) = words.text("bundle") {
        std::env::set_current_dir(bundle).map_err(Failure::path("chdir", Path::new(bundle)))?;
    }
    let path = Path::new(FILE);
    match std::fs::symlink_metadata(path) {
        Ok(_) => return Err(Failure::Refused(format!("File {FILE} exists. Remove it first"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::path("stat", path)(error)),
    }
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let user = words.switch("rootless").then_some(user);
    let pure_v2 = rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|stat| stat.f_type == CGROUP2_MAGIC);
    let json = |source| Failure::Json { what: FILE.to_owned(), source };
    let spec: Spec = serde_json::from_value(document(pure_v2, user)).map_err(json)?;
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(&spec, &mut serializer).map_err(json)?;
    std::fs::write(path, text).map_err(Failure::path("open", path))
}

/// runc's default configuration. `user`: for a container that this user and group run without root.
fn document(pure_v2: bool, user: Option<(u32, u32)>) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if user.is_none() {
        namespaces.insert(1, "network");
    }
    if pure_v2 {
        namespaces.push("cgroup");
    }
    if user.is_some() {
        namespaces.push("user");
    }
    let mut linux = json!({
        "namespaces": namespaces.iter().map(|name| json!({ "type": name })).collect::<Vec<_>>(),
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    match user {
        None => linux["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] }),
        Some((uid, gid)) => {
            let map = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
            linux["uidMappings"] = map(uid);
            linux["gidMappings"] = map(gid);
        }
    }
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "skep",
        "mounts": mounts(user.is_some()),
        "linux": linux,
    })
}

fn mounts(rootless: bool) -> Value {
    let pts = "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620";
    let pts = if rootless { pts.to_owned() } else { format!("{pts},gid=5") };
    let sys = if rootless {
        ("/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,ro")
    } else {
        ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro")
    };
    let list = [
        ("/proc", "proc", "proc", ""),
        ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "devpts", &pts),
        ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        sys,
        ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
    ];
    list.iter()
        .map(|(destination, kind, source, options)| {
            let mut mount = json!({ "destination": destination, "type": kind, "source": source });
            if !options.is_empty() {
                mount["options"] = options.split(',').collect();
            }
            mount
        })
        .collect()
}

/// The configuration, for tests.
#[cfg(test)]
pub(crate) fn example(pure_v2: bool) -> Spec {
    serde_json::from_value(document(pure_v2, None)).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_specifications() {
        for user in [None, Some((1000, 1000))] {
            let spec: Spec = serde_json::from_value(document(false, user)).unwrap();
            let linux = spec.linux().as_ref().unwrap();
            assert_eq!(linux.resources().is_none(), user.is_some());
            assert_eq!(linux.uid_mappings().is_some(), user.is_some());
        }
    }
}
