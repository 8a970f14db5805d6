//! Sending many datagrams to one peer.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quinn::SendDatagramError;

use crate::class::Class;
use crate::dial;
use crate::error::DatagramError;
use crate::inner::Inner;
use crate::link::Link;
use crate::peer::Peer;

/// A handle that remembers the way to one peer. Cheap to clone; give each sending task its own.
#[derive(Clone)]
pub struct DataPath {
    inner: Arc<Inner>,
    peer: Arc<Peer>,
    link: Option<Arc<Link>>,
}

impl DataPath {
    pub(crate) fn new(inner: Arc<Inner>, peer: Arc<Peer>) -> Self {
        Self { inner, peer, link: None }
    }

    /// Whose way it is.
    pub fn node_id(&self) -> &str {
        &self.peer.node_id
    }

    /// Sends one datagram, never waiting. When the socket cannot keep up, the oldest ones waiting are dropped.
    ///
    /// `ConnectionLost` once after a connection broke; the next call looks for another. `UnknownPeer` after the peer
    /// was removed: this handle is of no more use.
    pub fn send(&mut self, datagram: Bytes) -> Result<(), DatagramError> {
        if let Some(link) = &self.link {
            // A better connection makes this one drain; noticed at the next loss or here, whichever is first.
            return match link.connection.send_datagram(datagram) {
                Ok(()) => Ok(()),
                Err(error) => {
                    if !matches!(error, SendDatagramError::TooLarge) {
                        self.link = None;
                    }
                    Err(describe(&error))
                }
            };
        }
        self.send_uncached(datagram)
    }

    /// The largest datagram that `send` takes now; nothing while no connection is up.
    pub fn max_datagram(&mut self) -> Option<usize> {
        if self.link.as_ref().is_none_or(|link| link.is_closed()) {
            self.link = self.peer.slot(Class::Data).current();
        }
        self.link.as_ref()?.connection.max_datagram_size()
    }

    fn send_uncached(&mut self, datagram: Bytes) -> Result<(), DatagramError> {
        if self.inner.is_closed() {
            return Err(DatagramError::Closed);
        }
        if self.peer.is_removed() {
            return Err(DatagramError::UnknownPeer);
        }
        let slot = self.peer.slot(Class::Data);
        if let Some(link) = slot.current() {
            let sent = link.connection.send_datagram(datagram).map_err(|error| describe(&error));
            if sent.is_ok() {
                slot.note_demand(self.inner.epoch, Instant::now());
                self.link = Some(link);
            }
            return sent;
        }
        let taken = slot.queue(datagram);
        slot.note_demand(self.inner.epoch, Instant::now());
        dial::ensure(&self.inner, &self.peer, Class::Data);
        // It may have come up since we looked.
        slot.flush();
        if taken { Ok(()) } else { Err(DatagramError::QueueFull) }
    }
}

fn describe(error: &SendDatagramError) -> DatagramError {
    match error {
        SendDatagramError::TooLarge => DatagramError::TooLarge,
        // Data connections have datagrams on at both ends, or are none of ours.
        SendDatagramError::UnsupportedByPeer
        | SendDatagramError::Disabled
        | SendDatagramError::ConnectionLost(_) => DatagramError::ConnectionLost,
    }
}
