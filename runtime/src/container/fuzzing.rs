//! From bytes to a whole plan, which is thrown away.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use super::build::{Ends, build, build_exec};
use super::child::Message;
use super::{CreateError, CreateOptions, ExecOptions, Gate, Rootfs, Stdio, pipe};
use crate::spec::{parse_process, parse_spec};

/// A container's config up to the point where only the clone is missing.
pub fn config(bytes: &[u8]) {
    let Ok((spec, _)) = parse_spec(bytes) else { return };
    let written = serde_json::to_vec(&spec).unwrap_or_default();
    assert!(serde_json::from_slice(&written).is_ok_and(|again: oci_spec::runtime::Spec| again == spec));
    let bundle = std::env::temp_dir();
    let planned = parts().and_then(|(stdio, console, ends)| {
        let options = CreateOptions {
            id: "fuzz",
            bundle: &bundle,
            spec: &spec,
            rootfs: &Rootfs::Directory(bundle.clone()),
            netns: None,
            stdio,
            console: Some(console),
            no_pivot: false,
            preserve_fds: 0,
            no_new_keyring: false,
            gate: Gate::Owner,
            cgroup: None,
            placement: None,
            root: None,
            filter: None,
            meanwhile: None,
        };
        build(options, ends)
    });
    if let Ok(plan) = planned {
        assert!(plan.describe().len() >= plan.steps.len());
    }
}

/// What `exec --process` is given, for a process of this one's namespaces.
pub fn process(bytes: &[u8]) {
    let Ok((process, _)) = parse_process(bytes) else { return };
    let own = std::process::id() as i32;
    let init = crate::process::start_time(own).and_then(|start| crate::process::Process::open(own, start));
    let Some(init) = init else { return };
    let spec = crate::spec::default_spec();
    let planned = parts().and_then(|(stdio, console, ends)| {
        let options = ExecOptions {
            id: "fuzz",
            init: &init,
            bundle: Path::new("/"),
            spec: &spec,
            process: &process,
            stdio,
            console: Some(console),
            preserve_fds: 0,
            no_new_keyring: false,
            cgroup: None,
        };
        build_exec(options, ends)
    });
    if let Ok(plan) = planned {
        assert!(plan.describe().len() >= plan.steps.len());
    }
}

fn parts() -> Result<(Stdio, OwnedFd, Ends), CreateError> {
    let null = || {
        let opened = rustix::fs::openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        opened.map_err(|errno| CreateError::Pipe(errno.into()))
    };
    let stdio = Stdio { stdin: null()?, stdout: null()?, stderr: null()? };
    let (gate, status) = pipe().map_err(CreateError::Pipe)?;
    Ok((stdio, null()?, Ends { gate, status, told: None }))
}

/// What the child says: understood, said again and understood as the same.
pub fn message(bytes: &[u8]) {
    let mut whole = [0; Message::SIZE];
    whole.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    let Some(message) = Message::decode(&whole) else { return };
    if let Message::Failed { note, .. } = message {
        let _ = note.text();
    }
    assert_eq!(Message::decode(&message.encode()), Some(message));
}
