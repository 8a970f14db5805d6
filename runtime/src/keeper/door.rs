//! How clients come in, and how one keeper alone owns a run directory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::error::KeeperError;
use crate::sys;

/// The environment variable by which a keeper that replaces itself tells the new one "PID:LOCK:LISTENER".
pub(super) const INHERIT: &str = "SKEP_KEEPER_INHERIT";

/// How long a keeper waits for the lock of a predecessor that is about to exit.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long nobody is let in after the kernel refused to: without descriptors to give, the one who waits would wake the
/// loop again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// The listening socket, which is watched while somebody can be let in.
#[derive(Debug)]
pub(super) struct Door {
    listener: OwnedFd,
    token: u64,
    closed_until: Option<Instant>,
}

impl Door {
    /// Watches a listening socket; its events have this token.
    pub(super) fn open(listener: OwnedFd, epoll: &Epoll, token: u64) -> Result<Self, KeeperError> {
        watch(epoll, listener.as_fd(), token)?;
        Ok(Self { listener, token, closed_until: None })
    }

    /// Lets somebody in.
    pub(super) fn accept(&mut self, epoll: &Epoll, now: Instant) -> Option<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => Some(socket),
            // Who waited has gone.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => None,
            Err(errno) => {
                eprintln!("keeper: nobody is let in for {} ms: {errno}", PAUSE.as_millis());
                if epoll.delete(&self.listener).is_ok() {
                    self.closed_until = Some(now + PAUSE);
                }
                None
            }
        }
    }

    /// When it is to be opened again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.closed_until
    }

    /// Opens it again when its time has come.
    pub(super) fn open_if_due(&mut self, epoll: &Epoll, now: Instant) {
        if self.closed_until.is_some_and(|until| now >= until) {
            let watched = watch(epoll, self.listener.as_fd(), self.token);
            self.closed_until = watched.is_err().then_some(now + PAUSE);
        }
    }

    pub(super) fn listener(&self) -> &OwnedFd {
        &self.listener
    }
}

/// Asks the kernel for a descriptor's events.
pub(super) fn watch(epoll: &Epoll, fd: BorrowedFd<'_>, token: u64) -> Result<(), KeeperError> {
    epoll
        .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
        .map_err(|errno| KeeperError::System { call: "epoll_ctl", source: errno.into() })
}

/// Lock and listener that a keeper left to this process when it replaced itself. The number of the process keeps a child
/// from believing it.
pub(super) fn inherited() -> Option<(OwnedFd, OwnedFd)> {
    let text = std::env::var(INHERIT).ok()?;
    let mut numbers = text.split(':').map(|word| word.parse::<i32>().ok());
    let (pid, lock, listener) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if pid != std::process::id() as i32 || lock == listener {
        return None;
    }
    sys::inherited(lock).zip(sys::inherited(listener))
}

/// One keeper a run directory. A predecessor that is about to exit is waited for.
pub(super) fn lock(path: &Path) -> Result<File, KeeperError> {
    let error = |source| KeeperError::File { action: "lock", path: path.to_path_buf(), source };
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(error)?;
    let start = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if start.elapsed() < LOCK_WAIT_MAX => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(KeeperError::Locked { path: path.to_path_buf() });
            }
            Err(errno) => return Err(error(errno.into())),
        }
    }
}

/// The listening socket, for its owner alone.
pub(super) fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // The mode is right from the first moment, not a moment later.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &SocketAddrUnix::new(path)?);
    rustix::process::umask(mask);
    bound?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use nix::sys::epoll::{EpollCreateFlags, EpollTimeout};

    use super::*;

    fn events(epoll: &Epoll) -> usize {
        epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO).unwrap()
    }

    #[test]
    fn a_door_that_cannot_let_anybody_in_stays_shut_for_a_while() {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        // Bound to nothing it is ready at once, and every accept fails.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let mut door = Door::open(socket, &epoll, 7).unwrap();
        assert_eq!(events(&epoll), 1);
        let now = Instant::now();
        assert!(door.accept(&epoll, now).is_none());
        assert_eq!((events(&epoll), door.next()), (0, Some(now + PAUSE)));
        door.open_if_due(&epoll, now);
        assert_eq!(events(&epoll), 0);
        door.open_if_due(&epoll, now + PAUSE);
        assert_eq!((events(&epoll), door.next()), (1, None));
    }

    #[test]
    fn a_client_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut door = Door::open(listen(&path).unwrap(), &epoll, 7).unwrap();
        assert!(door.accept(&epoll, Instant::now()).is_none() && door.next().is_none(), "nobody is there");
        let client = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&client, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        assert!(door.accept(&epoll, Instant::now()).is_some());
    }
}
