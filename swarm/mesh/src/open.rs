//! Opening streams: find or await the current connection, open, write the opening.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::VarInt;

use crate::class::Class;
use crate::dial;
use crate::error::RequestError;
use crate::inner::Inner;
use crate::link::{Link, Use};
use crate::peer::Peer;
use crate::wire::{self, MAX_BODY, StreamType};

/// How long to wait, from now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a connection and room for a stream on it.
    pub(crate) connect: Duration,
    /// For all of it; not less.
    pub(crate) whole: Duration,
}

impl Inner {
    /// The current connection of a class, waiting for one (and asking for it to be dialled) if need be.
    pub(crate) async fn connected(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        class: Class,
        wait: Duration,
    ) -> Result<Arc<Link>, RequestError> {
        let slot = peer.slot(class);
        if let Some(link) = slot.current() {
            return Ok(link);
        }
        slot.note_demand(self.epoch, Instant::now());
        dial::ensure(self, peer, class);
        let mut current = slot.current.subscribe();
        let waited = tokio::select! {
            () = self.closing() => return Err(RequestError::Closed),
            waited = tokio::time::timeout(wait, current.wait_for(Option::is_some)) => waited,
        };
        let link = waited.ok().and_then(|found| found.ok().and_then(|link| link.clone()));
        link.ok_or_else(|| RequestError::NotConnected {
            node_id: peer.node_id.clone(),
            waited: wait,
            last_error: peer.last_error(),
        })
    }

    /// Opens a stream and writes its opening, body included. Before that is written, a connection that breaks is
    /// replaced.
    pub(crate) async fn open(
        self: &Arc<Self>,
        node_id: &str,
        class: Class,
        stream_type: StreamType,
        kind: u16,
        body: Bytes,
        patience: Patience,
    ) -> Result<(quinn::SendStream, quinn::RecvStream, Use), RequestError> {
        if self.is_closed() {
            return Err(RequestError::Closed);
        }
        if body.len() > MAX_BODY {
            return Err(RequestError::TooLarge { kind, len: body.len(), max: MAX_BODY });
        }
        let peer = self.peer(node_id).ok_or_else(|| RequestError::UnknownPeer(node_id.to_owned()))?;
        let started = Instant::now();
        let not_connected = |last_error| RequestError::NotConnected {
            node_id: node_id.to_owned(),
            // The wait that the caller asked for, not what was left of it.
            waited: patience.connect,
            last_error,
        };
        loop {
            let left = || patience.connect.saturating_sub(started.elapsed());
            let link = self.connected(&peer, class, left()).await.map_err(|error| match error {
                RequestError::NotConnected { last_error, .. } => not_connected(last_error),
                error => error,
            })?;
            let Some(held) = link.begin() else {
                tokio::task::yield_now().await;
                continue;
            };
            // A moment at least: a connection that came up at the last one is as good as any.
            let moment = left().max(Duration::from_millis(1));
            let (mut send, recv) = match tokio::time::timeout(moment, link.connection.open_bi()).await {
                Ok(Ok(streams)) => streams,
                // Nothing was sent on it: wait for its successor.
                Ok(Err(_)) => {
                    self.uninstall(&peer, &link);
                    continue;
                }
                Err(_) => {
                    return Err(not_connected(Some("as many streams as it allows are open".to_owned())));
                }
            };
            let mut parts = wire::opening(stream_type, kind, body);
            let left = patience.whole.saturating_sub(started.elapsed());
            let written = tokio::time::timeout(left, send.write_all_chunks(&mut parts)).await;
            return match written {
                Ok(Ok(())) => Ok((send, recv, held)),
                // A handler that refuses a body stops the stream and answers all the same.
                Ok(Err(quinn::WriteError::Stopped(_))) => Ok((send, recv, held)),
                Ok(Err(error)) => {
                    let reason = error.to_string();
                    Err(RequestError::ConnectionLost { node_id: node_id.to_owned(), kind, reason })
                }
                Err(_) => {
                    // Dropped it would count as finished. Fails only if it is closed already.
                    let _ = send.reset(VarInt::from_u32(0));
                    Err(RequestError::Timeout { node_id: node_id.to_owned(), kind, timeout: patience.whole })
                }
            };
        }
    }
}
