//! Carries overlay packets between the TUN device and the other nodes.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use skep_forward::{Config, Forwarder, Peer, Subnet, VnetLayout};
use skep_mesh::Mesh;
use skep_netns::tun::{AsyncTun, FRAME_BYTES_MAX};
use skep_netns::{HostNetwork, Protocol, PublishedPort};
use skep_state::spec::PortProtocol;

use crate::mesh_handler::Datagrams;
use crate::view::NodeView;

/// Length of a datagram that is assumed to fit before the path has been measured: QUIC's smallest path (1200 bytes)
/// less what QUIC itself needs.
const UNMEASURED_DATAGRAM: usize = 1150;

/// Frames read from the TUN before other work gets its turn.
const FRAMES_A_TURN: usize = 64;

/// How often old flows are dropped.
const EXPIRY: Duration = Duration::from_secs(1);

/// One node's data plane.
pub(crate) struct DataPlane {
    forwarder: Mutex<Forwarder>,
    tun: AsyncTun,
    network: Arc<HostNetwork>,
    names: RwLock<Names>,
    endpoints: Mutex<HashSet<IpAddr>>,
    ports: Mutex<Ports>,
    started: Instant,
}

/// Published ports.
#[derive(Debug, Default)]
struct Ports {
    wanted: Vec<PublishedPort>,
    /// What the kernel has; unknown at the start and after an error.
    in_force: Option<Vec<PublishedPort>>,
}

/// Nodes by number and by ID.
#[derive(Debug, Default)]
struct Names {
    ids: HashMap<Peer, String>,
    indexes: HashMap<String, Peer>,
}

impl DataPlane {
    /// Over a TUN device that is set up.
    pub(crate) fn new(tun: AsyncTun, network: Arc<HostNetwork>, subnets: &[skep_netns::Subnet]) -> Arc<Self> {
        let overlay = subnets
            .iter()
            .map(|subnet| Subnet { address: subnet.network(), prefix: subnet.prefix() })
            .collect();
        let config = Config {
            overlay,
            vnet: VnetLayout::default(),
            coalesce_udp: tun.get_ref().udp_segmentation(),
            ..Config::default()
        };
        Arc::new(Self {
            forwarder: Mutex::new(Forwarder::new(config)),
            tun,
            network,
            names: RwLock::new(Names::default()),
            endpoints: Mutex::new(HashSet::new()),
            ports: Mutex::new(Ports::default()),
            started: Instant::now(),
        })
    }

    /// Takes routes and ports from what the node now knows.
    pub(crate) fn update(&self, own_id: &str, view: &NodeView) {
        let own = view.nodes.get(own_id).map(|node| node.index);
        let (mut routes, mut local) = (HashMap::new(), HashSet::new());
        for (address, index) in &view.endpoints {
            if Some(*index) == own {
                local.insert(*address);
            } else {
                routes.insert(*address, Peer::from(*index));
            }
        }
        let others = view.nodes.iter().filter(|(id, _)| *id != own_id);
        let peers: Vec<Peer> = others.map(|(_, node)| Peer::from(node.index)).collect();
        let names = Names {
            ids: view.nodes.iter().map(|(id, node)| (Peer::from(node.index), id.clone())).collect(),
            indexes: view.nodes.iter().map(|(id, node)| (id.clone(), Peer::from(node.index))).collect(),
        };
        let gone: Vec<Peer> = {
            let mut known = self.names.write();
            // A number that another node has now is not the old one's any more.
            let stays = |peer: &Peer, id: &String| names.ids.get(peer) == Some(id);
            let gone =
                known.ids.iter().filter(|(peer, id)| !stays(peer, id)).map(|(peer, _)| *peer).collect();
            *known = names;
            gone
        };
        {
            let mut forwarder = self.forwarder.lock();
            for peer in gone {
                forwarder.forget_peer(peer);
            }
            forwarder.set_peers(peers);
            forwarder.set_routes(routes);
            forwarder.set_local(local);
        }
        let ports: Vec<PublishedPort> = view.ports.iter().filter_map(published).collect();
        self.ports.lock().wanted = ports;
        self.publish();
        let now: HashSet<IpAddr> = view.endpoints.keys().copied().collect();
        let before = std::mem::replace(&mut *self.endpoints.lock(), now.clone());
        let gone: Vec<IpAddr> = before.difference(&now).copied().collect();
        if !gone.is_empty() {
            let network = Arc::clone(&self.network);
            tokio::task::spawn_blocking(move || forget_connections(&network, &gone));
        }
    }

    /// Brings the kernel's published ports in line with what is wanted.
    fn publish(&self) {
        let mut ports = self.ports.lock();
        if ports.in_force.as_ref() != Some(&ports.wanted) {
            ports.in_force = match self.network.publish(&ports.wanted) {
                Ok(()) => Some(ports.wanted.clone()),
                Err(error) => {
                    tracing::error!(%error, "cannot publish ports; trying again");
                    None
                }
            };
        }
    }

    /// Sends what the host and its containers have for other nodes, until cancelled.
    pub(crate) async fn run(self: Arc<Self>, mesh: Mesh) {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut expiry = tokio::time::interval(EXPIRY);
        expiry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let received = tokio::select! {
                received = self.tun.recv(&mut buffer) => received,
                _ = expiry.tick() => {
                    let now = self.now_ms();
                    self.forwarder.lock().expire(now);
                    self.publish();
                    continue;
                }
            };
            let mut length = match received {
                Ok(length) => length,
                Err(error) => {
                    tracing::error!(%error, "cannot read the TUN device");
                    tokio::time::sleep(EXPIRY).await;
                    continue;
                }
            };
            for _ in 0..FRAMES_A_TURN {
                self.outbound(&buffer[..length], &mesh);
                match self.tun.try_recv(&mut buffer) {
                    Ok(next) => length = next,
                    Err(_) => break,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn outbound(&self, frame: &[u8], mesh: &Mesh) {
        let now = self.now_ms();
        let names = self.names.read();
        let mut datagrams: Vec<(Peer, Bytes)> = Vec::new();
        let limit =
            |peer| names.ids.get(&peer).map_or(0, |id| mesh.max_datagram(id).unwrap_or(UNMEASURED_DATAGRAM));
        let sent = self.forwarder.lock().outbound(frame, now, limit, |peer, datagram| {
            let mut bytes = BytesMut::with_capacity(datagram.len());
            bytes.extend_from_slice(datagram.head);
            bytes.extend_from_slice(datagram.body);
            datagrams.push((peer, bytes.freeze()));
        });
        if let Err(reason) = sent {
            tracing::trace!(?reason, "dropped a packet");
            return;
        }
        for (peer, datagram) in datagrams {
            if let Some(id) = names.ids.get(&peer)
                && let Err(error) = mesh.send_datagram(id, datagram)
            {
                tracing::trace!(%error, peer = %id, "dropped a datagram");
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Datagrams for DataPlane {
    fn inbound(&self, node_id: &str, batch: &mut Vec<Bytes>) -> bool {
        let peer = self.names.read().indexes.get(node_id).copied();
        if let Some(peer) = peer {
            let now = self.now_ms();
            let items = batch.iter().map(|datagram| (peer, datagram.as_ref()));
            // A full device queue drops, as a network card would; the flows inside slow down by it.
            self.forwarder.lock().inbound_batch(items, now, |frame| drop(self.tun.get_ref().write(frame)));
        }
        batch.clear();
        peer.is_some()
    }

    fn reset_peer(&self, node_id: &str) {
        let peer = self.names.read().indexes.get(node_id).copied();
        if let Some(peer) = peer {
            self.forwarder.lock().reset_peer(peer);
        }
    }
}

/// Makes the kernel forget connections to containers that are gone for good. The next packet of a client then counts as
/// a new connection: a TCP client is reset by another task and calls again, a UDP client is answered by it.
fn forget_connections(network: &HostNetwork, gone: &[IpAddr]) {
    for address in gone {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            if let Err(error) = network.forget_backend(protocol, *address, None) {
                tracing::warn!(%error, %address, "cannot forget connections to a container that is gone");
            }
        }
    }
}

/// SCTP has no place in the host network yet: such a port is left out, and the API refuses it before.
fn published(route: &crate::view::PortRoute) -> Option<PublishedPort> {
    let protocol = match route.protocol {
        PortProtocol::Tcp => Protocol::Tcp,
        PortProtocol::Udp => Protocol::Udp,
        PortProtocol::Sctp => return None,
    };
    let backends = route.backends.iter().copied().filter(|(address, _)| is_v4(*address)).collect();
    Some(PublishedPort { protocol, port: route.port, backends })
}

fn is_v4(address: IpAddr) -> bool {
    address.is_ipv4()
}
