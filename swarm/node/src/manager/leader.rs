//! The leader's loop: what came in is committed, then the control plane decides what follows from it.
//!
//! ```text
//! follower --elected--> leading --[reports | state changed | a node fell silent | a deadline]--> commit, tick, commit …
//!     ^                    |
//!     `----- lost it ------'
//! ```
//!
//! Everything that the loop knows beyond the replicated state is who spoke when; a new leader starts without it and
//! gives every node time to be heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use skep_control::{TickInput, tick};
use skep_mesh::Mesh;
use skep_raft::{ProposeError, RaftNode, Subscription};
use skep_state::spec::NodeRole;
use skep_state::{Change, Node, NodeState, State, TaskStatus, Timestamp, Transaction};
use tokio::sync::mpsc;

use super::Message;
use crate::clock;
use crate::rpc::Hello;

/// How often silence is looked for.
const HEALTH_PERIOD: Duration = Duration::from_millis(100);

/// A node on a fast network that is silent for so long is down: six missed heartbeats.
const SILENCE: Duration = Duration::from_millis(1300);

/// … and so many round trips more on a slow one.
const SILENCE_RTTS: u32 = 8;

/// A new leader waits so long for nodes that it has not heard yet.
const FIRST_CONTACT: Duration = Duration::from_millis(2500);

/// Messages taken into one commit.
const BATCH: usize = 256;

/// The longest sleep between two ticks: a bound on the harm of a wrong deadline.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// Runs on every manager; acts while it leads.
pub(crate) struct Leader {
    pub raft: RaftNode,
    pub mesh: Mesh,
    pub node_id: String,
    pub inbox: mpsc::Receiver<Message>,
}

/// What a leader knows beyond the state.
struct Term {
    since: Instant,
    /// Nodes with a session in this term and what they said of themselves.
    arrived: BTreeMap<String, Hello>,
    /// Managers that are being added to or removed from Raft right now.
    membership_change: Option<tokio::task::JoinHandle<()>>,
}

impl Leader {
    /// Runs until cancelled.
    pub(crate) async fn run(mut self) {
        let mut leadership = self.raft.watch_leader();
        loop {
            let raft = self.raft.clone();
            tokio::select! {
                led = leadership.wait_for(|_| raft.is_leader()) => if led.is_err() { return },
                // Messages for a leader that is none any more: the agents will find the new one and say it again.
                _ = self.inbox.recv() => continue,
            }
            tracing::info!(term = self.raft.term(), "leading the swarm");
            self.lead().await;
            tracing::info!("no longer leading");
        }
    }

    async fn lead(&mut self) {
        let mut updates = self.raft.subscribe();
        let mut term = Term { since: Instant::now(), arrived: BTreeMap::new(), membership_change: None };
        let mut health = tokio::time::interval(HEALTH_PERIOD);
        health.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut wakeup = Instant::now();
        while self.raft.is_leader() {
            let mut messages = Vec::new();
            tokio::select! {
                biased; // what agents say comes first: the tick should see it
                count = self.inbox.recv_many(&mut messages, BATCH) => if count == 0 { return },
                changed = changed(&mut updates) => if !changed { return },
                _ = health.tick() => {
                    self.check_health(&term).await;
                    self.reconcile_managers(&mut term);
                    continue;
                }
                () = tokio::time::sleep_until(wakeup.into()) => {}
            }
            if !messages.is_empty() {
                self.take(messages, &mut term).await;
            }
            wakeup = Instant::now() + self.decide().await;
        }
    }

    /// Commits what agents reported.
    async fn take(&self, messages: Vec<Message>, term: &mut Term) {
        let mut statuses: BTreeMap<String, (String, TaskStatus)> = BTreeMap::new();
        for message in messages {
            match message {
                Message::Arrived { node_id, hello } => drop(term.arrived.insert(node_id, hello)),
                Message::Statuses { node_id, statuses: reported } => {
                    statuses.extend(reported.into_iter().map(|(task, status)| (task, (node_id.clone(), status))));
                }
            }
        }
        self.commit(|state| {
            let mut changes: Vec<Change> = term
                .arrived
                .iter()
                .filter_map(|(node_id, hello)| self.arrival(state, node_id, hello))
                .collect();
            for (task_id, (node_id, status)) in &statuses {
                // A node speaks for its own tasks only.
                let task = state.tasks.get(task_id).filter(|task| task.node_id == *node_id);
                if let Some(task) = task.and_then(|task| skep_control::task_status_update(task, status.clone())) {
                    changes.push(Change::PutTask(Box::new(task)));
                }
            }
            changes
        })
        .await;
    }

    /// A node with a session is ready, at the address where it is seen, with what it says of itself.
    fn arrival(&self, state: &State, node_id: &str, hello: &Hello) -> Option<Change> {
        let mut node = state.nodes.get(node_id)?.clone();
        if node_id != self.node_id && !self.is_heard(node_id) {
            return None;
        }
        node.status.state = NodeState::Ready;
        node.status.message.clear();
        if let Some(address) = self.seen_address(node_id, hello) {
            node.status.addr = address;
        }
        node.description = hello.description.clone();
        node.addresses.clone_from(&hello.addresses);
        (state.nodes.get(node_id) != Some(&node)).then(|| Change::PutNode(Box::new(node)))
    }

    fn seen_address(&self, node_id: &str, hello: &Hello) -> Option<String> {
        if node_id == self.node_id {
            let own = hello.addresses.first()?.parse::<std::net::SocketAddr>().ok()?;
            return Some(own.ip().to_string());
        }
        let peers = self.mesh.peers();
        let peer = peers.iter().find(|peer| peer.node_id == node_id)?;
        peer.address.map(|address| address.ip().to_canonical().to_string())
    }

    /// Marks nodes that fell silent down, and those that are heard again ready.
    async fn check_health(&self, term: &Term) {
        let silent = self.raft.read(|state| {
            state
                .nodes
                .values()
                .filter(|node| node.status.state != NodeState::Down && node.meta.id != self.node_id)
                .any(|node| self.is_silent(node, term))
        });
        let back = self.raft.read(|state| {
            state.nodes.values().any(|node| {
                node.status.state == NodeState::Down
                    && term.arrived.contains_key(&node.meta.id)
                    && self.is_heard(&node.meta.id)
            })
        });
        if !silent && !back {
            return;
        }
        self.commit(|state| {
            let mut changes = Vec::new();
            for node in state.nodes.values().filter(|node| node.meta.id != self.node_id) {
                let id = &node.meta.id;
                if self.is_silent(node, term) {
                    changes.extend(skep_control::node_down(state, id));
                } else if node.status.state == NodeState::Down && self.is_heard(id) {
                    changes.extend(term.arrived.get(id).and_then(|hello| self.arrival(state, id, hello)));
                }
            }
            for change in &changes {
                if let Change::PutNode(node) = change {
                    tracing::info!(node = %node.meta.id, state = ?node.status.state, "a node's state changed");
                }
            }
            changes
        })
        .await;
    }

    fn patience(&self, node_id: &str) -> Duration {
        SILENCE + self.mesh.rtt(node_id).unwrap_or_default() * SILENCE_RTTS
    }

    fn is_heard(&self, node_id: &str) -> bool {
        self.mesh.last_heard(node_id).is_some_and(|heard| heard.elapsed() < self.patience(node_id))
    }

    fn is_silent(&self, node: &Node, term: &Term) -> bool {
        let id = &node.meta.id;
        // A node that has just been admitted still has to start its own side.
        let new = node.status.state == NodeState::Unknown
            && clock::now().since(node.meta.created_at) < FIRST_CONTACT;
        match self.mesh.last_heard(id) {
            Some(heard) => !new && heard.elapsed() >= self.patience(id),
            None => !new && term.since.elapsed() >= FIRST_CONTACT,
        }
    }

    /// Lets the control plane decide until it has nothing more to change; the time until its next deadline.
    async fn decide(&self) -> Duration {
        let mut random = rand::random::<u128>;
        let now = clock::now();
        let plan = self.raft.read(|state| tick(state, &TickInput { now }, &mut random));
        if plan.changes.is_empty() {
            return plan.next_wakeup.map_or(MAX_SLEEP, |at| at.since(now).min(MAX_SLEEP));
        }
        // Its own commit wakes the loop again, so one tick is enough here.
        self.propose(plan.changes, now).await;
        MAX_SLEEP
    }

    /// Computes changes from the state and commits them; a conflict means that the state moved, so once more.
    async fn commit(&self, mut changes: impl FnMut(&State) -> Vec<Change>) {
        loop {
            let now = clock::now();
            let computed = self.raft.read(&mut changes);
            if computed.is_empty() || self.propose(computed, now).await {
                return;
            }
        }
    }

    /// Whether it is settled: committed, or of no use to try again.
    async fn propose(&self, changes: Vec<Change>, at: Timestamp) -> bool {
        match self.raft.propose(Transaction { at, changes }).await {
            Ok(_) => true,
            Err(ProposeError::Conflict(conflict)) => {
                tracing::debug!(%conflict, "the state moved meanwhile");
                !self.raft.is_leader()
            }
            Err(error) => {
                tracing::warn!(%error, "cannot commit");
                true
            }
        }
    }

    /// Brings Raft's members in line with the nodes: managers that joined are added, those removed are taken out. One
    /// change at a time, beside the loop, because a new manager may be slow to catch up.
    fn reconcile_managers(&self, term: &mut Term) {
        if term.membership_change.as_ref().is_some_and(|change| !change.is_finished()) {
            return;
        }
        let wanted: BTreeSet<String> = self.raft.read(|state| {
            let managers = state.nodes.values().filter(|node| node.role == NodeRole::Manager);
            managers.map(|node| node.meta.id.clone()).collect()
        });
        let voters: BTreeSet<String> =
            self.raft.members().into_iter().filter(|member| member.voter).map(|member| member.node_id).collect();
        let members: BTreeSet<String> = self.raft.members().into_iter().map(|member| member.node_id).collect();
        let add = wanted.difference(&voters).find(|id| self.mesh.is_connected(id)).cloned();
        let remove = members.difference(&wanted).next().cloned();
        let raft = self.raft.clone();
        term.membership_change = match (add, remove) {
            (Some(id), _) => Some(tokio::spawn(async move {
                match raft.add_manager(&id).await {
                    Ok(()) => tracing::info!(node = %id, "a manager joined Raft"),
                    Err(error) => tracing::warn!(node = %id, %error, "cannot add a manager to Raft; trying again"),
                }
            })),
            (None, Some(id)) => Some(tokio::spawn(async move {
                match raft.remove_manager(&id).await {
                    Ok(()) => tracing::info!(node = %id, "a manager left Raft"),
                    Err(error) => tracing::warn!(node = %id, %error, "cannot take a manager out of Raft; trying again"),
                }
            })),
            (None, None) => None,
        };
    }
}

/// Waits for the next change and swallows those that are already there.
async fn changed(updates: &mut Subscription) -> bool {
    let next = updates.next().await;
    while updates.try_next().is_some() {}
    next.is_some()
}
