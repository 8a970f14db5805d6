//! Giving a filter's listener to the agent that answers its notifications (seccomp_unotify(2)).

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use serde_json::{Value, json};

use super::policy::ListenerAddress;
use crate::descriptors;

/// What the agent is told about the container.
pub(crate) struct Told<'a> {
    pub(crate) version: &'a str,
    pub(crate) id: &'a str,
    /// As this process sees it.
    pub(crate) pid: i32,
    pub(crate) bundle: &'a Path,
    pub(crate) annotations: Value,
}

/// Sends the listener with the container process state (OCI runtime spec, config-linux.md, "The Container Process
/// State").
pub(crate) fn send(address: &ListenerAddress, told: &Told<'_>, listener: BorrowedFd<'_>) -> io::Result<()> {
    let message = state(address, told).to_string().into_bytes();
    descriptors::send_all(descriptors::connect(&address.path)?, &message, listener)
}

fn state(address: &ListenerAddress, told: &Told<'_>) -> Value {
    let mut state = json!({
        "ociVersion": told.version,
        "fds": ["seccompFd"],
        "pid": told.pid,
        "state": {
            "ociVersion": told.version,
            "id": told.id,
            "status": "creating",
            "pid": told.pid,
            "bundle": told.bundle,
            "annotations": told.annotations,
        },
    });
    if let Some(metadata) = &address.metadata {
        state["metadata"] = json!(metadata);
    }
    state
}
