//! Two running processes with one identity.

use std::time::{Duration, Instant};

use super::support::{ECHO, Swarm, until};
use crate::error::RequestError;
use crate::identity::Role;

#[tokio::test(flavor = "multi_thread")]
async fn twins_do_not_evict_each_other_for_ever() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let identity = swarm.identity("node-b", Role::Worker);
    let elder = swarm.start(identity.clone(), 0).await;
    elder.knows(&a);
    elder.echo("node-a", b"").await.unwrap();
    let younger = swarm.start(identity, 0).await;
    younger.knows(&a);
    younger.echo("node-a", b"").await.unwrap();
    until("the elder is told", || {
        elder.mesh.peers()[0].last_error.as_ref().is_some_and(|error| error.contains("identity"))
    })
    .await;
    // From here on nothing happens for a while: the elder rests, the younger stays.
    let connections = a.mesh.inner().next_sequence();
    let settled = Instant::now();
    while settled.elapsed() < Duration::from_secs(3) {
        assert!(younger.mesh.is_connected("node-a") && !elder.mesh.is_connected("node-a"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(a.mesh.inner().next_sequence(), connections + 1, "no further connection was taken");
    let changes: Vec<bool> = a.handler.changes.lock().iter().map(|change| change.1).collect();
    assert_eq!(changes, [true, false, true]);
    let refused = elder.mesh.request("node-a", ECHO, "".into(), Duration::from_millis(100)).await;
    assert!(matches!(refused, Err(RequestError::NotConnected { .. })), "{refused:?}");
    // A data connection to the elder's address does not drive the younger out either.
    a.mesh.set_peer("node-b", crate::PeerConfig { addresses: vec![elder.addr], keep: true });
    a.mesh.send_datagram("node-b", "packet".into()).unwrap();
    until("the younger has it", || younger.handler.datagrams.load(std::sync::atomic::Ordering::SeqCst) == 1)
        .await;
    assert!(younger.mesh.is_connected("node-a"));
    younger.stop().await;
    a.stop().await;
    elder.stop().await;
}
