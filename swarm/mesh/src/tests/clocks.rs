//! Certificates and clocks: too old, too young, renewed in time, a clock that is wrong.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use super::support::{Node, Swarm, until};
use crate::class::Class;
use crate::clock::SwarmClock;
use crate::dial;
use crate::identity::{Identity, Role};
use crate::mesh::MeshConfig;

const HOUR: Duration = Duration::from_secs(3600);
const HOUR_SECONDS: i64 = 3600;

async fn start(swarm: &Swarm, identity: Identity, offset: i64) -> (Node, SwarmClock) {
    let clock = SwarmClock::new();
    clock.set_offset(offset);
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let config = MeshConfig { listen, clock: clock.clone(), ..MeshConfig::new(identity) };
    (swarm.start_with(config).await, clock)
}

/// Waits until a dial has failed, in these words.
async fn refused(node: &Node, words: &str) {
    until(words, || {
        node.mesh
            .peers()
            .iter()
            .any(|peer| !peer.control && peer.last_error.as_ref().is_some_and(|error| error.contains(words)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_ended_is_refused_by_both_sides() {
    let swarm = Swarm::new();
    let now = SystemTime::now();
    let old = swarm.identity_at("node-b", Role::Worker, now - 2 * HOUR, HOUR);
    let (a, b) = (swarm.node("node-a").await, swarm.start(old.clone(), 0).await);
    a.knows(&b);
    refused(&a, "certificate expired").await;
    b.knows(&a);
    refused(&b, "aborted by peer: the cryptographic handshake failed").await;
    assert!(!a.mesh.is_connected("node-b") && !b.mesh.is_connected("node-a"));
    // With a new one for the same key it is a member again.
    let chain = swarm.ca.sign_csr(&old.csr_pem().unwrap(), "node-b", "cluster", Role::Worker, now, HOUR);
    b.mesh.update_identity(old.renewed(&chain.unwrap(), swarm.ca.certificate_pem()).unwrap()).unwrap();
    assert_eq!(b.echo("node-a", b"hi").await.unwrap(), "node-b:hi");
    a.stop().await;
    b.stop().await;
}

/// The swarm is right, and node-b's clock is two hours behind: to it all certificates are from the future.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_put_right_by_an_offset() {
    let swarm = Swarm::new();
    let (a, b) = (swarm.node("node-a").await, swarm.identity("node-b", Role::Worker));
    let (b, clock) = start(&swarm, b, -2 * HOUR_SECONDS).await;
    b.knows(&a);
    refused(&b, "not valid yet").await;
    assert!(!b.mesh.is_connected("node-a"));
    clock.set_offset(0);
    assert_eq!(b.echo("node-a", b"hi").await.unwrap(), "node-b:hi");
    a.stop().await;
    b.stop().await;
}

/// One-hour certificates over three hours of the swarm's time: renewed in time, no connection lost, and new ones made
/// with every generation.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_an_hour_are_renewed_without_a_break() {
    let swarm = Swarm::new();
    let begin = SystemTime::now();
    let identity = |id: &str| swarm.identity_at(id, Role::Manager, begin, HOUR);
    let (a, clock_a) = start(&swarm, identity("node-a"), 0).await;
    let (b, clock_b) = start(&swarm, identity("node-b"), 0).await;
    a.knows(&b);
    b.knows(&a);
    a.echo("node-b", b"").await.unwrap();
    b.echo("node-a", b"").await.unwrap();
    for step in 1..=5u32 {
        for (node, clock) in [(&a, &clock_a), (&b, &clock_b)] {
            let old = node.mesh.identity();
            let at = old.renew_at(f64::from(step) / 5.0);
            let issued = old.peer().not_after - HOUR;
            let share = at.duration_since(issued).unwrap().as_secs_f64() / HOUR.as_secs_f64();
            assert!((0.5..=0.8).contains(&share), "{share}");
            assert!(at < old.peer().not_after);
            let offset = at.duration_since(SystemTime::now()).unwrap().as_secs();
            for clock in [&clock_a, &clock_b] {
                clock.set_offset(clock.offset().max(offset.try_into().unwrap()));
            }
            let chain = swarm
                .ca
                .sign_csr(&old.csr_pem().unwrap(), old.node_id(), "cluster", Role::Manager, clock.now(), HOUR)
                .unwrap();
            node.mesh.update_identity(old.renewed(&chain, old.trust_pem()).unwrap()).unwrap();
        }
        for (from, to) in [(&a, &b), (&b, &a)] {
            let peer = from.mesh.inner().peer(to.id()).unwrap();
            assert!(dial::again(from.mesh.inner(), &peer, Class::Control).await, "step {step}");
            from.echo(to.id(), b"").await.unwrap();
        }
    }
    assert!(clock_a.offset() > 2 * HOUR_SECONDS, "{}", clock_a.offset());
    for node in [&a, &b] {
        assert!(node.handler.changes.lock().iter().all(|(_, connected)| *connected));
    }
    a.stop().await;
    b.stop().await;
}
