//! Who belongs to the swarm, and who may send this node what.
//!
//! | message | from | about |
//! |---|---|---|
//! | request RAFT | managers | |
//! | request BACKUP | managers | |
//! | request LEAVE, CERTIFICATE; stream SESSION | any member | itself: the node is taken from the connection |
//! | request IMAGE, stream BLOB, datagrams | any member | images are no secrets; packets are the overlay's |
//!
//! What a certificate says counts only as long as nothing better is known: a manager goes by the committed state, a
//! worker by what the leader tells it.
//!
//! ```text
//!  a leader is heard by Raft ──────────> the committed state decides          (current)
//!  else a session with a leader ───────> what it tells decides                (current)
//!  else ──> both as they were last; a manager's certificate of a node that is not known lets it connect, and speak Raft,
//!           because the managers may all have been exchanged while this node was away
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_mesh::{Class, PeerIdentity, Role};
use skep_raft::Subscription;
use skep_state::State;
use skep_state::spec::NodeRole;
use tokio::sync::watch;

use crate::agent::Agent;
use crate::manager::{ManagerPart, ManagerSlot};
use crate::rpc;
use crate::view::NodeRoute;

/// A message that a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// A request on the control connection.
    Request(u16),
    /// A stream.
    Stream(Class, u16),
    /// A packet of the overlay.
    Datagram,
}

/// Who may send a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Managers.
    Managers,
    /// Any node of the swarm, about itself and nobody else. Served by managers, which know who is listed.
    Itself,
    /// Any node of the swarm.
    Members,
}

/// Every message that there is.
pub(crate) const TABLE: [(Message, &str, From); 8] = [
    (Message::Request(rpc::RAFT), "raft", From::Managers),
    (Message::Request(rpc::BACKUP), "backup", From::Managers),
    (Message::Request(rpc::IMAGE), "image", From::Members),
    (Message::Request(rpc::LEAVE), "leave", From::Itself),
    (Message::Request(rpc::CERTIFICATE), "certificate", From::Itself),
    (Message::Stream(Class::Control, rpc::SESSION), "session", From::Itself),
    (Message::Stream(Class::Bulk, rpc::BLOB), "blob", From::Members),
    (Message::Datagram, "datagram", From::Members),
];

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// No such message.
    #[error("this node knows no such message")]
    Unknown,
    /// The sender was removed, or never was there.
    #[error("the sender is not in the swarm's list of nodes")]
    NotListed,
    /// The sender is no manager.
    #[error("only managers may send it")]
    NotManager,
}

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// It is in the list of nodes.
    pub listed: bool,
    /// It is listed as a manager.
    pub manager: bool,
    /// It was removed from the swarm, for good.
    pub removed: bool,
    /// Whether this is what the managers know now, rather than what was known last.
    pub current: bool,
    /// Whether any node is known at all.
    pub anything: bool,
}

impl Standing {
    /// Whether a peer whose certificate says `role` may connect.
    pub(crate) fn may_connect(self, role: Role) -> bool {
        !self.removed && (self.listed || !self.anything || self.is_unknown_manager(role))
    }

    /// Whether a peer whose certificate says `role` may send what `from` may send.
    pub(crate) fn may_send(self, role: Role, from: From) -> Result<(), Refused> {
        let (listed, manager) = if self.anything {
            (self.listed, self.manager)
        } else {
            // A node that has just joined: its certificate and theirs are all that there is.
            (true, role == Role::Manager)
        };
        match from {
            _ if self.removed => Err(Refused::NotListed),
            From::Managers if manager || self.is_unknown_manager(role) => Ok(()),
            From::Managers => Err(Refused::NotManager),
            From::Members | From::Itself if listed => Ok(()),
            From::Members | From::Itself => Err(Refused::NotListed),
        }
    }

    fn is_unknown_manager(self, role: Role) -> bool {
        !self.current && !self.listed && role == Role::Manager
    }
}

/// What a leader tells this node of the others.
pub(crate) trait Told: Send + Sync {
    /// All nodes, as they were told last.
    fn nodes(&self) -> BTreeMap<String, NodeRoute>;

    /// Whether any node is known, and whether this one is and is a manager.
    fn node(&self, node_id: &str) -> (bool, Option<bool>);

    /// Whether a leader keeps it current at the moment.
    fn is_current(&self) -> bool;

    /// Follows both.
    fn subscribe(&self) -> watch::Receiver<()>;
}

impl Told for Agent {
    fn nodes(&self) -> BTreeMap<String, NodeRoute> {
        self.view(|view| view.nodes.clone())
    }

    fn node(&self, node_id: &str) -> (bool, Option<bool>) {
        self.view(|view| (!view.nodes.is_empty(), view.nodes.get(node_id).map(|route| route.manager)))
    }

    fn is_current(&self) -> bool {
        Self::is_current(self)
    }

    fn subscribe(&self) -> watch::Receiver<()> {
        Self::subscribe(self)
    }
}

/// What this node knows of the swarm's nodes, from the best source at hand.
pub(crate) struct Directory {
    told: Arc<dyn Told>,
    manager: Arc<ManagerSlot>,
}

impl Directory {
    /// Over both sources.
    pub(crate) fn new(told: Arc<dyn Told>, manager: Arc<ManagerSlot>) -> Self {
        Self { told, manager }
    }

    /// What is known of a peer.
    pub(crate) fn standing(&self, node_id: &str) -> Standing {
        let committed = self.manager.raft().map(|raft| {
            let current = raft.leader().is_some();
            raft.read(|state| Standing { current, ..committed(state, node_id) })
        });
        let committed = committed.unwrap_or_default();
        if committed.current && committed.anything {
            return committed;
        }
        let (anything, manager) = self.told.node(node_id);
        let told = Standing {
            listed: manager.is_some(),
            manager: manager == Some(true),
            removed: committed.removed,
            current: self.told.is_current(),
            anything,
        };
        best(committed, told)
    }

    /// Whether a peer may connect.
    pub(crate) fn admits(&self, peer: &PeerIdentity) -> bool {
        let admitted = self.standing(&peer.node_id).may_connect(peer.role);
        if !admitted {
            tracing::warn!(node = %peer.node_id, role = ?peer.role, "refused a connection: not in the swarm's list of nodes");
        }
        admitted
    }

    /// Whether a peer may send a message. Refusals are in the log.
    pub(crate) fn check(&self, peer: &PeerIdentity, message: Message) -> Result<(), Refused> {
        let rule = TABLE.iter().find(|(known, ..)| *known == message);
        let (name, checked) = match rule {
            Some((_, name, from)) => (*name, self.standing(&peer.node_id).may_send(peer.role, *from)),
            None => ("unknown", Err(Refused::Unknown)),
        };
        if let Err(reason) = checked {
            tracing::warn!(node = %peer.node_id, kind = name, ?message, %reason, "refused a message");
        }
        checked
    }

    /// Whether packets between two other nodes may go through this one: managers serve all members so.
    pub(crate) fn may_relay(&self, from: &PeerIdentity, to: &str) -> bool {
        self.manager.get().is_some()
            && self.standing(&from.node_id).may_send(from.role, From::Members).is_ok()
            && self.standing(to).listed
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> BTreeMap<String, NodeRoute> {
        let raft = self.manager.raft();
        let committed = raft.as_ref().map(|raft| raft.read(routes)).unwrap_or_default();
        let current = raft.is_some_and(|raft| raft.leader().is_some());
        // Without a leader a manager goes by its own state: the managers must reach each other before anybody leads.
        if !committed.is_empty() && (current || !self.told.is_current()) {
            return committed;
        }
        self.told.nodes()
    }

    /// Follows what is known. What is read after this call and differs later is announced.
    pub(crate) fn changes(&self) -> Changes {
        let parts = self.manager.subscribe();
        let part = parts.borrow().clone();
        Changes { told: self.told.subscribe(), parts, committed: part.as_deref().map(Committed::new) }
    }
}

/// Announces changes of what is known of the nodes.
pub(crate) struct Changes {
    told: watch::Receiver<()>,
    parts: watch::Receiver<Option<Arc<ManagerPart>>>,
    committed: Option<Committed>,
}

struct Committed {
    updates: Subscription,
    leadership: watch::Receiver<skep_raft::Leadership>,
}

impl Committed {
    fn new(part: &ManagerPart) -> Self {
        Self { updates: part.raft.subscribe(), leadership: part.raft.watch_leader() }
    }

    async fn next(&mut self) {
        tokio::select! {
            update = self.updates.next() => if update.is_none() {
                // Raft is gone: the slot says so soon.
                std::future::pending::<()>().await;
            },
            changed = self.leadership.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
        }
        while self.updates.try_next().is_some() {}
    }
}

impl Changes {
    /// Waits until something may have changed; false once the membership is gone.
    pub(crate) async fn next(&mut self) -> bool {
        let committed = async {
            match &mut self.committed {
                Some(committed) => committed.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = committed => true,
            told = self.told.changed() => told.is_ok(),
            changed = self.parts.changed() => {
                if changed.is_err() {
                    return false;
                }
                let part = self.parts.borrow_and_update().clone();
                self.committed = part.as_deref().map(Committed::new);
                true
            }
        }
    }
}

fn committed(state: &State, node_id: &str) -> Standing {
    let node = state.nodes.get(node_id);
    Standing {
        listed: node.is_some(),
        manager: node.is_some_and(|node| node.role == NodeRole::Manager),
        removed: state.cluster.as_ref().is_some_and(|cluster| cluster.removed.contains_key(node_id)),
        current: false,
        anything: !state.nodes.is_empty(),
    }
}

/// What holds of a peer when the committed state is not known to be current.
fn best(committed: Standing, told: Standing) -> Standing {
    if told.current && told.anything {
        return told;
    }
    Standing {
        listed: committed.listed || told.listed,
        // The state is never older than what this node's own leader told of it, where it knows the node.
        manager: if committed.listed { committed.manager } else { told.manager },
        removed: committed.removed,
        current: false,
        anything: committed.anything || told.anything,
    }
}

fn routes(state: &State) -> BTreeMap<String, NodeRoute> {
    state.nodes.iter().map(|(id, node)| (id.clone(), NodeRoute::of(node))).collect()
}

#[cfg(test)]
#[path = "access_test.rs"]
mod tests;
