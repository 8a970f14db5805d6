//! Datagrams on the data connection.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::support::{Swarm, until};
use crate::class::Class;
use crate::error::DatagramError;

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_from_nothing() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    // No data connection yet: held, then sent.
    for _ in 0..10 {
        a.mesh.send_datagram("node-b", Bytes::from_static(b"packet")).unwrap();
    }
    until("all ten at b", || b.handler.datagrams.load(Ordering::SeqCst) == 10).await;
    b.mesh.send_datagram("node-a", Bytes::from_static(b"back")).unwrap();
    until("one at a", || a.handler.datagrams.load(Ordering::SeqCst) == 1).await;
    assert_eq!(a.mesh.send_datagram("node-x", Bytes::new()), Err(DatagramError::UnknownPeer));
    assert!(a.mesh.peers()[0].data);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_arrive_in_full_and_the_path_grows() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    let mut path = a.mesh.data_path("node-b").unwrap();
    path.send(Bytes::from_static(b"first")).unwrap();
    until("the connection", || path.max_datagram().is_some()).await;
    let least = path.max_datagram().unwrap();
    assert!(least >= 1100, "{least}");
    until("the path is found to be wide", || path.max_datagram().unwrap() > 6000).await;
    until("the first one", || b.handler.datagrams.load(Ordering::SeqCst) == 1).await;
    // 1000 of 1100 bytes fit the send buffer and the socket buffers, so loopback loses none.
    for _ in 0..1000 {
        path.send(vec![0; 1100].into()).unwrap();
    }
    until("all thousand", || b.handler.datagrams.load(Ordering::SeqCst) == 1001).await;
    assert_eq!(b.handler.datagram_bytes.load(Ordering::SeqCst), 1_100_000 + 5);
    assert_eq!(path.send(vec![0; 60_000].into()), Err(DatagramError::TooLarge));
    // Still usable after that.
    path.send(Bytes::from_static(b"last")).unwrap();
    until("the last one", || b.handler.datagrams.load(Ordering::SeqCst) == 1002).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_bounded() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let addresses = vec!["127.0.0.1:1".parse().unwrap()];
    a.mesh.set_peer("node-b", crate::PeerConfig { addresses, keep: false });
    let mut path = a.mesh.data_path("node-b").unwrap();
    let refused = (0..1000).filter(|_| path.send(Bytes::from_static(&[0; 1000])).is_err()).count();
    assert_eq!(refused, 1000 - 256);
    a.mesh.remove_peer("node-b");
    assert_eq!(path.send(Bytes::new()), Err(DatagramError::UnknownPeer));
    a.stop().await;
}

/// Datagrams of one class never show up as heartbeats of another, and connections are separate.
#[tokio::test(flavor = "multi_thread")]
async fn classes_are_connections_of_their_own() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    a.mesh.send_datagram("node-b", Bytes::from_static(&[1, 3])).unwrap();
    let _stream = a.mesh.open_stream("node-b", Class::Bulk, 0, Bytes::new()).await.unwrap();
    until("the datagram that looks like a heartbeat", || b.handler.datagrams.load(Ordering::SeqCst) == 1)
        .await;
    let peer = a.mesh.inner().peer("node-b").unwrap();
    let classes = [Class::Control, Class::Data, Class::Bulk];
    until("all three", || classes.iter().all(|class| peer.slot(*class).current().is_some())).await;
    let mut ids = classes.map(|class| peer.slot(class).current().unwrap().connection.stable_id());
    ids.sort_unstable();
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
    for class in classes {
        let link = peer.slot(class).current().unwrap();
        assert_eq!(crate::socket::canonical(link.connection.remote_address()), b.addr, "one port for all");
    }
    a.stop().await;
    b.stop().await;
}
