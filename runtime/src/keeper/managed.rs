//! One container in the keeper's hands: its init, its pipes, its log, its record.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::logs::{Log, Stream};
use super::protocol::{CreateContainer, LogOptions};
use super::records::Record;
use crate::cgroup::Cgroup;
use crate::container::{Container, Stdio};
use crate::sys;

/// The names of a container's pipes, by [`Stream`].
const PIPE_NAMES: [&str; 2] = ["stdout", "stderr"];

/// Most bytes read from an ended container's pipes: the largest pipe there is (proc(5), pipe-max-size), twice over.
const DRAIN_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A container.
#[derive(Debug)]
pub(super) struct Managed {
    pub(super) record: Record,
    pub(super) cgroup: Cgroup,
    /// Before it is started: the gate.
    pub(super) container: Option<Container>,
    /// The init, while it lives.
    pub(super) pidfd: Option<OwnedFd>,
    /// This process is its parent, so its exit code can be had.
    pub(super) child: bool,
    /// Read ends of stdout and stderr, with their event tokens.
    pub(super) pipes: [Option<(OwnedFd, u64)>; 2],
    pub(super) pidfd_token: Option<u64>,
    log: Option<Log>,
    /// The disk refused a line; said once.
    log_failed: bool,
}

impl Managed {
    pub(super) fn new(record: Record, cgroup: Cgroup, log: Option<Log>) -> Self {
        Self {
            record,
            cgroup,
            container: None,
            pidfd: None,
            child: false,
            pipes: [None, None],
            pidfd_token: None,
            log,
            log_failed: false,
        }
    }

    /// Opens the init of a record by number. `Err(ESRCH)` if it is gone.
    pub(super) fn open_init(&mut self) -> io::Result<()> {
        self.pidfd = Some(crate::process::open(self.record.pid)?);
        Ok(())
    }

    /// Sends a signal to the init.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        match &self.pidfd {
            Some(pidfd) => Ok(sys::pidfd_signal(pidfd.as_fd(), signal)?),
            None => Err(Errno::SRCH.into()),
        }
    }

    /// Reads once from a pipe. `false`: nothing is there, or nothing will be.
    pub(super) fn pump(&mut self, stream: Stream, buffer: &mut [u8], now: u64) -> bool {
        let Some((pipe, _)) = &self.pipes[stream as usize] else { return false };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => false,
            Ok(length) => {
                let written = match &mut self.log {
                    Some(log) => log.push(stream, &buffer[..length], now),
                    None => Ok(()),
                };
                self.note_log_failure(written);
                true
            }
            Err(Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// Takes what is left in the pipes and closes them and the log.
    pub(super) fn drain(&mut self, buffer: &mut [u8], now: u64) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut rounds = DRAIN_BYTES_MAX.div_ceil(buffer.len().max(1));
            while rounds > 0 && self.pump(stream, buffer, now) {
                rounds -= 1;
            }
        }
        self.pipes = [None, None];
        if let Some(mut log) = self.log.take() {
            let written = log.finish(now);
            self.note_log_failure(written);
        }
    }

    fn note_log_failure(&mut self, written: io::Result<()>) {
        match written {
            Err(error) if !self.log_failed => {
                self.log_failed = true;
                eprintln!("keeper: lines of container {} are lost: {error}", self.record.info.id);
            }
            Err(_) => {}
            Ok(()) => self.log_failed = false,
        }
    }
}

/// Opens the log that a request asks for.
pub(super) fn open_log(options: Option<&LogOptions>) -> io::Result<Option<Log>> {
    options.map(Log::open).transpose()
}

/// Where a container's pipes are.
pub(super) fn pipe_directory(run_dir: &Path, id: &str) -> PathBuf {
    run_dir.join("io").join(id)
}

/// Makes the named pipes of a new container. The container gets them for reading and writing: as long as it lives the
/// pipe has a reader, so that the keeper's death is no SIGPIPE. They belong to the container's user, who may then
/// open `/dev/stdout` again.
pub(super) fn make_pipes(
    run_dir: &Path,
    request: &CreateContainer,
    user: (u32, u32),
) -> io::Result<(Stdio, [Option<OwnedFd>; 2])> {
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    if request.log.is_none() {
        return Ok((Stdio { stdin: null()?, stdout: null()?, stderr: null()? }, [None, None]));
    }
    let directory = pipe_directory(run_dir, &request.id);
    remove_pipes(run_dir, &request.id)?;
    std::fs::create_dir_all(&directory)?;
    let make = |name: &str| -> io::Result<(OwnedFd, OwnedFd)> {
        let path = directory.join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR)?;
        let both = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
        let (uid, gid) = (rustix::process::Uid::from_raw(user.0), rustix::process::Gid::from_raw(user.1));
        rustix::fs::fchown(&both, Some(uid), Some(gid))?;
        Ok((both, open_pipe(&path)?))
    };
    let (stdout, stdout_read) = make(PIPE_NAMES[0])?;
    let (stderr, stderr_read) = make(PIPE_NAMES[1])?;
    Ok((Stdio { stdin: null()?, stdout, stderr }, [Some(stdout_read), Some(stderr_read)]))
}

/// Opens the pipes of a container that is adopted. What is missing stays missing.
pub(super) fn reopen_pipes(run_dir: &Path, id: &str) -> [Option<OwnedFd>; 2] {
    let directory = pipe_directory(run_dir, id);
    PIPE_NAMES.map(|name| open_pipe(&directory.join(name)).ok())
}

/// Removes a container's pipes.
pub(super) fn remove_pipes(run_dir: &Path, id: &str) -> io::Result<()> {
    match std::fs::remove_dir_all(pipe_directory(run_dir, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn open_pipe(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

impl Managed {
    /// The init's descriptor for the event loop.
    pub(super) fn pidfd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }
}
