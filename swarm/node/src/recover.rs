//! `swarm recover`: a new control plane of one manager, when the managers that would be needed for a majority are lost
//! for good.
//!
//! ```text
//!  a manager that is left ── its log counts as it is ─────────────────┐
//!                                                                      ├─> Raft of this node alone ─> next epoch, the
//!  a worker with a copy ─── unlock key ── certifies itself ───────────┘    other managers are workers ─> serves
//! ```
//!
//! CA, node IDs, tokens, services and running tasks stay. What was acknowledged by a majority that is gone entirely may be
//! lost. The old managers may come back, even together: the mesh's epoch keeps the two control planes apart. Whoever has
//! heard of the later one has no connection with managers of the earlier one, and an old manager that hears of it stops
//! being one (see [`Fence`]).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skep_mesh::{EpochProof, Identity};
use skep_raft::{RaftOptions, raft_id};
use skep_seal::UnlockKey;
use skep_state::object::Raft;
use skep_state::spec::NodeRole;
use skep_state::{Change, NodeState, State, Transaction};
use tokio::sync::Notify;

use crate::manager::{ManagerSlot, locking, sign};
use crate::member::{Folders, Record};
use crate::membership::{Local, Membership};
use crate::{NodeError, backup, clock};

/// How long the lone manager may take until it leads.
const LEAD: Duration = Duration::from_secs(10);
/// How often it is looked whether it does.
const POLL: Duration = Duration::from_millis(10);

/// Makes this node the only manager of its swarm.
pub(crate) async fn recover(
    local: &Local,
    membership: &Membership,
    unlock_key: Option<&UnlockKey>,
) -> Result<(), NodeError> {
    let vault = &membership.vault;
    let folders = Folders::new(&local.config.root);
    let options = RaftOptions::new(folders.raft(), membership.node_id(), vault.key());
    let epoch = match membership.raft() {
        Some(raft) => {
            if raft.read_barrier().await.is_ok() {
                if raft.members().iter().all(|member| member.node_id == membership.node_id()) {
                    // It is the only manager already, which is all that was asked for.
                    return Ok(());
                }
                return Err(NodeError::Invalid(
                    "the swarm has a leader and a majority of its managers: there is nothing to recover"
                        .to_owned(),
                ));
            }
            let epoch = raft.read(|state| state.cluster.as_ref().map_or(0, |cluster| cluster.epoch)) + 1;
            drop(raft);
            membership.manager.stop().await;
            let made = skep_raft::make_single(options).await;
            made.map_err(NodeError::internal("cannot make this node the only manager"))?;
            epoch
        }
        None => take_over(local, membership, unlock_key, options).await?,
    };
    announce(membership, &membership.identity(), epoch)?;
    membership.manager.start(None).await?;
    let raft = membership.raft().ok_or(NodeError::NotManager)?;
    let leads = async {
        while !raft.is_leader() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LEAD, leads)
        .await
        .map_err(|_| NodeError::Unavailable("this manager does not come to lead its swarm".to_owned()))?;
    let own = membership.node_id();
    loop {
        let changes = raft.read(|state| changes(state, own, epoch));
        match raft.propose(Transaction { at: clock::now(), changes }).await {
            Ok(_) => break,
            Err(skep_raft::ProposeError::Conflict(_)) => {}
            Err(error) => return Err(NodeError::internal("cannot commit the recovery")(error)),
        }
    }
    tracing::warn!(epoch, "the swarm was recovered with this node as its only manager");
    Ok(())
}

/// A worker becomes a manager of the state in its copy; the new epoch.
async fn take_over(
    local: &Local,
    membership: &Membership,
    unlock_key: Option<&UnlockKey>,
    options: RaftOptions,
) -> Result<u64, NodeError> {
    let (folders, vault) = (Folders::new(&local.config.root), &membership.vault);
    let key = unlock_key.ok_or_else(|| {
        NodeError::Invalid(
            "this node is a worker: recovering from its copy of the swarm's state takes the unlock key"
                .to_owned(),
        )
    })?;
    let mut state = backup::load(&folders.backup(), key).map_err(|error| match error {
        backup::LoadError::WrongKey => NodeError::WrongUnlockKey,
        error => NodeError::Invalid(error.to_string()),
    })?;
    let identity = membership.identity();
    let invalid =
        |reason: &str| NodeError::Invalid(format!("this node's copy of the swarm's state: {reason}"));
    let cluster = state.cluster.clone().ok_or_else(|| invalid("holds no swarm"))?;
    if cluster.meta.id != identity.cluster_id() {
        return Err(invalid("belongs to another swarm"));
    }
    let own = identity.node_id();
    let node = state.nodes.get_mut(own).ok_or_else(|| invalid("does not list this node"))?;
    node.role = NodeRole::Manager;
    node.spec.role = NodeRole::Manager;
    node.raft = Some(Raft { id: raft_id(own) });
    let csr_pem = identity.csr_pem().map_err(NodeError::internal("make a signing request"))?;
    let now = membership.clock.now();
    let signed = sign(&cluster, Some(&identity), &csr_pem, own, NodeRole::Manager, now)
        .await
        .map_err(NodeError::internal("cannot certify this node as a manager"))?;
    node.certificate = signed.certificate;
    let renewed = identity
        .renewed(&signed.chain_pem, &skep_control::certificates::trust_bundle(&cluster))
        .map_err(NodeError::internal("this node's new certificate"))?;
    let epoch = cluster.epoch + 1;
    locking::lock(vault, &cluster.unlock_key).map_err(NodeError::internal("cannot lock this node's keys"))?;
    membership.manager.forget().await?;
    skep_raft::seed(options, state)
        .await
        .map_err(NodeError::internal("cannot make a control plane of the copy"))?;
    renewed
        .save(&folders.identity(), vault)
        .map_err(NodeError::internal("cannot save this node's identity"))?;
    membership
        .mesh
        .update_identity(renewed)
        .map_err(NodeError::internal("cannot use this node's new certificate"))?;
    membership
        .record
        .update(|member| member.role = NodeRole::Manager)
        .map_err(NodeError::internal("cannot save this node's membership"))?;
    Ok(epoch)
}

/// From now on this node belongs to the epoch; it is on disk before anybody hears of it.
fn announce(membership: &Membership, identity: &Identity, epoch: u64) -> Result<(), NodeError> {
    let proof = EpochProof::sign(identity, epoch).map_err(NodeError::internal("sign the new epoch"))?;
    membership
        .record
        .update(|member| member.epoch = proof.encode())
        .map_err(NodeError::internal("cannot save this node's membership"))?;
    membership.mesh.set_epoch(proof);
    Ok(())
}

/// The other managers are workers that are down until they are heard of; the swarm is in its new epoch.
fn changes(state: &State, own: &str, epoch: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    if let Some(cluster) = state.cluster.as_ref().filter(|cluster| cluster.epoch < epoch) {
        let mut cluster = cluster.clone();
        cluster.epoch = epoch;
        changes.push(Change::PutCluster(Box::new(cluster)));
    }
    let is_manager = |role: NodeRole| role == NodeRole::Manager;
    for node in state.nodes.values().filter(|node| node.meta.id != own) {
        if !is_manager(node.role) && !is_manager(node.spec.role) {
            continue;
        }
        let mut node = node.clone();
        (node.role, node.spec.role, node.raft) = (NodeRole::Worker, NodeRole::Worker, None);
        node.status.state = NodeState::Down;
        changes.push(Change::PutNode(Box::new(node)));
    }
    changes
}

/// Takes over later epochs that peers prove. The mesh tells of them from its own tasks, so the work is done in one of ours.
#[derive(Default)]
pub(crate) struct Fence {
    proven: Mutex<Option<EpochProof>>,
    heard: Notify,
}

impl Fence {
    /// A peer has proven an epoch later than this node's.
    pub(crate) fn superseded(&self, proof: EpochProof) {
        let mut proven = self.proven.lock();
        if proven.as_ref().is_none_or(|known| known.number() < proof.number()) {
            *proven = Some(proof);
            self.heard.notify_one();
        }
    }

    /// Acts on what was heard, until cancelled.
    pub(crate) async fn run(
        self: Arc<Self>,
        mesh: skep_mesh::Mesh,
        record: Arc<Record>,
        manager: Arc<ManagerSlot>,
    ) {
        loop {
            self.heard.notified().await;
            let Some(proof) = self.proven.lock().take() else { continue };
            let number = proof.number();
            if record.get().epoch().is_some_and(|known| known.number() >= number) {
                continue;
            }
            tracing::warn!(epoch = number, "the swarm was recovered elsewhere; following");
            // First of all: a manager of an earlier epoch must decide nothing more. Its files go when the new managers
            // say that it is a worker.
            manager.stop().await;
            let noted = record.update(|member| {
                member.epoch = proof.encode();
                // Also after a restart, whatever the certificate says.
                member.role = NodeRole::Worker;
            });
            if let Err(error) = noted {
                tracing::error!(%error, "cannot remember the swarm's new epoch");
            }
            mesh.set_epoch(proof);
        }
    }
}
