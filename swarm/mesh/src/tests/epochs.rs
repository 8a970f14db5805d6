//! A swarm that was recovered: the news spread by themselves, and only good ones.

use std::net::Ipv4Addr;

use super::support::{Node, Swarm, until};
use crate::epoch::EpochProof;
use crate::identity::Role;
use crate::mesh::MeshConfig;

fn epoch(node: &Node) -> u64 {
    node.mesh.epoch().map_or(0, |proof| proof.number())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_epoch_reaches_everybody_and_connections_come_back() {
    let swarm = Swarm::new();
    let (a, b) = swarm.pair().await;
    let c = swarm.node("node-c").await;
    // node-c knows node-b alone and hears by way of it.
    c.knows(&b);
    b.echo("node-a", b"").await.unwrap();
    c.echo("node-b", b"").await.unwrap();
    let proof = EpochProof::sign(&a.mesh.identity(), 1).unwrap();
    a.mesh.set_epoch(proof.clone());
    until("all are in epoch 1", || [&a, &b, &c].iter().all(|node| epoch(node) == 1)).await;
    assert_eq!(b.echo("node-a", b"1").await.unwrap(), "node-b:1");
    assert_eq!(c.echo("node-b", b"1").await.unwrap(), "node-c:1");
    assert!(a.handler.epochs.lock().is_empty());
    assert_eq!((&*b.handler.epochs.lock(), &*c.handler.epochs.lock()), (&vec![1], &vec![1]));
    // Another proof of the same epoch breaks nothing, a former epoch does nothing.
    let downs = || b.handler.changes.lock().iter().filter(|(_, connected)| !connected).count();
    let before = downs();
    b.mesh.set_epoch(EpochProof::sign(&b.mesh.identity(), 1).unwrap());
    b.mesh.set_epoch(EpochProof::sign(&b.mesh.identity(), 0).unwrap());
    assert_eq!((epoch(&b), downs()), (1, before));
    assert_ne!(b.mesh.epoch(), Some(proof));

    // One that was away.
    let d = swarm.node("node-d").await;
    d.knows(&a);
    assert_eq!(d.echo("node-a", b"back").await.unwrap(), "node-d:back");
    assert_eq!((epoch(&d), &*d.handler.epochs.lock()), (1, &vec![1]));
    // And one that is called.
    let e = swarm.node("node-e").await;
    a.knows(&e);
    assert_eq!(a.echo("node-e", b"you").await.unwrap(), "node-a:you");
    assert_eq!((epoch(&e), &*e.handler.epochs.lock()), (1, &vec![1]));
    for node in [a, b, c, d, e] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_proof_convinces_nobody() {
    let (swarm, other) = (Swarm::new(), Swarm::new());
    let a = swarm.node("node-a").await;
    for (id, signer) in [
        ("node-b", swarm.identity("node-b", Role::Worker)),
        ("node-c", other.identity("node-c", Role::Manager)),
    ] {
        let liar = MeshConfig {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            epoch: Some(EpochProof::sign(&signer, 9).unwrap()),
            ..MeshConfig::new(swarm.identity(id, Role::Worker))
        };
        let liar = swarm.start_with(liar).await;
        liar.knows(&a);
        a.knows(&liar);
        until("both are refused", || {
            [&liar, &a].iter().all(|node| node.mesh.peers().iter().any(|peer| peer.last_error.is_some()))
        })
        .await;
        assert!(!a.mesh.is_connected(id) && !liar.mesh.is_connected("node-a"));
        assert_eq!((epoch(&a), a.handler.epochs.lock().len()), (0, 0));
        a.mesh.remove_peer(id);
        liar.stop().await;
    }
    a.stop().await;
}
