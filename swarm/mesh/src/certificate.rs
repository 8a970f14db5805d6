//! What certificates and signing requests say.

use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509CertificationRequest};
use x509_parser::public_key::PublicKey;

use crate::identity::IdentityError;
use crate::token::CaDigest;

/// A chain is a certificate and an authority or two, a trust bundle two authorities; no more are read.
pub(crate) const MAX_CHAIN: usize = 8;

/// SHA-256 of a signing request's key, hex, comparable with [`Identity::key_digest`]. The request's proof that its maker
/// holds the key is verified.
pub fn csr_key_digest(csr_pem: &str) -> Result<String, IdentityError> {
    let damaged = |error: &dyn std::fmt::Display| IdentityError::DamagedRequest(error.to_string());
    if csr_pem.len() > crate::ca::MAX_CSR {
        return Err(IdentityError::DamagedRequest(format!("{} bytes are too many", csr_pem.len())));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|error| IdentityError::DamagedRequest(format!("{error:?}")))?;
    let (_, csr) = X509CertificationRequest::from_der(&der).map_err(|error| damaged(&error))?;
    csr.verify_signature().map_err(|error| damaged(&error))?;
    let key = &csr.certification_request_info.subject_pki;
    match key.parsed() {
        Ok(PublicKey::EC(point)) if point.key_size() == 256 => Ok(hex::encode(Sha256::digest(key.raw))),
        _ => Err(damaged(&"the key is not ECDSA P-256")),
    }
}

/// SHA-256 of a certificate's key, hex.
pub(crate) fn key_digest_of(certificate: &CertificateDer<'_>) -> Result<String, IdentityError> {
    Ok(hex::encode(Sha256::digest(parse(certificate)?.public_key().raw)))
}

/// When the first certificate of a chain ends.
pub fn not_after(chain_pem: &str) -> Result<SystemTime, IdentityError> {
    let leaf = first_certificate(chain_pem)?;
    Ok(time_of(parse(&leaf)?.validity().not_after.timestamp()))
}

/// SHA-256 of a CA's certificate (the first one in the text), as join tokens carry it.
pub fn ca_digest(ca_pem: &str) -> Result<CaDigest, IdentityError> {
    Ok(CaDigest::of(&first_certificate(ca_pem)?))
}

/// The same as [`ca_digest`], in hex, comparable with [`Identity::issuer_digest`].
pub fn root_digest(ca_pem: &str) -> Result<String, IdentityError> {
    Ok(hex::encode(ca_digest(ca_pem)?.0))
}

fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    let first = parse_certificates(pem)?.into_iter().next();
    first.ok_or_else(|| IdentityError::Pem("no certificate in it".into()))
}

/// All certificates of a PEM text.
pub(crate) fn parse_certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CHAIN).collect();
    certificates.map_err(|source| IdentityError::Pem(source.to_string()))
}

pub(crate) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IdentityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|source| IdentityError::Certificate(source.to_string()))?;
    Ok(parsed)
}

/// Before 1970 it is 1970.
pub(crate) fn time_of(unix_seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds.max(0).unsigned_abs())
}
