//! Follows the role that the managers give this node, while everything else stays up.
//!
//! ```text
//!                 promote                  a manager signs and commits
//!   worker ──────────────────────> asking ───────────────────────────> starting ──────────> manager
//!      ^                             │ no manager answers: again          │ fails: again        │ demote
//!      │                             │                                    │                     v
//!      │                             v                                    │            still a manager, until the leader
//!      │                        taken back (demoted meanwhile)            │            has taken it out of Raft
//!      │                             │                                    │                     │ given role: worker
//!      │  Raft's files go            │                                    v                     v
//!      └───────────────────────── worker's certificate <──────────── stopped <──────────────────┘
//!                                                 asks the others, for its own Raft is out of the game
//! ```
//!
//! What is on disk decides after a crash at any point: a manager's certificate starts the manager part, a worker's does
//! not, and Raft files beside a worker's certificate are left-overs. They are removed only while a leader says that the
//! node is a worker *and* a manager has signed that: a voter without its log could vote twice.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skep_mesh::{Mesh, Role};
use skep_state::spec::NodeRole;

use crate::agent::Agent;
use crate::manager::ManagerSlot;
use crate::member::Record;

/// Pauses after a step that failed: from this …
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// … doubling to this. The leader may be about to be replaced, which takes less than a second.
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Gets certificates.
#[async_trait]
pub(crate) trait Certify: Send + Sync {
    /// Gets a new certificate from the managers, saves it and uses it from now on: its role is the one that they give
    /// this node.
    async fn obtain(&self) -> Result<Role, String>;
}

/// What a node's next step towards its role depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Situation {
    /// The role wanted and the role given, as a leader tells them now; nothing while none does.
    told: Option<(NodeRole, NodeRole)>,
    /// The certificate in use.
    certificate: Role,
    /// Whether this certificate was signed since the node was last told that it is a worker.
    granted: bool,
    /// Whether the manager part runs.
    running: bool,
    /// Whether Raft has files.
    files: bool,
}

/// A node's next step towards its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// All is as it should be, or somebody else's turn.
    Wait,
    /// Ask for a certificate.
    Obtain,
    /// Start the manager part.
    Start,
    /// Stop the manager part.
    Stop,
    /// Remove Raft's files.
    Forget,
}

fn next(now: Situation) -> Step {
    use NodeRole::{Manager, Worker};
    // What was told in another life may be long outdated: nothing is begun on it.
    let Some((wanted, given)) = now.told else { return Step::Wait };
    match (wanted, given, now.certificate) {
        (Worker, Worker, _) if now.running => Step::Stop,
        (Worker, Worker, Role::Manager) => Step::Obtain,
        (Worker, Worker, Role::Worker) if now.files => Step::Forget,
        (Worker, Worker, Role::Worker) => Step::Wait,
        // The role is given with the certificate, and the word of it may come later than the certificate itself.
        (Manager, Worker, Role::Manager) if now.granted && now.running => Step::Wait,
        (Manager, Worker, Role::Manager) if now.granted => Step::Start,
        (Manager, Worker, _) => Step::Obtain,
        (Manager, Manager, Role::Worker) => Step::Obtain,
        // Until it is out of Raft a demoted manager has to vote.
        (_, Manager, Role::Manager) if !now.running => Step::Start,
        (_, Manager, Role::Manager) => Step::Wait,
        // Demoted before it ever had the certificate: the leader takes the role back.
        (Worker, Manager, Role::Worker) => Step::Wait,
    }
}

/// Follows this node's role.
pub(crate) struct RoleFollower {
    pub agent: Arc<Agent>,
    pub mesh: Mesh,
    pub manager: Arc<ManagerSlot>,
    pub record: Arc<Record>,
    pub certificates: Arc<dyn Certify>,
}

impl RoleFollower {
    /// Runs until cancelled.
    pub(crate) async fn run(self) {
        let mut changes = self.agent.subscribe();
        let mut pause = RETRY_FIRST;
        let mut granted = false;
        loop {
            let situation = self.situation(granted);
            if situation.told == Some((NodeRole::Worker, NodeRole::Worker)) {
                granted = false;
            }
            let done = match next(situation) {
                Step::Wait => {
                    if changes.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Step::Obtain => self.obtain().await.map(|role| granted = role == Role::Manager),
                Step::Start => {
                    tracing::info!("this node is a manager now");
                    self.start().await
                }
                Step::Stop => {
                    tracing::info!("this node is a worker now");
                    self.manager.stop().await;
                    Ok(())
                }
                Step::Forget => self.manager.forget().await.map_err(|error| error.to_string()),
            };
            match done {
                Ok(()) => pause = RETRY_FIRST,
                Err(error) => {
                    tracing::warn!(%error, ?situation, "cannot take this node's role on yet; trying again");
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                    pause = (pause * 2).min(RETRY_MOST);
                }
            }
        }
    }

    fn situation(&self, granted: bool) -> Situation {
        let own = self.mesh.node_id();
        let told = self.agent.is_current().then(|| {
            self.agent
                .view(|view| view.nodes.contains_key(own).then_some((view.wanted_role, view.given_role)))
        });
        Situation {
            told: told.flatten(),
            certificate: self.mesh.identity().role(),
            granted,
            running: self.manager.get().is_some(),
            files: self.manager.has_files(),
        }
    }

    /// On record first: after a restart the part starts again only if the record says manager.
    async fn start(&self) -> Result<(), String> {
        self.record.update(|member| member.role = NodeRole::Manager).map_err(|error| error.to_string())?;
        self.manager.start(None).await.map_err(|error| error.to_string())
    }

    async fn obtain(&self) -> Result<Role, String> {
        let role = self.certificates.obtain().await?;
        let given = match role {
            Role::Manager => NodeRole::Manager,
            Role::Worker => NodeRole::Worker,
        };
        self.record.update(|member| member.role = given).map_err(|error| error.to_string())?;
        Ok(role)
    }
}

#[cfg(test)]
mod tests {
    use NodeRole::{Manager, Worker};

    use super::*;

    /// A node, and what the managers have committed of it.
    #[derive(Debug, Clone, Copy)]
    struct World {
        wanted: NodeRole,
        given: NodeRole,
        node: Situation,
    }

    impl World {
        fn worker() -> Self {
            let node = Situation {
                told: None,
                certificate: Role::Worker,
                granted: false,
                running: false,
                files: false,
            };
            Self { wanted: Worker, given: Worker, node }
        }

        fn manager() -> Self {
            let node = Situation {
                told: None,
                certificate: Role::Manager,
                granted: false,
                running: true,
                files: true,
            };
            Self { wanted: Manager, given: Manager, node }
        }

        fn tell(&mut self) {
            self.node.told = Some((self.wanted, self.given));
            if self.node.told == Some((Worker, Worker)) {
                self.node.granted = false;
            }
        }

        /// A manager answers the request for a certificate.
        fn sign(&mut self) {
            if self.wanted == Manager {
                self.given = Manager;
            }
            self.node.certificate = if self.given == Manager { Role::Manager } else { Role::Worker };
            self.node.granted = self.given == Manager;
        }

        /// The node does what it finds right; false when it waits.
        fn step(&mut self) -> bool {
            match next(self.node) {
                Step::Wait => return false,
                Step::Obtain => self.sign(),
                Step::Start => (self.node.running, self.node.files) = (true, true),
                Step::Stop => self.node.running = false,
                Step::Forget => {
                    assert!(!self.node.running && self.node.certificate == Role::Worker);
                    assert_eq!(self.given, Worker, "a voter must not lose its log");
                    self.node.files = false;
                }
            }
            true
        }

        /// The daemon dies and starts again: its files and its certificate are what it knows.
        fn restart(&mut self) {
            (self.node.told, self.node.granted) = (None, false);
            self.node.running = self.node.certificate == Role::Manager;
            self.node.files |= self.node.running;
        }

        fn settle(&mut self) {
            for _ in 0..20 {
                self.tell();
                if !self.step() {
                    return;
                }
            }
            panic!("never settles: {self:?}");
        }
    }

    #[test]
    fn nothing_is_begun_without_a_leaders_word() {
        for world in [World::worker(), World::manager()] {
            assert_eq!(next(world.node), Step::Wait);
        }
    }

    #[test]
    fn a_promoted_node_asks_first_and_starts_then() {
        let mut world = World::worker();
        world.wanted = Manager;
        world.tell();
        assert_eq!(next(world.node), Step::Obtain);
        world.step();
        // The word of the new role is still on its way.
        assert_eq!(next(world.node), Step::Start);
        world.step();
        assert_eq!(next(world.node), Step::Wait);
        world.tell();
        assert_eq!(next(world.node), Step::Wait);
    }

    #[test]
    fn a_demoted_manager_votes_until_it_is_out_of_raft() {
        let mut world = World::manager();
        world.wanted = Worker;
        world.tell();
        assert_eq!(next(world.node), Step::Wait);
        world.given = Worker;
        world.tell();
        assert_eq!(next(world.node), Step::Stop);
        world.step();
        assert_eq!(next(world.node), Step::Obtain);
        world.step();
        assert_eq!(next(world.node), Step::Forget);
        world.step();
        assert_eq!(next(world.node), Step::Wait);
    }

    #[test]
    fn a_crash_between_any_two_steps_is_made_good() {
        for crash_after in 0..6 {
            for promote in [true, false] {
                let mut world = if promote { World::worker() } else { World::manager() };
                world.wanted = if promote { Manager } else { Worker };
                if !promote {
                    world.given = Worker;
                }
                for _ in 0..crash_after {
                    world.tell();
                    world.step();
                }
                world.restart();
                world.settle();
                let node = world.node;
                assert_eq!(
                    (node.running, node.files),
                    (promote, promote),
                    "crash after {crash_after}: {world:?}"
                );
                assert_eq!(node.certificate == Role::Manager, promote);
                assert_eq!(world.given == Manager, promote);
            }
        }
    }

    #[test]
    fn a_certificate_from_before_a_demotion_starts_nothing() {
        // Demoted, stopped, and promoted again before it had the worker's certificate.
        let mut world = World::manager();
        (world.wanted, world.given) = (Worker, Worker);
        world.tell();
        world.step();
        assert!(!world.node.running);
        world.wanted = Manager;
        world.tell();
        assert_eq!(
            next(world.node),
            Step::Obtain,
            "the role is given by a commit, not by an old certificate"
        );
        world.settle();
        assert!(world.node.running && world.given == Manager);
    }

    #[test]
    fn a_promotion_that_was_taken_back_ends_as_a_worker() {
        let mut world = World::worker();
        world.given = Manager;
        world.tell();
        assert_eq!(next(world.node), Step::Wait);
        world.given = Worker;
        world.settle();
        assert!(!world.node.running && !world.node.files);
    }
}
