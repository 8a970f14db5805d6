//! Changes the swarm's settings: adds to the pure decision (`skep_control::request::update_cluster`) the keys, tokens and
//! certificates that it needs.

use std::time::{Duration, SystemTime};

use skep_control::certificates;
use skep_control::request::{self, Changes, RotationWanted};
use skep_mesh::{CertificateAuthority, Identity, JoinToken};
use skep_raft::RaftNode;
use skep_seal::UnlockKey;
use skep_state::spec::{ClusterSpec, NodeRole};
use skep_state::{Cluster, JoinTokens, RootRotation, Transaction};

use super::issuing;
use crate::swarm_admin::Rotate;
use crate::{NodeError, clock};

/// A CA that a swarm changes to must last this much longer (swarmkit `controlapi/ca_rotation.go`, `minRootExpiration`).
const MIN_LEFT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The transaction that changes the settings at `version` and makes new what `rotate` names.
pub(crate) async fn update(
    raft: &RaftNode,
    own: &Identity,
    version: u64,
    spec: ClusterSpec,
    rotate: Rotate,
    now: SystemTime,
) -> Result<Transaction, NodeError> {
    let cluster = raft.read(|state| state.cluster.clone()).ok_or(NodeError::NotInSwarm)?;
    let wanted = request::rotation_wanted(&cluster, &spec).map_err(NodeError::Refused)?;
    let rotation = new_root(&cluster, &spec, wanted, own, now).await?;
    let token = |wanted: bool| wanted.then(|| new_token(&cluster.ca_cert)).transpose();
    let unlock_key = rotate.unlock_key || request::needs_unlock_key(&cluster, &spec);
    let changes = Changes {
        worker_token: token(rotate.worker_token)?,
        manager_token: token(rotate.manager_token)?,
        unlock_key: unlock_key.then(|| UnlockKey::random().to_string()),
        rotation,
    };
    raft.read(|state| request::update_cluster(state, version, spec, changes, clock::now()))
        .map_err(NodeError::Refused)
}

/// A new random token that names a CA.
pub(crate) fn new_token(ca_cert: &str) -> Result<String, NodeError> {
    let digest = skep_mesh::ca_digest(ca_cert).map_err(NodeError::internal("the swarm's CA certificate"))?;
    Ok(JoinToken::generate(digest, rand::random()).to_string())
}

/// Ends a change of the CA when the last node has its new certificate; runs on every manager, acts on the leader.
pub(crate) async fn finish_rotations(raft: RaftNode) {
    let mut updates = raft.subscribe();
    loop {
        if raft.is_leader() {
            let changes = raft.read(|state| {
                let digest_of = |cert: &str| skep_mesh::root_digest(cert).ok();
                let tokens = |cert: &str| {
                    Some(JoinTokens { worker: new_token(cert).ok()?, manager: new_token(cert).ok()? })
                };
                certificates::rotation_done(state, digest_of, tokens)
            });
            if let Some(changes) = changes {
                match raft.propose(Transaction { at: clock::now(), changes }).await {
                    Ok(_) => tracing::info!("the swarm has changed to its new CA"),
                    // The state moved, or somebody else leads: the next update decides anew.
                    Err(error) => tracing::debug!(%error, "cannot end the change of the CA yet"),
                }
            }
        }
        if updates.next().await.is_none() {
            return;
        }
        while updates.try_next().is_some() {}
    }
}

/// The CA to change to, cross-signed by the present one.
async fn new_root(
    cluster: &Cluster,
    spec: &ClusterSpec,
    wanted: RotationWanted,
    own: &Identity,
    now: SystemTime,
) -> Result<Option<RootRotation>, NodeError> {
    let invalid = |error: &dyn std::fmt::Display| NodeError::Invalid(error.to_string());
    let (ca_cert, ca_key) = match wanted {
        RotationWanted::None => return Ok(None),
        RotationWanted::Current { key } | RotationWanted::Pending { key } => {
            let cert = &spec.ca_config.signing_ca_cert;
            if !key.is_empty() {
                CertificateAuthority::from_pem(cert, &key).map_err(|error| invalid(&error))?;
            }
            return Ok(None);
        }
        RotationWanted::Own => {
            let authority =
                CertificateAuthority::generate(now).map_err(NodeError::internal("cannot make a new CA"))?;
            (authority.certificate_pem().to_owned(), authority.key_pem())
        }
        RotationWanted::Given { cert, key } => {
            CertificateAuthority::check_root(&cert, now, MIN_LEFT).map_err(|error| invalid(&error))?;
            CertificateAuthority::from_pem(&cert, &key).map_err(|error| invalid(&error))?;
            (cert, key)
        }
        RotationWanted::External { cert, .. } => {
            CertificateAuthority::check_root(&cert, now, MIN_LEFT).map_err(|error| invalid(&error))?;
            (cert, String::new())
        }
    };
    let cross_signed = if cluster.ca_key.is_empty() {
        // Nodes that have heard of the change trust both CAs; one that has not is told over the connections that are up.
        String::new()
    } else {
        CertificateAuthority::from_pem(&cluster.ca_cert, &cluster.ca_key)
            .and_then(|old| old.cross_sign(&ca_cert))
            .map_err(NodeError::internal("cannot cross-sign the new CA"))?
    };
    let rotation = RootRotation { ca_cert, ca_key, cross_signed };
    if rotation.ca_key.is_empty() {
        try_external(cluster, spec, &rotation, own, now).await?;
    }
    Ok(Some(rotation))
}

/// An external CA that does not sign would leave the swarm without certificates.
async fn try_external(
    cluster: &Cluster,
    spec: &ClusterSpec,
    rotation: &RootRotation,
    own: &Identity,
    now: SystemTime,
) -> Result<(), NodeError> {
    let after = Cluster { spec: spec.clone(), rotation: Some(rotation.clone()), ..cluster.clone() };
    let csr_pem = own.csr_pem().map_err(NodeError::internal("make a signing request"))?;
    let signed = issuing::sign(&after, Some(own), &csr_pem, own.node_id(), NodeRole::Manager, now).await;
    let fits = signed.and_then(|signed| {
        let trust = certificates::trust_bundle(&after);
        own.renewed(&signed.chain_pem, &trust).map_err(|error| error.to_string())
    });
    fits.map(|_| ()).map_err(|error| {
        NodeError::Invalid(format!(
            "there must be at least one valid, reachable external CA corresponding to the next CA certificate: {error}"
        ))
    })
}
