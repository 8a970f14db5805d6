//! Sending many datagrams to one peer.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quinn::SendDatagramError;
use tokio::sync::watch;

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
    /// Says, for the price of reading a counter, whether `link` is still the current connection.
    current: watch::Receiver<Option<Arc<Link>>>,
    link: Option<Arc<Link>>,
}

impl DataPath {
    pub(crate) fn new(inner: Arc<Inner>, peer: Arc<Peer>) -> Self {
        let mut current = peer.slot(Class::Data).current.subscribe();
        current.mark_changed();
        Self { inner, peer, current, link: None }
    }

    /// Whose way it is.
    pub fn node_id(&self) -> &str {
        &self.peer.node_id
    }

    /// Sends one datagram, never waiting. When the socket cannot keep up, the oldest ones waiting are dropped. While no
    /// connection is up, a bounded number is held.
    ///
    /// `UnknownPeer` after the peer was removed: this handle is of no more use.
    pub fn send(&mut self, datagram: Bytes) -> Result<(), DatagramError> {
        self.refresh();
        if let Some(link) = &self.link {
            match link.connection.send_datagram(datagram.clone()) {
                Ok(()) => return Ok(()),
                Err(SendDatagramError::TooLarge) => return Err(DatagramError::TooLarge),
                // It broke just now: as if there were none.
                Err(_) => self.link = None,
            }
        }
        self.send_uncached(datagram)
    }

    /// The largest datagram that `send` takes now; nothing while no connection is up.
    pub fn max_datagram(&mut self) -> Option<usize> {
        self.refresh();
        self.link.as_ref().filter(|link| !link.is_closed())?.connection.max_datagram_size()
    }

    /// A connection that another has replaced is used no more: it will be closed soon.
    fn refresh(&mut self) {
        // An error says that the peer is gone; `send_uncached` will find out.
        if self.current.has_changed().unwrap_or(true) {
            self.link = self.current.borrow_and_update().clone();
            if self.link.is_some() {
                self.peer.slot(Class::Data).note_demand(self.inner.epoch, Instant::now());
            }
        }
    }

    fn send_uncached(&mut self, datagram: Bytes) -> Result<(), DatagramError> {
        if self.inner.is_closed() {
            return Err(DatagramError::Closed);
        }
        if self.peer.is_removed() {
            return Err(DatagramError::UnknownPeer);
        }
        let slot = self.peer.slot(Class::Data);
        let taken = slot.queue(datagram);
        slot.note_demand(self.inner.epoch, Instant::now());
        dial::ensure(&self.inner, &self.peer, Class::Data);
        // It may have come up since we looked.
        slot.flush();
        if taken { Ok(()) } else { Err(DatagramError::QueueFull) }
    }
}
