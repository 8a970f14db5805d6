//! The agent's session with the leader: assignments come, reports go.
//!
//! ```text
//! look for the leader -> open -> complete view -> differences … -> broken or "not leader" -> look again
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_mesh::{Class, Mesh, Role};
use skep_state::NodeDescription;
use tokio::sync::mpsc;

use super::Agent;
use crate::manager::{ManagerSlot, peer_config};
use crate::member::Record;
use crate::rpc::{self, FromLeader, Hello, Report, SESSION_QUEUE};

/// Pause before the leader is looked for again.
const RETRY: Duration = Duration::from_millis(100);

/// How long an agent waits that came too often: within three of these it is let in again.
const REFUSED_RETRY: Duration = Duration::from_secs(1);

/// A manager that neither answers nor hangs up is given up after so long.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// A manager whose own Raft has known no leader for so long (an election or two) asks the others, as a worker does: it may
/// have been taken out of Raft, which only they can tell it.
const LEADERLESS: Duration = Duration::from_secs(1);

/// With none of the listed managers leading for so long, connected nodes with a manager's certificate are asked too: the
/// managers may all have been exchanged while this node was away.
const LOST: Duration = Duration::from_secs(5);

/// Keeps a session with whoever leads.
pub(crate) struct SessionLoop {
    pub agent: Arc<Agent>,
    pub mesh: Mesh,
    /// A manager knows the leader itself.
    pub manager: Arc<ManagerSlot>,
    /// Where this node may be reached.
    pub record: Arc<Record>,
    /// What this node says of itself.
    pub description: NodeDescription,
}

/// How the search for the leader goes.
struct Search {
    turn: usize,
    /// When the last session ended.
    lost: Instant,
    /// Since when this manager's Raft has known no leader.
    leaderless: Option<Instant>,
}

impl SessionLoop {
    /// Runs until cancelled.
    pub(crate) async fn run(self) {
        let mut hint: Option<String> = None;
        let mut search = Search { turn: 0, lost: Instant::now(), leaderless: None };
        loop {
            let Some(leader) = self.candidate(hint.take(), &mut search) else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let (reports, reports_out) = mpsc::channel(SESSION_QUEUE);
            let (messages_in, messages) = mpsc::channel(SESSION_QUEUE);
            let own = leader == self.mesh.node_id();
            let carried = async {
                match self.manager.get() {
                    Some(part) if own => {
                        part.dispatcher.serve(leader.clone(), self.hello(), messages_in, reports_out).await;
                        Ok(())
                    }
                    _ if own => Ok(()),
                    _ => self.carry(&leader, messages_in, reports_out).await,
                }
            };
            let (carried, (served, next)) = tokio::join!(carried, self.converse(messages, reports));
            self.agent.set_current(false);
            if served {
                search.lost = Instant::now();
            }
            if let Err(error) = carried {
                tracing::debug!(%leader, %error, "session ended");
            }
            hint = next.filter(|next| *next != leader);
            if hint.is_none() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello { description: self.description.clone(), addresses: self.addresses() }
    }

    fn addresses(&self) -> Vec<String> {
        vec![self.record.get().advertise.to_string()]
    }

    /// Who may lead: what Raft says, what the last manager said, or each known manager in turn.
    fn candidate(&self, hint: Option<String>, search: &mut Search) -> Option<String> {
        let own = self.mesh.node_id();
        if let Some(raft) = self.manager.raft() {
            if let Some(leader) = raft.leader() {
                search.leaderless = None;
                return Some(leader);
            }
            let since = search.leaderless.get_or_insert_with(Instant::now);
            let votes = raft.members().iter().any(|member| member.voter && member.node_id == own);
            if votes && since.elapsed() < LEADERLESS {
                return None;
            }
        }
        // That this node leads, its own Raft would know first.
        if let Some(hint) = hint.filter(|hint| hint != own) {
            return Some(hint);
        }
        let mut known: Vec<String> = self.agent.view(|view| {
            let managers = view.nodes.iter().filter(|(id, node)| node.manager && *id != own);
            managers.map(|(id, _)| id.clone()).collect()
        });
        let peers = self.mesh.peers();
        if known.is_empty() {
            known = peers.into_iter().map(|peer| peer.node_id).collect();
        } else if search.lost.elapsed() > LOST {
            let more = peers.into_iter().filter(|peer| peer.control && peer.role == Some(Role::Manager));
            let more: Vec<String> = more.map(|peer| peer.node_id).filter(|id| !known.contains(id)).collect();
            known.extend(more);
        }
        search.turn = search.turn.wrapping_add(1);
        known.get(search.turn % known.len().max(1)).cloned()
    }

    /// Carries the session over the mesh.
    async fn carry(
        &self,
        leader: &str,
        messages: mpsc::Sender<FromLeader>,
        mut reports: mpsc::Receiver<Report>,
    ) -> Result<(), String> {
        let header = rpc::encode(&self.hello());
        let (mut send, mut receive) = self
            .mesh
            .open_stream(leader, Class::Control, rpc::SESSION, header)
            .await
            .map_err(|error| error.to_string())?;
        let outwards = async {
            while let Some(report) = reports.recv().await {
                rpc::send(&mut send, &report).await?;
            }
            Ok::<(), String>(())
        };
        let inwards = async {
            let mut first = true;
            loop {
                let next = rpc::receive::<FromLeader>(&mut receive);
                let message = if first {
                    tokio::time::timeout(FIRST_ANSWER, next).await.map_err(|_| "no answer".to_owned())??
                } else {
                    next.await?
                };
                first = false;
                let Some(message) = message else { return Ok(()) };
                if messages.send(message).await.is_err() {
                    return Ok::<(), String>(());
                }
            }
        };
        // Whichever direction ends, the session is over.
        tokio::select! {
            ended = outwards => ended,
            ended = inwards => ended,
        }
    }

    /// Where managers are now. Only hints: who is there is proven by its certificate.
    fn take_hints(&self, managers: &[(String, Vec<String>)]) {
        let known =
            |id: &String| self.agent.view(|view| view.nodes.get(id).map(|node| node.addresses.clone()));
        for (id, addresses) in managers {
            if !addresses.is_empty() && known(id).as_ref() != Some(addresses) {
                self.mesh.set_peer(id, peer_config(addresses, true));
            }
        }
    }

    /// Applies what comes and reports what happens. Whether the asked manager led, and the leader's name if it pointed
    /// elsewhere.
    async fn converse(
        &self,
        mut messages: mpsc::Receiver<FromLeader>,
        reports: mpsc::Sender<Report>,
    ) -> (bool, Option<String>) {
        let mut expected = 0;
        let mut record = self.record.subscribe();
        let mut told = self.addresses();
        loop {
            let statuses = &self.agent.context().statuses;
            let report = tokio::select! {
                message = messages.recv() => {
                    match message {
                        None => return (expected > 0, None),
                        Some(FromLeader::NotLeader { leader, managers }) => {
                            self.take_hints(&managers);
                            return (expected > 0, leader);
                        }
                        Some(FromLeader::Refused { reason }) => {
                            tracing::warn!(%reason, "the leader refuses a session; asking again soon");
                            tokio::time::sleep(REFUSED_RETRY).await;
                            return (expected > 0, None);
                        }
                        Some(FromLeader::Assignments(change)) => {
                            if !change.complete && change.sequence != expected {
                                tracing::warn!(expected, got = change.sequence, "assignments are missing; asking anew");
                                return (true, None);
                            }
                            if change.complete {
                                statuses.resend_all();
                            }
                            expected = change.sequence + 1;
                            self.agent.apply(*change);
                            self.agent.set_current(true);
                        }
                    }
                    continue;
                }
                unsent = statuses.take_unsent(), if expected > 0 => {
                    Report { statuses: unsent, ..Report::default() }
                }
                changed = record.changed(), if expected > 0 => {
                    let addresses = self.addresses();
                    if changed.is_err() || addresses == told {
                        continue;
                    }
                    told.clone_from(&addresses);
                    Report { addresses: Some(addresses), ..Report::default() }
                }
            };
            if reports.send(report).await.is_err() {
                return (true, None);
            }
        }
    }
}
