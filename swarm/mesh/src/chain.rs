//! Whether a certificate descends from a trusted CA, its age left out.
//!
//! Ages are left out where a node must be recognised although its certificate has ended or its clock is wrong: on disk,
//! when it re-enrols, and in proofs of an epoch. The handshakes between members look at the time (`tls`).

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;

use crate::certificate::parse;
use crate::identity::IdentityError;
use crate::tls;

/// Trust in all of `roots`.
pub(crate) fn root_store(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    Ok(store)
}

/// Whether there was a moment at which `leaf` descended from one of `roots` by way of `between`.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    roots: &[CertificateDer<'static>],
) -> Result<(), rustls::Error> {
    let general = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
    let store = Arc::new(root_store(roots)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(store, tls::provider())
        .build()
        .map_err(|error| general(&error))?;
    let start = |certificate: &CertificateDer<'_>| -> Result<u64, rustls::Error> {
        let parsed = parse(certificate).map_err(|error| general(&error))?;
        Ok(parsed.validity().not_before.timestamp().max(0).unsigned_abs())
    };
    let at = |seconds: u64| {
        let moment = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verifier.verify_client_cert(leaf, between, moment).map(drop)
    };
    let begin = start(leaf)?;
    let Err(error) = at(begin) else { return Ok(()) };
    // The signers' clocks may differ: one of those between may have begun a little later.
    let mut last = begin;
    for certificate in between {
        last = last.max(start(certificate)?);
    }
    if last > begin && at(last).is_ok() { Ok(()) } else { Err(error) }
}

/// Whether a certificate is signed with its own key.
pub(crate) fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_ok_and(|parsed| {
        parsed.issuer().as_raw() == parsed.subject().as_raw() && parsed.verify_signature(None).is_ok()
    })
}

/// Whether `leaf` was signed with the key of `authority` under its name.
pub(crate) fn is_issued_by(
    leaf: &CertificateDer<'_>,
    authority: &CertificateDer<'_>,
) -> Result<bool, IdentityError> {
    let (leaf, authority) = (parse(leaf)?, parse(authority)?);
    Ok(leaf.issuer().as_raw() == authority.subject().as_raw()
        && leaf.verify_signature(Some(authority.public_key())).is_ok())
}

/// Whether two certificates are of one CA: the same name and key, whoever signed them.
pub(crate) fn same_authority(one: &CertificateDer<'_>, other: &CertificateDer<'_>) -> bool {
    let (Ok(one), Ok(other)) = (parse(one), parse(other)) else { return false };
    one.subject().as_raw() == other.subject().as_raw() && one.public_key().raw == other.public_key().raw
}
