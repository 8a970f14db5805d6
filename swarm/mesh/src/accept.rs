//! Taking calls: which protocol and class, then who it is, then in.
//!
//! ```text
//! packet --> class in its connection id --> handshake (certificate for mesh, none for join) --> hello --> installed
//!              | unknown: ignored             | no or foreign certificate: TLS alert   | wrong class, not admitted:
//!              |                              | 10 s: dropped                          |   closed
//! too many handshakes at once: first a proof of address (Retry), then refused
//! joins and re-enrolments: always a proof of address, places of their own and few of them per address (see `join_limit`)
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, Incoming};
use rustls::pki_types::CertificateDer;

use crate::class::{Class, Purpose};
use crate::identity::{IdentityError, PeerIdentity};
use crate::inner::Inner;
use crate::link::{CloseCode, Link};
use crate::relay::is_made_up;
use crate::wire::{Hello, StreamType, WireError, opening};
use crate::{join, renew, serve, socket};

/// Time for a handshake and a hello.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a peer of a former epoch may take to read that there is a later one.
const EPOCH_NEWS: Duration = Duration::from_secs(2);
/// With fewer free places for handshakes than this, callers must first prove their address.
const PROOF_BELOW: usize = 96;

/// Why a call was not taken.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error("handshake: {0}")]
    Handshake(#[from] quinn::ConnectionError),
    #[error("peer certificate: {0}")]
    Identity(#[from] IdentityError),
    #[error("node {0} is not admitted")]
    NotAdmitted(String),
    #[error("the relay named node {named}, the certificate names {is}")]
    Misnamed { named: String, is: String },
    #[error("node {0} wants to relay through a relay")]
    RelayInRelay(String),
    #[error("hello: {0}")]
    Hello(#[from] WireError),
    #[error("the first packet said {dialled:?}, the hello says {said:?}")]
    OtherClass { dialled: Class, said: Class },
    #[error("answer the hello: {0}")]
    Answer(#[from] quinn::WriteError),
    #[error("too many peers")]
    TooManyPeers,
    #[error("another running process has the identity of node {0}")]
    Duplicate(String),
    #[error("the proof of epoch {0} is not good")]
    Epoch(u64),
    #[error("the peer is in epoch {theirs}, this node in {ours}")]
    OtherEpoch { theirs: u64, ours: u64 },
    #[error("not taken: {}", .0.reason())]
    NotTaken(CloseCode),
}

pub(crate) async fn run(inner: Arc<Inner>) {
    while let Some(incoming) = inner.endpoint.accept().await {
        take(&inner, incoming);
    }
}

fn take(inner: &Arc<Inner>, incoming: Incoming) {
    let Some(purpose) = Purpose::from_cid(&incoming.orig_dst_cid()) else {
        incoming.ignore();
        return;
    };
    let remote = socket::canonical(incoming.remote_address());
    // Both kinds of visitors show no certificate in the handshake.
    let joins = matches!(purpose, Purpose::Join | Purpose::Renew);
    let places = if joins { &inner.joins } else { &inner.handshakes };
    if (joins || places.available_permits() < PROOF_BELOW) && !incoming.remote_address_validated() {
        // A caller that has proven its address already cannot be asked again; dropping refuses it.
        let _ = incoming.retry();
        return;
    }
    // Strangers are judged by where they call from, which a relay hides.
    if joins && is_made_up(remote) {
        incoming.ignore();
        return;
    }
    let Ok(permit) = places.clone().try_acquire_owned() else {
        incoming.refuse();
        return;
    };
    let place = if joins { join::Place::take(inner, remote.ip()) } else { None };
    if joins && place.is_none() {
        incoming.refuse();
        return;
    }
    let config = inner.credentials().server(purpose);
    let task_inner = inner.clone();
    inner.spawn(async move {
        let inner = task_inner;
        let connecting = match incoming.accept_with(config) {
            Ok(connecting) => connecting,
            Err(error) => {
                tracing::debug!(%remote, %error, "accept");
                return;
            }
        };
        match purpose {
            Purpose::Mesh(class) => {
                let welcomed = tokio::time::timeout(HANDSHAKE, async {
                    let connection = connecting.await?;
                    let link = welcome(&inner, &connection, class).await;
                    link.inspect_err(|error| reject(&connection, error))
                });
                match welcomed.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%remote, %error, "accept"),
                    Err(_) => tracing::debug!(%remote, "the handshake took too long"),
                }
            }
            Purpose::Join => join::serve(&inner, connecting, remote).await,
            Purpose::Renew => renew::serve(&inner, connecting, remote).await,
        }
        drop((permit, place));
    });
}

async fn welcome(inner: &Arc<Inner>, connection: &Connection, class: Class) -> Result<(), AcceptError> {
    let peer = identify(connection)?;
    let route = inner.relayed_route(connection);
    // Packets that are relayed twice could go in circles.
    if route.is_some() && class == Class::Relay {
        return Err(AcceptError::RelayInRelay(peer.node_id));
    }
    if let Some(route) = route.as_ref().filter(|route| route.peer != peer.node_id) {
        return Err(AcceptError::Misnamed { named: route.peer.clone(), is: peer.node_id });
    }
    if !inner.admits(&peer) {
        return Err(AcceptError::NotAdmitted(peer.node_id));
    }
    let (mut send, mut recv) = connection.accept_bi().await?;
    let hello = Hello::read(&mut recv).await?;
    if hello.class != class {
        return Err(AcceptError::OtherClass { dialled: class, said: hello.class });
    }
    if let Some(known) = inner.peer(&peer.node_id)
        && known.refuses(hello.incarnation)
    {
        known.warn_of_duplicate(socket::canonical(connection.remote_address()), hello.incarnation);
        return Err(AcceptError::Duplicate(peer.node_id));
    }
    let theirs = hello.epoch_number();
    if let Some(proof) = hello.epoch.as_ref().filter(|_| theirs > inner.epoch_number())
        && !inner.adopt(proof)
    {
        return Err(AcceptError::Epoch(theirs));
    }
    let ours = inner.hello(class, 0);
    let mut parts = opening(StreamType::Hello, 0, ours.encode());
    send.write_all_chunks(&mut parts).await?;
    // Fails only on a stream that is finished already.
    let _ = send.finish();
    let epoch = ours.epoch_number();
    if theirs != epoch {
        // It closes when it has read ours.
        let _ = tokio::time::timeout(EPOCH_NEWS, connection.closed()).await;
        return Err(AcceptError::OtherEpoch { theirs, ours: epoch });
    }
    let known = inner.peer_or_new(&peer.node_id).ok_or(AcceptError::TooManyPeers)?;
    if class == Class::Control && route.is_none() {
        known.learn(socket::canonical(connection.remote_address()));
    }
    let sequence = inner.next_sequence();
    let link = Link::new(
        connection.clone(),
        Arc::new(peer),
        &hello,
        false,
        route.map(|route| route.via),
        sequence,
        Instant::now(),
    );
    serve::start(inner, &known, link.clone()).map_err(AcceptError::NotTaken)?;
    // Whoever goes over to another epoch closes the connections that it finds: this one may not have been among them.
    if inner.epoch_number() != epoch {
        link.close(CloseCode::OtherEpoch);
    }
    Ok(())
}

fn reject(connection: &Connection, error: &AcceptError) {
    let code = match error {
        AcceptError::NotAdmitted(_) => CloseCode::Refused,
        AcceptError::TooManyPeers => CloseCode::TooMany,
        AcceptError::Duplicate(_) => CloseCode::Duplicate,
        AcceptError::OtherEpoch { .. } => CloseCode::OtherEpoch,
        AcceptError::NotTaken(why) => *why,
        _ => CloseCode::Protocol,
    };
    code.close(connection);
}

/// Who is at the other end, out of the certificate that TLS has verified.
pub(crate) fn identify(connection: &Connection) -> Result<PeerIdentity, IdentityError> {
    let chain =
        connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = chain.as_ref().and_then(|chain| chain.first());
    PeerIdentity::from_certificate(leaf.ok_or_else(|| IdentityError::Pem("no certificate was shown".into()))?)
}
