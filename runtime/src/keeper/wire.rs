//! One JSON value per seqpacket message, with descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::MAX_MESSAGE;

/// Descriptors in one message at most; only the network namespace travels.
const MAX_FDS: usize = 1;

/// Why a message did not cross.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the socket failed")]
    Socket(#[source] io::Error),
    #[error("the other side closed the connection")]
    Closed,
    #[error("a message of {bytes} bytes is too long: at most {MAX_MESSAGE}")]
    TooLong { bytes: usize },
    #[error("a message that was cut off arrived")]
    CutOff,
    #[error("not a message of this protocol")]
    Syntax(#[source] serde_json::Error),
}

/// Sends one value. Without `wait` a full socket is `WouldBlock` in [`WireError::Socket`].
pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    value: &T,
    fd: Option<BorrowedFd<'_>>,
    wait: bool,
) -> Result<(), WireError> {
    let bytes = serde_json::to_vec(value).map_err(WireError::Syntax)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(WireError::TooLong { bytes: bytes.len() });
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let mut flags = SendFlags::NOSIGNAL;
    flags.set(SendFlags::DONTWAIT, !wait);
    match rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket.as_fd(), &[IoSlice::new(&bytes)], &mut control, flags)
    }) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(WireError::Closed),
        Err(errno) => Err(WireError::Socket(errno.into())),
    }
}

/// Receives one value into `buffer` (at least [`MAX_MESSAGE`] + 1 bytes long, so that a longer message is noticed).
pub(crate) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    buffer: &mut [u8],
    wait: bool,
) -> Result<(T, Option<OwnedFd>), WireError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    flags.set(RecvFlags::DONTWAIT, !wait);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket.as_fd(), &mut [IoSliceMut::new(buffer)], &mut control, flags)
    });
    let received = match received {
        Ok(received) => received,
        Err(rustix::io::Errno::CONNRESET) => return Err(WireError::Closed),
        Err(errno) => return Err(WireError::Socket(errno.into())),
    };
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last().or(fd);
        }
    }
    if received.bytes == 0 {
        return Err(WireError::Closed);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || received.bytes > MAX_MESSAGE {
        return Err(WireError::CutOff);
    }
    let value = serde_json::from_slice(&buffer[..received.bytes]).map_err(WireError::Syntax)?;
    Ok((value, fd))
}
