//! The words between a keeper and its clients.
//!
//! One JSON value is one `SOCK_SEQPACKET` message of at most [`MAX_MESSAGE`] bytes. A client sends one [`Request`] and
//! waits for its [`Frame::Reply`] before the next. A connection that sent [`Request::Subscribe`] gets, after the reply,
//! only [`Frame::Event`]s and sends nothing more. File descriptors travel as `SCM_RIGHTS` with the request that needs
//! them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::container::Rootfs;

/// Longest message either way. A seqpacket message must fit the socket's send buffer (212,992 bytes by default), and
/// the keeper's memory budget wants it small; specs travel as a path, lists in pages.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;

/// Most containers in one [`Reply::Containers`] page, so that a page fits [`MAX_MESSAGE`] with the longest notes.
pub(crate) const LIST_PAGE_BYTES: usize = 48 * 1024;

/// Longest [`CreateContainer::note`], in bytes.
pub(crate) const MAX_NOTE: usize = 4096;

/// What a client may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Are you there? Answer: [`Reply::Pong`].
    Ping,
    /// This connection is the daemon's. When it closes without [`Request::DaemonStopping`] before, the keeper runs its
    /// respawn command. The keeper takes the process from the socket's credentials (unix(7), SO_PEERCRED) and refuses a
    /// pid that is not the caller's.
    Hello {
        /// The caller's process ID.
        daemon: u32,
    },
    /// Build a container; its init waits before exec. With `netns` set one descriptor of a network namespace comes along.
    Create(Box<CreateContainer>),
    /// Let a created container's init exec.
    Start {
        /// The container.
        id: String,
    },
    /// Send a signal to a container's init, or to all its processes.
    Kill {
        /// The container.
        id: String,
        /// Signal number, 1 to 64.
        signal: i32,
        /// To every process in the container's cgroup.
        all: bool,
    },
    /// Remove a container: kill what lives, wait until it is gone, remove cgroup, pipes and record. Log files stay:
    /// they belong to whoever named them. The answer comes when all is gone.
    Delete {
        /// The container.
        id: String,
    },
    /// One container. Answer: [`Reply::Container`].
    Get {
        /// The container.
        id: String,
    },
    /// A page of containers, ordered by ID. Answer: [`Reply::Containers`].
    List {
        /// Only IDs after this one.
        after: Option<String>,
    },
    /// From now on push events on this connection. Exits from before are found with [`Request::List`]: subscribe
    /// first, then list, and none is missed.
    Subscribe,
    /// End the keeper. Refused while containers live, unless forced: then all are killed, and their cgroups removed.
    /// A shutdown also forgets the daemon: nothing is respawned.
    Shutdown {
        /// Kill and remove every container.
        force: bool,
    },
    /// The daemon ends on purpose: do not start it again.
    DaemonStopping,
    /// Replace the keeper by a fresh start of its own executable and arguments, keeping all containers as children.
    /// Containers that were created and not started are lost. The connection closes.
    Reexec,
}

/// What the keeper answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Ping`].
    Pong {
        /// The keeper's process ID.
        pid: u32,
        /// The keeper's crate version.
        version: String,
    },
    /// Done, nothing to tell.
    Done,
    /// To [`Request::Create`].
    Created {
        /// Process ID of the container's init on the host.
        pid: i32,
    },
    /// To [`Request::Get`].
    Container(Box<ContainerInfo>),
    /// To [`Request::List`].
    Containers {
        /// The page, ordered by ID.
        page: Vec<ContainerInfo>,
        /// There are IDs after the last one.
        more: bool,
    },
    /// Not done, and why.
    Refused(Refusal),
}

/// What the keeper sends: an answer, or an event on a subscribed connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Frame {
    /// The answer to the last request.
    Reply(Reply),
    /// Something happened.
    Event(Event),
}

/// Pushed to subscribers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A container's init ended; its status is on disk already.
    Exited {
        /// The container.
        id: String,
        /// How it ended.
        exit: Exit,
    },
}

/// A container to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateContainer {
    /// Letters, digits, `_`, `.`, `-`; starts with a letter or digit; at most 128.
    pub id: String,
    /// Directory with `config.json`. Absolute. The root is attached over this directory inside the container's own
    /// mount namespace, so it must stay until the container was created.
    pub bundle: PathBuf,
    /// The root filesystem; the spec's `root.path` is ignored (its `readonly` is not).
    pub rootfs: Rootfs,
    /// A descriptor of a network namespace comes with the message, to be joined.
    pub netns: bool,
    /// Where stdout and stderr go. `None`: thrown away.
    pub log: Option<LogOptions>,
    /// Also start it; if that fails nothing is left.
    pub start: bool,
    /// Kept with the container and given back by [`Request::List`], at most 4096 bytes. For the daemon's own use.
    #[serde(default)]
    pub note: String,
}

/// A bounded log in the form of Docker's `json-file`: lines of `{"log","stream","time"}`.
///
/// The file at `path` is the newest; a full one is renamed to `path` + `.1`, replacing the last such.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// The newest log file.
    pub path: PathBuf,
    /// Bytes after which the file is rotated. At least 4096.
    pub max_size: u64,
}

impl LogOptions {
    /// Default of `max_size`: 10 MiB, so two files cost at most 20 MiB of disk a container.
    pub const DEFAULT_MAX_SIZE: u64 = 10 * 1024 * 1024;

    /// A log at `path` with the default bound.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_size: Self::DEFAULT_MAX_SIZE }
    }
}

/// A container in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInfo {
    /// The container.
    pub id: String,
    /// Its init's process ID on the host while it lives.
    pub pid: Option<i32>,
    /// Where it is in its life.
    pub status: ContainerStatus,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its log.
    pub log: Option<LogOptions>,
    /// When it was created, nanoseconds since the epoch.
    pub created_at: u64,
    /// When it was started, nanoseconds since the epoch.
    pub started_at: Option<u64>,
    /// The note given at creation.
    pub note: String,
}

/// A container's state. It only moves forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerStatus {
    /// Built; init waits before exec.
    Created,
    /// Init runs.
    Running,
    /// Init ended.
    Exited(Exit),
}

/// How and when a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How.
    pub outcome: Outcome,
    /// When, nanoseconds since the epoch. For [`Outcome::Unknown`]: when it was noticed.
    pub at: u64,
    /// The kernel killed a process of it for want of memory inside its own limit.
    pub oom_killed: bool,
}

impl Exit {
    /// The exit code as Docker shows it: the code, 128 + the signal, or 255 when it cannot be known.
    pub fn code(&self) -> i32 {
        match self.outcome {
            Outcome::Code(code) => code,
            Outcome::Signal(signal) => 128 + signal,
            Outcome::Unknown => 255,
        }
    }
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Init called exit.
    Code(i32),
    /// A signal ended init.
    Signal(i32),
    /// It ended while no keeper was its parent: nobody could collect the status.
    Unknown,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For the program.
    pub kind: RefusalKind,
    /// For the person: one line.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// No such container.
    NotFound,
    /// The ID is taken.
    Exists,
    /// The request itself is wrong: bad ID, bad spec, missing descriptor.
    Invalid,
    /// Not in this state: start of a running one, kill of an ended one, shutdown with containers.
    WrongState,
    /// The program to run does not exist in the container (Docker: 127).
    CommandNotFound,
    /// The program to run is no executable (Docker: 126).
    CommandNotExecutable,
    /// A step failed on this host.
    Failed,
}
