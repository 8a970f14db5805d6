//! Dialling: one task per peer and class that needs connections.
//!
//! ```text
//!           wanted, no connection             an attempt succeeds, or the peer called
//! resting -----------------------> dialling ------------------------------------------> connected
//!    ^                               |  ^                                                   |
//!    |      no longer wanted         |  +------------- lost, still wanted -----------------+
//!    +-------------------------------+--------------------- lost, not wanted ---------------+
//! removed or mesh closed: the task ends, from every state.
//! ```
//! While dialling, a new attempt starts at every step of the backoff and earlier ones go on, so that a slow path has
//! time and a node that has just come back is found at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quinn::Connection;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::accept::identify;
use crate::backoff::Backoff;
use crate::class::Class;
use crate::identity::PeerIdentity;
use crate::inner::Inner;
use crate::link::{CloseCode, Link};
use crate::peer::Peer;
use crate::serve;
use crate::wire::{Hello, StreamType, opening};

/// How long one attempt may take; several round trips of a very slow path.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Attempts in flight to one peer, over all its addresses.
const MAX_ATTEMPTS: usize = 8;
/// A connection that nothing has asked for since is not dialled again.
const LINGER: Duration = Duration::from_secs(60);
/// A connection that lasted this long was a success: the backoff starts over.
const SUCCESS: Duration = Duration::from_secs(1);

/// Makes sure that a dialler runs.
pub(crate) fn ensure(inner: &Arc<Inner>, peer: &Arc<Peer>, class: Class) {
    if !peer.slot(class).dialler_runs.swap(true, Ordering::AcqRel) {
        inner.spawn(run(inner.clone(), peer.clone(), class));
    }
}

async fn run(inner: Arc<Inner>, peer: Arc<Peer>, class: Class) {
    let slot = peer.slot(class);
    let mut current = slot.current.subscribe();
    let mut backoff = Backoff::new();
    while !peer.is_removed() {
        if slot.current().is_some() {
            let since = Instant::now();
            // Fails only when the sender is gone, which this task keeps.
            let _ = current.wait_for(Option::is_none).await;
            if since.elapsed() >= SUCCESS {
                backoff.reset();
            }
            continue;
        }
        let kept = class == Class::Control && peer.keep();
        if !kept && !slot.wanted_within(inner.epoch, Instant::now(), LINGER) {
            backoff.reset();
            tokio::select! {
                () = slot.demand.notified() => {}
                _ = current.wait_for(Option::is_some) => {}
            }
            continue;
        }
        dial(&inner, &peer, class, &mut backoff).await;
    }
}

/// Dials until a connection is up, whoever dialled it, or nothing wants one any more.
async fn dial(inner: &Arc<Inner>, peer: &Arc<Peer>, class: Class, backoff: &mut Backoff) {
    let slot = peer.slot(class);
    let mut current = slot.current.subscribe();
    let mut attempts: JoinSet<Result<(), String>> = JoinSet::new();
    loop {
        for address in peer.addresses() {
            if attempts.len() < MAX_ATTEMPTS {
                attempts.spawn(attempt(inner.clone(), peer.clone(), class, address));
            }
        }
        let pause = tokio::time::sleep(backoff.step(rand::random()));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                // Handshakes that are dropped here are broken off; those that have said hello go on by themselves.
                _ = current.wait_for(Option::is_some) => return,
                Some(ended) = attempts.join_next() => match ended {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => {
                        tracing::debug!(node_id = peer.node_id, ?class, error, "dial");
                        peer.set_error(Some(error));
                    }
                    Err(error) => tracing::error!(%error, "a dialling task died"),
                },
                () = &mut pause => break,
            }
        }
        let kept = class == Class::Control && peer.keep();
        let wanted = kept || slot.wanted_within(inner.epoch, Instant::now(), LINGER);
        if peer.is_removed() || !wanted {
            return;
        }
    }
}

async fn attempt(
    inner: Arc<Inner>,
    peer: Arc<Peer>,
    class: Class,
    address: SocketAddr,
) -> Result<(), String> {
    let connected = tokio::time::timeout(ATTEMPT, shake_hands(&inner, &peer.node_id, class, address)).await;
    let (connection, identity) = match connected {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err(format!("{address}: {error}")),
        Err(_) => return Err(format!("{address}: no answer")),
    };
    // Another connection has come up meanwhile; the peer knows nothing of this one yet.
    if peer.slot(class).current().is_some() {
        CloseCode::Superseded.close(&connection);
        return Ok(());
    }
    // From the hello on the peer may use the connection, so nothing but its own end ends it: a task of its own, which
    // goes on when this one is dropped.
    let (done, outcome) = oneshot::channel();
    let task_inner = inner.clone();
    inner.spawn(async move {
        let greeted = tokio::time::timeout(ATTEMPT, greet(&task_inner, connection, identity, class)).await;
        let outcome = match greeted {
            Ok(Ok(link)) => {
                peer.set_error(None);
                serve::start(&task_inner, &peer, link);
                Ok(())
            }
            Ok(Err(error)) => Err(format!("{address}: {error}")),
            Err(_) => Err(format!("{address}: no answer to the hello")),
        };
        // Nobody waits any more if another connection was quicker.
        let _ = done.send(outcome);
    });
    outcome.await.unwrap_or_else(|_| Err("the mesh closes".to_owned()))
}

async fn shake_hands(
    inner: &Arc<Inner>,
    node_id: &str,
    class: Class,
    address: SocketAddr,
) -> Result<(Connection, PeerIdentity), String> {
    let config = inner.credentials().client(class);
    let connecting =
        inner.endpoint.connect_with(config, address, node_id).map_err(|error| error.to_string())?;
    let connection = connecting.await.map_err(|error| error.to_string())?;
    let peer = identify(&connection).map_err(|error| {
        CloseCode::Protocol.close(&connection);
        error.to_string()
    })?;
    if peer.node_id != node_id || !inner.admits(&peer) {
        CloseCode::Refused.close(&connection);
        return Err(CloseCode::Refused.reason().to_owned());
    }
    Ok((connection, peer))
}

async fn greet(
    inner: &Arc<Inner>,
    connection: Connection,
    peer: PeerIdentity,
    class: Class,
) -> Result<Arc<Link>, String> {
    // The server's refusal of our certificate arrives here: in TLS 1.3 the client is done first.
    let explain = |error: String| connection.close_reason().map_or(error, |reason| reason.to_string());
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| explain(error.to_string()))?;
    let hello = Hello { incarnation: inner.incarnation, class };
    let mut parts = opening(StreamType::Hello, 0, hello.encode());
    send.write_all_chunks(&mut parts).await.map_err(|error| explain(error.to_string()))?;
    send.finish().map_err(|error| explain(error.to_string()))?;
    let hello = Hello::read(&mut recv).await.map_err(|error| explain(error.to_string()))?;
    if hello.class != class {
        CloseCode::Protocol.close(&connection);
        return Err(CloseCode::Protocol.reason().to_owned());
    }
    let sequence = inner.next_sequence();
    Ok(Link::new(connection, Arc::new(peer), class, true, hello.incarnation, sequence, Instant::now()))
}
