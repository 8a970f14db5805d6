//! Joining: token, digest, refusal, silence.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Endpoint, EndpointConfig, TokioRuntime};

use super::support::{PATIENCE, Swarm, until};
use crate::handler::RemoteError;
use crate::identity::{Identity, NewKey, Role};
use crate::join::{JoinError, JoinOptions, JoinReply, JoinRequest, join};
use crate::token::JoinToken;
use crate::{tls, transport};

fn options(remotes: &[SocketAddr], token: &JoinToken, key: &NewKey) -> JoinOptions {
    JoinOptions {
        remotes: remotes.to_vec(),
        request: JoinRequest {
            token: token.clone(),
            csr_pem: key.csr_pem().to_owned(),
            extra: Bytes::from_static(b"more"),
        },
        bind: None,
        timeout: PATIENCE,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joined_node_is_a_member() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let key = NewKey::generate().unwrap();
    let JoinReply { chain_pem, ca_pem, extra } = join(options(&[a.addr], &swarm.token, &key)).await.unwrap();
    assert_eq!(extra, "more");
    let identity = Identity::from_pem(key.key_pem(), &chain_pem, &ca_pem).unwrap();
    assert_eq!((identity.node_id(), identity.role()), ("joined", Role::Worker));
    let b = swarm.start(identity, 0).await;
    b.knows(&a);
    assert_eq!(b.echo("node-a", b"member").await.unwrap(), "joined:member");
    until("the role is seen", || a.mesh.peers().first().is_some_and(|peer| peer.role == Some(Role::Worker)))
        .await;
    // A worker's certificate proves no manager: joins by it fail.
    let key = NewKey::generate().unwrap();
    let by_worker = join(options(&[b.addr], &swarm.token, &key)).await;
    assert!(matches!(by_worker, Err(JoinError::Connection { .. })), "{by_worker:?}");
    assert_eq!(b.handler.joins.load(Ordering::SeqCst), 0);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_swarm_is_not_shown() {
    let (swarm, other) = (Swarm::new(), Swarm::new());
    let a = swarm.node("node-a").await;
    let key = NewKey::generate().unwrap();
    let error = join(options(&[a.addr], &other.token, &key)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("remote CA does not match fingerprint"), "{text}");
    for part in [a.addr.to_string(), swarm.ca.digest().to_string(), other.ca.digest().to_string()] {
        assert!(text.contains(&part), "{text}");
    }
    assert_eq!(a.handler.joins.load(Ordering::SeqCst), 0, "the secret must not have been sent");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_refused_in_the_managers_words() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let key = NewKey::generate().unwrap();
    let guess = JoinToken::generate(swarm.ca.digest(), [1; 16]);
    match join(options(&[a.addr], &guess, &key)).await {
        Err(JoinError::Refused { address, error }) => {
            assert_eq!((address, error.code), (a.addr, 1));
            assert!(error.message.contains("valid join token"));
        }
        other => panic!("{other:?}"),
    }
    assert!(a.mesh.peers().is_empty());
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_names_the_address_and_the_next_manager_is_asked() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let key = NewKey::generate().unwrap();
    let mut asked = options(&[silent], &swarm.token, &key);
    asked.timeout = Duration::from_millis(200);
    let error = join(asked).await.unwrap_err();
    assert!(matches!(error, JoinError::NoAnswer { address, .. } if address == silent), "{error:?}");
    join(options(&[silent, a.addr], &swarm.token, &key)).await.unwrap();
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_stay_at_home() {
    let key = NewKey::generate().unwrap();
    let swarm = Swarm::new();
    let nowhere = join(options(&[], &swarm.token, &key)).await;
    assert!(matches!(nowhere, Err(JoinError::NoRemote)));
    let mut asked = options(&["127.0.0.1:1".parse().unwrap()], &swarm.token, &key);
    asked.request.extra = vec![0; 100_000].into();
    assert!(matches!(join(asked).await, Err(JoinError::TooLarge { .. })));
}

/// Callers that begin to join and say nothing take the places of their address, and none of the members'.
#[tokio::test(flavor = "multi_thread")]
async fn idle_joiners_keep_no_member_out() {
    let swarm = Swarm::new();
    let (a, b) = (swarm.node("node-a").await, swarm.node("node-b").await);
    let free = a.mesh.inner().handshakes.available_permits();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).unwrap();
    let mut idle = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let (crypto, _) = tls::join_client(swarm.ca.digest()).unwrap();
        let config = transport::join_client(crypto);
        match endpoint.connect_with(config, a.addr, tls::join_server_name()).unwrap().await {
            Ok(connection) => idle.push(connection),
            Err(_) => refused += 1,
        }
    }
    assert_eq!((idle.len(), refused), (8, 32));
    assert_eq!(a.mesh.inner().handshakes.available_permits(), free);
    assert!(a.mesh.inner().joins.available_permits() >= 24, "other addresses have places left");
    b.knows(&a);
    b.echo("node-a", b"member").await.unwrap();
    // A joiner from the same address is told to wait, and gets in once there is a place.
    let key = NewKey::generate().unwrap();
    let mut hurried = options(&[a.addr], &swarm.token, &key);
    hurried.timeout = Duration::from_millis(300);
    let busy = join(hurried).await;
    assert!(
        matches!(&busy, Err(JoinError::Refused { error, .. }) if error.code == RemoteError::BUSY),
        "{busy:?}"
    );
    let patient = options(&[a.addr], &swarm.token, &key);
    let joining = tokio::spawn(join(patient));
    idle.pop().unwrap().close(quinn::VarInt::from_u32(0), b"");
    joining.await.unwrap().unwrap();
    a.stop().await;
    b.stop().await;
}

/// More than the limit of one address, all good: nobody is turned away for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_rack_behind_one_address_joins() {
    let swarm = Swarm::new();
    let a = swarm.node("node-a").await;
    let mut joining = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let key = NewKey::generate().unwrap();
        joining.spawn(join(options(&[a.addr], &swarm.token, &key)));
    }
    while let Some(joined) = joining.join_next().await {
        joined.unwrap().unwrap();
    }
    assert_eq!(a.handler.joins.load(Ordering::SeqCst), 30);
    a.stop().await;
}
