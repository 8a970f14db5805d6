//! A swarm in one process: nodes with certificates of one CA, and a handler that tells what it got.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::ca::{CertificateAuthority, DEFAULT_VALIDITY};
use crate::class::Class;
use crate::epoch::EpochProof;
use crate::frame::{read_frame, write_frame};
use crate::handler::{Handler, RemoteError};
use crate::identity::{Identity, NewKey, PeerIdentity, Role};
use crate::join::{JoinReply, JoinRequest};
use crate::mesh::{Mesh, MeshConfig, PeerConfig};
use crate::stream::{RecvStream, SendStream};
use crate::token::JoinToken;

/// How long a condition may take: far more than it does, even on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const ECHO: u16 = 1;
pub(super) const FAIL: u16 = 2;
pub(super) const HOLD: u16 = 3;
pub(super) const HUGE: u16 = 4;

pub(super) struct Swarm {
    pub(super) ca: Arc<CertificateAuthority>,
    pub(super) token: JoinToken,
}

pub(super) struct Node {
    pub(super) mesh: Mesh,
    pub(super) handler: Arc<Recorder>,
    pub(super) addr: SocketAddr,
}

pub(super) struct Recorder {
    pub(super) datagrams: AtomicUsize,
    pub(super) datagram_bytes: AtomicUsize,
    pub(super) requests: AtomicUsize,
    pub(super) joins: AtomicUsize,
    pub(super) refuse_all: AtomicBool,
    /// Whether others may talk through it, and how often that was asked.
    pub(super) relays: AtomicBool,
    pub(super) asked_to_relay: AtomicUsize,
    /// `HOLD` requests wait here.
    pub(super) gate: Semaphore,
    pub(super) changes: Mutex<Vec<(String, bool)>>,
    /// What the mesh reported: epochs, and who asked for a new certificate with which key.
    pub(super) epochs: Mutex<Vec<u64>>,
    pub(super) reenrolled: Mutex<Vec<(String, String)>>,
    pub(super) issuer: Mutex<Issuer>,
}

/// How a manager admits nodes.
#[derive(Clone)]
pub(super) struct Issuer {
    pub(super) ca: Arc<CertificateAuthority>,
    pub(super) token: JoinToken,
    pub(super) trust_pem: String,
    /// Nodes that get no new certificate.
    pub(super) removed: Vec<String>,
}

impl Issuer {
    fn sign(&self, csr_pem: &str, node_id: &str, at: SystemTime) -> Result<JoinReply, RemoteError> {
        let chain_pem = self
            .ca
            .sign_csr(csr_pem, node_id, "cluster", Role::Worker, at, DEFAULT_VALIDITY)
            .map_err(|error| RemoteError::new(2, error.to_string()))?;
        Ok(JoinReply { chain_pem, ca_pem: self.trust_pem.clone(), extra: Bytes::new() })
    }
}

impl Swarm {
    pub(super) fn new() -> Self {
        let ca = Arc::new(CertificateAuthority::generate(SystemTime::now()).unwrap());
        let token = JoinToken::generate(ca.digest(), rand::random());
        Self { ca, token }
    }

    pub(super) fn identity(&self, node_id: &str, role: Role) -> Identity {
        self.identity_at(node_id, role, SystemTime::now(), DEFAULT_VALIDITY)
    }

    /// As if signed at another time.
    pub(super) fn identity_at(
        &self,
        node_id: &str,
        role: Role,
        at: SystemTime,
        validity: Duration,
    ) -> Identity {
        let key = NewKey::generate().unwrap();
        let chain = self.ca.sign_csr(key.csr_pem(), node_id, "cluster", role, at, validity).unwrap();
        Identity::from_pem(key.key_pem(), &chain, self.ca.certificate_pem()).unwrap()
    }

    pub(super) async fn node(&self, node_id: &str) -> Node {
        self.start(self.identity(node_id, Role::Manager), 0).await
    }

    pub(super) async fn start(&self, identity: Identity, port: u16) -> Node {
        let listen = (Ipv4Addr::LOCALHOST, port).into();
        self.start_with(MeshConfig { listen, ..MeshConfig::new(identity) }).await
    }

    pub(super) async fn start_with(&self, config: MeshConfig) -> Node {
        let handler = Arc::new(Recorder {
            datagrams: AtomicUsize::new(0),
            datagram_bytes: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            joins: AtomicUsize::new(0),
            refuse_all: AtomicBool::new(false),
            relays: AtomicBool::new(true),
            asked_to_relay: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            changes: Mutex::default(),
            epochs: Mutex::default(),
            reenrolled: Mutex::default(),
            issuer: Mutex::new(Issuer {
                ca: self.ca.clone(),
                token: self.token.clone(),
                trust_pem: self.ca.certificate_pem().to_owned(),
                removed: Vec::new(),
            }),
        });
        // A port that was just given up may take a moment.
        let mut tries = 0;
        let mesh = loop {
            match Mesh::start(config.clone(), handler.clone()).await {
                Ok(mesh) => break mesh,
                Err(error) if tries > 400 => panic!("{error:?}"),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let addr = mesh.local_addr().unwrap();
        Node { mesh, handler, addr }
    }

    /// Two nodes that know each other; the first has the smaller id.
    pub(super) async fn pair(&self) -> (Node, Node) {
        let (a, b) = (self.node("node-a").await, self.node("node-b").await);
        a.knows(&b);
        b.knows(&a);
        (a, b)
    }
}

impl Node {
    pub(super) fn id(&self) -> &str {
        self.mesh.node_id()
    }

    pub(super) fn knows(&self, other: &Self) {
        self.mesh.set_peer(other.id(), PeerConfig { addresses: vec![other.addr], keep: true });
    }

    pub(super) async fn echo(&self, to: &str, body: &'static [u8]) -> Result<Bytes, crate::RequestError> {
        self.mesh.request(to, ECHO, Bytes::from_static(body), PATIENCE).await
    }

    pub(super) async fn stop(self) {
        self.mesh.close().await;
    }
}

#[async_trait]
impl Handler for Recorder {
    fn authorize(&self, _peer: &PeerIdentity) -> bool {
        !self.refuse_all.load(Ordering::SeqCst)
    }

    fn may_relay(&self, _from: &PeerIdentity, _to: &str) -> bool {
        self.asked_to_relay.fetch_add(1, Ordering::SeqCst);
        self.relays.load(Ordering::SeqCst)
    }

    async fn request(&self, peer: Arc<PeerIdentity>, kind: u16, body: Bytes) -> Result<Bytes, RemoteError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        match kind {
            ECHO => Ok([peer.node_id.as_bytes(), b":", &body].concat().into()),
            HOLD => {
                self.gate.acquire().await.unwrap().forget();
                Ok(body)
            }
            HUGE => Ok(vec![0; crate::wire::MAX_BODY + 1].into()),
            _ => Err(RemoteError::new(7, "x".repeat(10_000))),
        }
    }

    /// Echoes frames; as many as fit into a stream, until it ends.
    async fn stream(
        &self,
        peer: Arc<PeerIdentity>,
        class: Class,
        kind: u16,
        header: Bytes,
        mut send: SendStream,
        mut recv: RecvStream,
    ) {
        let about = format!("{} {class:?} {kind} {}", peer.node_id, String::from_utf8_lossy(&header));
        if write_frame(&mut send, about).await.is_err() {
            return;
        }
        while let Ok(Some(frame)) = read_frame(&mut recv, 1 << 20).await {
            if write_frame(&mut send, frame).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }

    fn datagrams(&self, _peer: &PeerIdentity, batch: &mut Vec<Bytes>) {
        self.datagrams.fetch_add(batch.len(), Ordering::SeqCst);
        self.datagram_bytes.fetch_add(batch.iter().map(Bytes::len).sum(), Ordering::SeqCst);
        batch.clear();
    }

    fn peer_changed(&self, peer: &PeerIdentity, connected: bool) {
        self.changes.lock().push((peer.node_id.clone(), connected));
    }

    async fn join(&self, _remote: SocketAddr, request: JoinRequest) -> Result<JoinReply, RemoteError> {
        self.joins.fetch_add(1, Ordering::SeqCst);
        let issuer = self.issuer.lock().clone();
        if !request.token.matches(&issuer.token) {
            return Err(RemoteError::new(1, "a valid join token is necessary to join this cluster"));
        }
        let reply = issuer.sign(&request.csr_pem, "joined", SystemTime::now())?;
        Ok(JoinReply { extra: request.extra, ..reply })
    }

    fn superseded(&self, proof: EpochProof) {
        self.epochs.lock().push(proof.number());
    }

    async fn reenrol(
        &self,
        _remote: SocketAddr,
        peer: PeerIdentity,
        key_digest: String,
        csr_pem: String,
    ) -> Result<JoinReply, RemoteError> {
        let issuer = self.issuer.lock().clone();
        self.reenrolled.lock().push((peer.node_id.clone(), key_digest));
        if issuer.removed.contains(&peer.node_id) {
            return Err(RemoteError::new(1, "this node is not in the swarm's list of nodes"));
        }
        issuer.sign(&csr_pem, &peer.node_id, SystemTime::now())
    }
}

/// Waits until a condition holds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain: {what}");
}
