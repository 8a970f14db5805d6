//! Nodes that have no direct path to each other, or one in one direction only.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::relay::{Path, Relay};
use super::support::{Node, Swarm, until};
use crate::class::Class;
use crate::frame::{read_frame, write_frame};
use crate::identity::Role;
use crate::mesh::PeerConfig;

/// An address at which nobody answers, as long as this lives.
struct Nobody(UdpSocket);

impl Nobody {
    fn new() -> Self {
        Self(UdpSocket::bind("127.0.0.1:0").unwrap())
    }

    fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// Two workers that take each other to be where nobody is, and managers that they can dial.
async fn apart(swarm: &Swarm, managers: &[&Node], nobody: &Nobody) -> (Node, Node) {
    let a = swarm.start(swarm.identity("node-a", Role::Worker), 0).await;
    let b = swarm.start(swarm.identity("node-b", Role::Worker), 0).await;
    for (node, other) in [(&a, "node-b"), (&b, "node-a")] {
        node.mesh.set_peer(other, PeerConfig { addresses: vec![nobody.addr()], keep: false });
        for manager in managers {
            node.knows(manager);
            until("connected", || manager.mesh.is_connected(node.id())).await;
        }
    }
    (a, b)
}

async fn stop(nodes: impl IntoIterator<Item = Node>) {
    for node in nodes {
        node.stop().await;
    }
}

/// Requests, streams and datagrams, both ways.
async fn talk(a: &Node, b: &Node) {
    for (from, to) in [(a, b), (b, a)] {
        assert_eq!(
            &from.echo(to.id(), b"hello").await.unwrap()[..],
            format!("{}:hello", from.id()).as_bytes()
        );
        let (mut send, mut recv) =
            from.mesh.open_stream(to.id(), Class::Bulk, 1, Bytes::new()).await.unwrap();
        read_frame(&mut recv, 1 << 10).await.unwrap().unwrap();
        let frame = Bytes::from(vec![7; 300_000]);
        write_frame(&mut send, frame.clone()).await.unwrap();
        assert_eq!(read_frame(&mut recv, 1 << 20).await.unwrap(), Some(frame));
        let heard = || to.handler.datagrams.load(Ordering::SeqCst);
        let before = heard();
        from.mesh.send_datagram(to.id(), Bytes::from_static(b"packet")).unwrap();
        until("a datagram", || heard() > before).await;
    }
}

fn via(node: &Node, peer: &Node) -> Option<String> {
    node.mesh.peers().into_iter().find(|status| status.node_id == peer.id()).and_then(|status| status.via)
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_manager() {
    let swarm = Swarm::new();
    let (manager, nobody) = (swarm.node("node-m").await, Nobody::new());
    let (a, b) = apart(&swarm, &[&manager], &nobody).await;
    talk(&a, &b).await;
    assert_eq!((via(&a, &b), via(&b, &a)), (Some("node-m".to_owned()), Some("node-m".to_owned())));
    assert_eq!(via(&a, &manager), None);
    let status = a.mesh.peers().into_iter().find(|status| status.node_id == "node-b").unwrap();
    assert_eq!(status.address, Some(nobody.addr()), "made-up addresses are nobody's business");
    assert!(manager.handler.asked_to_relay.load(Ordering::SeqCst) > 0);
    stop([a, b, manager]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_hardly_wide_enough_for_quic() {
    let swarm = Swarm::new();
    let (manager, nobody) = (swarm.node("node-m").await, Nobody::new());
    let narrow = Path { loss: 0.0, late: 0.0, mtu: 1210 };
    let path = Relay::start(manager.addr, narrow).await.unwrap();
    let (a, b) = apart(&swarm, &[], &nobody).await;
    for node in [&a, &b] {
        node.mesh.set_peer("node-m", PeerConfig { addresses: vec![path.addr], keep: true });
        until("connected", || manager.mesh.is_connected(node.id())).await;
    }
    talk(&a, &b).await;
    assert_eq!(via(&a, &b), Some("node-m".to_owned()));
    stop([a, b, manager]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_against_the_managers_will() {
    let swarm = Swarm::new();
    let (manager, nobody) = (swarm.node("node-m").await, Nobody::new());
    manager.handler.relays.store(false, Ordering::SeqCst);
    let (a, b) = apart(&swarm, &[&manager], &nobody).await;
    let refused = a.mesh.request("node-b", super::support::ECHO, Bytes::new(), Duration::from_secs(2)).await;
    assert!(matches!(refused, Err(crate::RequestError::NotConnected { .. })), "{refused:?}");
    assert!(manager.handler.asked_to_relay.load(Ordering::SeqCst) > 0);
    manager.handler.relays.store(true, Ordering::SeqCst);
    talk(&a, &b).await;
    stop([a, b, manager]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_manager_takes_over() {
    let swarm = Swarm::new();
    let (m, n, nobody) = (swarm.node("node-m").await, swarm.node("node-n").await, Nobody::new());
    let (a, b) = apart(&swarm, &[&m, &n], &nobody).await;
    talk(&a, &b).await;
    let first = via(&a, &b).unwrap();
    let (gone, left) = if first == "node-m" { (m, n) } else { (n, m) };
    gone.stop().await;
    until("the other one", || via(&a, &b).as_deref() == Some(left.id())).await;
    talk(&a, &b).await;
    stop([a, b, left]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_path_takes_over() {
    let swarm = Swarm::new();
    let (manager, nobody) = (swarm.node("node-m").await, Nobody::new());
    let (a, b) = apart(&swarm, &[&manager], &nobody).await;
    talk(&a, &b).await;
    let relayed = a.handler.changes.lock().len();
    // In one direction is enough.
    a.mesh.set_peer("node-b", PeerConfig { addresses: vec![b.addr], keep: false });
    until("direct", || via(&a, &b).is_none() && via(&b, &a).is_none()).await;
    talk(&a, &b).await;
    for class in [Class::Control, Class::Data, Class::Bulk] {
        let peer = a.mesh.inner().peer("node-b").unwrap();
        until("each class", || peer.slot(class).current().is_some_and(|link| link.via.is_none())).await;
    }
    assert_eq!(a.handler.changes.lock().len(), relayed, "the peer never seemed to be gone");
    stop([a, b, manager]).await;
}

/// `b` is behind a network address translation: `a` knows it only by where it calls from.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_called_can_be_called() {
    let swarm = Swarm::new();
    let (a, b, nobody) = (swarm.node("node-a").await, swarm.node("node-b").await, Nobody::new());
    let path = Relay::start(a.addr, Path { loss: 0.0, late: 0.0, mtu: 65536 }).await.unwrap();
    a.mesh.set_peer("node-b", PeerConfig { addresses: vec![nobody.addr()], keep: true });
    b.mesh.set_peer("node-a", PeerConfig { addresses: vec![path.addr], keep: true });
    until("b has called", || a.mesh.is_connected("node-b")).await;
    talk(&a, &b).await;
    assert_eq!(via(&a, &b), None);
    stop([a, b]).await;
}

/// A clean stop is told through the relay, before its silence could.
#[tokio::test(flavor = "multi_thread")]
async fn a_relayed_peer_says_goodbye() {
    let swarm = Swarm::new();
    let (manager, nobody) = (swarm.node("node-m").await, Nobody::new());
    let (a, b) = apart(&swarm, &[&manager], &nobody).await;
    talk(&a, &b).await;
    let link = a.mesh.inner().peer("node-b").unwrap().slot(Class::Control).current().unwrap();
    b.stop().await;
    let why = tokio::time::timeout(Duration::from_secs(20), link.connection.closed()).await.unwrap();
    assert!(matches!(why, quinn::ConnectionError::ApplicationClosed(_)), "{why:?}");
    stop([a, manager]).await;
}

/// The direct connection breaks while the relayed one is still there: the search for a direct way begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn back_to_the_relay_and_on_again() {
    let swarm = Swarm::new();
    let (manager, nobody) = (swarm.node("node-m").await, Nobody::new());
    let (a, b) = apart(&swarm, &[&manager], &nobody).await;
    talk(&a, &b).await;
    // Keeps the relayed connection from being closed.
    let held = a.mesh.open_stream("node-b", Class::Control, 1, Bytes::new()).await.unwrap();
    let path = Relay::start(b.addr, Path { loss: 0.0, late: 0.0, mtu: 65536 }).await.unwrap();
    a.mesh.set_peer("node-b", PeerConfig { addresses: vec![path.addr], keep: false });
    until("direct", || via(&a, &b).is_none() && via(&b, &a).is_none()).await;
    path.cut();
    until("relayed again", || via(&a, &b).is_some() && via(&b, &a).is_some()).await;
    path.heal();
    until("direct again", || via(&a, &b).is_none() && via(&b, &a).is_none()).await;
    drop(held);
    stop([a, b, manager]).await;
}

/// What a certificate says of a peer's role may be out of date.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_promoted_relays() {
    let swarm = Swarm::new();
    let manager = swarm.start(swarm.identity("node-m", Role::Worker), 0).await;
    let nobody = Nobody::new();
    let (a, b) = apart(&swarm, &[&manager], &nobody).await;
    talk(&a, &b).await;
    stop([a, b, manager]).await;
}

/// Two relays must not be made to send packets in a circle.
#[tokio::test(flavor = "multi_thread")]
async fn relays_are_not_reached_through_relays() {
    let swarm = Swarm::new();
    let (manager, nobody) = (swarm.node("node-m").await, Nobody::new());
    let (a, b) = apart(&swarm, &[&manager], &nobody).await;
    talk(&a, &b).await;
    let inner = a.mesh.inner();
    let peer = inner.peer("node-b").unwrap();
    let address = inner.relayed_addresses(&peer, Class::Relay, 0)[0];
    assert!(!crate::dial::at(inner, &peer, Class::Relay, address).await);
    assert!(peer.slot(Class::Relay).current().is_none());
    stop([a, b, manager]).await;
}

/// The relay moves; what is relayed does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_moves() {
    let swarm = Swarm::new();
    let (manager, nobody) = (swarm.node("node-m").await, Nobody::new());
    let (a, b) = apart(&swarm, &[&manager], &nobody).await;
    talk(&a, &b).await;
    let links = |node: &Node, of: &str| {
        let peer = node.mesh.inner().peer(of).unwrap();
        [Class::Control, Class::Data, Class::Bulk].map(|class| peer.slot(class).current().unwrap().sequence)
    };
    let before = (links(&a, "node-b"), links(&b, "node-a"));
    manager.mesh.rebind("127.0.0.3:0".parse().unwrap()).await.unwrap();
    until("the relay is back", || {
        a.mesh.peers().iter().any(|peer| peer.address == manager.mesh.local_addr().ok())
    })
    .await;
    talk(&a, &b).await;
    assert_eq!((links(&a, "node-b"), links(&b, "node-a")), before, "the same connections");
    stop([a, b, manager]).await;
}
