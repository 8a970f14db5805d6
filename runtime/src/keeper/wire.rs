//! One JSON value per seqpacket message, with a descriptor beside it: only the network namespace travels.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::MAX_MESSAGE;
use crate::descriptors;

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
    let flags = if wait { SendFlags::empty() } else { SendFlags::DONTWAIT };
    match descriptors::send(socket, &bytes, fd, flags) {
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
    let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let received = match descriptors::receive(socket, buffer, flags) {
        Ok(received) => received,
        Err(rustix::io::Errno::CONNRESET) => return Err(WireError::Closed),
        Err(errno) => return Err(WireError::Socket(errno.into())),
    };
    if received.length == 0 {
        return Err(WireError::Closed);
    }
    if received.cut_off || received.length > MAX_MESSAGE {
        return Err(WireError::CutOff);
    }
    let value = serde_json::from_slice(&buffer[..received.length]).map_err(WireError::Syntax)?;
    Ok((value, received.fd))
}
