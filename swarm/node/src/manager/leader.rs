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

use skep_control::roles::{self, RaftView, RoleStep};
use skep_control::{MAX_CHANGES, TickInput, awaited_since, tick};
use skep_mesh::Mesh;
use skep_raft::{ProposeError, RaftNode, Subscription};
use skep_state::{Change, Kind, Node, NodeState, State, TaskStatus, Timestamp, Transaction};
use tokio::sync::mpsc;

use super::Message;
use super::limits::Complaints;
use crate::clock;
use crate::rpc::{Hello, LEFT};

/// How often silence is looked for.
const HEALTH_PERIOD: Duration = Duration::from_millis(100);

/// On a slow network a node may be silent for so many round trips more than the settings allow.
const SILENCE_RTTS: u32 = 8;

/// A leader waits so long for nodes that it has not heard since it started: they may be looking for it, after a restart
/// of the only manager for instance. A node that this manager heard while another led is given up as soon as any other.
const FIRST_CONTACT: Duration = Duration::from_secs(8);

/// Messages taken at once.
const BATCH: usize = 256;

/// Longest text of a report that is kept.
const TEXT_BYTES: usize = 4096;

/// Most addresses of a node that are kept.
const ADDRESSES: usize = 8;

/// The longest sleep between two ticks: a bound on the harm of a wrong deadline.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// Runs on every manager; acts while it leads.
pub(crate) struct Leader {
    pub raft: RaftNode,
    pub mesh: Mesh,
    pub node_id: String,
    pub inbox: mpsc::Receiver<Message>,
    /// How long a node on a fast network may be silent, as the settings say now.
    pub silence: Duration,
}

/// What a leader knows beyond the state.
struct Term {
    since: Instant,
    /// Nodes with a session in this term and what they said of themselves.
    arrived: BTreeMap<String, Hello>,
    /// Arrivals that are not in the state yet.
    arriving: BTreeSet<String>,
    /// Reports that are not committed yet, by task: a commit that failed is tried again, since nobody says them twice.
    pending: BTreeMap<String, (String, TaskStatus)>,
    /// Managers that are being added to or removed from Raft right now.
    membership_change: Option<tokio::task::JoinHandle<()>>,
    /// Of nodes that report on tasks of others.
    complaints: Complaints,
    /// Nodes that were admitted and have not come, and since when this leader waits for them.
    awaited_since: BTreeMap<String, Timestamp>,
    /// Managers that could not be added in this round; the others get their turn first.
    failed: BTreeSet<String>,
}

/// What a leader notices of a node.
enum Health {
    /// It fell silent.
    Silent,
    /// It is heard again.
    Back,
    /// It is seen at another address.
    Moved,
}

impl Leader {
    /// Runs until cancelled.
    pub(crate) async fn run(mut self) {
        let mut leadership = self.raft.watch_leader();
        loop {
            let raft = self.raft.clone();
            tokio::select! {
                // First: what arrives at a leader that has only just begun must not be thrown away below, for whoever
                // has a session does not say it again.
                biased;
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
        let mut term = Term {
            since: Instant::now(),
            arrived: BTreeMap::new(),
            arriving: BTreeSet::new(),
            pending: BTreeMap::new(),
            membership_change: None,
            complaints: Complaints::default(),
            awaited_since: BTreeMap::new(),
            failed: BTreeSet::new(),
        };
        let mut health = tokio::time::interval(HEALTH_PERIOD);
        health.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut wakeup = Instant::now();
        while self.raft.is_leader() {
            self.silence = self.raft.read(skep_control::silence_allowed);
            let mut messages = Vec::new();
            tokio::select! {
                biased; // what agents say comes first: the tick should see it
                count = self.inbox.recv_many(&mut messages, BATCH) => if count == 0 { return },
                changed = changed(&mut updates) => if !changed { return },
                _ = health.tick() => {
                    self.check_health(&term).await;
                    self.reconcile_managers(&mut term);
                    if term.pending.is_empty() && term.arriving.is_empty() {
                        continue;
                    }
                }
                () = tokio::time::sleep_until(wakeup.into()) => {}
            }
            self.take(messages, &mut term).await;
            wakeup = Instant::now() + self.decide(&mut term).await;
        }
    }

    /// Commits what agents reported.
    async fn take(&self, messages: Vec<Message>, term: &mut Term) {
        for message in messages {
            match message {
                Message::Arrived { node_id, hello } => {
                    term.arrived.insert(node_id.clone(), hello);
                    term.arriving.insert(node_id);
                }
                Message::Moved { node_id, addresses } => {
                    if let Some(hello) = term.arrived.get_mut(&node_id) {
                        hello.addresses = addresses.into_iter().take(ADDRESSES).collect();
                        term.arriving.insert(node_id);
                    }
                }
                Message::Statuses { node_id, statuses } => {
                    let bounded =
                        statuses.into_iter().map(|(task, status)| (task, (node_id.clone(), cut(status))));
                    term.pending.extend(bounded);
                }
            }
        }
        let mut foreign = None;
        while !term.pending.is_empty() || !term.arriving.is_empty() {
            let batch: Vec<String> = term.pending.keys().take(MAX_CHANGES).cloned().collect();
            let committed = self
                .commit(|state| {
                    let arriving = term.arriving.iter().filter_map(|id| Some((id, term.arrived.get(id)?)));
                    let mut changes: Vec<Change> =
                        arriving.filter_map(|(id, hello)| self.arrival(state, id, hello)).collect();
                    for task_id in &batch {
                        let Some((node_id, status)) = term.pending.get(task_id) else { continue };
                        let Some(task) = state.tasks.get(task_id) else { continue };
                        // A node speaks for its own tasks only.
                        if task.node_id != *node_id {
                            foreign.get_or_insert_with(|| (node_id.clone(), task_id.clone()));
                            continue;
                        }
                        let updated = skep_control::task_status_update(task, status.clone());
                        changes.extend(updated.map(|task| Change::PutTask(Box::new(task))));
                    }
                    changes
                })
                .await;
            if let Some((node, task)) = foreign.take()
                && term.complaints.may_speak(Instant::now())
            {
                tracing::warn!(%node, %task, "a node reports on a task of another node; the report is dropped");
            }
            if !committed {
                return;
            }
            for task_id in &batch {
                term.pending.remove(task_id);
            }
            // One that is not heard yet arrives with its first heartbeat.
            term.arriving.retain(|id| *id != self.node_id && !self.is_heard(id));
            if batch.is_empty() {
                return;
            }
        }
    }

    /// A node with a session is ready, at the address where it is seen, with what it says of itself.
    fn arrival(&self, state: &State, node_id: &str, hello: &Hello) -> Option<Change> {
        let mut node = state.nodes.get(node_id)?.clone();
        if node_id != self.node_id && !self.is_heard(node_id) {
            return None;
        }
        node.status.state = NodeState::Ready;
        node.status.message.clear();
        node.awaited = false;
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
        self.seen_addresses().remove(node_id)
    }

    /// Marks nodes that fell silent down, those that are heard again ready, and follows those that moved.
    async fn check_health(&self, term: &Term) {
        let seen = self.seen_addresses();
        let changed = self.raft.read(|state| {
            let others = state.nodes.values().filter(|node| node.meta.id != self.node_id);
            others.into_iter().any(|node| self.change_of(node, term, &seen).is_some())
        });
        if !changed {
            return;
        }
        self.commit(|state| {
            let mut changes = Vec::new();
            for node in state.nodes.values().filter(|node| node.meta.id != self.node_id) {
                let id = &node.meta.id;
                match self.change_of(node, term, &seen) {
                    Some(Health::Silent) => changes.extend(skep_control::node_down(state, id)),
                    Some(Health::Back | Health::Moved) => {
                        changes.extend(term.arrived.get(id).and_then(|hello| self.arrival(state, id, hello)));
                    }
                    None => {}
                }
            }
            for change in &changes {
                if let Change::PutNode(node) = change {
                    let (state, address) = (node.status.state, &node.status.addr);
                    tracing::info!(node = %node.meta.id, ?state, %address, "a node's state changed");
                }
            }
            changes
        })
        .await;
    }

    fn change_of(&self, node: &Node, term: &Term, seen: &BTreeMap<String, String>) -> Option<Health> {
        let id = &node.meta.id;
        let is_down = node.status.state == NodeState::Down;
        if !is_down && self.is_silent(node, term) {
            return Some(Health::Silent);
        }
        if !term.arrived.contains_key(id) || !self.is_heard(id) {
            return None;
        }
        if is_lost(node) || node.awaited {
            return Some(Health::Back);
        }
        let moved = seen.get(id).is_some_and(|address| *address != node.status.addr);
        (!is_down && moved).then_some(Health::Moved)
    }

    /// Where the connected nodes are seen.
    fn seen_addresses(&self) -> BTreeMap<String, String> {
        // Of a relayed node nobody here can see where it is.
        let connected = self.mesh.peers().into_iter().filter(|peer| peer.control && peer.via.is_none());
        connected
            .filter_map(|peer| Some((peer.node_id, peer.address?.ip().to_canonical().to_string())))
            .collect()
    }

    fn patience(&self, node_id: &str) -> Duration {
        self.silence + self.mesh.rtt(node_id).unwrap_or_default() * SILENCE_RTTS
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
            None => !new && term.since.elapsed() >= FIRST_CONTACT.max(self.silence),
        }
    }

    /// Lets the control plane decide until it has nothing more to change; the time until its next deadline.
    async fn decide(&self, term: &mut Term) -> Duration {
        let mut random = rand::random::<u128>;
        let now = clock::now();
        let plan = self.raft.read(|state| {
            term.awaited_since = awaited_since(state, &term.awaited_since, now);
            tick(state, &TickInput { now, awaited_since: &term.awaited_since }, &mut random)
        });
        for change in &plan.changes {
            if let Change::Remove(Kind::Node, node) = change {
                tracing::warn!(%node, "a node was admitted and never came: it is removed, and must join again");
            }
        }
        if plan.changes.is_empty() {
            return plan.next_wakeup.map_or(MAX_SLEEP, |at| at.since(now).min(MAX_SLEEP));
        }
        match self.propose(plan.changes, now).await {
            // Its own commit wakes the loop again, so one tick is enough here.
            Ok(_) => MAX_SLEEP,
            Err(error) => {
                tracing::debug!(%error, "a plan was not committed; deciding anew");
                HEALTH_PERIOD
            }
        }
    }

    /// Computes changes from the state and commits them; a conflict means that the state moved, so once more.
    /// False when they could not be committed.
    async fn commit(&self, mut changes: impl FnMut(&State) -> Vec<Change>) -> bool {
        loop {
            let now = clock::now();
            let computed = self.raft.read(&mut changes);
            if computed.is_empty() {
                return true;
            }
            match self.propose(computed, now).await {
                Ok(_) => return true,
                Err(ProposeError::Conflict(conflict)) if self.raft.is_leader() => {
                    tracing::debug!(%conflict, "the state moved meanwhile");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot commit");
                    return false;
                }
            }
        }
    }

    async fn propose(&self, changes: Vec<Change>, at: Timestamp) -> Result<u64, ProposeError> {
        self.raft.propose(Transaction { at, changes }).await
    }

    /// Brings Raft's members and the nodes' roles in line with what is wanted of them. One change at a time, beside the
    /// loop, because a new manager may be slow to catch up.
    fn reconcile_managers(&self, term: &mut Term) {
        if term.membership_change.as_ref().is_some_and(|change| !change.is_finished()) {
            return;
        }
        let (voters, learners): (Vec<_>, Vec<_>) =
            self.raft.members().into_iter().partition(|member| member.voter);
        let names = |members: Vec<skep_raft::Manager>| -> BTreeSet<String> {
            members.into_iter().map(|member| member.node_id).collect()
        };
        let (voters, learners) = (names(voters), names(learners));
        let heard = |id: &str| self.mesh.is_connected(id);
        let view = RaftView { leader: &self.node_id, voters: &voters, learners: &learners, heard: &heard };
        let mut steps = self.raft.read(|state| roles::next(state, &view)).into_iter();
        // An addition that failed makes way for the next one: a manager that cannot catch up must not keep others out.
        let skip = |step: &RoleStep| matches!(step, RoleStep::Add(id) if term.failed.contains(id));
        let step = steps.find(|step| !skip(step));
        if step.is_none() {
            term.failed.clear();
        }
        let Some(step) = step else { return };
        let (raft, node_id) = (self.raft.clone(), self.node_id.clone());
        if let RoleStep::Add(id) = &step {
            // Counts as failed until it is a voter: then it is not among the steps any more.
            term.failed.insert(id.clone());
        }
        term.membership_change = Some(tokio::spawn(async move { take_step(&raft, &node_id, step).await }));
    }
}

/// Does one step towards the wanted roles. What fails is decided on anew.
async fn take_step(raft: &RaftNode, own: &str, step: RoleStep) {
    match step {
        RoleStep::Add(id) => match raft.add_manager(&id).await {
            Ok(()) => tracing::info!(node = %id, "a manager joined Raft"),
            Err(error) => tracing::warn!(node = %id, %error, "cannot add a manager to Raft; trying again"),
        },
        RoleStep::Remove(id) => {
            if id == own {
                tracing::info!("this manager leads and is to be a worker: it takes itself out of Raft");
            }
            match raft.remove_manager(&id).await {
                Ok(()) => tracing::info!(node = %id, "a manager left Raft"),
                Err(error) => {
                    tracing::warn!(node = %id, %error, "cannot take a manager out of Raft; trying again");
                }
            }
        }
        RoleStep::Commit(change) => {
            let node = match &change {
                Change::PutNode(node) => node.meta.id.clone(),
                _ => String::new(),
            };
            match raft.propose(Transaction { at: clock::now(), changes: vec![change] }).await {
                Ok(_) => tracing::info!(%node, "a former manager is a worker now"),
                Err(error) => tracing::debug!(%node, %error, "cannot commit a role; trying again"),
            }
        }
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        if let Some(change) = &self.membership_change {
            change.abort();
        }
    }
}

/// Whether a node fell silent, rather than left.
fn is_lost(node: &Node) -> bool {
    node.status.state == NodeState::Down && node.status.message != LEFT
}

/// A report with its texts cut to what people read: a node must not fill the managers' log.
fn cut(mut status: TaskStatus) -> TaskStatus {
    for text in [&mut status.err, &mut status.message] {
        if text.len() > TEXT_BYTES {
            let end = (0..=TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
        }
    }
    status
}

/// Waits for the next change and swallows those that are already there.
async fn changed(updates: &mut Subscription) -> bool {
    let next = updates.next().await;
    while updates.try_next().is_some() {}
    next.is_some()
}
