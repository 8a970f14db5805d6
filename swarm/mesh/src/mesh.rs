//! The mesh endpoint: what a node calls to reach its peers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quinn::{Endpoint, Runtime as _, TokioRuntime};
use tokio::runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::changes::Changes;
use crate::class::Class;
use crate::clock::SwarmClock;
use crate::credentials::Credentials;
use crate::data_path::DataPath;
use crate::epoch::EpochProof;
use crate::error::{DatagramError, MeshError, RequestError, StreamError};
use crate::handler::Handler;
use crate::identity::Identity;
use crate::inner::{Inner, MAX_REMOVED};
use crate::join_limit::JoinLimit;
use crate::link::{CloseCode, Link};
use crate::open::Patience;
use crate::relay::{RelaySocket, Relayed};
use crate::status::PeerStatus;
use crate::stream::{RecvStream, SendStream};
use crate::transport::{self, Transports};
use crate::wire::{self, StreamType, WireError};
use crate::{accept, dial, moving, relay, socket, ticker};

/// Docker's port, here UDP.
pub const DEFAULT_PORT: u16 = 2377;
/// How long a request or stream waits for a connection that is being made, at most.
pub const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// Unauthenticated handshakes in progress.
const MAX_HANDSHAKES: usize = 128;
/// Joins in progress; fewer, and not of the same kind: whoever fills them keeps no member out.
const MAX_JOINS: usize = 32;
/// How long a stream's header may take beside the wait for a connection.
const HEADER_WAIT: Duration = Duration::from_secs(1);
/// How often, and how soon again, an address is tried that a former socket of ours may still hold.
const RELEASE_TRIES: u32 = 30;
const RELEASE_PAUSE: Duration = Duration::from_millis(10);
/// How long what says that relayed connections are closed may be on its way out.
const RELAYED_CLOSE: Duration = Duration::from_millis(50);
/// How long `close` waits for the peers to take notice.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How to start a mesh.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// Where to listen. `[::]` takes IPv4 as well.
    pub listen: SocketAddr,
    /// Who we are.
    pub identity: Identity,
    /// Largest UDP payload that path MTU discovery tries on data and bulk connections, bytes (at most 6500).
    pub max_mtu: u16,
    /// The time by which certificates are judged. Keep a clone to move it.
    pub clock: SwarmClock,
    /// The epoch that the swarm is in, if it was ever recovered.
    pub epoch: Option<EpochProof>,
}

/// How to treat a peer.
#[derive(Debug, Clone, Default)]
pub struct PeerConfig {
    /// Where it may be; hints only.
    pub addresses: Vec<SocketAddr>,
    /// Whether it is a manager: a control connection is kept up even when nothing needs one, and nodes that have no
    /// direct path are reached through it.
    pub keep: bool,
}

/// A running endpoint. Clones are handles of the same one; the last one dropped stops it.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
    _stop: Arc<StopOnDrop>,
}

struct StopOnDrop(Arc<Inner>);

impl MeshConfig {
    /// The defaults: every IPv4 address, port 2377, jumbo frames where the path has them.
    pub fn new(identity: Identity) -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into(),
            identity,
            max_mtu: transport::DEFAULT_MAX_MTU,
            clock: SwarmClock::new(),
            epoch: None,
        }
    }
}

// === impl Mesh ===

impl Mesh {
    /// Binds the socket and starts accepting. Must be called within a tokio runtime.
    pub async fn start(config: MeshConfig, handler: Arc<dyn Handler>) -> Result<Self, MeshError> {
        let transports = Transports::new(config.max_mtu.min(transport::DEFAULT_MAX_MTU));
        let credentials = Credentials::new(config.identity.clone(), &config.clock, &transports)?;
        let socket = socket::listen(config.listen)
            .map_err(|source| MeshError::Bind { addr: config.listen, source })?;
        let (relayed, packets) = Relayed::new();
        let endpoint = relaying(socket, &relayed)
            .and_then(|socket| {
                Endpoint::new_with_abstract_socket(
                    transport::endpoint_config(&config.identity),
                    Some((*credentials.mesh_servers[Class::Control.index()]).clone()),
                    socket,
                    Arc::new(TokioRuntime),
                )
            })
            .map_err(MeshError::Endpoint)?;
        let inner = Arc::new(Inner {
            endpoint,
            handler,
            node_id: config.identity.node_id().to_owned(),
            incarnation: rand::random(),
            relayed,
            moves: AtomicU32::new(0),
            epoch: Instant::now(),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            joins: Arc::new(Semaphore::new(MAX_JOINS)),
            join_limit: Mutex::new(JoinLimit::new(Instant::now())),
            changes: Changes::default(),
            warned_of_duplicate: AtomicBool::new(false),
            credentials: RwLock::new(Arc::new(credentials)),
            clock: config.clock,
            swarm_epoch: RwLock::new(config.epoch),
            transports,
            peers: RwLock::default(),
            removed: Mutex::default(),
            closed: watch::Sender::new(false),
            tasks: Mutex::new(JoinSet::new()),
            runtime: runtime::Handle::current(),
            // 0 stands for none (`peer::Peer::session`).
            sequence: AtomicU64::new(1),
        });
        inner.spawn(accept::run(inner.clone()));
        inner.spawn(ticker::run(inner.clone()));
        inner.spawn(relay::carry::run(inner.clone(), packets));
        Ok(Self { _stop: Arc::new(StopOnDrop(inner.clone())), inner })
    }

    /// This node.
    pub fn node_id(&self) -> &str {
        &self.inner.node_id
    }

    /// The identity in use.
    pub fn identity(&self) -> Identity {
        self.inner.credentials().identity.clone()
    }

    /// Where the socket is bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.endpoint.local_addr()
    }

    /// Goes over to another address or port while running; on an error the present one stays. Connections that this side
    /// dialled go on (QUIC migration); those that peers dialled cannot follow and are dialled again, from here, at once.
    /// Streams on the latter break. Peers learn the new address from these connections.
    pub async fn rebind(&self, listen: SocketAddr) -> io::Result<SocketAddr> {
        let former = self.inner.endpoint.local_addr()?;
        let mut rebound = self.listen_on(listen);
        if in_use(&rebound) {
            // By a socket of our own, perhaps: the present one, or the one before it, which quinn keeps for a while.
            self.let_go_of_the_port();
            rebound = self.listen_in_the_end(listen).await;
            if rebound.is_err() {
                self.listen_in_the_end(former).await?;
            }
        }
        if self.inner.endpoint.local_addr()? != former || rebound.is_ok() {
            moving::rebound(&self.inner, former);
        }
        rebound.and_then(|()| self.inner.endpoint.local_addr())
    }

    /// Connections let go of a former socket one by one.
    async fn listen_in_the_end(&self, address: SocketAddr) -> io::Result<()> {
        for _ in 0..RELEASE_TRIES {
            match self.listen_on(address) {
                held if in_use(&held) => tokio::time::sleep(RELEASE_PAUSE).await,
                other => return other,
            }
        }
        self.listen_on(address)
    }

    fn listen_on(&self, address: SocketAddr) -> io::Result<()> {
        let socket = relaying(socket::listen(address)?, &self.inner.relayed)?;
        self.inner.endpoint.rebind_abstract(socket)
    }

    /// To be called when the host's addresses have changed. Connections that answer stay; what does not within one and a
    /// half seconds (control connections: half a second) is dialled again. Costs little if nothing is amiss.
    pub fn addresses_changed(&self) {
        moving::check(&self.inner);
    }

    /// Tells all peers, waits (a second at most) until they know, ends all tasks, and gives the port free.
    pub async fn close(&self) {
        self.close_relayed().await;
        self.inner.stop();
        let _ = tokio::time::timeout(CLOSE_WAIT, self.inner.endpoint.wait_idle()).await;
        let mut tasks = std::mem::take(&mut *self.inner.tasks.lock());
        let ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_WAIT, ended).await.is_err() {
            tracing::warn!("mesh tasks did not end in time");
        }
        self.let_go_of_the_port();
    }

    /// What is relayed ends first, while there is still something that carries the news.
    async fn close_relayed(&self) {
        let peers = self.inner.peers();
        let links =
            peers.iter().flat_map(|peer| peer.slots.iter()).flat_map(|slot| slot.links.lock().clone());
        let relayed: Vec<_> = links.filter(|link| link.via.is_some()).collect();
        relayed.iter().for_each(|link| link.close(CloseCode::Shutdown));
        if !relayed.is_empty() {
            tokio::time::sleep(RELAYED_CLOSE).await;
        }
    }

    /// A connection that was closed in its handshake drains for seconds and keeps the socket meanwhile; a swarm that is
    /// left may be joined again at once. So the endpoint gets another socket, twice: it keeps the one before the last.
    fn let_go_of_the_port(&self) {
        for _ in 0..2 {
            let rebound = socket::listen((Ipv4Addr::LOCALHOST, 0).into())
                .and_then(|socket| self.inner.endpoint.rebind(socket));
            if let Err(error) = rebound {
                tracing::warn!(%error, "cannot give the port free before all connections are drained");
            }
        }
    }

    /// Uses a renewed certificate (or another role) for new handshakes. Connections that are up stay.
    pub fn update_identity(&self, identity: Identity) -> Result<(), MeshError> {
        if identity.node_id() != self.inner.node_id {
            return Err(MeshError::OtherNode {
                own: self.inner.node_id.clone(),
                new: identity.node_id().to_owned(),
            });
        }
        let credentials = Credentials::new(identity, &self.inner.clock, &self.inner.transports)?;
        let control = (*credentials.mesh_servers[Class::Control.index()]).clone();
        self.inner.endpoint.set_server_config(Some(control));
        *self.inner.credentials.write() = Arc::new(credentials);
        Ok(())
    }

    /// Goes over to a later epoch, or to a new proof of the present one; a former one changes nothing. Connections of a
    /// former epoch are closed and dialled again. [`Handler::superseded`] is not called.
    pub fn set_epoch(&self, proof: EpochProof) {
        self.inner.enter(&proof);
    }

    /// The epoch that the swarm is in, if it was ever recovered.
    pub fn epoch(&self) -> Option<EpochProof> {
        self.inner.swarm_epoch.read().clone()
    }

    /// The clock by which certificates are judged.
    pub fn clock(&self) -> &SwarmClock {
        &self.inner.clock
    }

    /// Makes a peer known, or changes its addresses. Nothing that is up is closed.
    pub fn set_peer(&self, node_id: &str, config: PeerConfig) {
        if node_id == self.inner.node_id {
            return;
        }
        self.inner.removed.lock().retain(|removed| removed != node_id);
        let Some(peer) = self.inner.peer_or_new(node_id) else { return };
        peer.configure(config.addresses, config.keep);
        if config.keep {
            dial::ensure(&self.inner, &peer, Class::Control);
        }
        for slot in &peer.slots {
            slot.demand.notify_one();
        }
    }

    /// Closes all connections to a node and refuses new ones until `set_peer` names it again.
    pub fn remove_peer(&self, node_id: &str) {
        let mut removed = self.inner.removed.lock();
        if !removed.iter().any(|known| known == node_id) {
            if removed.len() >= MAX_REMOVED {
                removed.pop_front();
            }
            removed.push_back(node_id.to_owned());
        }
        drop(removed);
        let Some(peer) = self.inner.peers.write().remove(node_id) else { return };
        self.inner.remove(&peer);
    }

    /// Asks a peer over the control connection. `timeout` covers everything, waiting for a connection included (which
    /// itself is bounded by [`CONNECT_WAIT`]). Only [`RequestError::NotConnected`], `UnknownPeer`, `TooLarge` and
    /// `Closed` mean that the peer has certainly not seen the request.
    pub async fn request(
        &self,
        node_id: &str,
        kind: u16,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let lost =
            |reason: String| RequestError::ConnectionLost { node_id: node_id.to_owned(), kind, reason };
        let started = Instant::now();
        let patience = Patience { connect: timeout.min(CONNECT_WAIT), whole: timeout };
        let (mut send, mut recv, held) =
            self.inner.open(node_id, Class::Control, StreamType::Request, kind, body, patience).await?;
        let answered = async {
            send.finish().map_err(|error| lost(error.to_string()))?;
            wire::read_answer(&mut recv).await.map_err(|error| lost(reason(held.link(), &error)))
        };
        let left = timeout.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, answered).await {
            Err(_) => Err(RequestError::Timeout { node_id: node_id.to_owned(), kind, timeout }),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Ok(body))) => Ok(body),
            Ok(Ok(Err(error))) => Err(RequestError::Remote { node_id: node_id.to_owned(), error }),
        }
    }

    /// Opens a stream to a peer's [`Handler::stream`]. `Class::Control` for sessions, `Class::Bulk` for big data;
    /// The others have no streams. Waits at most [`CONNECT_WAIT`] for a connection, and a second more until the
    /// header is on its way.
    pub async fn open_stream(
        &self,
        node_id: &str,
        class: Class,
        kind: u16,
        header: Bytes,
    ) -> Result<(SendStream, RecvStream), StreamError> {
        if !class.has_streams() {
            return Err(StreamError::NoStreams(class));
        }
        let patience = Patience { connect: CONNECT_WAIT, whole: CONNECT_WAIT + HEADER_WAIT };
        let (send, recv, held) =
            self.inner.open(node_id, class, StreamType::Stream, kind, header, patience).await?;
        Ok((SendStream::new(send, held.clone()), RecvStream::new(recv, held)))
    }

    /// Sends one datagram on the data connection, never waiting. Without a connection one is dialled and a bounded
    /// number of datagrams is held.
    pub fn send_datagram(&self, node_id: &str, datagram: Bytes) -> Result<(), DatagramError> {
        let peer = self.inner.peer(node_id).ok_or(DatagramError::UnknownPeer)?;
        DataPath::new(self.inner.clone(), peer).send(datagram)
    }

    /// The largest datagram that the path to a peer takes now; nothing while no data connection is up. At least 1100
    /// bytes, grows as path MTU discovery goes on.
    pub fn max_datagram(&self, node_id: &str) -> Option<usize> {
        self.inner.peer(node_id)?.slot(Class::Data).current()?.connection.max_datagram_size()
    }

    /// A handle for sending many datagrams to one peer.
    pub fn data_path(&self, node_id: &str) -> Option<DataPath> {
        Some(DataPath::new(self.inner.clone(), self.inner.peer(node_id)?))
    }

    /// When anything last came from a peer, to a heartbeat's precision (200 ms) or better.
    pub fn last_heard(&self, node_id: &str) -> Option<Instant> {
        self.inner.peer(node_id)?.last_heard()
    }

    /// The smoothed round-trip time of the control connection.
    pub fn rtt(&self, node_id: &str) -> Option<Duration> {
        Some(self.inner.peer(node_id)?.slot(Class::Control).current()?.connection.rtt())
    }

    /// Whether a control connection is up.
    pub fn is_connected(&self, node_id: &str) -> bool {
        self.inner.peer(node_id).is_some_and(|peer| peer.slot(Class::Control).current().is_some())
    }

    /// All peers, by node id.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let mut peers: Vec<PeerStatus> = self.inner.peers().iter().map(|peer| PeerStatus::of(peer)).collect();
        peers.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        peers
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn in_use(outcome: &io::Result<()>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// A socket that takes made-up addresses too.
fn relaying(socket: UdpSocket, relayed: &Arc<Relayed>) -> io::Result<Arc<RelaySocket>> {
    RelaySocket::new(TokioRuntime.wrap_udp_socket(socket)?, relayed.clone())
}

/// The most telling description of a broken stream.
fn reason(link: &Link, error: &WireError) -> String {
    link.connection.close_reason().map_or_else(|| error.to_string(), |reason| reason.to_string())
}
