//! The caller's terminal while a container's stands in for it: raw, and as it was again on every way out.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{
    OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::error::Failure;
use crate::sockets;

/// Bytes read at once, and kept for a side that takes none. A terminal's own buffer is 4,096.
const CHUNK: usize = 4096;

/// The caller's terminal.
#[derive(Debug)]
struct Host {
    fd: OwnedFd,
    before: Option<Termios>,
}

impl Host {
    /// Any of the standard descriptors that is one, or the controlling terminal.
    fn find() -> Result<Self, Failure> {
        let standard = [rustix::stdio::stderr(), rustix::stdio::stdout(), rustix::stdio::stdin()];
        for fd in standard {
            if rustix::termios::isatty(fd) {
                let fd = fd.try_clone_to_owned().map_err(Failure::system("dup"))?;
                return Ok(Self { fd, before: None });
            }
        }
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/tty", flags, Mode::empty());
        let failed = |errno: Errno| Failure::path("open", "/dev/tty".as_ref())(errno.into());
        Ok(Self { fd: fd.map_err(failed)?, before: None })
    }

    fn raw(&mut self) -> Result<(), Errno> {
        let before = tcgetattr(&self.fd)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&self.fd, OptionalActions::Now, &raw)?;
        self.before = Some(before);
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(&self.fd, OptionalActions::Now, before);
        }
    }
}

/// Both terminals, and what is on its way between them.
#[derive(Debug)]
pub(crate) struct Relay {
    host: Host,
    master: OwnedFd,
    input: Direction,
    output: Direction,
}

/// Bytes on their way in one direction.
#[derive(Debug, Default)]
struct Direction {
    kept: VecDeque<u8>,
    /// The reading side has ended.
    ended: bool,
}

/// A terminal that a container is about to get.
#[derive(Debug)]
pub(crate) struct Offer {
    host: Host,
    ours: UnixStream,
}

impl Offer {
    /// The offer, and the socket for the library.
    pub(crate) fn new() -> Result<(Self, OwnedFd), Failure> {
        let host = Host::find()?;
        let (ours, theirs) = UnixStream::pair().map_err(Failure::system("socketpair"))?;
        Ok((Self { host, ours }, theirs.into()))
    }

    /// Takes the container's terminal, and makes the caller's raw.
    pub(crate) fn accept(mut self) -> Result<Relay, Failure> {
        let master = sockets::receive(&self.ours)?;
        let set = |host: &mut Host| -> Result<(), Errno> {
            // The caller's terminal makes no carriage returns once it is raw; the container's writes them itself, as
            // runc has it only if this is off.
            let mut inner = tcgetattr(&master)?;
            inner.output_modes.remove(OutputModes::ONLCR);
            tcsetattr(&master, OptionalActions::Now, &inner)?;
            rustix::io::ioctl_fionbio(&master, true)?;
            host.raw()
        };
        set(&mut self.host).map_err(Failure::system("failed to set the terminal"))?;
        let relay =
            Relay { host: self.host, master, input: Direction::default(), output: Direction::default() };
        relay.resize();
        Ok(relay)
    }
}

impl Relay {
    /// Gives the container's terminal the size of the caller's. A terminal that has gone has none.
    pub(crate) fn resize(&self) {
        if let Ok(size) = tcgetwinsize(&self.host.fd) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// What to wait for: standard input, the container's terminal, standard output.
    pub(crate) fn interests(&self) -> [(BorrowedFd<'_>, PollFlags); 3] {
        let reads = |direction: &Direction| !direction.ended && direction.kept.is_empty();
        let flag = |on: bool, flag: PollFlags| if on { flag } else { PollFlags::empty() };
        let master = flag(reads(&self.output), PollFlags::IN)
            | flag(!self.input.kept.is_empty() && !self.output.ended, PollFlags::OUT);
        [
            (rustix::stdio::stdin(), flag(reads(&self.input), PollFlags::IN)),
            (self.master.as_fd(), master),
            (rustix::stdio::stdout(), flag(!self.output.kept.is_empty(), PollFlags::OUT)),
        ]
    }

    /// Carries on with what became ready, in the order of [`Self::interests`].
    pub(crate) fn carry(&mut self, ready: [PollFlags; 3]) {
        let [stdin, master, stdout] = ready;
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        if stdin.intersects(readable) {
            self.input.read(rustix::stdio::stdin());
        }
        if master.intersects(PollFlags::OUT) {
            self.input.write(self.master.as_fd());
        }
        if master.intersects(readable) {
            self.output.read(self.master.as_fd());
        }
        if stdout.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP) {
            self.output.write(rustix::stdio::stdout());
        }
    }

    /// Passes on what the container still wrote before its end.
    pub(crate) fn finish(mut self) {
        loop {
            while !self.output.kept.is_empty() {
                self.output.write(rustix::stdio::stdout());
            }
            if self.output.ended || !self.output.read(self.master.as_fd()) {
                return;
            }
        }
    }
}

impl Direction {
    /// Whether something came. Only called with nothing kept, so that at most one chunk is.
    fn read(&mut self, from: BorrowedFd<'_>) -> bool {
        if self.ended || !self.kept.is_empty() {
            return false;
        }
        let mut bytes = [0; CHUNK];
        match rustix::io::read(from, &mut bytes) {
            // A terminal whose other side nobody has open any more says EIO.
            Ok(0) => self.ended = true,
            Ok(length) => self.kept.extend(&bytes[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.ended = true,
        }
        !self.kept.is_empty()
    }

    fn write(&mut self, to: BorrowedFd<'_>) {
        let (first, _) = self.kept.as_slices();
        match rustix::io::write(to, first) {
            Ok(length) => drop(self.kept.drain(..length)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Nobody reads it any more; the container is not to stand still for that.
            Err(_) => self.kept.clear(),
        }
    }
}
