//! Serving one connection: what the peer opens and sends on it.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::class::Class;
use crate::frame::read_bytes;
use crate::handler::RemoteError;
use crate::inner::Inner;
use crate::link::{CloseCode, Link, Use};
use crate::peer::Peer;
use crate::stream::{RecvStream, SendStream};
use crate::wire::{self, Heartbeat, StreamType, WireError};
use crate::{dial, relay};

/// Bytes of request bodies that one connection may have in the making; beyond it requests are refused as busy.
const MAX_BODIES: usize = 64 << 20;
/// Unit of the budget above: a semaphore counts no further than its permits.
const BUDGET_UNIT: usize = 1024;
/// Datagrams handed over at once.
const MAX_BATCH: usize = 128;
/// Time for a stream's opening and body to arrive.
const BODY_WAIT: Duration = Duration::from_secs(30);

/// Installs a connection and serves it until it breaks. One that may not be is closed.
pub(crate) fn start(inner: &Arc<Inner>, peer: &Arc<Peer>, link: Arc<Link>) -> Result<(), CloseCode> {
    inner.install(peer, &link, Instant::now())?;
    tracing::debug!(node_id = peer.node_id, class = ?link.class, dialled = link.dialled, "connected");
    inner.spawn(read_datagrams(inner.clone(), peer.clone(), link.clone()));
    if link.via.is_some() {
        // It goes on looking for a direct way, from this end too.
        dial::ensure(inner, peer, link.class);
    }
    inner.spawn(accept_streams(inner.clone(), peer.clone(), link));
    Ok(())
}

async fn accept_streams(inner: Arc<Inner>, peer: Arc<Peer>, link: Arc<Link>) {
    let budget = Arc::new(Semaphore::new(MAX_BODIES / BUDGET_UNIT));
    let error = loop {
        match link.connection.accept_bi().await {
            Ok((send, recv)) if link.class.has_streams() => {
                let Some(held) = link.begin() else { continue };
                let stream = serve_stream(inner.clone(), peer.clone(), held, budget.clone(), send, recv);
                let closing = inner.clone();
                // Not among the tasks that `close` waits for: a handler may take its time. But it must not hold the
                // connection, and with it the port, of a mesh that is closed.
                tokio::spawn(async move {
                    tokio::select! {
                        () = closing.closing() => {}
                        () = stream => {}
                    }
                });
            }
            Ok(_) => link.close(CloseCode::Protocol),
            Err(error) => break error,
        }
    };
    tracing::debug!(node_id = peer.node_id, class = ?link.class, %error, "disconnected");
    inner.uninstall(&peer, &link);
    inner.forget_if_unconfigured(&peer);
}

async fn serve_stream(
    inner: Arc<Inner>,
    peer: Arc<Peer>,
    held: Use,
    budget: Arc<Semaphore>,
    mut send: quinn::SendStream,
    mut recv: quinn::RecvStream,
) {
    let link = held.link().clone();
    let read = async {
        let opening = wire::read_opening(&mut recv).await?;
        let permits = u32::try_from(opening.len.div_ceil(BUDGET_UNIT)).unwrap_or(u32::MAX);
        let Ok(_permit) = budget.try_acquire_many(permits) else { return Ok((opening, None)) };
        let body = read_bytes(&mut recv, opening.len).await?;
        Ok::<_, WireError>((opening, Some(body)))
    };
    let (opening, body) = match tokio::time::timeout(BODY_WAIT, read).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => {
            tracing::debug!(node_id = peer.node_id, %error, "a stream that cannot be read");
            refuse(&mut send, RemoteError::new(RemoteError::MALFORMED, error.to_string())).await;
            return;
        }
        Err(_) => {
            refuse(
                &mut send,
                RemoteError::new(RemoteError::MALFORMED, "the request took too long to arrive"),
            )
            .await;
            return;
        }
    };
    let Some(body) = body else {
        refuse(&mut send, RemoteError::new(RemoteError::BUSY, "too many requests at once")).await;
        return;
    };
    peer.heard(Instant::now());
    match opening.stream_type {
        StreamType::Request => {
            let result = inner.handler.request(link.peer.clone(), opening.kind, body).await;
            let mut parts = wire::answer(result);
            // An asker that is gone needs no answer.
            if send.write_all_chunks(&mut parts).await.is_ok() {
                let _ = send.finish();
                // The stream counts as in progress until the peer has it all, so that draining waits for it.
                let _ = tokio::time::timeout(BODY_WAIT, send.stopped()).await;
            }
        }
        StreamType::Stream => {
            let (send, recv) = (SendStream::new(send, held.clone()), RecvStream::new(recv, held.clone()));
            inner.handler.stream(link.peer.clone(), link.class, opening.kind, body, send, recv).await;
        }
        StreamType::Hello | StreamType::Join | StreamType::Renew => {
            refuse(&mut send, RemoteError::new(RemoteError::MALFORMED, "out of place")).await;
        }
    }
}

async fn refuse(send: &mut quinn::SendStream, error: RemoteError) {
    let mut parts = wire::answer(Err(error));
    if send.write_all_chunks(&mut parts).await.is_ok() {
        let _ = send.finish();
    }
}

async fn read_datagrams(inner: Arc<Inner>, peer: Arc<Peer>, link: Arc<Link>) {
    let mut batch: Vec<Bytes> = Vec::with_capacity(MAX_BATCH);
    let mut relayed = relay::carry::Served::default();
    while let Ok(first) = link.connection.read_datagram().await {
        batch.push(first);
        // What else is there already: polling without a waker does not wait.
        let mut context = Context::from_waker(Waker::noop());
        while batch.len() < MAX_BATCH {
            match pin!(link.connection.read_datagram()).poll(&mut context) {
                Poll::Ready(Ok(datagram)) => batch.push(datagram),
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        match link.class {
            Class::Control | Class::Bulk => {
                peer.heard(Instant::now());
                if let Some(heartbeat) = batch.iter().rev().find_map(|datagram| Heartbeat::decode(datagram)) {
                    link.peer_said(heartbeat);
                }
            }
            Class::Data => inner.handler.datagrams(&link.peer, &mut batch),
            Class::Relay => batch.iter().for_each(|datagram| relayed.take(&inner, &link, datagram)),
        }
        batch.clear();
    }
}
