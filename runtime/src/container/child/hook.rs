//! A hook that runs in the container's namespaces, as a child of the init to be.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{Mode, SeekFrom};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid};

use super::Message;
use super::message::Note;
use crate::container::plan::{HookFiles, HookPlan};
use crate::sys::{self, CStringArray};

/// Exit code of a hook that could not be executed, as a shell has it.
const NOT_EXECUTED: i32 = 127;

/// Longest that is read once a hook has ended: what a pipe holds (pipe(7)), in notes. A descendant may write for ever.
const LEFT_READS_MAX: usize = 64 * 1024 / Note::SIZE;

#[expect(clippy::result_large_err, reason = "made once, where nothing can be boxed")]
/// Runs the hook with the state on its standard input, in a session of its own if there is no filter that could forbid
/// it. `Err`: the message for it.
pub(super) fn run(
    hook: &HookPlan,
    state: &OwnedFd,
    files: &HookFiles,
    envp: &CStringArray,
    umask: Mode,
    session: bool,
) -> Result<(), Message> {
    let failed = |errno| Message::HookNotRun { index: hook.index, errno };
    // Earlier hooks have read it.
    rustix::fs::seek(state, SeekFrom::Start(0)).map_err(failed)?;
    let output = &files.output.1;
    // What a descendant of an earlier one wrote since that ended is none of this one's.
    let mut words = LastWords::NONE;
    words.drain(&files.output.0);
    words = LastWords::NONE;
    let child =
        sys::clone_child(0, None, || execute(hook, state, output, envp, umask, session)).map_err(failed)?;
    let ended = wait(child.pidfd.as_fd(), &files.output.0, &mut words, hook.timeout_ms);
    if ended != Ok(true) {
        // Not reaped yet, so the number is still its own.
        if let Some(group) = Pid::from_raw(child.pid).filter(|_| session) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    }
    let status =
        rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED));
    let ended = ended.map_err(failed)?;
    let status = status.map_err(failed)?.ok_or_else(|| failed(Errno::CHILD))?;
    let status = match status.exit_status() {
        _ if !ended => -1,
        Some(0) => return Ok(()),
        Some(code) => code << 8,
        None => status.terminating_signal().unwrap_or(0),
    };
    Err(Message::HookFailed { index: hook.index, status, note: words.note() })
}

/// Whether the hook ends in time. What it writes is read meanwhile, so that it never waits for that.
///
/// `startContainer` hooks run under the program's filter, which may deny any call here. Without a time-out the hook is
/// waited for even so; with one it could not be kept, and `Err` says why.
fn wait(
    hook: BorrowedFd<'_>,
    output: &OwnedFd,
    words: &mut LastWords,
    timeout_ms: Option<i32>,
) -> Result<bool, Errno> {
    let timeout = timeout_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let wait =
            left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let mut fds = [hook, output.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let ended = match poll(&mut fds, wait) {
            Ok(_) => fds[0].any() == Some(true),
            Err(nix::errno::Errno::EINTR) => false,
            Err(_) if timeout.is_none() => true,
            Err(errno) => return Err(Errno::from_raw_os_error(errno as i32)),
        };
        if ended {
            words.drain(output);
            return Ok(true);
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        words.read(output);
    }
}

/// The end of what a hook wrote.
struct LastWords {
    bytes: [u8; Note::SIZE],
    length: usize,
}

impl LastWords {
    const NONE: Self = Self { bytes: [0; Note::SIZE], length: 0 };

    /// Reads what there is.
    fn drain(&mut self, output: &OwnedFd) {
        let mut reads = LEFT_READS_MAX;
        while reads > 0 && self.read(output) {
            reads -= 1;
        }
    }

    /// Whether something came.
    fn read(&mut self, output: &OwnedFd) -> bool {
        let mut new = [0; Note::SIZE];
        let Ok(length) = rustix::io::retry_on_intr(|| rustix::io::read(output, &mut new)) else {
            return false;
        };
        let new = new.get(..length).unwrap_or_default();
        // Room for the new at the end.
        let gone = (self.length + new.len()).saturating_sub(Note::SIZE);
        self.bytes.copy_within(gone.min(self.length)..self.length, 0);
        self.length = self.length.saturating_sub(gone);
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(new) {
            *place = *byte;
        }
        self.length += new.len();
        !new.is_empty()
    }

    fn note(&self) -> Note {
        let mut note = Note::EMPTY;
        note.add(self.bytes.get(..self.length).unwrap_or_default());
        note
    }
}

fn execute(
    hook: &HookPlan,
    state: &OwnedFd,
    output: &OwnedFd,
    envp: &CStringArray,
    umask: Mode,
    session: bool,
) -> Infallible {
    rustix::process::umask(umask);
    if session {
        // To be killed with its descendants.
        let _ = rustix::process::setsid();
    }
    let prepared = sys::dup_to(state, 0)
        .and_then(|()| sys::dup_to(output, 1))
        .and_then(|()| sys::dup_to(output, 2))
        .and_then(|()| sys::close_from(3));
    if prepared.is_ok() {
        let _ = sys::execve(&hook.path, &hook.argv, hook.envp.as_ref().unwrap_or(envp));
    }
    sys::exit_now(NOT_EXECUTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_those_that_came_last() {
        let (read, write) = crate::container::hooks::output_pipe().unwrap();
        let mut words = LastWords::NONE;
        assert!(!words.read(&read));
        let mut all = Vec::new();
        for length in [1, 100, 239, 240, 3, 500, 7] {
            let new: Vec<u8> = (0..length).map(|byte| b'a' + (byte % 26) as u8).collect();
            rustix::io::write(&write, &new).unwrap();
            all.extend(new);
            while words.read(&read) {}
            let kept = &all[all.len().saturating_sub(Note::SIZE)..];
            assert_eq!(words.note().text().as_bytes(), kept, "{length}");
        }
    }
}
