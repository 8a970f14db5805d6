//! A hook that runs in the container's namespaces, as a child of the init to be.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{Mode, SeekFrom};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::Message;
use super::message::Note;
use crate::container::plan::HookPlan;
use crate::sys::{self, CStringArray};

/// Exit code of a hook that could not be executed, as a shell has it.
const NOT_EXECUTED: i32 = 127;

#[expect(clippy::result_large_err, reason = "made once, where nothing can be boxed")]
/// Runs the hook with the state on its standard input. `Err`: the message for it.
pub(super) fn run(
    hook: &HookPlan,
    state: &OwnedFd,
    output: &OwnedFd,
    envp: &CStringArray,
    umask: Mode,
    step: u32,
) -> Result<(), Message> {
    let failed = |errno| Message::failed(step, errno);
    // Earlier hooks have read it.
    rustix::fs::seek(state, SeekFrom::Start(0)).map_err(failed)?;
    let before = rustix::fs::seek(output, SeekFrom::End(0)).unwrap_or(0);
    let child = sys::clone_child(0, None, || execute(hook, state, output, envp, umask)).map_err(failed)?;
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
    let status = match status.exit_status() {
        _ if !ended => -1,
        Some(0) => return Ok(()),
        Some(code) => code << 8,
        None => status.terminating_signal().unwrap_or(0),
    };
    Err(Message::HookFailed { index: hook.index, status, note: last_words(output, before) })
}

/// The end of what it wrote. The calls are those that any filter lets pass.
fn last_words(output: &OwnedFd, before: u64) -> Note {
    let mut note = Note::EMPTY;
    let mut bytes = [0; Note::SIZE];
    let end = rustix::fs::seek(output, SeekFrom::End(0)).unwrap_or(before);
    let start = end.saturating_sub(Note::SIZE as u64).max(before);
    if rustix::fs::seek(output, SeekFrom::Start(start)).is_ok()
        && let Ok(length) = rustix::io::read(output, &mut bytes)
    {
        note.add(bytes.get(..length).unwrap_or_default());
    }
    note
}

fn execute(
    hook: &HookPlan,
    state: &OwnedFd,
    output: &OwnedFd,
    envp: &CStringArray,
    umask: Mode,
) -> Infallible {
    rustix::process::umask(umask);
    let prepared = sys::dup_to(state, 0)
        .and_then(|()| sys::dup_to(output, 1))
        .and_then(|()| sys::dup_to(output, 2))
        .and_then(|()| sys::close_from(3));
    if prepared.is_ok() {
        let _ = sys::execve(&hook.path, &hook.argv, hook.envp.as_ref().unwrap_or(envp));
    }
    sys::exit_now(NOT_EXECUTED)
}
