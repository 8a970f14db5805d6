//! Descriptors that callers hand in or get: console and pidfd sockets, preserved descriptors, the pid file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::RecvFlags;
use skep_runtime::container::Stdio;
use skep_runtime::descriptors;

use crate::error::Failure;
use crate::flags::Words;

/// Longest name that comes with a terminal (PATH_MAX).
const NAME_BYTES_MAX: usize = 4096;

/// What a caller wants with a process's descriptors.
#[derive(Debug)]
pub(crate) struct Wishes {
    pub(crate) console: Option<PathBuf>,
    pidfd: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    pub(crate) preserve: u32,
    /// How many of the preserved ones are sockets that a service manager listens on (sd_listen_fds(3)).
    pub(crate) listen: u32,
}

impl Wishes {
    /// From the command line; `listens` where sockets are passed on.
    ///
    /// To be called while nothing else is open: a number that was not handed in must not be found taken.
    pub(crate) fn read(words: &Words, listens: bool) -> Result<Self, Failure> {
        let absolute = |name| -> Result<Option<PathBuf>, Failure> {
            let path = words.text(name).map(std::path::absolute).transpose();
            path.map_err(Failure::system("getwd"))
        };
        let preserve = words.number("preserve-fds").unwrap_or(0);
        let preserve = u32::try_from(preserve)
            .map_err(|_| Failure::Refused(format!("{preserve} descriptors cannot be preserved")))?;
        let listen = if listens { listen_fds() } else { 0 };
        for index in 0..preserve {
            let number = u64::from(listen) + u64::from(index) + 3;
            let path = PathBuf::from(format!("/proc/self/fd/{number}"));
            if let Err(source) = std::fs::symlink_metadata(&path) {
                return Err(Failure::Refused(format!(
                    "unable to stat preserved-fd {index} (of {preserve}): stat {}: {}",
                    path.display(),
                    crate::error::reason(&source)
                )));
            }
        }
        Ok(Self {
            console: words.text("console-socket").map(PathBuf::from),
            pidfd: words.text("pidfd-socket").map(PathBuf::from),
            pid_file: absolute("pid-file")?,
            preserve: preserve.saturating_add(listen),
            listen,
        })
    }

    /// Refuses what does not fit together.
    pub(crate) fn check_terminal(&self, detach: bool, terminal: bool) -> Result<(), Failure> {
        let refuse = |text: &str| Err(Failure::Refused(text.to_owned()));
        match (detach, terminal, &self.console) {
            (true, true, None) => {
                refuse("cannot allocate tty if runc will detach without setting console socket")
            }
            (true, true, Some(_)) | (_, _, None) => Ok(()),
            (_, _, Some(_)) => refuse("cannot use console socket if runc will not detach or allocate tty"),
        }
    }

    /// Tells the caller of the process.
    pub(crate) fn tell(&self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), Failure> {
        if let Some(path) = &self.pidfd {
            let socket = connect(path)?;
            descriptors::send_all(socket, b"pidfd", pidfd).map_err(Failure::system("sendmsg"))?;
        }
        if let Some(path) = &self.pid_file {
            crate::store::replace(path, pid.to_string().as_bytes())?;
        }
        Ok(())
    }
}

/// How many sockets a service manager passed to this process.
fn listen_fds() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") == Some(std::process::id()) { number("LISTEN_FDS").unwrap_or(0) } else { 0 }
}

/// A connection to a caller's socket. A relative path starts from the bundle, as in runc.
pub(crate) fn connect(path: &Path) -> Result<OwnedFd, Failure> {
    descriptors::connect(path).map_err(Failure::path("dial unix", path))
}

/// This process's own standard descriptors.
pub(crate) fn own_stdio() -> Result<Stdio, Failure> {
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(Failure::system("dup"));
    Ok(Stdio {
        stdin: copy(rustix::stdio::stdin())?,
        stdout: copy(rustix::stdio::stdout())?,
        stderr: copy(rustix::stdio::stderr())?,
    })
}

/// A descriptor that the library sent.
pub(crate) fn receive(socket: impl AsFd) -> Result<OwnedFd, Failure> {
    let mut name = [0; NAME_BYTES_MAX];
    let received = descriptors::receive(socket, &mut name, RecvFlags::empty());
    let received = received.map_err(Failure::system("recvmsg"))?;
    received.fd.ok_or_else(|| Failure::Refused("the terminal was not received".to_owned()))
}
