//! Re-enrolling: who gets a new certificate, and who does not.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime};

use super::support::{Issuer, Node, PATIENCE, Swarm};
use crate::ca::{CertificateAuthority, DEFAULT_VALIDITY};
use crate::class::{Class, Purpose};
use crate::handler::RemoteError;
use crate::identity::{Identity, NewKey, Role};
use crate::join::{self, JoinError};
use crate::renew::{self, ReenrolOptions, ReenrolReply, reenrol};
use crate::wire::StreamType;
use crate::{tls, transport, visit};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A worker whose certificate ended long ago.
fn stranded(swarm: &Swarm) -> Identity {
    swarm.identity_at("node-b", Role::Worker, SystemTime::now() - 30 * DAY, DAY)
}

async fn ask(identity: &Identity, remotes: &[SocketAddr]) -> Result<ReenrolReply, JoinError> {
    let (identity, remotes) = (identity.clone(), remotes.to_vec());
    reenrol(ReenrolOptions { remotes, identity, bind: None, timeout: PATIENCE }).await
}

fn refusal(result: Result<ReenrolReply, JoinError>) -> String {
    match result {
        Err(JoinError::Refused { error, .. }) => error.message,
        other => panic!("{other:?}"),
    }
}

/// A connection of our own, to say on it what we like.
async fn connection(identity: &Identity, to: &Node) -> (Endpoint, Connection) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).unwrap();
    let config = transport::visitor(tls::renew_client(identity).unwrap(), Purpose::Renew);
    let connection = visit::connect(&endpoint, to.addr, config, PATIENCE).await.unwrap();
    (endpoint, connection)
}

async fn say(connection: &Connection, to: &Node, request: Bytes) -> Result<Bytes, RemoteError> {
    match visit::exchange(connection, to.addr, StreamType::Renew, request, PATIENCE).await {
        Ok(answer) => Ok(answer),
        Err(JoinError::Refused { error, .. }) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranded_node_comes_back_with_its_old_key() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let old = stranded(&swarm);
    let silent: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let reply = ask(&old, &[silent, a.addr]).await.unwrap();
    let off = reply.now.duration_since(SystemTime::now() - Duration::from_secs(60)).unwrap().as_secs();
    assert!((30..90).contains(&off), "{off}");
    let new = old.renewed(&reply.chain_pem, &reply.ca_pem).unwrap();
    assert_eq!(new.key_digest(), old.key_digest());
    assert_eq!(*a.handler.reenrolled.lock(), [("node-b".to_owned(), old.key_digest())]);
    let b = swarm.start(new, 0).await;
    b.knows(&a);
    b.echo("node-a", b"").await.unwrap();
    a.stop().await;
    b.stop().await;
}

/// All were switched off: the manager's certificate has ended as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_managers_own_certificate_may_have_ended_too() {
    let swarm = Swarm::new();
    let old = swarm.identity_at("node-a", Role::Manager, SystemTime::now() - 30 * DAY, DAY);
    let a = swarm.start(old, 0).await;
    ask(&stranded(&swarm), &[a.addr]).await.unwrap();
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_nodes_and_strangers_are_refused() {
    let (swarm, other) = (Swarm::new(), Swarm::new());
    let (a, listed) = (swarm.node("node-a").await, swarm.node("node-c").await);
    // By the list, at every manager.
    let removed = Issuer { removed: vec!["node-b".into()], ..a.handler.issuer.lock().clone() };
    *a.handler.issuer.lock() = removed.clone();
    *listed.handler.issuer.lock() = removed;
    let silent: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let why = refusal(ask(&stranded(&swarm), &[a.addr, listed.addr, silent]).await);
    assert!(why.contains("not in the swarm's list"), "{why}");
    // By the mesh, which was told.
    let asked = a.handler.reenrolled.lock().len();
    a.mesh.remove_peer("node-b");
    let why = refusal(ask(&stranded(&swarm), &[a.addr]).await);
    assert!(why.contains("removed"), "{why}");
    assert_eq!(a.handler.reenrolled.lock().len(), asked);
    // A node of another swarm does not even speak: this is no manager of its own.
    let stranger = ask(&stranded(&other), &[a.addr]).await;
    assert!(matches!(stranger, Err(JoinError::Connection { .. })), "{stranger:?}");
    // And if it does, it is refused.
    let (_endpoint, open) = connection(&swarm.identity("node-d", Role::Worker), &a).await;
    let foreign = stranded(&other);
    let request = renew::request(&open, &foreign, &foreign.csr_pem().unwrap()).unwrap();
    let why = say(&open, &a, request).await.unwrap_err();
    assert!(why.message.contains("not signed by a CA"), "{why}");
    // A worker is nobody to re-enrol with.
    let worker = swarm.start(swarm.identity("node-w", Role::Worker), 0).await;
    let refused = ask(&swarm.identity("node-d", Role::Worker), &[worker.addr]).await;
    assert!(matches!(refused, Err(JoinError::Connection { .. })), "{refused:?}");
    assert!(worker.handler.reenrolled.lock().is_empty());
    a.stop().await;
    listed.stop().await;
    worker.stop().await;
}

/// What was said on one connection is worth nothing on another one, and only the key's owner can say it.
#[tokio::test(flavor = "multi_thread")]
async fn recorded_and_borrowed_requests_are_refused() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let own = stranded(&swarm);
    let csr = own.csr_pem().unwrap();
    let (_endpoint, first) = connection(&own, &a).await;
    let recorded = renew::request(&first, &own, &csr).unwrap();
    say(&first, &a, recorded.clone()).await.unwrap();
    assert_eq!(a.handler.reenrolled.lock().len(), 1);
    let (_endpoint, second) = connection(&own, &a).await;
    let why = say(&second, &a, recorded).await.unwrap_err();
    assert_eq!(why.code, RemoteError::REFUSED, "{why}");
    assert!(why.message.contains("not proven"), "{why}");

    // The certificates of the one, the key of another.
    let thief = swarm.identity("node-t", Role::Worker);
    let (_endpoint, third) = connection(&own, &a).await;
    let by_thief = renew::request(&third, &thief, &csr).unwrap();
    let [_, _, signature] = join::decode(by_thief).unwrap();
    let request = join::encode(&[own.chain_pem().as_bytes(), csr.as_bytes(), &signature]);
    assert!(say(&third, &a, request).await.unwrap_err().message.contains("not proven"));
    // A request for another key.
    let (_endpoint, fourth) = connection(&own, &a).await;
    let other = NewKey::generate().unwrap();
    let request = renew::request(&fourth, &own, other.csr_pem()).unwrap();
    assert!(say(&fourth, &a, request).await.unwrap_err().message.contains("another key"));
    for garbage in [Bytes::new(), Bytes::from_static(b"\0\0\0\x01xx"), join::encode(&[b"", b"", b""])] {
        let (_endpoint, open) = connection(&own, &a).await;
        assert_eq!(say(&open, &a, garbage).await.unwrap_err().code, RemoteError::MALFORMED);
    }
    assert_eq!(a.handler.reenrolled.lock().len(), 1);
    a.stop().await;
}

/// Such a connection is good for one re-enrolment and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_visitors_connection_takes_nothing_else() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let own = stranded(&swarm);
    for stream_type in [StreamType::Request, StreamType::Stream, StreamType::Join, StreamType::Hello] {
        let (_endpoint, open) = connection(&own, &a).await;
        let answer = visit::exchange(&open, a.addr, stream_type, Bytes::from_static(b"x"), PATIENCE).await;
        assert!(matches!(answer, Err(JoinError::Connection { .. })), "{stream_type:?} {answer:?}");
    }
    let counted = [&a.handler.requests, &a.handler.joins].map(|count| count.load(Ordering::SeqCst));
    assert_eq!((counted, a.handler.reenrolled.lock().len()), ([0, 0], 0));
    // Nor does one that says another protocol than its first packet.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).unwrap();
    for purpose in [Purpose::Mesh(Class::Control), Purpose::Join] {
        let config = transport::visitor(tls::renew_client(&own).unwrap(), purpose);
        assert!(visit::connect(&endpoint, a.addr, config, PATIENCE).await.is_err());
    }
    a.stop().await;
}

/// While the CA changes a stranded node that knows the old one alone is given both; a CA that the old one does not vouch
/// for, and a certificate that was issued before, are not taken whoever sends them.
#[tokio::test(flavor = "multi_thread")]
async fn new_cas_must_be_vouched_for() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let new = CertificateAuthority::generate(SystemTime::now()).unwrap();
    let (new_pem, new_key) = (new.certificate_pem().to_owned(), new.key_pem());
    let cross = swarm.ca.cross_sign(&new_pem).unwrap();
    let both = format!("{}{new_pem}", swarm.ca.certificate_pem());
    let vouched = Arc::new(new.with_cross_signed(&cross, swarm.ca.certificate_pem()).unwrap());
    let bare = Arc::new(CertificateAuthority::from_pem(&new_pem, &new_key).unwrap());
    let third = CertificateAuthority::generate(SystemTime::now()).unwrap();
    let issuer = a.handler.issuer.lock().clone();
    let old = stranded(&swarm);
    for (ca, trust_pem, good) in [
        (vouched.clone(), both.clone(), true),
        // The rotation has ended meanwhile.
        (vouched, new_pem.clone(), true),
        (bare, new_pem, false),
        (swarm.ca.clone(), both, false),
        (swarm.ca.clone(), format!("{}{}", swarm.ca.certificate_pem(), third.certificate_pem()), false),
    ] {
        *a.handler.issuer.lock() = Issuer { ca, trust_pem: trust_pem.clone(), ..issuer.clone() };
        let reply = ask(&old, &[a.addr]).await;
        assert_eq!(reply.is_ok(), good, "{reply:?}");
        if let Ok(reply) = reply {
            assert_eq!(old.renewed(&reply.chain_pem, &reply.ca_pem).unwrap().trust_pem(), trust_pem);
        }
    }
    a.stop().await;
}

#[test]
fn replies_round_trip() {
    let now = SystemTime::UNIX_EPOCH + DEFAULT_VALIDITY;
    let reply = ReenrolReply { chain_pem: "a".into(), ca_pem: "b".into(), now };
    assert_eq!(ReenrolReply::decode(reply.encode()), Some(reply));
    assert_eq!(ReenrolReply::decode(join::encode(&[b"a", b"b", &[0xff; 8]])), None);
    assert_eq!(ReenrolReply::decode(join::encode(&[b"a", b"b", b"short"])), None);
}
