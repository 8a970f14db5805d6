//! Descriptors and bytes over unix sockets (unix(7), `SCM_RIGHTS`), with an end to every wait for who does not answer.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Longest wait for one who neither accepts nor reads. Those who are connected to are programs of this host that do
/// little else.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// A connection to a socket that somebody listens at. Neither this nor sending over it takes longer than
/// [`ANSWER_WAIT_MAX`].
///
/// # Errors
/// The kernel's; `ETIMEDOUT` if nobody accepts.
pub fn connect(path: &Path) -> std::io::Result<OwnedFd> {
    Ok(connect_within(path, ANSWER_WAIT_MAX)?)
}

fn connect_within(path: &Path, wait_max: Duration) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Of connecting too, to a socket whose queue is full.
    set_socket_timeout(&socket, Timeout::Send, Some(wait_max))?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address)).map_err(timed_out)?;
    Ok(socket)
}

/// Sends bytes with a descriptor beside the first of them; how many went. May be called between clone and exec.
///
/// # Errors
/// The kernel's; `EAGAIN` if it would block, or the socket's time was up.
pub fn send(
    socket: impl AsFd,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::NOBUFS);
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, flags)
    })
}

/// [`send`] over a stream, however often it takes.
///
/// # Errors
/// The kernel's; `ETIMEDOUT` if nobody reads.
pub fn send_all(socket: impl AsFd, bytes: &[u8], fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut sent = send(&socket, bytes, Some(fd), SendFlags::empty()).map_err(timed_out)?;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        sent += send(&socket, rest, None, SendFlags::empty()).map_err(timed_out)?;
    }
    Ok(())
}

/// What came over a socket.
#[derive(Debug)]
pub struct Received {
    /// How many bytes.
    pub length: usize,
    /// There was no room for all of it.
    pub cut_off: bool,
    /// The descriptor that came with it.
    pub fd: Option<OwnedFd>,
}

/// Receives bytes, and a descriptor if there is one.
///
/// # Errors
/// The kernel's; `EAGAIN` if it would block.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket.as_fd(), &mut [IoSliceMut::new(buffer)], &mut control, flags)
    })?;
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last().or(fd);
        }
    }
    let cut_off = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received { length: received.bytes, cut_off, fd })
}

/// With a time limit the kernel says "try again" for "too late".
fn timed_out(errno: Errno) -> Errno {
    if errno == Errno::AGAIN { Errno::TIMEDOUT } else { errno }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn who_does_not_accept_or_read_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let wait_max = Duration::from_millis(50);
        let first = connect_within(&path, wait_max).unwrap();
        let late = std::iter::repeat_with(|| connect_within(&path, wait_max)).take(4).find_map(Result::err);
        assert_eq!(late, Some(Errno::TIMEDOUT));
        // More than a socket's buffer holds.
        let error = send_all(&first, &vec![0; 16 * 1024 * 1024], first.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    }

    #[test]
    fn a_descriptor_crosses_with_the_bytes() {
        let (one, two) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send_all(&one, b"name", file.as_fd()).unwrap();
        let mut buffer = [0; 2];
        let received = receive(&two, &mut buffer, RecvFlags::empty()).unwrap();
        let of = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).unwrap();
        assert_eq!(of(received.fd.unwrap().as_fd()), of(file.as_fd()));
        assert_eq!((received.length, &buffer), (2, b"na"));
        let rest = receive(&two, &mut buffer, RecvFlags::empty()).unwrap();
        assert!(rest.fd.is_none() && !rest.cut_off);
    }
}
