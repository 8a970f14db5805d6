//! Peers that die and come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::support::{Node, PATIENCE, Swarm, until};
use crate::class::Class;
use crate::identity::{Identity, Role};

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_peer_is_back_at_once() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let identity = swarm.identity("node-b", Role::Manager);
    let b = swarm.start(identity.clone(), 0).await;
    let port = b.addr.port();
    // Only a knows the way, as with a worker's manager.
    a.knows(&b);
    a.echo("node-b", b"").await.unwrap();
    a.mesh.send_datagram("node-b", "one".into()).unwrap();
    until("data", || a.mesh.peers()[0].data).await;
    b.stop().await;
    until("a notices", || !a.mesh.is_connected("node-b")).await;

    let b = swarm.start(identity, port).await;
    let back = Instant::now();
    assert_eq!(a.echo("node-b", b"again").await.unwrap(), "node-a:again");
    assert!(back.elapsed() < Duration::from_secs(2), "took {:?}", back.elapsed());
    a.mesh.send_datagram("node-b", "two".into()).unwrap();
    until("data again", || b.handler.datagrams.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    let changes = a.handler.changes.lock().clone();
    assert_eq!(changes, [("node-b".into(), true), ("node-b".into(), false), ("node-b".into(), true)]);
    a.stop().await;
    b.stop().await;
}

/// A killed process says nothing: its runtime, and with it its socket, is just gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_peer_is_noticed_and_its_successor_replaces_it() {
    let swarm = Arc::new(Swarm::new());
    let a = swarm.node("node-a").await;
    let identity = swarm.identity("node-b", Role::Manager);
    let (process, b) = process(&swarm, identity.clone()).await;
    let port = b.addr.port();
    a.knows(&b);
    a.echo("node-b", b"").await.unwrap();
    let killed = Instant::now();
    kill(process, b).await;
    until("silence is noticed", || !a.mesh.is_connected("node-b")).await;
    let noticed = killed.elapsed();
    assert!(noticed >= Duration::from_millis(900), "too nervous: {noticed:?}");
    let heard = a.mesh.last_heard("node-b").unwrap();
    assert!(heard < killed + Duration::from_millis(900), "nothing was heard since");

    let b = swarm.start(identity, port).await;
    assert_eq!(a.echo("node-b", b"successor").await.unwrap(), "node-a:successor");
    a.stop().await;
    b.stop().await;
}

/// The successor is there before the silence is noticed: it knows nobody, but answers the first packet of the old
/// connection with a stateless reset, so that the other side redials at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_quick_successor_is_found_before_the_silence() {
    let swarm = Arc::new(Swarm::new());
    let a = swarm.node("node-a").await;
    let identity = swarm.identity("node-b", Role::Manager);
    let (process, b) = process(&swarm, identity.clone()).await;
    let port = b.addr.port();
    a.knows(&b);
    a.echo("node-b", b"").await.unwrap();
    let current = || a.mesh.inner().peer("node-b").unwrap().slot(Class::Control).current();
    let before = current().unwrap();
    kill(process, b).await;
    let b = swarm.start(identity, port).await;
    let back = Instant::now();
    until("the successor is connected", || {
        current().is_some_and(|link| link.incarnation == b.mesh.inner().incarnation)
    })
    .await;
    assert!(back.elapsed() < Duration::from_secs(2), "took {:?}", back.elapsed());
    let reason = before.connection.close_reason();
    assert!(matches!(reason, Some(quinn::ConnectionError::Reset)), "{reason:?}");
    assert_eq!(a.echo("node-b", b"new").await.unwrap(), "node-a:new");
    until("reported", || changes(&a).len() == 3).await;
    assert_eq!(changes(&a), [true, false, true]);
    a.stop().await;
    b.stop().await;
}

/// The successor calls before anything has told that its predecessor is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_calls_first_is_reported_after_its_predecessors_end() {
    let swarm = Arc::new(Swarm::new());
    let a = swarm.node("node-a").await;
    let identity = swarm.identity("node-b", Role::Manager);
    let (process, b) = process(&swarm, identity.clone()).await;
    b.knows(&a);
    b.echo("node-a", b"").await.unwrap();
    until("a has it", || a.mesh.is_connected("node-b")).await;
    kill(process, b).await;
    // At another address, so that no reset tells of the end.
    let b = swarm.start(identity, 0).await;
    b.knows(&a);
    assert_eq!(b.echo("node-a", b"").await.unwrap(), "node-b:");
    until("reported", || changes(&a).len() == 3).await;
    assert_eq!(changes(&a), [true, false, true]);
    a.stop().await;
    b.stop().await;
}

/// Requests notice a broken connection before its own task does, or after; the handler hears of each end either way.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_a_request_notices_is_reported() {
    let swarm = Swarm::new();
    let (a, b) = (swarm.node("node-a").await, swarm.node("node-b").await);
    a.knows(&b);
    a.echo("node-b", b"").await.unwrap();
    let peer = a.mesh.inner().peer("node-b").unwrap();
    let link = peer.slot(Class::Control).current().unwrap();
    // What `open` does when a stream cannot be opened, before the connection's task has run.
    a.mesh.inner().uninstall(&peer, &link);
    assert!(changes(&a).starts_with(&[true, false]));
    link.close(crate::link::CloseCode::Silent);
    a.echo("node-b", b"").await.unwrap();
    until("reported", || changes(&a).len() == 3).await;
    assert_eq!(changes(&a), [true, false, true]);
    a.stop().await;
    b.stop().await;
}

/// A peer that is removed and named again at once.
#[tokio::test(flavor = "multi_thread")]
async fn removal_is_reported_before_the_next_up() {
    const ROUNDS: usize = 20;
    let swarm = Swarm::new();
    let (a, b) = (swarm.node("node-a").await, swarm.node("node-b").await);
    for round in 0..ROUNDS {
        a.knows(&b);
        a.echo("node-b", b"").await.unwrap();
        until("up", || changes(&a).len() == 2 * round + 1).await;
        a.mesh.remove_peer("node-b");
    }
    until("reported", || changes(&a).len() == 2 * ROUNDS).await;
    assert_eq!(changes(&a), [true, false].repeat(ROUNDS));
    a.stop().await;
    b.stop().await;
}

fn changes(node: &Node) -> Vec<bool> {
    node.handler.changes.lock().iter().map(|change| change.1).collect()
}

/// A node in a runtime of its own, which can be taken away like a process.
async fn process(swarm: &Arc<Swarm>, identity: Identity) -> (Runtime, Node) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let swarm = swarm.clone();
    let node = runtime.spawn(async move { swarm.start(identity, 0).await }).await.unwrap();
    (runtime, node)
}

/// The runtime goes first, so that no task of the mesh gets to say goodbye.
async fn kill(process: Runtime, node: Node) {
    tokio::task::spawn_blocking(move || process.shutdown_timeout(PATIENCE)).await.unwrap();
    drop(node);
}
