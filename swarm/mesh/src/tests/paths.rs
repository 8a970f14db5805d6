//! Paths that are worse than loopback.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::relay::{Path, Relay};
use super::support::{ECHO, Node, PATIENCE, Swarm, until};
use crate::class::Class;
use crate::mesh::PeerConfig;

const PLAIN: Path = Path { loss: 0.0, late: 0.0, mtu: 65536 };
/// A failure detector's patience (`liveness::CONTROL_SILENCE`); under it, a peer never looks dead.
const NOT_YET_DEAD: Duration = Duration::from_millis(1200);
const MANY: usize = 300;

/// Two nodes with a path between them; only the first one dials.
async fn over(path: Path) -> (Node, Node, Relay) {
    let swarm = Swarm::new();
    let (a, b) = (swarm.node("node-a").await, swarm.node("node-b").await);
    let relay = Relay::start(b.addr, path).await.unwrap();
    a.mesh.set_peer("node-b", PeerConfig { addresses: vec![relay.addr], keep: true });
    (a, b, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_survive_loss_and_reordering_and_nobody_seems_dead() {
    let (a, b, _relay) = over(Path { loss: 0.05, late: 0.1, ..PLAIN }).await;
    a.echo("node-b", b"").await.unwrap();
    until("b has it too", || b.mesh.is_connected("node-a")).await;
    let watch = async {
        let mut longest = [Duration::ZERO; 2];
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(6) {
            for (longest, (node, other)) in longest.iter_mut().zip([(&a, "node-b"), (&b, "node-a")]) {
                *longest = node.mesh.last_heard(other).unwrap().elapsed().max(*longest);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        longest
    };
    let ask = async {
        let mut slowest = Duration::ZERO;
        for number in 0..MANY {
            let asked = Instant::now();
            let size = (number % 10) * 1000;
            let answer = a.mesh.request("node-b", ECHO, vec![7; size].into(), PATIENCE).await.unwrap();
            assert_eq!(answer.len(), size + "node-a:".len());
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    let (longest, slowest) = tokio::join!(watch, ask);
    println!("loss 5 %: slowest of {MANY} requests {slowest:?}, longest silence {longest:?}");
    assert!(longest.iter().all(|longest| *longest < NOT_YET_DEAD), "{longest:?}");
    assert_eq!(*a.handler.changes.lock(), [("node-b".to_owned(), true)], "the connection held");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_the_largest_size_pass_an_ethernet_path() {
    let (a, b, _relay) = over(Path { mtu: 1472, ..PLAIN }).await;
    let mut path = a.mesh.data_path("node-b").unwrap();
    a.echo("node-b", b"").await.unwrap();
    path.send(Bytes::from_static(b"first")).unwrap();
    // Discovery tries larger ones, is told by silence, and comes close to the bound.
    until("the path is known", || path.max_datagram().is_some_and(|max| max > 1400)).await;
    let mut sent = 1;
    let until_all = |sent: usize| {
        let handler = b.handler.clone();
        async move { until("all are there", || handler.datagrams.load(Ordering::SeqCst) == sent).await }
    };
    for _ in 0..20 {
        for _ in 0..20 {
            let max = path.max_datagram().unwrap();
            assert!(max < 1472, "{max}");
            path.send(vec![0; max].into()).unwrap();
            sent += 1;
        }
        until_all(sent).await;
    }
    // Large bodies on both stream classes, whose connections look for the MTU as well.
    let big = Bytes::from(vec![1; 1 << 20]);
    let answer = a.mesh.request("node-b", ECHO, big.clone(), PATIENCE).await.unwrap();
    assert_eq!(answer.len(), big.len() + "node-a:".len());
    let (_send, mut recv) = a.mesh.open_stream("node-b", Class::Bulk, 1, big).await.unwrap();
    let about = crate::frame::read_frame(&mut recv, 2 << 20).await.unwrap().unwrap();
    assert!(about.len() > 1 << 20);
    a.stop().await;
    b.stop().await;
}

/// The cut is long enough for the back-off to have grown to its bound.
#[tokio::test(flavor = "multi_thread")]
async fn a_healed_path_is_found_within_a_second() {
    let (a, b, relay) = over(PLAIN).await;
    a.echo("node-b", b"").await.unwrap();
    relay.cut();
    until("both notice", || !a.mesh.is_connected("node-b") && !b.mesh.is_connected("node-a")).await;
    // The time that the back-off takes to grow, not a condition.
    tokio::time::sleep(Duration::from_secs(5)).await;
    relay.heal();
    let healed = Instant::now();
    until("a is back", || a.mesh.is_connected("node-b")).await;
    let took = healed.elapsed();
    println!("back {took:?} after the path was healed");
    assert!(took < Duration::from_millis(1000), "took {took:?}");
    a.echo("node-b", b"").await.unwrap();
    let changes: Vec<bool> = a.handler.changes.lock().iter().map(|change| change.1).collect();
    assert_eq!(changes, [true, false, true]);
    a.stop().await;
    b.stop().await;
}

/// Both sides dial data connections, so that one of the two drains and is closed while packets flow.
#[tokio::test(flavor = "multi_thread")]
async fn no_datagram_is_lost_when_a_connection_is_retired() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    let mut path = b.mesh.data_path("node-a").unwrap();
    path.send(Bytes::from_static(b"x")).unwrap();
    let peer = b.mesh.inner().peer("node-a").unwrap();
    until("b's connection", || peer.slot(Class::Data).current().is_some()).await;
    let old = peer.slot(Class::Data).current().unwrap();
    assert!(old.dialled);
    // The one that a dials is better: a has the smaller id.
    crate::dial::again(a.mesh.inner(), &a.mesh.inner().peer("node-b").unwrap(), Class::Data).await;
    let mut sent = 1;
    until("the old one is retired", || {
        for _ in 0..5 {
            path.send(Bytes::from_static(b"packet")).unwrap();
            sent += 1;
        }
        old.is_closed()
    })
    .await;
    for _ in 0..50 {
        path.send(Bytes::from_static(b"packet")).unwrap();
        sent += 1;
    }
    until("all are there", || a.handler.datagrams.load(Ordering::SeqCst) == sent).await;
    a.stop().await;
    b.stop().await;
}
