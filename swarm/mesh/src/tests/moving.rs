//! Nodes whose address changes.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::support::{Node, Swarm, until};
use crate::class::Class;
use crate::identity::Role;
use crate::mesh::{MeshConfig, PeerConfig};
use crate::moving;

/// How soon a node that has moved must be reachable.
const SOON: Duration = Duration::from_secs(2);

/// `a` at an address that it will leave, `b` elsewhere; one of them dials, and all classes are up.
async fn two(a_dials: bool) -> (Node, Node) {
    let swarm = Swarm::new();
    let identity = swarm.identity("node-a", Role::Manager);
    let listen: SocketAddr = "127.0.0.2:0".parse().unwrap();
    let a = swarm.start_with(MeshConfig { listen, ..MeshConfig::new(identity) }).await;
    let b = swarm.node("node-b").await;
    let (from, to) = if a_dials { (&a, &b) } else { (&b, &a) };
    from.knows(to);
    from.echo(to.id(), b"").await.unwrap();
    from.mesh.send_datagram(to.id(), Bytes::from_static(b"first")).unwrap();
    until("a datagram", || to.handler.datagrams.load(Ordering::SeqCst) == 1).await;
    drop(from.mesh.open_stream(to.id(), Class::Bulk, 1, Bytes::new()).await.unwrap());
    until("both have it", || a.mesh.is_connected("node-b") && b.mesh.is_connected("node-a")).await;
    (a, b)
}

/// Until a request is answered: one that was on its way when the address changed may be lost.
async fn answered(from: &Node, to: &Node) {
    while let Err(error) = from.echo(to.id(), b"").await {
        assert!(matches!(error, crate::RequestError::ConnectionLost { .. }), "{error}");
    }
}

/// After the move both reach each other, on every class, within the bound.
async fn reach_each_other(a: &Node, b: &Node, moved: Instant) {
    let heard = [a, b].map(|node| node.handler.datagrams.load(Ordering::SeqCst));
    for (from, to) in [(b, a), (a, b)] {
        answered(from, to).await;
        drop(from.mesh.open_stream(to.id(), Class::Bulk, 1, Bytes::new()).await.unwrap());
    }
    until("datagrams both ways", || {
        a.mesh.send_datagram("node-b", Bytes::from_static(b"to b")).unwrap();
        b.mesh.send_datagram("node-a", Bytes::from_static(b"to a")).unwrap();
        [a, b].iter().zip(heard).all(|(node, heard)| node.handler.datagrams.load(Ordering::SeqCst) > heard)
    })
    .await;
    let took = moved.elapsed();
    println!("all reachable {took:?} after the move");
    assert!(took < SOON, "{took:?}");
    let address = || b.mesh.peers()[0].address.unwrap();
    until("b knows where a is", || address() == a.mesh.local_addr().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_mover_dialled_goes_on() {
    let (a, b) = two(true).await;
    let (mut send, mut recv) = a.mesh.open_stream("node-b", Class::Control, 1, Bytes::new()).await.unwrap();
    crate::frame::read_frame(&mut recv, 1 << 10).await.unwrap().unwrap();
    let control = b.mesh.inner().peer("node-a").unwrap().slot(Class::Control).current().unwrap();
    let (moved, to) = (Instant::now(), a.mesh.rebind("127.0.0.3:0".parse().unwrap()).await.unwrap());
    assert_eq!(a.mesh.local_addr().unwrap(), to);
    crate::frame::write_frame(&mut send, Bytes::from_static(b"still here")).await.unwrap();
    let frame = crate::frame::read_frame(&mut recv, 1 << 10).await.unwrap().unwrap();
    assert_eq!(&frame[..], b"still here");
    reach_each_other(&a, &b, moved).await;
    assert!(!control.is_closed() && control.remote() == to, "the same connection from another address");
    assert_eq!(*b.handler.changes.lock(), [("node-a".to_owned(), true)]);
    // Where b dials it now.
    assert!(b.mesh.inner().peer("node-a").unwrap().addresses().contains(&to));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_peer_dialled_is_dialled_again_at_once() {
    let (a, b) = two(false).await;
    let moved = Instant::now();
    a.mesh.rebind("127.0.0.3:0".parse().unwrap()).await.unwrap();
    reach_each_other(&a, &b, moved).await;
    for node in [&a, &b] {
        assert_eq!(node.handler.changes.lock().len(), 1, "nobody seemed to be gone");
    }
    // Another time, there and back.
    for _ in 0..3 {
        let moved = Instant::now();
        a.mesh.rebind("127.0.0.2:0".parse().unwrap()).await.unwrap();
        reach_each_other(&a, &b, moved).await;
    }
    a.stop().await;
    b.stop().await;
}

/// The same port on another address, which a socket of our own holds; and back; and a port that somebody else has.
#[tokio::test(flavor = "multi_thread")]
async fn to_where_our_own_socket_is() {
    let (a, b) = two(true).await;
    let first = a.mesh.local_addr().unwrap();
    let all = SocketAddr::from(([0, 0, 0, 0], first.port()));
    for to in [all, first, all, first] {
        assert_eq!(a.mesh.rebind(to).await.unwrap(), to);
        answered(&a, &b).await;
        answered(&b, &a).await;
    }
    let error = a.mesh.rebind(b.addr).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(a.mesh.local_addr().unwrap(), first, "as it was");
    answered(&a, &b).await;
    answered(&b, &a).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_move_one_after_the_other() {
    let (a, b) = two(true).await;
    a.mesh.rebind("127.0.0.3:0".parse().unwrap()).await.unwrap();
    reach_each_other(&a, &b, Instant::now()).await;
    let moved = Instant::now();
    b.mesh.rebind("127.0.0.4:0".parse().unwrap()).await.unwrap();
    for (from, to) in [(&b, &a), (&a, &b)] {
        answered(from, to).await;
    }
    assert!(moved.elapsed() < SOON);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_alarm_costs_no_connection() {
    let (a, b) = two(false).await;
    let ids = |node: &Node, of: &str| {
        let peer = node.mesh.inner().peer(of).unwrap();
        [Class::Control, Class::Data, Class::Bulk].map(|class| peer.slot(class).current().unwrap().sequence)
    };
    let before = (ids(&a, "node-b"), ids(&b, "node-a"));
    a.mesh.addresses_changed();
    // Longer than the check takes: that nothing happens cannot be waited for.
    tokio::time::sleep(moving::OTHER_CHECK + Duration::from_millis(300)).await;
    assert_eq!((ids(&a, "node-b"), ids(&b, "node-a")), before);
    a.stop().await;
    b.stop().await;
}

/// The socket stays, but what peers have dialled leads nowhere: as when a host's address went away.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_answer_is_replaced() {
    let swarm = Swarm::new();
    let (a, b) = (swarm.node("node-a").await, swarm.node("node-b").await);
    let path = super::relay::Path { loss: 0.0, late: 0.0, mtu: 65536 };
    let relay = super::relay::Relay::start(a.addr, path).await.unwrap();
    b.mesh.set_peer("node-a", PeerConfig { addresses: vec![relay.addr], keep: true });
    b.echo("node-a", b"").await.unwrap();
    a.mesh.set_peer("node-b", PeerConfig { addresses: vec![b.addr], keep: true });
    relay.cut();
    let moved = Instant::now();
    a.mesh.addresses_changed();
    until("the direct one", || {
        let peer = b.mesh.inner().peer("node-a").unwrap();
        peer.slot(Class::Control).current().is_some_and(|link| link.remote() == a.addr)
    })
    .await;
    assert!(moved.elapsed() < SOON);
    assert_eq!(b.handler.changes.lock().len(), 1, "nobody seemed to be gone");
    a.stop().await;
    b.stop().await;
}
