//! What the mesh knows of its peers, for people and failure detectors.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::class::Class;
use crate::identity::Role;
use crate::peer::Peer;

/// One peer, as of now.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Whose.
    pub node_id: String,
    /// Where its control connection comes from or goes to; else where it would be dialled.
    pub address: Option<SocketAddr>,
    /// The node between, where its control connection is relayed.
    pub via: Option<String>,
    /// Whether a control connection is up.
    pub control: bool,
    /// Whether a data connection is up.
    pub data: bool,
    /// Whether a bulk connection is up.
    pub bulk: bool,
    /// Smoothed round-trip time of the control connection.
    pub rtt: Option<Duration>,
    /// When anything last came from it.
    pub last_heard: Option<Instant>,
    /// The role in the certificate that it showed last; nothing while no connection is up.
    pub role: Option<Role>,
    /// Why the last attempt to dial it failed.
    pub last_error: Option<String>,
}

impl PeerStatus {
    pub(crate) fn of(peer: &Peer) -> Self {
        let control = peer.slot(Class::Control).current();
        let up = |class| peer.slot(class).current().is_some();
        Self {
            node_id: peer.node_id.clone(),
            address: control
                .as_ref()
                .filter(|link| link.via.is_none())
                .map(|link| link.remote())
                .or_else(|| peer.addresses().first().copied()),
            via: control.as_ref().and_then(|link| link.via.clone()),
            control: control.is_some(),
            data: up(Class::Data),
            bulk: up(Class::Bulk),
            rtt: control.as_ref().map(|link| link.connection.rtt()),
            last_heard: peer.last_heard(),
            role: control.as_ref().map(|link| link.peer.role),
            last_error: peer.last_error(),
        }
    }
}
