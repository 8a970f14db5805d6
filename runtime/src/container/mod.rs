//! From an OCI spec to a running container, without a keeper: the library's core.
//!
//! ```text
//!  create                         start
//!    |  plan (parse, open, mount     |  gate opens
//!    |  detached, compile)           v
//!    +--> clone3 --> child runs the plan --> waits at the gate --> exec
//!           |            | a step fails           | gate closed:      | exec fails
//!           v            v                        v ends quietly      v
//!         error    (step, errno) over a pipe; the child ends; `create` or `start` reports it
//! ```
//!
//! The parent prepares everything that allocates ([`plan`]); the child ([`child`]) only makes system calls. A path
//! inside the root filesystem is only ever resolved by the kernel below the root's descriptor
//! (`openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`), so that no link in an image leads to the host.

mod build;
mod capabilities;
mod child;
mod confine;
mod error;
mod exec;
mod gate;
pub mod hooks;
mod mounts;
mod plan;
mod rootfs;

pub use self::error::{CreateError, StartError};
pub use self::exec::{ExecOptions, exec};
pub use self::gate::Gate;
pub use self::mounts::mount_options;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Spec;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitIdOptions, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};

use self::child::Message;
use crate::cgroup::{Cgroup, Cgroups};
use crate::seccomp::{self, ListenerAddress, Told};
use crate::sys;

/// Longest wait for a child's next word. A set-up step that takes longer hangs (a dead network filesystem).
const CHILD_WAIT_MAX: Duration = Duration::from_secs(20);

/// A container's root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay mounted inside the container's own mount namespace only.
    Overlay {
        /// Unpacked layers, topmost first.
        lower: Vec<PathBuf>,
        /// Where writes go.
        upper: PathBuf,
        /// Scratch of overlayfs, empty, on `upper`'s filesystem.
        work: PathBuf,
    },
    /// A plain directory.
    Directory(PathBuf),
}

/// A container's standard descriptors.
#[derive(Debug)]
pub struct Stdio {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

/// What [`create`] needs.
#[derive(Debug)]
pub struct CreateOptions<'a> {
    /// Name of the container, as an agent for seccomp notifications is told it.
    pub id: &'a str,
    /// Directory that relative paths of the spec start from, and over which the root is attached inside the container's
    /// mount namespace. Absolute.
    pub bundle: &'a Path,
    /// The spec. `root.path` and `linux.resources` are not read: see `rootfs` and `cgroup`.
    pub spec: &'a Spec,
    /// The root filesystem.
    pub rootfs: &'a Rootfs,
    /// A network namespace to join instead of a new one.
    pub netns: Option<BorrowedFd<'a>>,
    /// Standard descriptors.
    pub stdio: Stdio,
    /// A connected unix socket that gets the terminal's master side (`SCM_RIGHTS`) if the spec wants a terminal; the
    /// terminal then stands in for `stdio`.
    pub console: Option<OwnedFd>,
    /// Change the root without pivot_root(2), which cannot leave a ramdisk (`runc --no-pivot`).
    pub no_pivot: bool,
    /// How many of this process's descriptors from 3 on the program gets too. They have to be open.
    pub preserve_fds: u32,
    /// Who may start the container.
    pub gate: Gate,
    /// The group to run in, made with [`Cgroups::create`], and the host's hierarchies.
    pub cgroup: Option<(&'a Cgroups, &'a Cgroup)>,
}

/// A container whose init this process is the parent of.
#[derive(Debug)]
pub struct Container {
    pid: i32,
    pidfd: OwnedFd,
    gate: Option<OwnedFd>,
    status: OwnedFd,
    command: String,
}

/// Builds a container up to the point where only exec is missing.
///
/// The caller's process stays the parent of the container's init and has to reap it.
///
/// # Errors
/// See [`CreateError`]. No process, mount or namespace is left then; the cgroup is the caller's to remove.
pub fn create(options: CreateOptions<'_>) -> Result<Container, CreateError> {
    let gate::Ends { read, write: gate, told } = options.gate.open()?;
    let (status, status_write) = pipe().map_err(CreateError::Pipe)?;
    let (id, bundle, spec) = (options.id, options.bundle, options.spec);
    let into_cgroup = match options.cgroup {
        Some((_, group)) => group.open_unified()?,
        None => None,
    };
    let plan = build::build(options, read, status_write, told)?;
    let child =
        sys::clone_child(plan.clone_flags, into_cgroup.as_ref().map(AsFd::as_fd), || child::run(&plan));
    let child = child.map_err(|errno| CreateError::Clone(errno.into()))?;
    let mut container = Container {
        pid: child.pid,
        pidfd: child.pidfd,
        gate: Some(gate),
        status,
        command: plan.command.clone(),
    };
    // Closes this process's copies of the child's ends, so that the child's death ends the pipe.
    let steps: Vec<String> = plan.steps.iter().chain(&plan.last).map(plan::Step::describe).collect();
    let filter = plan.filter.clone();
    drop(plan);
    let message = container.next_message();
    match message {
        Ok(Some(Message::Ready { listener })) => {
            let told = Told {
                version: spec.version(),
                id,
                pid: container.pid,
                bundle,
                annotations: serde_json::json!(spec.annotations().clone().unwrap_or_default()),
            };
            match filter.as_ref().and_then(|filter| filter.listener()) {
                Some(address) => match container.give_listener(listener, address, &told) {
                    Ok(()) => Ok(container),
                    Err(source) => {
                        container.abandon();
                        Err(CreateError::SeccompAgent { path: address.path.clone(), source })
                    }
                },
                None => Ok(container),
            }
        }
        other => {
            container.abandon();
            Err(match other {
                Ok(Some(Message::Failed { step, errno, note })) => CreateError::Step {
                    step: error::step_text(
                        steps.get(step as usize).map_or("close descriptors", String::as_str),
                        errno,
                        &note.text(),
                    ),
                    source: errno.into(),
                },
                Ok(Some(Message::NotFound)) => {
                    CreateError::CommandNotFound { command: container.command.clone() }
                }
                Ok(Some(Message::NotExecutable(errno))) => CreateError::CommandNotExecutable {
                    command: container.command.clone(),
                    source: errno.into(),
                },
                Ok(_) => CreateError::Died,
                Err(source) => CreateError::Silent { source },
            })
        }
    }
}

impl Container {
    /// Process ID of the init on the host.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The init, by descriptor: readable when it ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Opens the gate; returns when the exec succeeded.
    ///
    /// # Errors
    /// [`StartError`]; the init has ended or is about to, and is to be reaped as any other end.
    pub fn start(&mut self) -> Result<(), StartError> {
        let gate = self.gate.take().ok_or(StartError::Started)?;
        // A broken pipe means that the init is gone, and the status pipe says that better.
        let _ = rustix::io::write(&gate, b"!");
        match self.next_message() {
            // The pipe ends by exec. An init killed at the gate ends it too; that shows as its exit status.
            Ok(None) => Ok(()),
            Ok(Some(Message::NotExecutable(errno))) => Err(error::exec_error(&self.command, errno)),
            Ok(_) => Err(StartError::Died),
            Err(source) => Err(StartError::Silent { source }),
        }
    }

    /// Sends a signal to the init.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Waits for the init's end and reaps it: the exit code, or 128 + the signal.
    ///
    /// # Errors
    /// `ECHILD` when it was reaped elsewhere.
    pub fn wait(&self) -> io::Result<i32> {
        let status = rustix::io::retry_on_intr(|| {
            waitid(rustix::process::WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
        })?;
        let status = status.ok_or_else(|| io::Error::from(Errno::CHILD))?;
        Ok(status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(255))
    }

    fn next_message(&self) -> io::Result<Option<Message>> {
        let deadline = Instant::now() + CHILD_WAIT_MAX;
        let mut bytes = [0; Message::SIZE];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.status.as_fd(), PollFlags::POLLIN)], left) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            // A message is far shorter than PIPE_BUF, so it comes whole (pipe(7)).
            return match rustix::io::read(&self.status, &mut bytes) {
                Ok(0) => Ok(None),
                Ok(_) => Ok(Message::decode(&bytes)),
                Err(Errno::INTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// The child cannot send it itself: the agent's socket is not in its mount namespace.
    fn give_listener(&self, number: u32, address: &ListenerAddress, told: &Told<'_>) -> io::Result<()> {
        let listener = seccomp::take_descriptor(self.pidfd(), number as i32)?;
        seccomp::send(address, told, listener.as_fd())
    }

    /// Kills and reaps a child whose set-up failed.
    fn abandon(&mut self) {
        self.gate = None;
        drop(self.kill(Signal::KILL));
        drop(self.wait());
    }
}

/// A pipe that no program inherits.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

fn c_string(text: impl Into<Vec<u8>>, what: &'static str) -> Result<CString, CreateError> {
    CString::new(text).map_err(|_| CreateError::Nul { what })
}
