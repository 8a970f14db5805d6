//! The keeper's client: blocking, one request at a time, usable from several threads.

use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::options::{KeeperOptions, SOCKET_NAME};
use super::protocol::{ContainerInfo, CreateContainer, Frame, MAX_MESSAGE, Refusal, Reply, Request};
use super::spawn;
use super::wire::{self, WireError};

/// Longest wait for one answer. The slowest honest one is a delete whose processes the kernel is slow to end.
const REPLY_WAIT_MAX: Duration = Duration::from_secs(60);

/// Why a request to the keeper failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No keeper answers at this path.
    #[error("cannot reach the keeper at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The keeper's command could not be run.
    #[error("cannot start the keeper with {command:?}")]
    Spawn {
        /// The program.
        command: OsString,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The keeper was started and its socket did not answer in time; its log says why.
    #[error("the keeper did not answer at {} within {} ms; see {}", path.display(), waited.as_millis(), log.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// The keeper's log.
        log: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The message did not cross.
    #[error("talking to the keeper failed: {0}")]
    Wire(String),
    /// The keeper closed the connection (it ended, or was replaced).
    #[error("the keeper closed the connection")]
    Closed,
    /// An answer that does not belong to the request.
    #[error("the keeper gave an unexpected answer: {0}")]
    Unexpected(String),
    /// The keeper said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Closed => Self::Closed,
            WireError::Socket(source) => Self::Wire(source.to_string()),
            other => Self::Wire(other.to_string()),
        }
    }
}

/// A connection to a keeper.
#[derive(Debug)]
pub struct KeeperClient {
    connection: Mutex<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// Set when an answer did not come in time: a late one would be taken for the next request's.
    broken: bool,
    buffer: Vec<u8>,
}

impl KeeperClient {
    /// Connects to the keeper of `run_dir`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if none listens there.
    pub fn connect(run_dir: &Path) -> Result<Self, ClientError> {
        let socket = connect_socket(run_dir)?;
        let connection = Connection { socket, broken: false, buffer: vec![0; MAX_MESSAGE + 1] };
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Connects to the keeper of `options.run_dir`; if there is none, runs `command` detached from this process (see
    /// [`spawn_keeper`](super::spawn_keeper)) and waits until it answers. `command` must lead to
    /// [`keeper::main`](super::main) with the same options.
    ///
    /// # Errors
    /// [`ClientError::Spawn`], [`ClientError::NoAnswer`], or what [`Self::connect`] says.
    pub fn connect_or_spawn(options: &KeeperOptions, command: &[OsString]) -> Result<Self, ClientError> {
        spawn::connect_or_spawn(options, command)
    }

    /// Asks whether the keeper is there; its process ID.
    ///
    /// # Errors
    /// As every request: the connection's, or the keeper's refusal.
    pub fn ping(&self) -> Result<u32, ClientError> {
        match self.request(&Request::Ping, None)? {
            Reply::Pong { pid, .. } => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }

    /// Says that this connection is the daemon's, that is, this process's. Keep the client for as long as the daemon
    /// lives: dropping it without [`Self::daemon_stopping`] counts as the daemon's death.
    ///
    /// # Errors
    /// See [`Self::ping`].
    pub fn hello_daemon(&self) -> Result<(), ClientError> {
        self.done(&Request::Hello { daemon: std::process::id() }, None)
    }

    /// Creates a container (and starts it, if `container.start`). `netns` must be given exactly if `container.netns`.
    /// Returns the init's process ID on the host.
    ///
    /// # Errors
    /// See [`Self::ping`]; nothing is left behind then.
    pub fn create(
        &self,
        container: &CreateContainer,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<i32, ClientError> {
        match self.request(&Request::Create(Box::new(container.clone())), netns)? {
            Reply::Created { pid } => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts a created container. Returns after its exec succeeded.
    ///
    /// # Errors
    /// See [`Self::ping`]. If the exec failed the container has ended with 126 or 127.
    pub fn start(&self, id: &str) -> Result<(), ClientError> {
        self.done(&Request::Start { id: id.to_owned() }, None)
    }

    /// Sends a signal to the container's init, or to all its processes.
    ///
    /// # Errors
    /// See [`Self::ping`].
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), ClientError> {
        self.done(&Request::Kill { id: id.to_owned(), signal, all }, None)
    }

    /// Removes a container, killing it first if it lives. Returns when no process, cgroup or record is left. No exited
    /// event is lost: a living container's comes before this returns.
    ///
    /// # Errors
    /// See [`Self::ping`].
    pub fn delete(&self, id: &str) -> Result<(), ClientError> {
        self.done(&Request::Delete { id: id.to_owned() }, None)
    }

    /// One container.
    ///
    /// # Errors
    /// See [`Self::ping`].
    pub fn get(&self, id: &str) -> Result<ContainerInfo, ClientError> {
        match self.request(&Request::Get { id: id.to_owned() }, None)? {
            Reply::Container(info) => Ok(*info),
            other => Err(unexpected(&other)),
        }
    }

    /// All containers, ordered by ID.
    ///
    /// # Errors
    /// See [`Self::ping`].
    pub fn list(&self) -> Result<Vec<ContainerInfo>, ClientError> {
        let mut all: Vec<ContainerInfo> = Vec::new();
        loop {
            let after = all.last().map(|info| info.id.clone());
            match self.request(&Request::List { after }, None)? {
                Reply::Containers { page, more } => {
                    let end = !more || page.is_empty();
                    all.extend(page);
                    if end {
                        return Ok(all);
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Ends the keeper, with `force` also every container. Returns when it is about to exit.
    ///
    /// # Errors
    /// See [`Self::ping`]; refused while containers live, unless forced.
    pub fn shutdown(&self, force: bool) -> Result<(), ClientError> {
        self.done(&Request::Shutdown { force }, None)
    }

    /// Says that the daemon ends on purpose: the keeper will not start it again.
    ///
    /// # Errors
    /// See [`Self::ping`].
    pub fn daemon_stopping(&self) -> Result<(), ClientError> {
        self.done(&Request::DaemonStopping, None)
    }

    /// Makes the keeper replace itself by a fresh exec of its own executable. Connect anew afterwards.
    ///
    /// # Errors
    /// See [`Self::ping`].
    pub fn reexec(&self) -> Result<(), ClientError> {
        self.done(&Request::Reexec, None)
    }

    fn done(&self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<(), ClientError> {
        match self.request(request, fd)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn request(&self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<Reply, ClientError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Connection { socket, broken, buffer } = &mut *connection;
        if *broken {
            return Err(ClientError::Closed);
        }
        // Until the answer is here the connection counts as broken; a too long request was not sent at all.
        *broken = true;
        match wire::send(&*socket, request, fd, true) {
            Err(error @ (WireError::TooLong { .. } | WireError::Syntax(_))) => {
                *broken = false;
                return Err(error.into());
            }
            other => other?,
        }
        let (frame, _) = wire::receive::<Frame>(&*socket, buffer, true)?;
        *broken = false;
        match frame {
            Frame::Reply(Reply::Refused(refusal)) => Err(refusal.into()),
            Frame::Reply(reply) => Ok(reply),
            Frame::Event(event) => Err(ClientError::Unexpected(format!("{event:?}"))),
        }
    }
}

fn unexpected(reply: &Reply) -> ClientError {
    ClientError::Unexpected(format!("{reply:?}"))
}

/// A connected socket with bounded waits.
pub(super) fn connect_socket(run_dir: &Path) -> Result<OwnedFd, ClientError> {
    let path = run_dir.join(SOCKET_NAME);
    let connect = || -> rustix::io::Result<OwnedFd> {
        let address = SocketAddrUnix::new(&path)?;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(REPLY_WAIT_MAX))?;
        set_socket_timeout(&socket, Timeout::Send, Some(REPLY_WAIT_MAX))?;
        rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
        Ok(socket)
    };
    connect().map_err(|errno| ClientError::Connect { path: path.clone(), source: errno.into() })
}
