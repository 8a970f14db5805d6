//! A hook that runs in the container's namespaces, as a child of the init to be.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{Mode, SeekFrom};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::Message;
use crate::container::plan::HookPlan;
use crate::sys;

/// Exit code of a hook that could not be executed, as a shell has it.
const NOT_EXECUTED: i32 = 127;

#[expect(clippy::result_large_err, reason = "made once, where nothing can be boxed")]
/// Runs the hook with the state on its standard input. `Err`: the message for it.
pub(super) fn run(
    hook: &HookPlan,
    state: &OwnedFd,
    null: &OwnedFd,
    umask: Mode,
    step: u32,
) -> Result<(), Message> {
    let failed = |errno| Message::failed(step, errno);
    // Earlier hooks have read it.
    rustix::fs::seek(state, SeekFrom::Start(0)).map_err(failed)?;
    let child = sys::clone_child(0, None, || execute(hook, state, null, umask)).map_err(failed)?;
    let timeout =
        hook.timeout_ms.map_or(PollTimeout::NONE, |ms| PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX));
    let ended = loop {
        match poll(&mut [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(0) => break false,
            _ => break true,
        }
    };
    if !ended {
        let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    }
    let status =
        rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED));
    let status = status.map_err(failed)?.ok_or_else(|| failed(Errno::CHILD))?;
    match status.exit_status() {
        _ if !ended => Err(Message::HookFailed { step, status: -1 }),
        Some(0) => Ok(()),
        Some(code) => Err(Message::HookFailed { step, status: code << 8 }),
        None => Err(Message::HookFailed { step, status: status.terminating_signal().unwrap_or(0) }),
    }
}

fn execute(hook: &HookPlan, state: &OwnedFd, null: &OwnedFd, umask: Mode) -> Infallible {
    rustix::process::umask(umask);
    let prepared = sys::dup_to(state, 0)
        .and_then(|()| sys::dup_to(null, 1))
        .and_then(|()| sys::dup_to(null, 2))
        .and_then(|()| sys::close_from(3));
    if prepared.is_ok() {
        let _ = sys::execve(&hook.path, &hook.argv, &hook.envp);
    }
    sys::exit_now(NOT_EXECUTED)
}
