//! The swarm changes its CA while it works.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::support::{ECHO, Issuer, Node, PATIENCE, Swarm, until};
use crate::ca::{CertificateAuthority, DEFAULT_VALIDITY};
use crate::certificate::root_digest;
use crate::class::Class;
use crate::dial;
use crate::error::RequestError;
use crate::identity::{Identity, NewKey, Role};
use crate::join::{JoinError, JoinOptions, JoinRequest, join};
use crate::mesh::PeerConfig;
use crate::token::JoinToken;

/// Every node makes a new connection to every other one and is answered on it.
async fn all_meet(nodes: &[Node], what: &str) {
    for from in nodes {
        for to in nodes.iter().filter(|to| to.id() != from.id()) {
            let peer = from.mesh.inner().peer(to.id()).unwrap();
            assert!(
                dial::again(from.mesh.inner(), &peer, Class::Control).await,
                "{what}: {} -> {}",
                from.id(),
                to.id()
            );
            from.echo(to.id(), b"").await.unwrap();
        }
    }
}

fn trusts(node: &Node, trust_pem: &str) {
    let identity = node.mesh.identity().with_trust(trust_pem).unwrap();
    node.mesh.update_identity(identity).unwrap();
}

fn reissued(node: &Node, ca: &CertificateAuthority, trust_pem: &str) {
    let old = node.mesh.identity();
    let csr = old.csr_pem().unwrap();
    let chain =
        ca.sign_csr(&csr, old.node_id(), "cluster", old.role(), SystemTime::now(), DEFAULT_VALIDITY).unwrap();
    node.mesh.update_identity(old.renewed(&chain, trust_pem).unwrap()).unwrap();
}

async fn joins(at: &Node, token: &JoinToken) -> Result<Identity, JoinError> {
    let key = NewKey::generate().unwrap();
    let request =
        JoinRequest { token: token.clone(), csr_pem: key.csr_pem().to_owned(), extra: Bytes::new() };
    let reply = join(JoinOptions { remotes: vec![at.addr], request, bind: None, timeout: PATIENCE }).await?;
    Ok(Identity::from_pem(key.key_pem(), &reply.chain_pem, &reply.ca_pem).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_ca_breaks_nothing() {
    let swarm = Swarm::new();
    let mut nodes = Vec::new();
    for id in ["node-a", "node-b", "node-c", "node-d"] {
        nodes.push(swarm.node(id).await);
    }
    for one in &nodes {
        nodes.iter().filter(|other| other.id() != one.id()).for_each(|other| one.knows(other));
    }
    until("all are connected", || {
        nodes.iter().all(|node| node.mesh.peers().iter().filter(|peer| peer.control).count() == 3)
    })
    .await;
    all_meet(&nodes, "old, old").await;

    let old_pem = swarm.ca.certificate_pem();
    let new = CertificateAuthority::generate(SystemTime::now()).unwrap();
    let new_pem = new.certificate_pem().to_owned();
    let new_digest = root_digest(&new_pem).unwrap();
    let new_token = JoinToken::generate(new.digest(), rand::random());
    let cross = swarm.ca.cross_sign(&new_pem).unwrap();
    let new = Arc::new(new.with_cross_signed(&cross, old_pem).unwrap());
    let both = format!("{old_pem}{new_pem}");

    // One node has heard nothing yet, one has a new certificate already.
    trusts(&nodes[0], &both);
    reissued(&nodes[0], &new, &both);
    all_meet(&nodes, "one new certificate, the others know the old CA alone").await;
    for node in &nodes[1..] {
        trusts(node, &both);
    }
    all_meet(&nodes, "all trust both").await;
    for at in 1..nodes.len() {
        reissued(&nodes[at], &new, &both);
        all_meet(&nodes, "re-issued one by one").await;
    }
    for node in &nodes {
        assert_eq!(node.mesh.identity().issuer_digest(), new_digest);
        let issuer =
            Issuer { ca: new.clone(), trust_pem: both.clone(), ..node.handler.issuer.lock().clone() };
        *node.handler.issuer.lock() = issuer;
    }
    // Tokens name the old CA until the end.
    let joined = joins(&nodes[1], &swarm.token).await.unwrap();
    assert_eq!((joined.trust_pem(), joined.issuer_digest()), (both.as_str(), new_digest.clone()));
    let early = joins(&nodes[1], &new_token).await;
    assert!(matches!(early, Err(JoinError::Refused { .. })), "{early:?}");

    for at in 0..nodes.len() {
        trusts(&nodes[at], &new_pem);
        all_meet(&nodes, "the old CA is given up one by one").await;
    }
    for node in &nodes {
        let own = node.mesh.identity();
        assert_eq!(own.issuer_digest(), new_digest);
        let issuer = Issuer {
            ca: new.clone(),
            trust_pem: new_pem.clone(),
            token: new_token.clone(),
            removed: Vec::new(),
        };
        *node.handler.issuer.lock() = issuer;
    }
    let joined = joins(&nodes[2], &new_token).await.unwrap();
    assert_eq!(joined.trust_pem(), new_pem);
    let late = joins(&nodes[2], &swarm.token).await;
    assert!(matches!(late, Err(JoinError::Refused { .. })), "{late:?}");
    for node in &nodes {
        assert!(node.handler.changes.lock().iter().all(|(_, connected)| *connected), "{}", node.id());
    }

    // A certificate of the former CA is worth nothing now.
    let late = swarm.node("node-e").await;
    late.mesh.set_peer("node-a", PeerConfig { addresses: vec![nodes[0].addr], keep: true });
    until("the late one is refused", || late.mesh.peers()[0].last_error.is_some()).await;
    let refused = late.mesh.request("node-a", ECHO, Bytes::new(), Duration::from_millis(300)).await;
    assert!(matches!(refused, Err(RequestError::NotConnected { .. })), "{refused:?}");
    assert_eq!(late.mesh.identity().role(), Role::Manager);
    late.stop().await;
    for node in nodes {
        node.stop().await;
    }
}
