//! A short run of the command's one decoder of its own, that of its records, as of the library's in
//! `runtime/tests/fuzz.rs`.
//!
//! Run by `cargo test -p skep-runtime-cli --features fuzzing --test fuzz`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../fuzz/src/brief.rs"]
#[allow(unreachable_pub, reason = "a file that others use too")]
mod brief;
#[path = "../src/error.rs"]
#[allow(dead_code, unused_imports, reason = "of a program's own files only a part is used here")]
mod error;
#[path = "../src/groups.rs"]
#[allow(dead_code, unused_imports, reason = "of a program's own files only a part is used here")]
mod groups;
#[path = "../src/record.rs"]
#[allow(dead_code, unused_imports, reason = "of a program's own files only a part is used here")]
mod record;
#[path = "../../fuzz/src/lib.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "of a crate's own file the changed documents alone are used here"
)]
mod targets;

use std::path::Path;

use record::{Init, Record};
use skep_runtime::spec::oci::ContainerState;

/// A container's record.
const RECORD: &str = r#"{"id": "x", "oci_version": "1.3.0", "bundle": "/b", "rootfs": "/b/rootfs",
    "created": "2026-11-28T00:00:00Z", "annotations": {"a": "b"}, "command": "sh", "own_pids": true,
    "cgroup": {"paths": {"": "/nowhere", "memory": "/nowhere/m", "name=x": "/nowhere/x"}, "unit": "x.scope"},
    "creator": {"pid": 1, "start_time": 1}, "init": {"pid": 1, "start_time": 1}}"#;

fn main() {
    brief::run(&[("record", |bytes| look(&targets::document(RECORD, bytes)))]);
}

/// What commands do with a record before they touch anything.
fn look(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let again: Record = serde_json::from_slice(&serde_json::to_vec(&record).unwrap()).unwrap();
    assert_eq!(again, record, "it is written as it was read");
    let status = record.status(Path::new("/nowhere"));
    let document = serde_json::to_value(record.document(status, String::new())).unwrap();
    assert_eq!(document["status"], status.name());
    let alive = record.init.and_then(Init::open).is_some();
    assert!(alive || document["pid"] == 0, "{document}");
    assert!(!(record.is_left_over() && alive), "one with an init is a container");
    for state in [ContainerState::Creating, ContainerState::Stopped] {
        serde_json::to_vec(&record.for_hooks(state)).unwrap();
    }
    if let Some(place) = &record.cgroup {
        // A hostile unit or path is a failure of what uses it, not of reading it.
        drop(place.within(&["a"]));
    }
}
