//! The keeper's events, for a caller with its own event loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::client::{ClientError, connect_socket};
use super::protocol::{Event, Frame, MAX_MESSAGE, Reply, Request};
use super::wire::{self, WireError};

/// A subscription. Its descriptor becomes readable when [`Self::next`] has something; the descriptor is non-blocking
/// for `next`, so an async runtime can wrap it (tokio's `AsyncFd`).
///
/// A keeper drops a subscriber that does not read; that shows as [`ClientError::Closed`]: connect anew, then list.
#[derive(Debug)]
pub struct KeeperEvents {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl KeeperEvents {
    /// Connects to the keeper of `run_dir` and subscribes. Everything that ends after this returned comes as an event;
    /// what ended before is found by [`KeeperClient::list`](super::KeeperClient::list).
    ///
    /// # Errors
    /// [`ClientError::Connect`] if there is no keeper.
    pub fn connect(run_dir: &Path) -> Result<Self, ClientError> {
        let socket = connect_socket(run_dir)?;
        let mut buffer = vec![0; MAX_MESSAGE + 1];
        wire::send(&socket, &Request::Subscribe, None, true)?;
        match wire::receive::<Frame>(&socket, &mut buffer, true)?.0 {
            Frame::Reply(Reply::Done) => Ok(Self { socket, buffer }),
            Frame::Reply(Reply::Refused(refusal)) => Err(refusal.into()),
            other => Err(ClientError::Unexpected(format!("{other:?}"))),
        }
    }

    /// The next event, or `None` if there is none yet. Never blocks.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when the keeper ended or dropped this subscriber.
    #[allow(clippy::should_implement_trait)] // an iterator would end at "none yet"
    pub fn next(&mut self) -> Result<Option<Event>, ClientError> {
        match wire::receive::<Frame>(&self.socket, &mut self.buffer, false) {
            Ok((Frame::Event(event), _)) => Ok(Some(event)),
            Ok((other, _)) => Err(ClientError::Unexpected(format!("{other:?}"))),
            Err(WireError::Socket(error)) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for KeeperEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
