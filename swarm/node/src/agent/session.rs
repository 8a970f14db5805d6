//! The agent's session with the leader: assignments come, reports go.
//!
//! ```text
//! look for the leader -> open -> complete view -> differences … -> broken or "not leader" -> look again
//! ```

use std::sync::Arc;
use std::time::Duration;

use skep_mesh::{Class, Mesh};
use skep_raft::RaftNode;
use tokio::sync::mpsc;

use super::Agent;
use crate::manager::Dispatcher;
use crate::rpc::{self, FromLeader, Hello, Report};

/// Pause before the leader is looked for again.
const RETRY: Duration = Duration::from_millis(100);

/// A manager that neither answers nor hangs up is given up after so long.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// Messages on their way in a session.
pub(crate) const QUEUE: usize = 16;

/// Keeps a session with whoever leads.
pub(crate) struct SessionLoop {
    pub agent: Arc<Agent>,
    pub mesh: Mesh,
    /// Set on a manager, which knows the leader itself.
    pub manager: Option<(RaftNode, Arc<Dispatcher>)>,
    pub hello: Hello,
}

impl SessionLoop {
    /// Runs until cancelled.
    pub(crate) async fn run(self) {
        let mut hint: Option<String> = None;
        let mut turn = 0_usize;
        loop {
            let Some(leader) = self.candidate(hint.take(), &mut turn) else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let (reports, reports_out) = mpsc::channel(QUEUE);
            let (messages_in, messages) = mpsc::channel(QUEUE);
            let own = leader == self.agent.context().node_id;
            let carried = async {
                match &self.manager {
                    Some((_, dispatcher)) if own => {
                        dispatcher.serve(leader.clone(), self.hello.clone(), messages_in, reports_out).await;
                        Ok(())
                    }
                    _ if own => Ok(()),
                    _ => self.carry(&leader, messages_in, reports_out).await,
                }
            };
            let (carried, next) = tokio::join!(carried, self.converse(messages, reports));
            if let Err(error) = carried {
                tracing::debug!(%leader, %error, "session ended");
            }
            hint = next.filter(|next| *next != leader);
            if hint.is_none() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Who may lead: what Raft says, what the last manager said, or each known manager in turn.
    fn candidate(&self, hint: Option<String>, turn: &mut usize) -> Option<String> {
        if let Some((raft, _)) = &self.manager {
            return raft.leader();
        }
        hint.or_else(|| {
            let managers: Vec<String> = self.agent.view(|view| {
                view.nodes.iter().filter(|(_, node)| node.manager).map(|(id, _)| id.clone()).collect()
            });
            let known: Vec<String> = if managers.is_empty() {
                self.mesh.peers().into_iter().map(|peer| peer.node_id).collect()
            } else {
                managers
            };
            *turn = turn.wrapping_add(1);
            known.get(*turn % known.len().max(1)).cloned()
        })
    }

    /// Carries the session over the mesh.
    async fn carry(
        &self,
        leader: &str,
        messages: mpsc::Sender<FromLeader>,
        mut reports: mpsc::Receiver<Report>,
    ) -> Result<(), String> {
        let header = rpc::encode(&self.hello);
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

    /// Applies what comes and reports what happens; the leader's name if the asked one pointed elsewhere.
    async fn converse(
        &self,
        mut messages: mpsc::Receiver<FromLeader>,
        reports: mpsc::Sender<Report>,
    ) -> Option<String> {
        let mut expected = 0;
        loop {
            let statuses = &self.agent.context().statuses;
            tokio::select! {
                message = messages.recv() => match message? {
                    FromLeader::NotLeader(leader) => return leader,
                    FromLeader::Assignments(change) => {
                        if !change.complete && change.sequence != expected {
                            tracing::warn!(expected, got = change.sequence, "assignments are missing; asking anew");
                            return None;
                        }
                        if change.complete {
                            statuses.resend_all();
                        }
                        expected = change.sequence + 1;
                        self.agent.apply(*change);
                    }
                },
                unsent = statuses.take_unsent(), if expected > 0 => {
                    if reports.send(Report { statuses: unsent }).await.is_err() {
                        return None;
                    }
                }
            }
        }
    }
}
