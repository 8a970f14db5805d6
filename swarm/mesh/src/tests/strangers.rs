//! Who must not get in.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Endpoint, EndpointConfig, TokioRuntime};

use super::support::{ECHO, PATIENCE, Swarm, until};
use crate::class::{Class, Purpose};
use crate::clock::SwarmClock;
use crate::error::RequestError;
use crate::identity::Role;
use crate::mesh::PeerConfig;
use crate::tls::{self, TlsConfigs};
use crate::token::CaDigest;
use crate::transport::{self, Transports};
use crate::wire::{Hello, StreamType, opening, read_answer};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_swarm_is_refused_by_both() {
    let (ours, theirs) = (Swarm::new(), Swarm::new());
    let (a, b) = (ours.node("node-a").await, theirs.node("node-b").await);
    a.knows(&b);
    b.knows(&a);
    until("both fail", || {
        [&a, &b].iter().all(|node| node.mesh.peers().first().is_some_and(|peer| peer.last_error.is_some()))
    })
    .await;
    let short = Duration::from_millis(300);
    let refused = a.mesh.request("node-b", ECHO, Bytes::new(), short).await;
    assert!(matches!(refused, Err(RequestError::NotConnected { .. })), "{refused:?}");
    assert!(!a.mesh.is_connected("node-b") && !b.mesh.is_connected("node-a"));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_at_the_address_is_refused() {
    let swarm = Swarm::new();
    let (a, b) = (swarm.node("node-a").await, swarm.node("node-b").await);
    // node-c should be at this address, but node-b is.
    a.mesh.set_peer("node-c", PeerConfig { addresses: vec![b.addr], keep: true });
    until("the dial fails", || a.mesh.peers()[0].last_error.is_some()).await;
    assert!(!a.mesh.is_connected("node-c"));
    a.stop().await;
    b.stop().await;
}

/// Dials with the join client's TLS, which shows no certificate, but asks for the mesh.
#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_no_mesh() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let endpoint = bare_endpoint();
    for class in Class::ALL {
        let (crypto, _) = tls::join_client(a.mesh.identity().ca_digest()).unwrap();
        let mut config = transport::join_client(crypto);
        config.initial_dst_cid_provider(Arc::new(move || Purpose::Mesh(class).new_cid()));
        let connecting = endpoint.connect_with(config, a.addr, tls::join_server_name()).unwrap();
        assert!(connecting.await.is_err(), "{class:?}");
        assert!(a.mesh.peers().is_empty());
    }
    a.stop().await;
}

/// A joiner's connection is good for one join and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_joiners_connection_takes_no_requests() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let endpoint = bare_endpoint();
    let (crypto, seen) = tls::join_client(swarm.ca.digest()).unwrap();
    let connecting =
        endpoint.connect_with(transport::join_client(crypto), a.addr, tls::join_server_name()).unwrap();
    let connection = connecting.await.unwrap();
    assert_eq!(*seen.lock(), Some(a.mesh.identity().ca_digest()));
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let mut parts = opening(StreamType::Request, ECHO, Bytes::from_static(b"let me in"));
    send.write_all_chunks(&mut parts).await.unwrap();
    assert!(read_answer(&mut recv).await.is_err());
    assert_eq!(a.handler.requests.load(Ordering::SeqCst), 0);
    a.stop().await;
}

/// The class in the first packet and the one in the hello must agree.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_class_is_closed() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let tls = TlsConfigs::new(&swarm.identity("node-b", Role::Worker), &SwarmClock::new()).unwrap();
    let config = Transports::new(1452).client(Class::Data, &tls);
    let connection = bare_endpoint().connect_with(config, a.addr, "node-a").unwrap().await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let hello = Hello { incarnation: 1, class: Class::Control, epoch: None, moves: 0, sequence: 1 };
    send.write_all_chunks(&mut opening(StreamType::Hello, 0, hello.encode())).await.unwrap();
    let reason = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(matches!(reason, quinn::ConnectionError::ApplicationClosed(_)), "{reason:?}");
    assert!(a.mesh.peers().is_empty());
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_peer_stays_out_until_it_is_named_again() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    b.echo("node-a", b"").await.unwrap();
    a.mesh.remove_peer("node-b");
    until("b is cut off and told why", || {
        let status = &b.mesh.peers()[0];
        !status.control && status.last_error.as_ref().is_some_and(|error| error.contains("not authorised"))
    })
    .await;
    assert!(a.mesh.peers().is_empty());
    a.knows(&b);
    assert_eq!(b.echo("node-a", b"again").await.unwrap(), "node-b:again");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handler_may_refuse() {
    let swarm = Swarm::new();
    let (a, b) = (swarm.node("node-a").await, swarm.node("node-b").await);
    a.handler.refuse_all.store(true, Ordering::SeqCst);
    b.knows(&a);
    until("b is refused", || b.mesh.peers()[0].last_error.is_some()).await;
    assert!(!b.mesh.is_connected("node-a"));
    a.handler.refuse_all.store(false, Ordering::SeqCst);
    b.echo("node-a", b"").await.unwrap();
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_does_nothing() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    a.echo("node-b", b"").await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for size in [0usize, 1, 20, 64, 1200, 1472, 9000] {
        for _ in 0..50 {
            let garbage: Vec<u8> = (0..size).map(|_| rand::random()).collect();
            socket.send_to(&garbage, b.addr).unwrap();
            // Also with the first bytes of a QUIC v1 Initial, so that it goes deeper.
            let mut initial = garbage;
            initial.splice(0..size.min(7), [0xc3, 0, 0, 0, 1, 16, b'C']);
            socket.send_to(&initial, b.addr).unwrap();
        }
    }
    assert_eq!(a.echo("node-b", b"fine").await.unwrap(), "node-a:fine");
    assert_eq!(b.mesh.peers().len(), 1);
    a.stop().await;
    b.stop().await;
}

/// Joining is proven by digest, so a digest is all that a foreign manager has to show, and it cannot.
#[test]
fn digests_differ() {
    assert_ne!(Swarm::new().token.digest(), CaDigest::of(b""));
}

fn bare_endpoint() -> Endpoint {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).unwrap()
}
