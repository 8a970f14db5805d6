//! sd_notify(3) for containers: a service manager that started this command hears when the container is ready.
//!
//! The container gets a socket of its own, in a directory of the state directory that is mounted at `/run/notify`.
//! Whoever starts it hands on the one message that counts, `READY=1`, and says which process to watch from then on.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use skep_runtime::descriptors::{self, ANSWER_WAIT_MAX};
use skep_runtime::spec::oci::{MountBuilder, Spec};

use crate::error::Failure;

/// The variable that names a service manager's socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Where the container finds its own.
const INSIDE: &str = "/run/notify";

/// Name of the socket in its directory.
const SOCKET_NAME: &str = "notify.sock";

/// Longest message that is read, as in runc. What counts is short and stands alone in its datagram.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Most messages that are read before others get their turn: a container may send without end.
const MESSAGES_AT_ONCE_MAX: usize = 64;

/// Longest wait for a manager's word that it has read all (runc's). Old ones do not give it.
const BARRIER_WAIT_MAX: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// A service manager's wish to be told.
#[derive(Debug)]
pub(crate) struct Notify {
    manager: OsString,
    directory: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Notify {
    /// For a container's state directory, if there is such a wish.
    pub(crate) fn wanted(directory: &Path) -> Option<Self> {
        let manager = std::env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
        Some(Self { manager, directory: directory.join("notify"), socket: None })
    }

    /// Makes the directory, and lets the container find it.
    pub(crate) fn announce(&self, spec: &mut Spec) -> Result<(), Failure> {
        let made = fs::DirBuilder::new().mode(0o755).create(&self.directory);
        made.map_err(Failure::path("mkdir", &self.directory))?;
        let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned);
        let mount = MountBuilder::default()
            .destination(INSIDE)
            .source(self.directory.clone())
            .options(options.to_vec())
            .build()
            .map_err(|error| Failure::Refused(error.to_string()))?;
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        mounts.push(mount);
        spec.set_mounts(Some(mounts));
        if let Some(process) = spec.process_mut() {
            let mut env = process.env().clone().unwrap_or_default();
            env.push(format!("{VARIABLE}={INSIDE}/{SOCKET_NAME}"));
            process.set_env(Some(env));
        }
        Ok(())
    }

    /// Opens the container's socket. Any user of the container's may write to it.
    pub(crate) fn listen(&mut self) -> Result<(), Failure> {
        let path = self.directory.join(SOCKET_NAME);
        let listen = || -> io::Result<UnixDatagram> {
            let socket = UnixDatagram::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        self.socket = Some(listen().map_err(Failure::path("listen", &path))?);
        Ok(())
    }

    /// To be waited for.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(UnixDatagram::as_fd)
    }

    /// The container's word that it is ready, if that is what came.
    pub(crate) fn ready(&self) -> Option<Vec<u8>> {
        let mut message = [0; MESSAGE_BYTES_MAX];
        for _ in 0..MESSAGES_AT_ONCE_MAX {
            let count = self.socket.as_ref()?.recv(&mut message).ok()?;
            let mut lines = message[..count].split(|byte| *byte == b'\n');
            if let Some(line) = lines.find(|line| line.starts_with(b"READY=")) {
                return Some(line.to_vec());
            }
        }
        None
    }

    /// Waits until the container is ready or has ended. Then the manager watches `watched`.
    pub(crate) fn forward(&self, init: BorrowedFd<'_>, watched: i32) -> Result<(), Failure> {
        let Some(socket) = self.fd() else { return Ok(()) };
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(socket, PollFlags::IN),
                PollFd::from_borrowed_fd(init, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| poll(&mut fds, None)).map_err(Failure::system("poll"))?;
            let ended = !fds[1].revents().is_empty();
            match self.ready() {
                Some(line) => {
                    let manager = self.tell(&line, watched)?;
                    return barrier(&manager).map_err(Failure::system("sendmsg"));
                }
                None if ended => return Ok(()),
                None => {}
            }
        }
    }

    /// Hands the word on. What is sent over the socket that is returned comes after it.
    pub(crate) fn tell(&self, line: &[u8], watched: i32) -> Result<UnixDatagram, Failure> {
        let tell = || -> io::Result<UnixDatagram> {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
            let address = match self.manager.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(&self.manager)?,
            };
            socket.connect_addr(&address)?;
            socket.send(&[line, b"\n"].concat())?;
            socket.send(format!("MAINPID={watched}\n").as_bytes())?;
            Ok(socket)
        };
        tell().map_err(Failure::path("dial unixgram", Path::new(&self.manager)))
    }
}

/// Waits until a manager has read what was sent (sd_notify_barrier(3)): it may ask about the sender, who must live.
fn barrier(manager: &UnixDatagram) -> io::Result<()> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    descriptors::send(manager, b"BARRIER=1", Some(write.as_fd()), SendFlags::empty())?;
    drop(write);
    let mut fds = [PollFd::new(&read, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&BARRIER_WAIT_MAX)))? > 0 {
        fs::File::from(read).read_exact(&mut [0]).or_else(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Ok(()),
            _ => Err(error),
        })?;
    }
    Ok(())
}
