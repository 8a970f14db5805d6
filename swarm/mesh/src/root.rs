//! Certificates of CAs: fit to be a root, and cross-signed.

use std::time::{Duration, SystemTime};

use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PKCS_RSA_SHA384,
    PKCS_RSA_SHA512, SigningKey as _,
};
use rustls::pki_types::CertificateDer;
use x509_parser::oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use crate::ca::CaError;
use crate::certificate::parse;
use crate::{chain, der};

/// `AlgorithmIdentifier`s: RFC 5758, 3.2; RFC 8410, 3; RFC 4055, 5.
const SIGNATURES: [(&rcgen::SignatureAlgorithm, &[u8]); 6] = [
    (&PKCS_ECDSA_P256_SHA256, &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]),
    (&PKCS_ECDSA_P384_SHA384, &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]),
    (&PKCS_ED25519, &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70]),
    (&PKCS_RSA_SHA256, &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11, 5, 0]),
    (&PKCS_RSA_SHA384, &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12, 5, 0]),
    (&PKCS_RSA_SHA512, &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13, 5, 0]),
];
/// RFC 5280, 4.1: version 3, explicitly tagged; the tags of the extensions and of a list of them.
const VERSION_3: &[u8] = &[0xa0, 3, 2, 1, 2];
const EXTENSIONS: u8 = 0xa3;

/// A random serial number: positive, 16 bytes, no leading zero (RFC 5280, 4.1.2.2).
pub(crate) fn serial() -> [u8; 16] {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    bytes
}

/// Whether a certificate can be a swarm's root.
pub(crate) fn check(
    certificate: &CertificateDer<'_>,
    now: SystemTime,
    min_left: Duration,
) -> Result<(), CaError> {
    let damaged = |error: &dyn std::fmt::Display| CaError::Certificate(error.to_string());
    let parsed = parse(certificate).map_err(|error| damaged(&error))?;
    let usage = parsed.key_usage().map_err(|error| damaged(&error))?;
    if !parsed.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(CaError::NotACa);
    }
    if !is_plain(parsed.subject()) {
        return Err(CaError::Name);
    }
    if !is_usable(parsed.public_key()) {
        return Err(CaError::RootKeyKind);
    }
    if !chain::is_self_signed(certificate) {
        return Err(CaError::NotSelfSigned);
    }
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    };
    if parsed.validity().not_before.timestamp() > seconds(now) {
        return Err(CaError::NotYetValid);
    }
    if parsed.validity().not_after.timestamp()
        < seconds(now).saturating_add(seconds(SystemTime::UNIX_EPOCH + min_left))
    {
        return Err(CaError::EndsTooSoon { min_left });
    }
    // The library that judges the handshakes has the last word.
    chain::root_store(&[certificate.clone().into_owned()]).map_err(|error| damaged(&error))?;
    Ok(())
}

/// Whether certificates can be issued under a name: the library keeps one attribute of each kind.
fn is_plain(name: &X509Name<'_>) -> bool {
    let kinds: Vec<_> = name.iter_attributes().map(|attribute| attribute.attr_type()).collect();
    let twice = kinds.iter().enumerate().any(|(at, kind)| kinds[..at].contains(kind));
    !kinds.is_empty() && !twice && name.iter_rdn().all(|rdn| rdn.iter().count() == 1)
}

/// What `ring` verifies.
fn is_usable(key: &SubjectPublicKeyInfo<'_>) -> bool {
    const ED25519: &str = "1.3.101.112";
    match key.parsed() {
        Ok(PublicKey::RSA(key)) => (2048..=8192).contains(&key.key_size()),
        Ok(PublicKey::EC(point)) => matches!(point.key_size(), 256 | 384),
        _ => key.algorithm.algorithm.to_id_string() == ED25519,
    }
}

/// `other`'s certificate with the signature and name of `signer` in place of its own. All else stays byte for byte,
/// above all its name, under which it issues; but not the pointer to the key that signed it.
pub(crate) fn cross_sign(
    signer: &CertificateDer<'_>,
    key: &KeyPair,
    other: &CertificateDer<'_>,
) -> Result<CertificateDer<'static>, CaError> {
    let damaged = |error: &dyn std::fmt::Display| CaError::Certificate(error.to_string());
    let (signer, parsed) =
        (parse(signer).map_err(|error| damaged(&error))?, parse(other).map_err(|error| damaged(&error))?);
    let unsupported = || CaError::CrossSign(rcgen::Error::UnsupportedSignatureAlgorithm);
    let (_, algorithm) =
        SIGNATURES.iter().find(|(known, _)| *known == key.algorithm()).ok_or_else(unsupported)?;
    let validity = validity_of(parsed.tbs_certificate.as_ref()).ok_or_else(|| damaged(&"no validity"))?;
    let mut extensions = Vec::new();
    for extension in parsed.extensions() {
        if extension.oid == OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER {
            continue;
        }
        let critical: &[u8] = if extension.critical { &[1, 1, 0xff] } else { &[] };
        let oid = der::value(der::OID, &[extension.oid.as_bytes()]);
        let value = der::value(der::OCTET_STRING, &[extension.value]);
        extensions.extend(der::value(der::SEQUENCE, &[&oid, critical, &value]));
    }
    let signed = der::value(
        der::SEQUENCE,
        &[
            VERSION_3,
            &der::value(der::INTEGER, &[&serial()]),
            algorithm,
            signer.subject().as_raw(),
            &validity,
            parsed.subject().as_raw(),
            parsed.public_key().raw,
            &der::value(EXTENSIONS, &[&der::value(der::SEQUENCE, &[&extensions])]),
        ],
    );
    let signature = key.sign(&signed).map_err(CaError::CrossSign)?;
    let cross =
        der::value(der::SEQUENCE, &[&signed, algorithm, &der::value(der::BIT_STRING, &[&[0], &signature])]);
    Ok(cross.into())
}

/// RFC 5280, 4.1: version, serial number, algorithm, issuer, validity. Version 1 has none: no CA of ours.
fn validity_of(tbs: &[u8]) -> Option<Vec<u8>> {
    let (_, mut rest, _) = der::split(tbs)?;
    for _ in 0..4 {
        (_, _, rest) = der::split(rest)?;
    }
    let (tag, content, _) = der::split(rest)?;
    (tag == der::SEQUENCE).then(|| der::value(tag, &[content]))
}
