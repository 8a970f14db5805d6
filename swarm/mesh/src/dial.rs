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
//! Connected through a relay is not the end: direct addresses are tried ever more rarely, and a direct connection takes
//! over. Relays are dialled when direct addresses have not answered for [`DIRECT_ONLY`], or did not the last time.
//!
//! While dialling, a new attempt starts at every step of the backoff: a lost first packet is repeated by QUIC ever more
//! slowly, a new attempt is not. One attempt per address goes on for long, so that a slow path has time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quinn::{Connection, ConnectionError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::accept::identify;
use crate::backoff::{Backoff, Pace};
use crate::class::Class;
use crate::identity::PeerIdentity;
use crate::inner::Inner;
use crate::link::{CloseCode, Link};
use crate::peer::Peer;
use crate::relay::is_made_up;
use crate::serve;
use crate::wire::{Hello, StreamType, opening};

/// How long one attempt per address may take; several round trips of a very slow path.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long the others may take; a round trip of a slow path. Not longer, so that there is always room for a new one.
const SHORT_ATTEMPT: Duration = Duration::from_millis(1200);
/// Attempts in flight to one peer, over all its addresses. One address has about six.
const MAX_ATTEMPTS: usize = 32;
/// A peer that was heard within this time is expected back.
const EXPECTED: Duration = Duration::from_secs(600);
/// A connection that nothing has asked for since is not dialled again.
const LINGER: Duration = Duration::from_secs(60);
/// How long direct addresses alone are dialled: a handshake takes two round trips, and most paths are shorter than this.
const DIRECT_ONLY: Duration = Duration::from_millis(500);
/// First and longest pause before a relayed connection's peer is dialled directly again.
const DIRECT_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
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
        if slot.current().is_some_and(|link| link.via.is_some()) {
            find_direct(&inner, &peer, class).await;
            continue;
        }
        if slot.current().is_some() {
            let since = Instant::now();
            // Fails only when the sender is gone, which this task keeps.
            let _ = current.wait_for(|link| link.as_ref().is_none_or(|link| link.via.is_some())).await;
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

/// While the peer is connected through a relay: until a direct connection is up, or none is.
async fn find_direct(inner: &Arc<Inner>, peer: &Arc<Peer>, class: Class) {
    let mut current = peer.slot(class).current.subscribe();
    let (mut pause, longest) = DIRECT_PAUSE;
    loop {
        let relayed = |link: &Option<Arc<Link>>| link.as_ref().is_some_and(|link| link.via.is_some());
        let mut attempts = JoinSet::new();
        for address in peer.addresses() {
            attempts.spawn(attempt(inner.clone(), peer.clone(), class, address, SHORT_ATTEMPT));
        }
        let tried = async {
            while attempts.join_next().await.is_some() {}
            tokio::time::sleep(pause).await;
        };
        tokio::select! {
            _ = current.wait_for(|link| !relayed(link)) => return,
            () = tried => pause = (pause * 2).min(longest),
            () = peer.readdressed.notified() => pause = DIRECT_PAUSE.0,
        }
    }
}

/// Dials once more although a connection is up, as when both sides dial at once. Whether it came up.
#[cfg(test)]
pub(crate) async fn again(inner: &Arc<Inner>, peer: &Arc<Peer>, class: Class) -> bool {
    for address in peer.addresses() {
        if at(inner, peer, class, address).await {
            return true;
        }
    }
    false
}

/// Dials one address. Whether a connection came up.
#[cfg(test)]
pub(crate) async fn at(inner: &Arc<Inner>, peer: &Arc<Peer>, class: Class, address: SocketAddr) -> bool {
    if let Ok((connection, identity)) = shake_hands(inner, &peer.node_id, class, address).await
        && let Ok((link, _)) = greet(inner, connection, identity, class).await
    {
        return serve::start(inner, peer, link).is_ok();
    }
    false
}

/// Dials until a connection is up, whoever dialled it, or nothing wants one any more.
async fn dial(inner: &Arc<Inner>, peer: &Arc<Peer>, class: Class, backoff: &mut Backoff) {
    let slot = peer.slot(class);
    let mut current = slot.current.subscribe();
    let mut attempts: JoinSet<Result<(), DialError>> = JoinSet::new();
    let mut long: HashMap<SocketAddr, Instant> = HashMap::new();
    let mut pace = Pace::Soon;
    let started = Instant::now();
    for round in 0usize.. {
        let mut addresses = peer.addresses();
        if class != Class::Relay && (peer.needs_relay() || started.elapsed() >= DIRECT_ONLY) {
            addresses.extend(inner.relayed_addresses(peer, class, round));
        }
        long.retain(|address, _| addresses.contains(address));
        // When there is no room for all, each round begins with another one.
        if !addresses.is_empty() {
            let first = round % addresses.len();
            addresses.rotate_left(first);
        }
        addresses.truncate(MAX_ATTEMPTS.saturating_sub(attempts.len()));
        let now = Instant::now();
        for address in addresses {
            let first = long.get(&address).is_none_or(|begun| now.duration_since(*begun) >= ATTEMPT);
            if first {
                long.insert(address, now);
            }
            let patience = if first { ATTEMPT } else { SHORT_ATTEMPT };
            attempts.spawn(attempt(inner.clone(), peer.clone(), class, address, patience));
        }
        let expected = peer.last_heard().is_some_and(|heard| now.saturating_duration_since(heard) < EXPECTED);
        let pause = backoff.step(pace.max(if expected { Pace::Soon } else { Pace::Steady }), rand::random());
        pace = Pace::Soon;
        let pause = tokio::time::sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                // Handshakes that are dropped here are broken off; those that have said hello go on by themselves.
                _ = current.wait_for(Option::is_some) => return,
                Some(ended) = attempts.join_next() => match ended {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => {
                        tracing::debug!(node_id = peer.node_id, ?class, %error, "dial");
                        if error.pace == Pace::Duplicate && pace != Pace::Duplicate {
                            let longer = backoff.step(Pace::Duplicate, rand::random());
                            pause.as_mut().reset(tokio::time::Instant::now() + longer);
                        }
                        pace = pace.max(error.pace);
                        peer.set_error(Some(error.text));
                    }
                    Err(error) => tracing::error!(%error, "a dialling task died"),
                },
                () = &mut pause => break,
            }
        }
        // The pause was the long one already.
        pace = pace.min(Pace::Steady);
        let kept = class == Class::Control && peer.keep();
        let wanted = kept || slot.wanted_within(inner.epoch, Instant::now(), LINGER);
        if peer.is_removed() || !wanted {
            return;
        }
    }
}

/// Why an attempt failed, and what that says about the next one.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct DialError {
    text: String,
    pace: Pace,
}

impl DialError {
    fn new(text: impl ToString) -> Self {
        Self { text: text.to_string(), pace: Pace::Soon }
    }

    fn steady(text: impl ToString) -> Self {
        Self { text: text.to_string(), pace: Pace::Steady }
    }

    fn broken(error: &ConnectionError) -> Self {
        let pace = match error {
            _ if CloseCode::Duplicate.was(error) => Pace::Duplicate,
            // Nobody is there yet, or somebody is about to be.
            ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::LocallyClosed => Pace::Soon,
            _ if CloseCode::Shutdown.was(error) || CloseCode::Superseded.was(error) => Pace::Soon,
            // An answer that says no.
            _ => Pace::Steady,
        };
        Self { text: error.to_string(), pace }
    }

    fn at(self, address: SocketAddr) -> Self {
        Self { text: format!("{address}: {}", self.text), ..self }
    }
}

async fn attempt(
    inner: Arc<Inner>,
    peer: Arc<Peer>,
    class: Class,
    address: SocketAddr,
    patience: Duration,
) -> Result<(), DialError> {
    let connected = tokio::time::timeout(patience, shake_hands(&inner, &peer.node_id, class, address)).await;
    let (connection, identity) = match connected {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err(error.at(address)),
        Err(_) => return Err(DialError::new("no answer").at(address)),
    };
    // Another connection has come up meanwhile; the peer knows nothing of this one yet.
    let better = |link: Arc<Link>| !link.is_closed() && (link.via.is_none() || is_made_up(address));
    if peer.slot(class).current().is_some_and(better) {
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
            Ok(Ok((link, epoch))) => match serve::start(&task_inner, &peer, link.clone()) {
                Ok(()) => {
                    // Another epoch may have begun since the hello.
                    if task_inner.epoch_number() != epoch {
                        link.close(CloseCode::OtherEpoch);
                    }
                    peer.set_error(None);
                    Ok(())
                }
                Err(CloseCode::Duplicate) => {
                    let text = CloseCode::Duplicate.reason().to_owned();
                    Err(DialError { text, pace: Pace::Duplicate }.at(address))
                }
                Err(why) => Err(DialError::steady(why.reason()).at(address)),
            },
            Ok(Err(error)) => Err(error.at(address)),
            Err(_) => Err(DialError::new("no answer to the hello").at(address)),
        };
        // Nobody waits any more if another connection was quicker.
        let _ = done.send(outcome);
    });
    outcome.await.unwrap_or_else(|_| Err(DialError::new("the mesh closes")))
}

async fn shake_hands(
    inner: &Arc<Inner>,
    node_id: &str,
    class: Class,
    address: SocketAddr,
) -> Result<(Connection, PeerIdentity), DialError> {
    let config = inner.credentials().client(class);
    let connecting = inner.endpoint.connect_with(config, address, node_id).map_err(DialError::steady)?;
    let connection = connecting.await.map_err(|error| DialError::broken(&error))?;
    let peer = identify(&connection).map_err(|error| {
        CloseCode::Protocol.close(&connection);
        DialError::steady(error)
    })?;
    if peer.node_id != node_id || !inner.admits(&peer) {
        CloseCode::Refused.close(&connection);
        return Err(DialError::steady(CloseCode::Refused.reason()));
    }
    Ok((connection, peer))
}

async fn greet(
    inner: &Arc<Inner>,
    connection: Connection,
    peer: PeerIdentity,
    class: Class,
) -> Result<(Arc<Link>, u64), DialError> {
    let sequence = inner.next_sequence();
    let answered = say_hello(inner, &connection, class, sequence).await.map_err(|text| {
        // The server's refusal of our certificate arrives here: in TLS 1.3 the client is done first.
        connection.close_reason().map_or_else(|| DialError::steady(text), |reason| DialError::broken(&reason))
    });
    if answered.as_ref().is_err_and(|error| error.pace == Pace::Duplicate) {
        inner.warn_of_own_duplicate(&peer.node_id);
    }
    let hello = answered?;
    if hello.class != class {
        CloseCode::Protocol.close(&connection);
        return Err(DialError::steady(CloseCode::Protocol.reason()));
    }
    let (theirs, ours) = (hello.epoch_number(), inner.epoch_number());
    if theirs != ours {
        let adopted = theirs > ours && hello.epoch.as_ref().is_some_and(|proof| inner.adopt(proof));
        let why = if adopted || theirs < ours { CloseCode::OtherEpoch } else { CloseCode::Protocol };
        why.close(&connection);
        // With the proof that it has now the next attempt is welcome.
        let error = if adopted { DialError::new(why.reason()) } else { DialError::steady(why.reason()) };
        return Err(error);
    }
    let via = inner.relayed_route(&connection).map(|route| route.via);
    let link = Link::new(connection, Arc::new(peer), &hello, true, via, sequence, Instant::now());
    Ok((link, ours))
}

async fn say_hello(
    inner: &Arc<Inner>,
    connection: &Connection,
    class: Class,
    sequence: u64,
) -> Result<Hello, String> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
    let hello = inner.hello(class, sequence);
    let mut parts = opening(StreamType::Hello, 0, hello.encode());
    send.write_all_chunks(&mut parts).await.map_err(|error| error.to_string())?;
    send.finish().map_err(|error| error.to_string())?;
    Hello::read(&mut recv).await.map_err(|error| error.to_string())
}
