//! What settings ask of the swarm's CA (swarmkit `manager/controlapi/ca_rotation.go`, `validateAndUpdateCA`).

use skep_state::Cluster;
use skep_state::spec::ClusterSpec;

use super::{Refusal, check_cluster_spec};
use crate::certificates::external_for;
use crate::pem;

/// What settings ask of the swarm's CA.
///
/// The caller, who can parse certificates, still has to check what is given, also for `Current` and `Pending`: a key that
/// is not empty belongs to the certificate, and where it is empty an external CA answers. `Given` and `External` must be a
/// CA's with at least a year left.
#[derive(Clone, PartialEq, Eq)]
pub enum RotationWanted {
    /// Nothing new.
    None,
    /// To change to a new CA that the swarm makes.
    Own,
    /// To change to this CA.
    Given {
        /// Its certificate, PEM.
        cert: String,
        /// Its key, PEM.
        key: String,
    },
    /// To change to this CA, whose key is elsewhere.
    External {
        /// Its certificate, PEM.
        cert: String,
        /// Where it answers, at least one URL.
        urls: Vec<String>,
    },
    /// The given certificate is the swarm's: a change that is under way is given up, and the key is kept or, where it is
    /// empty, forgotten. No cross-signing.
    Current {
        /// Key of the swarm's CA, PEM; empty for an external CA.
        key: String,
    },
    /// The given certificate is the one that is being changed to: the change goes on with this key. No cross-signing.
    Pending {
        /// Key of the new CA, PEM; empty for an external CA.
        key: String,
    },
}

impl std::fmt::Debug for RotationWanted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys stay out of logs.
        formatter.write_str(match self {
            Self::None => "None",
            Self::Own => "Own",
            Self::Given { .. } => "Given",
            Self::External { .. } => "External",
            Self::Current { .. } => "Current",
            Self::Pending { .. } => "Pending",
        })
    }
}

/// What the settings `spec` ask of the swarm's CA, or why that cannot be.
///
/// A change that is under way may be replaced by another at any time, as in swarmkit: see
/// [`crate::certificates`] for why nothing drops then. A swarm whose own CA is external (no key here) can only change with
/// that CA's help: it must cross-sign the new one, at [`crate::certificates::external_for`] of [`Cluster::ca_cert`].
pub fn rotation_wanted(cluster: &Cluster, spec: &ClusterSpec) -> Result<RotationWanted, Refusal> {
    let config = &spec.ca_config;
    let (cert, key) = (config.signing_ca_cert.as_str(), config.signing_ca_key.as_str());
    let has_key = !key.trim().is_empty();
    let is_current = pem::same(cert, &cluster.ca_cert);
    let urls = |ca_cert: &str, which: &str| {
        let urls = external_for(&config.external_cas, cluster, ca_cert);
        if urls.is_empty() { Err(no_external_ca(which)) } else { Ok(urls) }
    };
    check_cluster_spec(spec)?;
    if cluster.ca_key.is_empty() && !(is_current && has_key) {
        urls(&cluster.ca_cert, "current")?;
    }
    if cert.trim().is_empty() {
        if cluster.last_forced_rotation != config.force_rotate {
            return Ok(RotationWanted::Own);
        }
        if let Some(next) = cluster.rotation.as_ref().filter(|next| next.ca_key.is_empty()) {
            urls(&next.ca_cert, "next")?;
        }
        return Ok(RotationWanted::None);
    }
    match pem::certificates(cert).len() {
        0 => return Err(Refusal::invalid("could not parse the desired CA certificate")),
        1 => {}
        _ => {
            return Err(Refusal::invalid("the desired CA certificate cannot contain multiple certificates"));
        }
    }
    let external = if has_key { Vec::new() } else { urls(cert, "desired")? };
    if is_current {
        return Ok(RotationWanted::Current { key: key.to_owned() });
    }
    if pem::same_key(key, &cluster.ca_key) {
        return Err(Refusal::invalid("Cannot update to a cert with an identical key"));
    }
    if cluster.rotation.as_ref().is_some_and(|next| pem::same(cert, &next.ca_cert)) {
        return Ok(RotationWanted::Pending { key: key.to_owned() });
    }
    if has_key {
        return Ok(RotationWanted::Given { cert: cert.to_owned(), key: key.to_owned() });
    }
    if cluster.ca_key.is_empty() {
        return Err(Refusal::invalid(
            "rotating from one external CA to a different external CA is not supported",
        ));
    }
    Ok(RotationWanted::External { cert: cert.to_owned(), urls: external })
}

fn no_external_ca(which: &str) -> Refusal {
    Refusal::invalid(format!(
        "there must be at least one valid, reachable external CA corresponding to the {which} CA certificate"
    ))
}

#[cfg(test)]
mod tests {
    use skep_state::RootRotation;
    use skep_state::spec::ExternalCa;

    use super::super::RefusalKind;
    use super::*;

    fn pem(body: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    /// A swarm with the CA `ONE`; without a key it is external.
    fn cluster(key: &str) -> Cluster {
        Cluster { ca_cert: pem("ONE"), ca_key: key.to_owned(), last_forced_rotation: 5, ..Cluster::default() }
    }

    fn rotating(to: &str, key: &str) -> Cluster {
        let rotation = RootRotation { ca_cert: pem(to), ca_key: key.to_owned(), cross_signed: pem("CROSS") };
        Cluster { rotation: Some(rotation), ..cluster("key1") }
    }

    fn spec(cert: &str, key: &str, force: u64) -> ClusterSpec {
        let mut spec = ClusterSpec::default();
        spec.ca_config.signing_ca_cert = if cert.is_empty() { String::new() } else { pem(cert) };
        spec.ca_config.signing_ca_key = key.to_owned();
        spec.ca_config.force_rotate = force;
        spec
    }

    /// With an external CA for a certificate; without one it is for the swarm's.
    fn external(mut spec: ClusterSpec, cert: &str) -> ClusterSpec {
        spec.ca_config.external_cas.push(ExternalCa {
            protocol: "cfssl".to_owned(),
            url: format!("https://ca{cert}"),
            ca_cert: if cert.is_empty() { String::new() } else { pem(cert).replace('\n', "\r\n") },
            ..ExternalCa::default()
        });
        spec
    }

    fn refusal(cluster: &Cluster, spec: &ClusterSpec) -> String {
        let refusal = rotation_wanted(cluster, spec).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Invalid);
        refusal.message
    }

    #[test]
    fn the_counter_asks_for_a_ca_of_the_swarms_own() {
        assert_eq!(rotation_wanted(&cluster("key1"), &spec("", "", 5)), Ok(RotationWanted::None));
        assert_eq!(rotation_wanted(&cluster("key1"), &spec("", "", 6)), Ok(RotationWanted::Own));
        assert_eq!(rotation_wanted(&rotating("TWO", "key2"), &spec("", "", 6)), Ok(RotationWanted::Own));
    }

    #[test]
    fn a_given_ca_is_taken() {
        let given = RotationWanted::Given { cert: pem("TWO"), key: "key2".to_owned() };
        assert_eq!(rotation_wanted(&cluster("key1"), &spec("TWO", "key2", 6)), Ok(given.clone()));
        assert_eq!(rotation_wanted(&cluster("key1"), &spec("TWO", "key2", 5)), Ok(given.clone()));
        assert_eq!(rotation_wanted(&rotating("THREE", "key3"), &spec("TWO", "key2", 5)), Ok(given));
        let key = "key2b".to_owned();
        assert_eq!(
            rotation_wanted(&rotating("TWO", "key2"), &spec("TWO", "key2b", 6)),
            Ok(RotationWanted::Pending { key })
        );
        let key = "key1".to_owned();
        assert_eq!(
            rotation_wanted(&rotating("TWO", "key2"), &spec("ONE", "key1", 6)),
            Ok(RotationWanted::Current { key })
        );
    }

    #[test]
    fn a_given_ca_is_one_certificate_with_a_key_of_its_own() {
        let keyed = refusal(&cluster("key1"), &spec("", "key2", 6));
        assert!(keyed.contains("if a signing CA key is provided, the signing CA cert must also be provided"));
        let mut two = spec("TWO", "key2", 6);
        two.ca_config.signing_ca_cert.push_str(&pem("THREE"));
        assert!(refusal(&cluster("key1"), &two).contains("cannot contain multiple certificates"));
        two.ca_config.signing_ca_cert = "no certificate".to_owned();
        assert!(refusal(&cluster("key1"), &two).contains("could not parse the desired CA certificate"));
        assert!(
            refusal(&cluster("key1"), &spec("TWO", "key1", 6))
                .contains("Cannot update to a cert with an identical key")
        );
    }

    #[test]
    fn an_external_ca_must_be_named() {
        let to_external = external(spec("TWO", "", 6), "TWO");
        let urls = vec!["https://caTWO".to_owned()];
        assert_eq!(
            rotation_wanted(&cluster("key1"), &to_external),
            Ok(RotationWanted::External { cert: pem("TWO"), urls })
        );
        assert!(refusal(&cluster("key1"), &spec("TWO", "", 6)).contains("to the desired CA certificate"));
        assert!(
            refusal(&cluster("key1"), &external(spec("TWO", "", 6), ""))
                .contains("to the desired CA certificate"),
            "that one is for the present CA"
        );
        assert_eq!(
            rotation_wanted(&rotating("TWO", ""), &external(spec("", "", 5), "TWO")),
            Ok(RotationWanted::None)
        );
        assert!(refusal(&rotating("TWO", ""), &spec("", "", 5)).contains("to the next CA certificate"));
        assert_eq!(
            rotation_wanted(&rotating("TWO", "key2"), &external(spec("TWO", "", 6), "TWO")),
            Ok(RotationWanted::Pending { key: String::new() })
        );
    }

    #[test]
    fn from_an_external_ca_only_with_its_help() {
        let outside = cluster("");
        assert!(refusal(&outside, &spec("", "", 5)).contains("to the current CA certificate"));
        assert_eq!(rotation_wanted(&outside, &external(spec("", "", 5), "")), Ok(RotationWanted::None));
        assert_eq!(rotation_wanted(&outside, &external(spec("", "", 6), "ONE")), Ok(RotationWanted::Own));
        let different = external(external(spec("TWO", "", 6), ""), "TWO");
        assert!(
            refusal(&outside, &different)
                .contains("rotating from one external CA to a different external CA is not supported")
        );
        let key = "key1".to_owned();
        assert_eq!(
            rotation_wanted(&outside, &spec("ONE", "key1", 6)),
            Ok(RotationWanted::Current { key }),
            "its key is enough"
        );
        assert_eq!(
            rotation_wanted(&cluster("key1"), &external(spec("ONE", "", 6), "")),
            Ok(RotationWanted::Current { key: String::new() }),
            "the swarm's own CA becomes external"
        );
    }
}
