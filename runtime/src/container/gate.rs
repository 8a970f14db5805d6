//! What a created container waits at.
//!
//! ```text
//!   create ... init at the gate --- a byte ---> exec ---> the status pipe ends: it runs
//!                    |                            | refused: a message over the status pipe, the init ends
//!                    | the last writer is gone (pipe only)
//!                    v
//!               the init ends
//! ```
//!
//! A keeper that outlives its containers' creation uses a pipe: its own death must end what was never started. A command
//! that ends between `create` and `start` leaves two named pipes instead, held open by the init alone: one that another
//! process writes the byte into, one that it reads the outcome from.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Spec;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::child::Message;
use super::error::started;
use super::{CreateError, StartError, hooks, pipe};

/// Name of the pipe for the byte.
const GATE_NAME: &str = "exec.fifo";

/// Directory of the pipe for the outcome.
const STATUS_DIRECTORY: &str = "outcome";

/// Name of the pipe for the outcome. The init holds both open while it waits; this is the one name that tools which look
/// for leaked descriptors know of runc.
const STATUS_NAME: &str = "outcome/exec.fifo";

/// Longest wait for the exec after the byte, beside the time that start hooks in between have.
const EXEC_WAIT_MAX: Duration = Duration::from_secs(60);

/// Who may start a created container.
#[derive(Clone, Debug, Default)]
pub enum Gate {
    /// The creating process alone, by [`super::Container::start`]; its end is the container's end.
    #[default]
    Owner,
    /// Whoever can open the pipes that are made in this directory, by [`Gate::pass`]. The creator may end before.
    Named(PathBuf),
}

/// The gate's ends as the creator has them.
pub(super) struct Ends {
    /// The init's.
    pub(super) read: OwnedFd,
    /// The creator's.
    pub(super) write: OwnedFd,
    /// The init's: where it tells what became of the exec, if that is not the creator's pipe.
    pub(super) told: Option<OwnedFd>,
}

impl Gate {
    pub(super) fn open(&self) -> Result<Ends, CreateError> {
        let Self::Named(directory) = self else {
            let (read, write) = pipe().map_err(CreateError::Pipe)?;
            return Ok(Ends { read, write, told: None });
        };
        let open = || -> Result<Ends, Errno> {
            let mode = Mode::RWXU;
            rustix::fs::mkdir(directory.join(STATUS_DIRECTORY), mode)?;
            for name in [GATE_NAME, STATUS_NAME] {
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(rustix::fs::CWD, directory.join(name), FileType::Fifo, mode, 0)?;
            }
            // Open for both, so that neither side waits for the other and the init's reading never ends by itself
            // (fifo(7)).
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            let gate = rustix::fs::open(directory.join(GATE_NAME), flags, Mode::empty())?;
            let told = rustix::fs::open(directory.join(STATUS_NAME), flags, Mode::empty())?;
            let write = gate.try_clone().map_err(|_| Errno::MFILE)?;
            Ok(Ends { read: gate, write, told: Some(told) })
        };
        open().map_err(|errno| CreateError::Pipe(errno.into()))
    }

    /// Whether a container that was created with [`Gate::Named`] in `directory` has not been started.
    pub fn is_closed(directory: &Path) -> bool {
        directory.join(GATE_NAME).exists()
    }

    /// Whether an init waits at the gate in `directory`: nobody else holds it open.
    pub fn is_waited_at(directory: &Path) -> bool {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(directory.join(GATE_NAME), flags, Mode::empty()).is_ok()
    }

    /// Starts such a container, made of this spec, given its init by descriptor, and returns when its program runs.
    /// `passed` is called when no other can start it any more; hooks of the container may take long from there on.
    ///
    /// # Errors
    /// [`StartError`]; the init is ending then, save after [`StartError::Started`].
    pub fn pass(
        directory: &Path,
        spec: &Spec,
        command: &str,
        init: BorrowedFd<'_>,
        passed: impl FnOnce(),
    ) -> Result<(), StartError> {
        let gone = |errno: Errno| match errno {
            // Nobody reads: the init is gone.
            Errno::NXIO => StartError::Died,
            Errno::NOENT => StartError::Started,
            errno => StartError::Silent { source: errno.into() },
        };
        let path = directory.join(GATE_NAME);
        let flags = OFlags::CLOEXEC | OFlags::NONBLOCK;
        if has_ended(init) {
            return Err(if path.exists() { StartError::Died } else { StartError::Started });
        }
        let status = rustix::fs::open(directory.join(STATUS_NAME), OFlags::RDONLY | flags, Mode::empty());
        let status = status.map_err(gone)?;
        let gate = rustix::fs::open(&path, OFlags::WRONLY | flags, Mode::empty()).map_err(gone)?;
        // Of two that start at once one takes the name away, and that one alone goes on.
        rustix::fs::unlink(&path).map_err(gone)?;
        let _ = rustix::fs::unlink(directory.join(STATUS_NAME));
        rustix::io::write(&gate, b"!").map_err(gone)?;
        drop(gate);
        passed();
        let outcome = next_message(&status, Some(init), start_patience(spec))
            .map_err(|source| StartError::Silent { source })?;
        started(command, outcome)
    }
}

fn has_ended(init: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(init, PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Waits for a process's end.
pub(super) fn ends_within(process: BorrowedFd<'_>, wait_max: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + wait_max;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(process, PollFlags::POLLIN)], left) {
            Err(nix::errno::Errno::EINTR) => {}
            ended => return Ok(ended? > 0),
        }
    }
}

/// How long a start may take; `None`: a hook has all the time there is.
pub(super) fn start_patience(spec: &Spec) -> Option<Duration> {
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_deref());
    hooks::patience(EXEC_WAIT_MAX, hooks)
}

/// The next word over a status pipe; `None`: it has ended. With `init`, its end is the pipe's end: a named pipe shows
/// none to a reader that came after the last writer (poll(2), POLLHUP).
pub(super) fn next_message(
    status: &OwnedFd,
    init: Option<BorrowedFd<'_>>,
    wait_max: Option<Duration>,
) -> io::Result<Option<Message>> {
    // Without an end where the clock has none for it.
    let deadline = wait_max.and_then(|wait_max| Instant::now().checked_add(wait_max));
    let mut bytes = [0; Message::SIZE];
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left =
            left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let watched = [status.as_fd(), init.unwrap_or_else(|| status.as_fd())];
        match poll(&mut watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN)), left) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        // A message is far shorter than PIPE_BUF, so it comes whole (pipe(7)).
        match rustix::io::read(status, &mut bytes) {
            Ok(0) => return Ok(None),
            // No word is the word "it runs": what is none of the words must not be taken for that.
            Ok(_) => {
                let message = Message::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
                return Ok(Some(message));
            }
            Err(Errno::INTR) => {}
            // Somebody holds the other end, and the init has ended.
            Err(Errno::AGAIN) if init.is_some_and(has_ended) => return Ok(None),
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
