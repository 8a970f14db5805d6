//! Requests and streams between members.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::Endpoint;

use super::support::{ECHO, FAIL, HOLD, HUGE, PATIENCE, Swarm, until};
use crate::class::{Class, Purpose};
use crate::error::{RequestError, StreamError};
use crate::frame::{FrameError, read_frame, write_frame};
use crate::handler::RemoteError;
use crate::identity::Role;
use crate::mesh::PeerConfig;
use crate::tls::TlsConfigs;
use crate::transport::Transports;
use crate::wire::{Hello, MAX_BODY, StreamType, opening};

const MANY: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_while_both_dial() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    // Requests are in flight while the two connections are sorted out; none may be lost.
    for _ in 0..MANY {
        let (to_b, to_a) = tokio::join!(a.echo("node-b", b"hello"), b.echo("node-a", b"hi"));
        assert_eq!(to_b.unwrap(), "node-a:hello");
        assert_eq!(to_a.unwrap(), "node-b:hi");
    }
    // In the end one connection is left, the one that the smaller id dialled.
    for (node, other) in [(&a, "node-b"), (&b, "node-a")] {
        until("one control connection", || {
            let peer = node.mesh.inner().peer(other).unwrap();
            peer.slot(Class::Control).links.lock().len() == 1
        })
        .await;
    }
    let current = a.mesh.inner().peer("node-b").unwrap().slot(Class::Control).current().unwrap();
    if b.mesh.inner().peer("node-a").unwrap().slot(Class::Control).current().unwrap().dialled {
        assert!(!current.dialled);
    }
    let status = &a.mesh.peers()[0];
    assert!(status.control && !status.data && status.rtt.is_some() && status.last_heard.is_some());
    assert_eq!((status.address, status.role), (Some(b.addr), Some(Role::Manager)));
    assert_eq!(a.handler.requests.load(Ordering::SeqCst), MANY);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_happened() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    let ask = |kind, body: Bytes, timeout| a.mesh.request("node-b", kind, body, timeout);
    match ask(FAIL, Bytes::new(), PATIENCE).await {
        Err(RequestError::Remote { error, .. }) => {
            assert_eq!((error.code, error.message.len()), (7, 4096), "cut to the bound");
        }
        other => panic!("{other:?}"),
    }
    match ask(HUGE, Bytes::new(), PATIENCE).await {
        Err(RequestError::Remote { error, .. }) => assert_eq!(error.code, RemoteError::ANSWER_TOO_LARGE),
        other => panic!("{other:?}"),
    }
    let too_large = ask(ECHO, vec![0; MAX_BODY + 1].into(), PATIENCE).await;
    assert!(matches!(too_large, Err(RequestError::TooLarge { .. })), "{too_large:?}");
    let held = ask(HOLD, Bytes::new(), Duration::from_millis(50)).await;
    assert!(matches!(held, Err(RequestError::Timeout { .. })), "{held:?}");
    let unknown = a.mesh.request("node-x", ECHO, Bytes::new(), PATIENCE).await;
    assert!(matches!(unknown, Err(RequestError::UnknownPeer(_))), "{unknown:?}");
    let big = ask(ECHO, vec![7; MAX_BODY - 100].into(), PATIENCE).await.unwrap();
    assert_eq!(big.len(), MAX_BODY - 100 + "node-a:".len());
    a.mesh.close().await;
    let closed = ask(ECHO, Bytes::new(), PATIENCE).await;
    assert!(matches!(closed, Err(RequestError::Closed)), "{closed:?}");
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_peer_that_is_not_there_is_bounded() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    // Nothing listens on port 1.
    let addresses = vec!["127.0.0.1:1".parse().unwrap()];
    a.mesh.set_peer("node-b", PeerConfig { addresses, keep: false });
    let timeout = Duration::from_millis(200);
    match a.mesh.request("node-b", ECHO, Bytes::new(), timeout).await {
        Err(RequestError::NotConnected { waited, .. }) => assert_eq!(waited, timeout),
        other => panic!("{other:?}"),
    }
    a.stop().await;
}

/// A peer that is there, says hello and then reads nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_takes_does_not_outlast_the_timeout() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let tls = TlsConfigs::new(&swarm.identity("node-b", Role::Manager), &crate::SwarmClock::new()).unwrap();
    let config = Transports::new(1452).server(Purpose::Mesh(Class::Control), &tls);
    let deaf = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    a.mesh.set_peer("node-b", PeerConfig { addresses: vec![deaf.local_addr().unwrap()], keep: true });
    let connection = deaf.accept().await.unwrap().await.unwrap();
    let (mut send, mut recv) = connection.accept_bi().await.unwrap();
    Hello::read(&mut recv).await.unwrap();
    let hello = Hello { incarnation: 1, class: Class::Control, epoch: None, moves: 0, sequence: 1 };
    send.write_all_chunks(&mut opening(StreamType::Hello, 0, hello.encode())).await.unwrap();
    send.finish().unwrap();
    until("connected", || a.mesh.is_connected("node-b")).await;
    let timeout = Duration::from_millis(100);
    let asked = Instant::now();
    let outcome = a.mesh.request("node-b", ECHO, vec![0; MAX_BODY].into(), timeout).await;
    let took = asked.elapsed();
    assert!(
        matches!(outcome, Err(RequestError::Timeout { timeout: said, .. }) if said == timeout),
        "{outcome:?}"
    );
    // It was a second and more; what is allowed beyond the timeout is for a busy machine.
    assert!(took >= timeout && took < timeout + Duration::from_millis(600), "took {took:?}");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_carry_frames() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    for class in [Class::Control, Class::Bulk] {
        let header = Bytes::from_static(b"the header");
        let (mut send, mut recv) = b.mesh.open_stream("node-a", class, 9, header).await.unwrap();
        let about = read_frame(&mut recv, 1000).await.unwrap().unwrap();
        assert_eq!(about, format!("node-b {class:?} 9 the header"));
        for size in [0, 1, 1000, 100_000] {
            write_frame(&mut send, vec![1; size]).await.unwrap();
            assert_eq!(read_frame(&mut recv, 100_000).await.unwrap().unwrap().len(), size);
        }
        write_frame(&mut send, vec![1; 1001]).await.unwrap();
        let bounded = read_frame(&mut recv, 1000).await;
        assert!(matches!(bounded, Err(FrameError::TooLong { len: 1001, max: 1000 })), "{bounded:?}");
    }
    let none = b.mesh.open_stream("node-a", Class::Data, 9, Bytes::new()).await;
    assert!(matches!(none, Err(StreamError::NoStreams(Class::Data))));
    a.stop().await;
    b.stop().await;
}

/// A bulk stream that nobody reads is full to the brim; requests go on as if it were not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_bulk_stream_does_not_hold_up_requests() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    let (mut send, _recv) = a.mesh.open_stream("node-b", Class::Bulk, 9, Bytes::new()).await.unwrap();
    let block = Bytes::from(vec![0; 1 << 20]);
    let full = async { while write_frame(&mut send, block.clone()).await.is_ok() {} };
    let full = tokio::time::timeout(Duration::from_secs(1), full).await;
    assert!(full.is_err(), "the stream must have stopped taking data");
    assert_eq!(a.echo("node-b", b"still").await.unwrap(), "node-a:still");
    assert_eq!(b.echo("node-a", b"here").await.unwrap(), "node-b:here");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_side_alone_knows_the_address() {
    let swarm = Swarm::new();
    let (a, b) = (swarm.node("node-a").await, swarm.node("node-b").await);
    b.knows(&a);
    until("b connects", || a.mesh.is_connected("node-b")).await;
    assert_eq!(a.echo("node-b", b"back").await.unwrap(), "node-a:back");
    // The address was learned, so a bulk connection can be dialled from the other side.
    a.mesh.open_stream("node-b", Class::Bulk, 1, Bytes::new()).await.unwrap();
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_serves_new_handshakes_and_breaks_none() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    a.echo("node-b", b"").await.unwrap();
    let before = b.mesh.inner().peer("node-a").unwrap().slot(Class::Control).current().unwrap();
    a.mesh.update_identity(swarm.identity("node-a", Role::Worker)).unwrap();
    assert!(a.mesh.update_identity(swarm.identity("node-c", Role::Worker)).is_err());
    a.echo("node-b", b"").await.unwrap();
    assert!(!before.is_closed());
    // A new connection shows the new role.
    a.mesh.open_stream("node-b", Class::Bulk, 1, Bytes::new()).await.unwrap();
    until("the bulk connection", || {
        let bulk = b.mesh.inner().peer("node-a").unwrap().slot(Class::Bulk).current();
        bulk.is_some_and(|link| link.peer.role == Role::Worker)
    })
    .await;
    a.stop().await;
    b.stop().await;
}
