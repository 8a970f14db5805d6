//! Opening streams: find or await the current connection, open, write the opening.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::class::Class;
use crate::dial;
use crate::error::RequestError;
use crate::inner::Inner;
use crate::link::{Link, Use};
use crate::peer::Peer;
use crate::wire::{self, MAX_BODY, StreamType};

/// A body that has begun to flow gets this long at least.
const WRITE_WAIT: Duration = Duration::from_secs(1);

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

    /// Opens a stream and writes its opening. Before the opening is written, a connection that breaks is replaced.
    pub(crate) async fn open(
        self: &Arc<Self>,
        node_id: &str,
        class: Class,
        stream_type: StreamType,
        kind: u16,
        body: Bytes,
        wait: Duration,
    ) -> Result<(quinn::SendStream, quinn::RecvStream, Use), RequestError> {
        if self.is_closed() {
            return Err(RequestError::Closed);
        }
        if body.len() > MAX_BODY {
            return Err(RequestError::TooLarge { kind, len: body.len(), max: MAX_BODY });
        }
        let peer = self.peer(node_id).ok_or_else(|| RequestError::UnknownPeer(node_id.to_owned()))?;
        let started = Instant::now();
        loop {
            let left = wait.saturating_sub(started.elapsed());
            let link = self.connected(&peer, class, left).await.map_err(|error| match error {
                // The wait that the caller asked for, not what was left of it.
                RequestError::NotConnected { node_id, last_error, .. } => {
                    RequestError::NotConnected { node_id, waited: wait, last_error }
                }
                error => error,
            })?;
            let Some(held) = link.begin() else {
                tokio::task::yield_now().await;
                continue;
            };
            let opened =
                tokio::time::timeout(left.max(Duration::from_millis(1)), link.connection.open_bi()).await;
            let (mut send, recv) = match opened {
                Ok(Ok(streams)) => streams,
                // Nothing was sent on it: wait for its successor.
                Ok(Err(_)) => {
                    peer.uninstall(&link, Instant::now());
                    continue;
                }
                Err(_) => {
                    let last_error = Some("as many streams as it allows are open".to_owned());
                    return Err(RequestError::NotConnected {
                        node_id: node_id.to_owned(),
                        waited: wait,
                        last_error,
                    });
                }
            };
            let mut parts = wire::opening(stream_type, kind, body);
            let written = send.write_all_chunks(&mut parts);
            return match tokio::time::timeout(left.max(WRITE_WAIT), written).await {
                Ok(Ok(())) => Ok((send, recv, held)),
                // A handler that refuses a body stops the stream and answers all the same.
                Ok(Err(quinn::WriteError::Stopped(_))) => Ok((send, recv, held)),
                Ok(Err(error)) => {
                    let reason = error.to_string();
                    Err(RequestError::ConnectionLost { node_id: node_id.to_owned(), kind, reason })
                }
                Err(_) => Err(RequestError::Timeout {
                    node_id: node_id.to_owned(),
                    kind,
                    timeout: left.max(WRITE_WAIT),
                }),
            };
        }
    }
}
