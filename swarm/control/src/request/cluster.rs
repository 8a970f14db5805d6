//! Requests about the swarm itself (swarmkit `manager/controlapi/cluster.go`).

use std::time::Duration;

use skep_state::spec::ClusterSpec;
use skep_state::{Change, Cluster, RootRotation, State, Timestamp, Transaction};

use super::Refusal;
use super::rotation::{RotationWanted, rotation_wanted};

/// The shortest life of a node certificate, in nanoseconds (swarmkit `ca.MinNodeCertExpiration`).
const CERT_EXPIRY_MIN: u64 = 3_600 * 1_000_000_000;

/// The life of a node certificate where the settings name none (swarmkit `ca.DefaultNodeCertExpiration`).
const CERT_EXPIRY: Duration = Duration::from_secs(90 * 24 * 3_600);

/// How long a removed node is remembered beyond the end of its certificate (swarmkit `expiredCertGrace`).
const REMOVED_GRACE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Removed nodes that are remembered. A node that is not listed is refused anyway; the list only lets the refusal say
/// why, so the one whose certificate ends first may go when there are more.
const REMOVED_MAX: usize = 1_000;

/// The only protocol for external CAs that there is (moby `daemon/cluster/convert/swarm.go`).
const EXTERNAL_CA_PROTOCOL: &str = "cfssl";

/// What an update brings beside the settings: all that needs randomness or cryptography.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// A token that replaces the one for workers.
    pub worker_token: Option<String>,
    /// A token that replaces the one for managers.
    pub manager_token: Option<String>,
    /// A new unlock key: needed when [`needs_unlock_key`], replaces the old one when managers are locked already, and is
    /// left aside when they are not to be locked.
    pub unlock_key: Option<String>,
    /// The CA to change to, cross-signed by the swarm's CA ([`Cluster::ca_cert`], even while another change is under way):
    /// needed when [`rotation_wanted`] says `Own`, `Given` or `External`, else left aside.
    pub rotation: Option<RootRotation>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // All of it is secret: only what there is is shown.
        formatter
            .debug_struct("Changes")
            .field("worker_token", &self.worker_token.is_some())
            .field("manager_token", &self.manager_token.is_some())
            .field("unlock_key", &self.unlock_key.is_some())
            .field("rotation", &self.rotation.is_some())
            .finish()
    }
}

/// Changes the settings of the swarm and, if asked, its join tokens, its unlock key and its CA.
///
/// A signing certificate and key in the settings are an order, not a setting: they are carried out and not kept there.
pub fn update_cluster(
    state: &State,
    version: u64,
    spec: ClusterSpec,
    changes: Changes,
    at: Timestamp,
) -> Result<Transaction, Refusal> {
    let old = state.cluster.as_ref().ok_or_else(|| Refusal::not_found("swarm not found"))?;
    check_cluster_spec(&spec)?;
    if old.meta.version.index != version {
        return Err(Refusal::out_of_sequence());
    }
    let wanted = rotation_wanted(old, &spec)?;
    let mut cluster = Cluster { spec: redacted_spec(&spec), ..old.clone() };
    "default".clone_into(&mut cluster.spec.name);
    let tokens = &mut cluster.join_tokens;
    tokens.worker = changes.worker_token.unwrap_or_else(|| std::mem::take(&mut tokens.worker));
    tokens.manager = changes.manager_token.unwrap_or_else(|| std::mem::take(&mut tokens.manager));

    if !spec.encryption_config.auto_lock_managers {
        cluster.unlock_key.clear();
    } else if let Some(key) = changes.unlock_key {
        cluster.unlock_key = key;
    } else if cluster.unlock_key.is_empty() {
        return Err(Refusal::precondition("managers cannot be locked without an unlock key"));
    }

    if wanted != RotationWanted::None {
        cluster.last_forced_rotation = spec.ca_config.force_rotate;
    }
    match wanted {
        RotationWanted::None => {}
        RotationWanted::Current { key } => (cluster.ca_key, cluster.rotation) = (key, None),
        RotationWanted::Pending { key } => {
            if let Some(rotation) = &mut cluster.rotation {
                rotation.ca_key = key;
            }
        }
        RotationWanted::Own | RotationWanted::Given { .. } | RotationWanted::External { .. } => {
            cluster.rotation = Some(changes.rotation.ok_or_else(|| {
                Refusal::precondition("unable to generate a cross-signed certificate for root rotation")
            })?);
        }
    }
    prune_removed(&mut cluster, at);
    Ok(Transaction { at, changes: vec![Change::PutCluster(Box::new(cluster))] })
}

/// Whether settings can only be taken over together with a new unlock key, because managers are to be locked and there
/// is no key yet.
pub fn needs_unlock_key(cluster: &Cluster, spec: &ClusterSpec) -> bool {
    spec.encryption_config.auto_lock_managers && cluster.unlock_key.is_empty()
}

/// What may be shown of settings: all but the signing CA. Not its certificate either, or settings that are read, changed
/// and written back would order a change to that CA without its key (swarmkit `redactClusters`).
pub fn redacted_spec(spec: &ClusterSpec) -> ClusterSpec {
    let mut spec = spec.clone();
    spec.ca_config.signing_ca_cert.clear();
    spec.ca_config.signing_ca_key.clear();
    spec
}

/// What `swarm init` and `swarm update` may set, as far as it does not depend on the swarm.
pub fn check_cluster_spec(spec: &ClusterSpec) -> Result<(), Refusal> {
    if !spec.name.is_empty() && spec.name != "default" {
        return Err(Refusal::daemon("swarm spec must be named \"default\""));
    }
    for external in &spec.ca_config.external_cas {
        if !external.protocol.eq_ignore_ascii_case(EXTERNAL_CA_PROTOCOL) {
            return Err(Refusal::daemon(format!("invalid protocol: {:?}", external.protocol)));
        }
        // Refused where Docker would only log it later: a certificate request over plain HTTP proves nothing.
        if !external.url.starts_with("https://") {
            return Err(Refusal::invalid(format!(
                "invalid URL of an external CA: {:?}: it must begin with https://",
                external.url
            )));
        }
    }
    let expiry = spec.ca_config.node_cert_expiry;
    if expiry != 0 && expiry < CERT_EXPIRY_MIN {
        return Err(Refusal::invalid("minimum certificate expiry time is: 1h0m0s"));
    }
    if !spec.ca_config.signing_ca_key.trim().is_empty() && spec.ca_config.signing_ca_cert.trim().is_empty() {
        return Err(Refusal::invalid(
            "if a signing CA key is provided, the signing CA cert must also be provided",
        ));
    }
    Ok(())
}

/// Remembers a node that is removed until its certificate, of which `not_after` may be unknown, is of no use any more.
pub(super) fn remember_removed(cluster: &mut Cluster, node_id: &str, not_after: Timestamp, at: Timestamp) {
    let until = if not_after == Timestamp::default() {
        let life = Duration::from_nanos(cluster.spec.ca_config.node_cert_expiry);
        at.plus(if life.is_zero() { CERT_EXPIRY } else { life })
    } else {
        not_after
    };
    cluster.removed.insert(node_id.to_owned(), until);
    prune_removed(cluster, at);
}

fn prune_removed(cluster: &mut Cluster, at: Timestamp) {
    cluster.removed.retain(|_, not_after| not_after.plus(REMOVED_GRACE) >= at);
    while cluster.removed.len() > REMOVED_MAX {
        let first = cluster.removed.iter().min_by_key(|(_, not_after)| **not_after);
        let Some(first) = first.map(|(id, _)| id.clone()) else { return };
        cluster.removed.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::super::RefusalKind;
    use super::*;

    fn state() -> State {
        let mut cluster = Cluster::default();
        cluster.meta.version.index = 4;
        cluster.spec.name = "default".to_owned();
        cluster.ca_key = "key".to_owned();
        cluster.join_tokens.worker = "w1".to_owned();
        cluster.join_tokens.manager = "m1".to_owned();
        State { cluster: Some(cluster), ..State::default() }
    }

    fn update(version: u64, spec: ClusterSpec) -> Result<Transaction, Refusal> {
        update_cluster(&state(), version, spec, NewTokens::default(), Timestamp::default())
    }

    #[test]
    fn settings_and_tokens_change_and_the_rest_stays() {
        let mut spec = ClusterSpec::default();
        spec.orchestration.task_history_retention_limit = Some(2);
        let tokens = NewTokens { worker: Some("w2".to_owned()), manager: None };
        let transaction = update_cluster(&state(), 4, spec, tokens, Timestamp::default()).unwrap();
        let [Change::PutCluster(cluster)] = transaction.changes.as_slice() else { panic!("{transaction:?}") };
        assert_eq!((cluster.join_tokens.worker.as_str(), cluster.join_tokens.manager.as_str()), ("w2", "m1"));
        assert_eq!(cluster.spec.orchestration.task_history_retention_limit, Some(2));
        assert_eq!((cluster.ca_key.as_str(), cluster.spec.name.as_str()), ("key", "default"));
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        assert_eq!(update(3, ClusterSpec::default()).unwrap_err().kind, RefusalKind::OutOfSequence);
        let renamed = ClusterSpec { name: "bees".to_owned(), ..ClusterSpec::default() };
        assert!(update(4, renamed).unwrap_err().message.contains("cluster name is not allowed"));
        let mut spec = ClusterSpec::default();
        spec.ca_config.node_cert_expiry = CERT_EXPIRY_MIN - 1;
        assert!(update(4, spec).unwrap_err().message.contains("minimum certificate expiry"));
        let mut spec = ClusterSpec::default();
        spec.encryption_config.auto_lock_managers = true;
        assert_eq!(update(4, spec).unwrap_err().kind, RefusalKind::Unimplemented);
        let mut spec = ClusterSpec::default();
        spec.ca_config.force_rotate = 1;
        assert_eq!(update(4, spec).unwrap_err().kind, RefusalKind::Unimplemented);
        let mut spec = ClusterSpec::default();
        spec.ca_config.signing_ca_cert = "pem".to_owned();
        assert_eq!(update(4, spec).unwrap_err().kind, RefusalKind::Unimplemented);
    }
}
