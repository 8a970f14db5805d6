//! Requests about the swarm itself (swarmkit `manager/controlapi/cluster.go`).

use skep_state::spec::ClusterSpec;
use skep_state::{Change, Cluster, State, Timestamp, Transaction};

use super::Refusal;

/// The shortest life of a node certificate, in nanoseconds (swarmkit `ca.MinNodeCertExpiration`).
const CERT_EXPIRY_MIN: u64 = 3_600 * 1_000_000_000;

/// Join tokens that replace the old ones; `None` keeps what there is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewTokens {
    /// Admits workers.
    pub worker: Option<String>,
    /// Admits managers.
    pub manager: Option<String>,
}

/// Changes the settings of the swarm and, if asked, its join tokens.
pub fn update_cluster(
    state: &State,
    version: u64,
    spec: ClusterSpec,
    tokens: NewTokens,
    at: Timestamp,
) -> Result<Transaction, Refusal> {
    let cluster = state.cluster.as_ref().ok_or_else(|| Refusal::not_found("swarm not found"))?;
    if cluster.meta.version.index != version {
        return Err(Refusal::out_of_sequence());
    }
    check_cluster_spec(&spec)?;
    if spec.ca_config.force_rotate != cluster.spec.ca_config.force_rotate {
        return Err(Refusal::unimplemented("changing the swarm's certificate authority is not supported"));
    }
    let mut cluster = Cluster { spec, ..cluster.clone() };
    cluster.spec.name = "default".to_owned();
    if let Some(worker) = tokens.worker {
        cluster.join_tokens.worker = worker;
    }
    if let Some(manager) = tokens.manager {
        cluster.join_tokens.manager = manager;
    }
    Ok(Transaction { at, changes: vec![Change::PutCluster(Box::new(cluster))] })
}

/// What `swarm init` and `swarm update` may set.
pub fn check_cluster_spec(spec: &ClusterSpec) -> Result<(), Refusal> {
    if !spec.name.is_empty() && spec.name != "default" {
        return Err(Refusal::invalid("modification of cluster name is not allowed"));
    }
    let expiry = spec.ca_config.node_cert_expiry;
    if expiry != 0 && expiry < CERT_EXPIRY_MIN {
        return Err(Refusal::invalid("minimum certificate expiry time is: 1h0m0s"));
    }
    // Refused rather than kept without effect: whoever asks for these relies on them.
    if spec.encryption_config.auto_lock_managers {
        return Err(Refusal::unimplemented("locking managers (autolock) is not supported"));
    }
    let authority = &spec.ca_config;
    if !authority.external_cas.is_empty()
        || !authority.signing_ca_cert.is_empty()
        || !authority.signing_ca_key.is_empty()
    {
        return Err(Refusal::unimplemented("a certificate authority of your own is not supported"));
    }
    Ok(())
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
