//! Giving a filter's listener to the agent that answers its notifications (seccomp_unotify(2)).

use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use super::policy::ListenerAddress;

/// Longest wait for an agent that does not read.
const AGENT_WAIT_MAX: Duration = Duration::from_secs(10);

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
    let mut agent = UnixStream::connect(&address.path)?;
    agent.set_write_timeout(Some(AGENT_WAIT_MAX))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(&listener)));
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(agent.as_fd(), &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)
    })?;
    // The descriptor goes with the first byte; what did not fit follows.
    agent.write_all(message.get(sent..).unwrap_or_default())
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
