//! Sessions of agents: each gets its view of the committed state, whole and then in differences, while this manager
//! leads; what agents report goes to the leader's loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use skep_raft::{RaftNode, Subscription, Update};
use skep_state::spec::NodeRole;
use skep_state::{State, TaskStatus};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::limits::{Registrations, too_many_sessions};
use crate::rpc::{FromLeader, Hello, Report};
use crate::view::NodeView;

/// Reports and arrivals that wait for the leader's loop; agents wait when it is full.
const INBOX: usize = 1024;

/// How long a leader that has just been elected may take to know it.
const ELECTED_WAIT: Duration = Duration::from_millis(500);

/// What reaches the leader's loop.
#[derive(Debug)]
pub(crate) enum Message {
    /// An agent opened a session.
    Arrived {
        /// Its node.
        node_id: String,
        /// What it says of itself.
        hello: Hello,
    },
    /// A node may be reached elsewhere from now on.
    Moved {
        /// The node.
        node_id: String,
        /// Where its mesh port is, best first.
        addresses: Vec<String>,
    },
    /// Tasks of a node are in new states.
    Statuses {
        /// The node.
        node_id: String,
        /// Task IDs and states.
        statuses: Vec<(String, TaskStatus)>,
    },
}

/// Serves agents' sessions on a manager.
pub(crate) struct Dispatcher {
    raft: RaftNode,
    inbox: mpsc::Sender<Message>,
    registrations: Mutex<Registrations>,
    /// Ends all sessions: this node stops being a manager.
    stopped: CancellationToken,
}

impl Dispatcher {
    /// With the receiver for the leader's loop.
    pub(crate) fn new(raft: RaftNode, stopped: CancellationToken) -> (Arc<Self>, mpsc::Receiver<Message>) {
        let (inbox, outbox) = mpsc::channel(INBOX);
        (Arc::new(Self { raft, inbox, registrations: Mutex::default(), stopped }), outbox)
    }

    /// Passes a message to the leader's loop.
    pub(crate) async fn deliver(&self, message: Message) {
        // The loop ends only with the manager part itself.
        let _ = self.inbox.send(message).await;
    }

    /// Serves one session until either side ends or this manager no longer leads.
    pub(crate) async fn serve(
        &self,
        node_id: String,
        hello: Hello,
        messages: mpsc::Sender<FromLeader>,
        mut reports: mpsc::Receiver<Report>,
    ) {
        if !self.leads().await {
            let managers = self.raft.read(managers);
            let _ = messages.send(FromLeader::NotLeader { leader: self.raft.leader(), managers }).await;
            return;
        }
        // A manager that leads has its session with itself, which costs nobody else anything.
        if self.raft.leader().is_none_or(|leader| leader != node_id)
            && !self.registrations.lock().admit(&node_id, Instant::now())
        {
            let reason = too_many_sessions(&node_id);
            tracing::debug!(node = %node_id, %reason, "refused a session");
            let _ = messages.send(FromLeader::Refused { reason }).await;
            return;
        }
        let mut updates = self.raft.subscribe();
        self.deliver(Message::Arrived { node_id: node_id.clone(), hello }).await;
        let mut leadership = self.raft.watch_leader();
        let outwards = async {
            let mut sent = self.view(&node_id);
            let mut first = sent.complete();
            first.sequence = 0;
            if messages.send(FromLeader::Assignments(Box::new(first))).await.is_err() {
                return;
            }
            let mut sequence = 0;
            while next_change(&mut updates).await {
                let view = self.view(&node_id);
                if let Some(mut change) = sent.diff(&view) {
                    sequence += 1;
                    change.sequence = sequence;
                    if messages.send(FromLeader::Assignments(Box::new(change))).await.is_err() {
                        return;
                    }
                    sent = view;
                }
            }
        };
        let inwards = async {
            while let Some(report) = reports.recv().await {
                if let Some(addresses) = report.addresses {
                    self.deliver(Message::Moved { node_id: node_id.clone(), addresses }).await;
                }
                if !report.statuses.is_empty() {
                    self.deliver(Message::Statuses { node_id: node_id.clone(), statuses: report.statuses })
                        .await;
                }
            }
        };
        tokio::select! {
            () = outwards => {}
            () = inwards => {}
            () = self.stopped.cancelled() => {}
            _ = leadership.wait_for(|_| !self.raft.is_leader()) => {
                // That their sessions end is not the nodes' doing.
                *self.registrations.lock() = Registrations::default();
            }
        }
    }

    fn view(&self, node_id: &str) -> NodeView {
        self.raft.read(|state| NodeView::of(state, node_id))
    }

    async fn leads(&self) -> bool {
        if self.raft.is_leader() {
            return true;
        }
        // An agent may hear of the election from another manager before this one has noticed that it won.
        let mut leadership = self.raft.watch_leader();
        let raft = self.raft.clone();
        let known = leadership.wait_for(|_| raft.is_leader());
        tokio::time::timeout(ELECTED_WAIT, known).await.is_ok_and(|known| known.is_ok())
    }
}

fn managers(state: &State) -> Vec<(String, Vec<String>)> {
    let managers = state.nodes.values().filter(|node| node.role == NodeRole::Manager);
    managers.map(|node| (node.meta.id.clone(), node.addresses.clone())).collect()
}

/// Waits for the next change and swallows those that are already there: one difference covers them all.
async fn next_change(updates: &mut Subscription) -> bool {
    let next: Option<Update> = updates.next().await;
    while updates.try_next().is_some() {}
    next.is_some()
}
