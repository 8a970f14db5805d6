//! Requests about the swarm itself (swarmkit `manager/controlapi/cluster.go`).

use std::time::Duration;

use skep_state::spec::{ClusterSpec, ExternalCa};
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
    pin_external_cas(&mut cluster.spec, &old.ca_cert);
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

/// Names the root CA of each external CA that came without one: the swarm's of this moment. Kept without a name it would
/// be taken for the signer of every later root as well, and be asked to sign for one that it knows nothing of.
pub fn pin_external_cas(spec: &mut ClusterSpec, ca_cert: &str) {
    let nameless = |external: &&mut ExternalCa| external.ca_cert.trim().is_empty();
    for external in spec.ca_config.external_cas.iter_mut().filter(nameless) {
        ca_cert.clone_into(&mut external.ca_cert);
    }
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

    fn pem(body: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    fn state() -> State {
        let mut cluster = Cluster::default();
        cluster.meta.version.index = 4;
        cluster.spec.name = "default".to_owned();
        cluster.ca_cert = pem("ONE");
        cluster.ca_key = "key1".to_owned();
        cluster.join_tokens.worker = "w1".to_owned();
        cluster.join_tokens.manager = "m1".to_owned();
        State { cluster: Some(cluster), ..State::default() }
    }

    fn update(state: &State, spec: &ClusterSpec, changes: Changes) -> Result<Cluster, Refusal> {
        let version = state.cluster.as_ref().unwrap().meta.version.index;
        let transaction = update_cluster(state, version, spec.clone(), changes, Timestamp::default())?;
        let [Change::PutCluster(cluster)] = transaction.changes.as_slice() else { panic!("{transaction:?}") };
        Ok((**cluster).clone())
    }

    fn refused(spec: &ClusterSpec) -> Refusal {
        update(&state(), spec, Changes::default()).unwrap_err()
    }

    fn autolock(on: bool) -> ClusterSpec {
        let mut spec = ClusterSpec::default();
        spec.encryption_config.auto_lock_managers = on;
        spec
    }

    fn key(text: &str) -> Changes {
        Changes { unlock_key: Some(text.to_owned()), ..Changes::default() }
    }

    #[test]
    fn settings_and_tokens_change_and_the_rest_stays() {
        let mut spec = ClusterSpec::default();
        spec.orchestration.task_history_retention_limit = Some(2);
        let changes = Changes { worker_token: Some("w2".to_owned()), ..Changes::default() };
        let cluster = update(&state(), &spec, changes).unwrap();
        assert_eq!((cluster.join_tokens.worker.as_str(), cluster.join_tokens.manager.as_str()), ("w2", "m1"));
        assert_eq!(cluster.spec.orchestration.task_history_retention_limit, Some(2));
        assert_eq!((cluster.ca_key.as_str(), cluster.spec.name.as_str()), ("key1", "default"));
        let changes = Changes { manager_token: Some("m2".to_owned()), ..Changes::default() };
        let cluster = update(&state(), &spec, changes).unwrap();
        assert_eq!((cluster.join_tokens.worker.as_str(), cluster.join_tokens.manager.as_str()), ("w1", "m2"));
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        let stale =
            update_cluster(&state(), 3, ClusterSpec::default(), Changes::default(), Timestamp::default());
        assert_eq!(stale.unwrap_err().kind, RefusalKind::OutOfSequence);
        let gone = update_cluster(
            &State::default(),
            0,
            ClusterSpec::default(),
            Changes::default(),
            Timestamp::default(),
        );
        assert_eq!(gone.unwrap_err().kind, RefusalKind::NotFound);
        let renamed = ClusterSpec { name: "bees".to_owned(), ..ClusterSpec::default() };
        assert_eq!(refused(&renamed).message, "swarm spec must be named \"default\"");
        let mut spec = ClusterSpec::default();
        spec.ca_config.node_cert_expiry = CERT_EXPIRY_MIN - 1;
        assert!(refused(&spec).message.contains("minimum certificate expiry time is: 1h0m0s"));
        let mut spec = ClusterSpec::default();
        spec.ca_config.signing_ca_key = "key".to_owned();
        assert!(refused(&spec).message.contains("the signing CA cert must also be provided"));
    }

    #[test]
    fn external_cas_speak_cfssl_over_https() {
        let with = |protocol: &str, url: &str| {
            let external =
                ExternalCa { protocol: protocol.to_owned(), url: url.to_owned(), ..ExternalCa::default() };
            let mut spec = ClusterSpec::default();
            spec.ca_config.external_cas = vec![external];
            spec
        };
        assert!(update(&state(), &with("CFSSL", "https://ca:8888"), Changes::default()).is_ok());
        assert_eq!(refused(&with("acme", "https://ca:8888")).message, "invalid protocol: \"acme\"");
        assert!(refused(&with("cfssl", "http://ca:8888")).message.contains("must begin with https://"));
    }

    #[test]
    fn an_external_ca_is_kept_with_the_root_that_it_signs_for() {
        let external = |url: &str, root: &str| ExternalCa {
            protocol: "cfssl".to_owned(),
            url: format!("https://{url}"),
            ca_cert: root.to_owned(),
            ..ExternalCa::default()
        };
        let mut spec = ClusterSpec::default();
        spec.ca_config.external_cas = vec![external("a", ""), external("b", &pem("TWO")), external("c", " ")];
        let cluster = update(&state(), &spec, Changes::default()).unwrap();
        let kept: Vec<&str> =
            cluster.spec.ca_config.external_cas.iter().map(|external| external.ca_cert.as_str()).collect();
        assert_eq!(kept, [pem("ONE"), pem("TWO"), pem("ONE")]);

        // A rotation to a root of the swarm's own: the external CA is of before, and not asked for the new root.
        let mut spec = ordered("", "", 1);
        spec.ca_config.external_cas = vec![external("a", "")];
        let changes = Changes { rotation: Some(rotation("TWO", "key2")), ..Changes::default() };
        let mut cluster = update(&state(), &spec, changes).unwrap();
        cluster.ca_cert = pem("TWO");
        assert_eq!(crate::certificates::external_urls(&cluster, &pem("TWO")), Vec::<String>::new());
        assert_eq!(crate::certificates::external_urls(&cluster, &pem("ONE")), ["https://a"]);
    }

    #[test]
    fn locking_needs_a_key_and_unlocking_forgets_it() {
        let mut state = state();
        assert!(needs_unlock_key(state.cluster.as_ref().unwrap(), &autolock(true)));
        assert!(!needs_unlock_key(state.cluster.as_ref().unwrap(), &autolock(false)));
        assert!(refused(&autolock(true)).message.contains("without an unlock key"));
        assert_eq!(update(&state, &autolock(false), key("K1")).unwrap().unlock_key, "", "not locked: no key");
        let locked = update(&state, &autolock(true), key("K1")).unwrap();
        assert_eq!(locked.unlock_key, "K1");
        state.cluster = Some(locked);
        assert!(!needs_unlock_key(state.cluster.as_ref().unwrap(), &autolock(true)));
        assert_eq!(update(&state, &autolock(true), Changes::default()).unwrap().unlock_key, "K1", "kept");
        assert_eq!(update(&state, &autolock(true), key("K2")).unwrap().unlock_key, "K2", "rotated");
        assert_eq!(update(&state, &autolock(false), Changes::default()).unwrap().unlock_key, "");
    }

    fn rotation(cert: &str, key: &str) -> RootRotation {
        RootRotation { ca_cert: pem(cert), ca_key: key.to_owned(), cross_signed: pem("CROSS") }
    }

    fn ordered(cert: &str, key: &str, force: u64) -> ClusterSpec {
        let mut spec = ClusterSpec::default();
        spec.ca_config.signing_ca_cert = if cert.is_empty() { String::new() } else { pem(cert) };
        spec.ca_config.signing_ca_key = key.to_owned();
        spec.ca_config.force_rotate = force;
        spec
    }

    #[test]
    fn a_rotation_begins_is_replaced_gets_a_key_and_is_given_up() {
        let mut state = state();
        let bring = |rotation: RootRotation| Changes { rotation: Some(rotation), ..Changes::default() };
        let refused = update(&state, &ordered("", "", 1), Changes::default()).unwrap_err();
        assert!(refused.message.contains("unable to generate a cross-signed certificate"));
        assert_eq!(
            update(&state, &ClusterSpec::default(), bring(rotation("TWO", "key2"))).unwrap().rotation,
            None,
            "not asked for"
        );

        let begun = update(&state, &ordered("", "", 1), bring(rotation("TWO", "key2"))).unwrap();
        assert_eq!(
            (begun.rotation.as_ref(), begun.last_forced_rotation),
            (Some(&rotation("TWO", "key2")), 1)
        );
        assert_eq!(begun.ca_cert, pem("ONE"), "the old CA stays until the end");
        state.cluster = Some(begun);
        let again = update(&state, &ordered("", "", 1), Changes::default()).unwrap();
        assert_eq!(again.rotation, Some(rotation("TWO", "key2")), "the same settings ask for nothing");

        let replaced =
            update(&state, &ordered("THREE", "key3", 2), bring(rotation("THREE", "key3"))).unwrap();
        assert_eq!(replaced.rotation, Some(rotation("THREE", "key3")));
        assert_eq!(replaced.spec.ca_config.signing_ca_cert, "", "an order is not kept");
        state.cluster = Some(replaced);
        let rekeyed = update(&state, &ordered("THREE", "key3b", 2), Changes::default()).unwrap();
        assert_eq!(rekeyed.rotation, Some(rotation("THREE", "key3b")));
        let given_up = update(&state, &ordered("ONE", "key1", 3), Changes::default()).unwrap();
        assert_eq!((given_up.rotation, given_up.ca_key.as_str()), (None, "key1"));
        assert_eq!(given_up.last_forced_rotation, 3);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let mut spec = ordered("TWO", "very secret", 3);
        spec.ca_config.external_cas = vec![ExternalCa::default()];
        let shown = redacted_spec(&spec);
        assert_eq!(
            (shown.ca_config.signing_ca_cert.as_str(), shown.ca_config.signing_ca_key.as_str()),
            ("", "")
        );
        assert_eq!((shown.ca_config.force_rotate, shown.ca_config.external_cas.len()), (3, 1));
        let changes = Changes { rotation: Some(rotation("TWO", "very secret")), ..key("SWMKEY-1-secret") };
        assert!(!format!("{changes:?}").contains("secret"));
    }
}
