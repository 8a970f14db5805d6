//! Issues certificates: for nodes that join, renew, change their role or come back after their certificate ended, and
//! for this manager itself.
//!
//! Every manager holds the CA key and may sign. What was issued is committed before the certificate is handed out, so
//! that the state never knows less than the nodes show:
//!
//! ```text
//! asked by the node itself, with its own key ── state lists it? ── role as the state demands ── sign ── commit ── answer
//!                                                 | no: refused                                  | failed: nothing changed
//! ```

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use skep_control::certificates;
use skep_mesh::{CertificateAuthority, Identity, RemoteError, Role, cfssl_sign, csr_key_digest};
use skep_raft::{ProposeError, RaftNode, raft_id};
use skep_state::spec::NodeRole;
use skep_state::{Certificate, Cluster, Timestamp, Transaction};

use crate::clock;

/// Codes of refusals.
pub(crate) const REFUSED: u16 = 1;
pub(crate) const FAILED: u16 = 2;

/// How often a commit is tried again when the node changed meanwhile.
const ATTEMPTS: usize = 8;

/// How long a commit may take: a swarm without a leader still hands certificates out.
const COMMIT: Duration = Duration::from_secs(4);

/// A certificate that was issued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Issued {
    /// The node's certificate and those between it and a CA that all nodes trust.
    pub chain_pem: String,
    /// The CAs that nodes trust now.
    pub trust_pem: String,
    /// The manager's clock, seconds since 1970.
    pub now: u64,
}

/// A signed certificate that is not committed yet.
pub(crate) struct Signed {
    pub chain_pem: String,
    pub certificate: Certificate,
    /// The certificate of the CA that signed: it must still be the one that issues when this is committed.
    pub issuer: String,
}

/// Signs a certificate with the CA that issues now: an external one if the swarm has one, else with the swarm's key.
/// `own` is this manager's identity, which it shows to an external CA.
pub(crate) async fn sign(
    cluster: &Cluster,
    own: Option<&Identity>,
    csr_pem: &str,
    node_id: &str,
    role: NodeRole,
    now: SystemTime,
) -> Result<Signed, String> {
    let key_digest = csr_key_digest(csr_pem).map_err(|error| error.to_string())?;
    let issuer = certificates::current_issuer(cluster);
    let expiry = Duration::from_nanos(cluster.spec.ca_config.node_cert_expiry);
    let expiry = if expiry.is_zero() { skep_mesh::ca::DEFAULT_VALIDITY } else { expiry };
    let expiry = longest_life().map_or(expiry, |longest| expiry.min(longest));
    let role = mesh_role(role);
    let urls = certificates::external_urls(cluster, issuer.cert);
    let chain_pem = if urls.is_empty() {
        if issuer.key.is_empty() {
            return Err("the swarm's CA is external, but no URL of it is known".to_owned());
        }
        let mut authority = CertificateAuthority::from_pem(issuer.cert, issuer.key)
            .map_err(|error| format!("the swarm's CA cannot be used: {error}"))?;
        if let Some(cross) = issuer.cross_signed.filter(|cross| !cross.is_empty()) {
            authority = authority
                .with_cross_signed(cross, &cluster.ca_cert)
                .map_err(|error| format!("the swarm's new CA cannot be used: {error}"))?;
        }
        authority
            .sign_csr(csr_pem, node_id, &cluster.meta.id, role, now, expiry)
            .map_err(|error| error.to_string())?
    } else {
        external(&urls, cluster, &issuer, own, csr_pem, node_id, role).await?
    };
    let not_after = skep_mesh::not_after(&chain_pem).map_err(|error| error.to_string())?;
    let issuer_digest = skep_mesh::root_digest(issuer.cert).map_err(|error| error.to_string())?;
    let certificate = Certificate { key_digest, issuer_digest, not_after: timestamp(not_after) };
    Ok(Signed { chain_pem, certificate, issuer: issuer.cert.to_owned() })
}

/// `SKEP_CERT_LIFE_MOST`, seconds: how long certificates issued here last at most, for seeing many renewals in a short
/// time. The swarm's own setting allows no less than an hour.
fn longest_life() -> Option<Duration> {
    std::env::var("SKEP_CERT_LIFE_MOST").ok()?.parse().ok().map(Duration::from_secs)
}

/// Asks the external CA, one URL after the other.
async fn external(
    urls: &[String],
    cluster: &Cluster,
    issuer: &certificates::Issuer<'_>,
    own: Option<&Identity>,
    csr_pem: &str,
    node_id: &str,
    role: Role,
) -> Result<String, String> {
    let mut last = String::new();
    for url in urls {
        match cfssl_sign(url, issuer.cert, own, csr_pem, node_id, &cluster.meta.id, role).await {
            Ok(leaf) => {
                let cross = issuer.cross_signed.filter(|cross| !cross.is_empty());
                let between = cross.map(|cross| format!("{cross}{}", cluster.ca_cert));
                return Ok(format!("{leaf}{}", between.as_deref().unwrap_or(issuer.cert)));
            }
            Err(error) => {
                tracing::warn!(%url, %error, "the external CA did not sign");
                last = error.to_string();
            }
        }
    }
    Err(format!("the external CA did not sign: {last}"))
}

/// Issues a certificate to a listed node that asks for itself. `key_digest` is that of the key which the node has
/// proven to hold.
pub(crate) async fn issue(
    raft: &RaftNode,
    own: &Identity,
    node_id: &str,
    csr_pem: &str,
    now: SystemTime,
) -> Result<Issued, RemoteError> {
    let failed = |reason: String| RemoteError::new(FAILED, reason);
    let refused = |reason: &str| RemoteError::new(REFUSED, reason);
    let key_digest = csr_key_digest(csr_pem).map_err(|error| refused(&error.to_string()))?;
    let members = raft.members().into_iter().map(|member| member.node_id).collect();
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let (cluster, known, role) = raft
            .read(|state| {
                let known = state.nodes.get(node_id)?.certificate.key_digest.clone();
                let role = certificates::role_to_issue(state, node_id, &members);
                Some((state.cluster.clone()?, known, role))
            })
            .ok_or_else(|| refused("this node is not in the swarm's list of nodes"))?;
        if !known.is_empty() && known != key_digest {
            tracing::warn!(node = %node_id, "refused a certificate for another key than the node's own");
            return Err(refused("the request is for another key than this node's"));
        }
        let signed = sign(&cluster, Some(own), csr_pem, node_id, role, now).await.map_err(failed)?;
        let (current, changes) = raft.read(|state| {
            let issued =
                certificates::issued(state, node_id, role, signed.certificate.clone(), raft_id(node_id));
            (certificates::is_issuer(state, &signed.issuer), issued)
        });
        if !current {
            "the swarm's CA changed meanwhile".clone_into(&mut last);
            continue;
        }
        let changes = changes.ok_or_else(|| refused("this node was removed from the swarm"))?;
        match raft.propose_within(Transaction { at: clock::now(), changes }, COMMIT).await {
            Ok(_) => {}
            Err(ProposeError::Conflict(conflict)) => {
                last = conflict.to_string();
                continue;
            }
            // A role that does not change needs no quorum: a swarm that lost it must not lose its certificates as well.
            Err(error)
                if raft.read(|state| state.nodes.get(node_id).is_some_and(|node| node.role == role)) =>
            {
                tracing::warn!(node = %node_id, %error, "issued a certificate that is not committed");
            }
            Err(error) => return Err(failed(error.to_string())),
        }
        tracing::info!(node = %node_id, ?role, "issued a certificate");
        return Ok(Issued {
            chain_pem: signed.chain_pem,
            trust_pem: certificates::trust_bundle(&cluster),
            now: seconds(now),
        });
    }
    Err(failed(last))
}

/// The mesh's word for a role.
pub(crate) fn mesh_role(role: NodeRole) -> Role {
    match role {
        NodeRole::Manager => Role::Manager,
        NodeRole::Worker => Role::Worker,
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn timestamp(time: SystemTime) -> Timestamp {
    let nanos = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    Timestamp::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}
