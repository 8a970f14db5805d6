//! When to stand for election, and who leads.
//!
//! openraft's own election timer is off: it draws its timeout once for a node's whole life (two nodes that drew nearly
//! the same one split the vote again and again), adds a lease to it, and has no pre-vote, so that a node that was cut
//! off for a while unseats a healthy leader when it comes back. Here a follower first asks the others:
//!
//! ```text
//!              silent for a random election_min..election_max           a majority misses the leader too,
//!   Following ──────────────────────────────────────────────▶ Asking ──── and my log is no shorter ────▶ Standing
//!      ▲  ▲                                                     │                                          │    │
//!      │  └───── refused, or no majority answers: after a ──────┘                                          │    │
//!      │         random heartbeat..election_min ask again                                                  │    ▼
//!      └───────────── another one won, or nobody: after a random election_min..election_max ask again ─────┘  Leading
//!      ▲                                                                                                        │
//!      └─────────────────────────── a higher term is heard ─────────────────────────────────────────────────────┘
//! ```
//! Asking changes no term and no vote on any node. A leader that has no answer of a majority for `election_max` is
//! published as no leader, and so is one that a follower has not heard for that long; openraft alone would show both for
//! ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::log::LogStore;
use crate::machine::Machine;
use crate::network;
use crate::retention::Compactor;
use crate::rpc::{Answer, Request};
use crate::types::{Leadership, LogId, Member, Raft};
use crate::{RaftOptions, Transport};

/// What openraft tells of itself.
pub(crate) type Metrics = openraft::RaftMetrics<u64, Member>;

/// What is known about the leader's life. Shared with whoever serves requests.
#[derive(Debug)]
pub(crate) struct Pulse {
    times: Mutex<Times>,
    heard_again: Notify,
    leadership: watch::Sender<Leadership>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    /// A leader's message was accepted.
    heard: Option<Instant>,
    /// A vote was granted: its candidate gets time to win.
    granted: Option<Instant>,
    /// Since when no leader is known.
    leaderless: Option<Instant>,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self {
            times: Mutex::new(Times { heard: None, granted: None, leaderless: Some(Instant::now()) }),
            heard_again: Notify::new(),
            leadership: watch::Sender::new(Leadership::default()),
        }
    }

    /// A leader's message was accepted.
    pub(crate) fn heard(&self) {
        let mut times = self.times.lock();
        times.heard = Some(Instant::now());
        if times.leaderless.is_some() {
            self.heard_again.notify_one();
        }
    }

    /// A vote was granted.
    pub(crate) fn granted(&self) {
        self.times.lock().granted = Some(Instant::now());
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    pub(crate) fn leader(&self) -> Option<String> {
        self.leadership.borrow().leader.clone()
    }

    /// Since when no leader is known; `None` while there is one.
    pub(crate) fn leaderless_since(&self) -> Option<Instant> {
        self.times.lock().leaderless
    }

    /// Whether to tell a node with this log that it would get the vote.
    pub(crate) fn would_grant(
        &self,
        options: &RaftOptions,
        theirs: Option<LogId>,
        mine: Option<LogId>,
    ) -> bool {
        let silent = self.times.lock().heard.is_none_or(|heard| heard.elapsed() >= options.election_min);
        let i_lead = self.leader().is_some_and(|leader| leader == options.node_id);
        silent && !i_lead && theirs >= mine
    }

    fn publish(&self, leader: Option<String>, term: u64) {
        let mut times = self.times.lock();
        match &leader {
            Some(_) => times.leaderless = None,
            None => times.leaderless = times.leaderless.or_else(|| Some(Instant::now())),
        }
        drop(times);
        self.leadership.send_if_modified(|known| {
            let new = Leadership { leader, term };
            let changed = *known != new;
            *known = new;
            changed
        });
    }
}

/// Runs until Raft stops.
pub(crate) struct Elector {
    pub(crate) options: Arc<RaftOptions>,
    pub(crate) id: u64,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) machine: Machine,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) pulse: Arc<Pulse>,
}

/// What this node is at the moment.
enum Role {
    Leading {
        with_majority: bool,
    },
    Following,
    /// No vote: a learner, or not a member.
    Watching,
}

impl Elector {
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.metrics();
        let mut changes = self.raft.server_metrics();
        let mut compactor = Compactor::new();
        let mut attempt = Instant::now();
        let mut patience = self.random(self.options.election_min, self.options.election_max);
        loop {
            let now = metrics.borrow_and_update().clone();
            changes.mark_unchanged();
            if now.running_state.is_err() {
                self.pulse.publish(None, now.current_term);
                return;
            }
            let role = self.role(&now);
            self.pulse.publish(self.leader(&now, &role), now.current_term);
            compactor.step(&self.options, &self.raft, &self.log, &self.machine, &now).await;
            let due = self.due(attempt, patience);
            match role {
                Role::Leading { with_majority } => tokio::select! {
                    changed = metrics.changed(), if !with_majority => if changed.is_err() { return },
                    changed = changes.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(self.options.heartbeat * 2) => {}
                },
                Role::Following if due <= Instant::now() => {
                    let stood = self.ask(&now).await && self.raft.trigger().elect().await.is_ok();
                    attempt = Instant::now();
                    patience = if stood {
                        self.random(self.options.election_min, self.options.election_max)
                    } else {
                        self.random(self.options.heartbeat, self.options.election_min)
                    };
                }
                Role::Following | Role::Watching => tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = self.pulse.heard_again.notified() => {}
                    () = tokio::time::sleep_until(due.max(Instant::now() + self.options.heartbeat)) => {}
                },
            }
        }
    }

    fn role(&self, metrics: &Metrics) -> Role {
        let membership = metrics.membership_config.membership();
        if metrics.state == ServerState::Leader {
            let alone = membership.voter_ids().all(|voter| voter == self.id);
            let limit = self.options.election_max.as_millis();
            let answered = metrics.millis_since_quorum_ack.is_some_and(|ms| u128::from(ms) <= limit);
            return Role::Leading { with_majority: alone || answered };
        }
        if membership.voter_ids().any(|voter| voter == self.id) { Role::Following } else { Role::Watching }
    }

    fn leader(&self, metrics: &Metrics, role: &Role) -> Option<String> {
        if let Role::Leading { with_majority } = role {
            return with_majority.then(|| self.options.node_id.clone());
        }
        let heard = self.pulse.times.lock().heard?;
        let leader = metrics.current_leader.filter(|&leader| leader != self.id)?;
        if heard.elapsed() > self.options.election_max {
            return None;
        }
        metrics.membership_config.membership().get_node(&leader).map(|member| member.node_id.clone())
    }

    /// When to ask for an election.
    fn due(&self, attempt: Instant, patience: Duration) -> Instant {
        let times = *self.pulse.times.lock();
        let last = [Some(attempt), times.heard, times.granted].into_iter().flatten().max();
        last.unwrap_or(attempt) + patience
    }

    /// Whether a majority would vote for this node.
    async fn ask(&self, metrics: &Metrics) -> bool {
        let membership = metrics.membership_config.membership();
        let mut granted = BTreeSet::from([self.id]);
        let mut asked = JoinSet::new();
        for (&id, member) in membership.nodes() {
            if id == self.id || !membership.voter_ids().any(|voter| voter == id) {
                continue;
            }
            let transport = Arc::clone(&self.transport);
            let request = Request::PreVote { last: self.log.last() };
            let (node_id, limit) = (member.node_id.clone(), self.options.election_min);
            asked.spawn(async move {
                let answer = network::call(&*transport, &node_id, &request, &[], limit).await;
                matches!(answer, Ok(Answer::PreVote { granted: true })).then_some(id)
            });
        }
        loop {
            // While a joint configuration holds, a majority of each of the two.
            let enough = membership
                .get_joint_config()
                .iter()
                .all(|voters| voters.intersection(&granted).count() > voters.len() / 2);
            if enough {
                return true;
            }
            match asked.join_next().await {
                Some(Ok(Some(id))) => granted.insert(id),
                Some(_) => continue,
                None => return false,
            };
        }
    }

    fn random(&self, from: Duration, to: Duration) -> Duration {
        rand::rng().random_range(from..=to.max(from))
    }
}
