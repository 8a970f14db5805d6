//! What an endpoint's tasks share: who we are, whom we know, and the tasks themselves.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use quinn::{Connection, Endpoint, VarInt};
use tokio::runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::changes::Changes;
use crate::class::Class;
use crate::clock::SwarmClock;
use crate::credentials::Credentials;
use crate::epoch::EpochProof;
use crate::handler::Handler;
use crate::identity::PeerIdentity;
use crate::join_limit::JoinLimit;
use crate::link::{CloseCode, Link};
use crate::peer::Peer;
use crate::relay::{Relayed, Route};
use crate::socket;
use crate::transport::Transports;
use crate::wire::Hello;

/// Peers that an endpoint remembers; connections of further ones are refused.
const MAX_PEERS: usize = 10_000;
/// Removed nodes that are refused without asking the handler; it has the last word on all others.
pub(crate) const MAX_REMOVED: usize = 4096;

/// Relays that a peer is looked for behind at once: which ones it is connected to is not known.
const MAX_RELAYS: usize = 4;

/// What an endpoint's tasks share.
pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) node_id: String,
    pub(crate) incarnation: u64,
    pub(crate) relayed: Arc<Relayed>,
    /// How often our address changed so that peers could not follow.
    pub(crate) moves: AtomicU32,
    pub(crate) epoch: Instant,
    pub(crate) handshakes: Arc<Semaphore>,
    pub(crate) joins: Arc<Semaphore>,
    pub(crate) join_limit: Mutex<JoinLimit>,
    pub(crate) changes: Changes,
    /// Whether it is in the log that another process has our identity.
    pub(crate) warned_of_duplicate: AtomicBool,
    pub(crate) credentials: RwLock<Arc<Credentials>>,
    pub(crate) clock: SwarmClock,
    /// The epoch that the swarm is in, if it was ever recovered.
    pub(crate) swarm_epoch: RwLock<Option<EpochProof>>,
    pub(crate) transports: Transports,
    pub(crate) peers: RwLock<HashMap<String, Arc<Peer>>>,
    pub(crate) removed: Mutex<VecDeque<String>>,
    pub(crate) closed: watch::Sender<bool>,
    pub(crate) tasks: Mutex<JoinSet<()>>,
    pub(crate) runtime: runtime::Handle,
    pub(crate) sequence: AtomicU64,
}

impl Inner {
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.credentials.read().clone()
    }

    pub(crate) fn peer(&self, node_id: &str) -> Option<Arc<Peer>> {
        self.peers.read().get(node_id).cloned()
    }

    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.read().values().cloned().collect()
    }

    pub(crate) fn peer_or_new(&self, node_id: &str) -> Option<Arc<Peer>> {
        if let Some(peer) = self.peer(node_id) {
            return Some(peer);
        }
        let mut peers = self.peers.write();
        if peers.len() >= MAX_PEERS && !peers.contains_key(node_id) {
            tracing::warn!(node_id, "more than {MAX_PEERS} peers; this one is ignored");
            return None;
        }
        let new = || Peer::new(node_id.to_owned(), &self.node_id, self.epoch);
        Some(peers.entry(node_id.to_owned()).or_insert_with(new).clone())
    }

    /// Forgets a peer that only its connections had made known.
    pub(crate) fn forget_if_unconfigured(&self, peer: &Arc<Peer>) {
        let mut peers = self.peers.write();
        if peers.get(&peer.node_id).is_some_and(|known| Arc::ptr_eq(known, peer)) && peer.remove_if_unused() {
            peers.remove(&peer.node_id);
        }
    }

    /// Takes a connection that has come up in; if that may not be, it is closed.
    pub(crate) fn install(&self, peer: &Peer, link: &Arc<Link>, now: Instant) -> Result<(), CloseCode> {
        let installed = peer.install(link, now, &self.changes);
        if let Err(why) = installed {
            if why == CloseCode::Duplicate {
                peer.warn_of_duplicate(socket::canonical(link.connection.remote_address()), link.incarnation);
            }
            link.close(why);
        }
        self.report(peer);
        installed
    }

    /// Takes a connection that has broken out.
    pub(crate) fn uninstall(&self, peer: &Peer, link: &Link) {
        peer.uninstall(link, Instant::now(), &self.changes);
        self.report(peer);
    }

    /// Closes all connections to a peer for good.
    pub(crate) fn remove(&self, peer: &Peer) {
        peer.remove(Instant::now(), &self.changes);
        self.report(peer);
    }

    /// Says once, in the log, that peers refuse us because of our twin.
    pub(crate) fn warn_of_own_duplicate(&self, by: &str) {
        if !self.warned_of_duplicate.swap(true, Ordering::AcqRel) {
            tracing::error!(
                node_id = self.node_id,
                refused_by = by,
                "another running process has this node's identity (a cloned machine?), and the swarm talks to that \
                 one; let one of the two leave and join as a node of its own"
            );
        }
    }

    /// Must be called without any lock held.
    fn report(&self, peer: &Peer) {
        self.changes
            .deliver(&peer.node_id, |identity, connected| self.handler.peer_changed(identity, connected));
    }

    /// Whether a peer may be connected to: certificate, cluster, removed ones, the handler's opinion.
    pub(crate) fn admits(&self, peer: &PeerIdentity) -> bool {
        let own = self.credentials();
        peer.cluster_id == own.identity.cluster_id()
            && peer.node_id != self.node_id
            && !self.removed.lock().contains(&peer.node_id)
            && self.handler.authorize(peer)
    }

    /// The route that a connection takes, if it is a relayed one.
    pub(crate) fn relayed_route(&self, connection: &Connection) -> Option<Route> {
        self.relayed.routes.route(connection.remote_address()).map(|(route, _)| route)
    }

    /// What to dial to reach a peer through others: managers that we are connected to, the nearest ones first, further
    /// ones in later rounds.
    pub(crate) fn relayed_addresses(&self, peer: &Peer, class: Class, round: usize) -> Vec<SocketAddr> {
        let relay = |relay: &Arc<Peer>| {
            let link = relay.slot(Class::Control).current()?;
            let fits = link.via.is_none() && relay.keep() && relay.node_id != peer.node_id;
            fits.then(|| (link.connection.rtt(), relay.node_id.clone()))
        };
        let mut relays: Vec<(Duration, String)> = self.peers().iter().filter_map(relay).collect();
        relays.sort();
        if relays.len() > MAX_RELAYS {
            let first = round * MAX_RELAYS % relays.len();
            relays.rotate_left(first);
            relays.truncate(MAX_RELAYS);
        }
        let route = |(_, via)| Route { peer: peer.node_id.clone(), via };
        relays.into_iter().filter_map(|relay| self.relayed.routes.address(&route(relay), class)).collect()
    }

    /// Our first message on a connection.
    pub(crate) fn hello(&self, class: Class, sequence: u64) -> Hello {
        Hello {
            incarnation: self.incarnation,
            class,
            epoch: self.swarm_epoch.read().clone(),
            moves: self.moves.load(Ordering::Acquire),
            sequence,
        }
    }

    /// The number of the swarm's epoch, 0 if it was never recovered.
    pub(crate) fn epoch_number(&self) -> u64 {
        self.swarm_epoch.read().as_ref().map_or(0, EpochProof::number)
    }

    /// Takes a peer's proof of a later epoch over, if it is one: its number is ours then.
    pub(crate) fn adopt(&self, proof: &EpochProof) -> bool {
        let own = self.credentials();
        if !proof.verify_with(own.identity.roots(), own.identity.cluster_id()) {
            return false;
        }
        if self.enter(proof) {
            tracing::warn!(epoch = proof.number(), "the swarm was recovered");
            self.handler.superseded(proof.clone());
        }
        true
    }

    /// Goes over to an epoch, or to another proof of the one that we are in. Whether it is a later one: then the
    /// connections of the former one are closed, and the diallers spread the news.
    pub(crate) fn enter(&self, proof: &EpochProof) -> bool {
        let mut own = self.swarm_epoch.write();
        let former = own.as_ref().map_or(0, EpochProof::number);
        if proof.number() < former {
            return false;
        }
        *own = Some(proof.clone());
        drop(own);
        if proof.number() == former {
            return false;
        }
        for peer in self.peers() {
            for slot in &peer.slots {
                let links = slot.links.lock().clone();
                links.iter().for_each(|link| link.close(CloseCode::OtherEpoch));
            }
        }
        true
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Resolves once the mesh closes.
    pub(crate) async fn closing(&self) {
        // An error would mean that the sender is gone, which lives as long as we do.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Runs a task that ends at the latest when the mesh closes.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let inner = self.clone();
        let until_closed = async move {
            tokio::select! {
                () = inner.closing() => {}
                () = task => {}
            }
        };
        self.tasks.lock().spawn_on(until_closed, &self.runtime);
    }

    /// Throws away what is left of ended tasks.
    pub(crate) fn reap(&self) {
        let mut tasks = self.tasks.lock();
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a mesh task died");
            }
        }
    }

    pub(crate) fn stop(&self) {
        if !self.closed.send_replace(true) {
            self.endpoint.close(VarInt::from_u32(0), CloseCode::Shutdown.reason().as_bytes());
        }
    }
}
