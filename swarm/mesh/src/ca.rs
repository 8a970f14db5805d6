//! The swarm's certificate authority: one ECDSA P-256 key that signs every node's certificate.
//!
//! Numbers and names are SwarmKit's (`ca/certificates.go`): CN `swarm-ca`, 20 years; node certificates carry the
//! cluster id (O), the role (OU) and the node id (CN), last 90 days and are back-dated by an hour, so that a node whose
//! clock runs behind accepts them.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::identity::{Role, parse_certificates};
use crate::token::CaDigest;

/// How long a node certificate lasts unless told otherwise.
pub const DEFAULT_VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);
/// The shortest node certificate that is signed.
pub const MIN_VALIDITY: Duration = Duration::from_secs(3600);
/// How far a certificate's start lies before the signer's clock.
pub const BACK_DATE: Duration = Duration::from_secs(3600);
/// How long the authority itself lasts.
pub const CA_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// A signing request is a few hundred bytes; more is not one.
pub const MAX_CSR: usize = 16 * 1024;

const CA_NAME: &str = "swarm-ca";

/// The authority's certificate and key.
pub struct CertificateAuthority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// What can go wrong with the authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A key could not be made.
    #[error("generate a CA key")]
    Generate(#[source] rcgen::Error),
    /// The authority's own certificate could not be made.
    #[error("sign the CA's own certificate")]
    SelfSign(#[source] rcgen::Error),
    /// The stored certificate does not parse.
    #[error("the CA certificate is damaged: {0}")]
    Certificate(String),
    /// The stored key does not parse.
    #[error("the CA key is damaged")]
    Key(#[source] rcgen::Error),
    /// The stored key and certificate are not a pair.
    #[error("the CA key does not belong to the CA certificate")]
    KeyMismatch,
    /// The signing request is too big to be one.
    #[error("the signing request has {0} bytes, more than {MAX_CSR}")]
    CsrTooLarge(usize),
    /// The signing request does not parse, or its signature does not verify.
    #[error("the signing request is damaged")]
    Csr(#[source] rcgen::Error),
    /// The signing request carries another kind of key than ECDSA P-256.
    #[error("the signing request's key is not ECDSA P-256")]
    CsrKeyKind,
    /// The node id does not fit into a certificate's name.
    #[error("{0:?} is not a node id")]
    NodeId(String),
    /// The signature could not be made.
    #[error("sign the certificate of node {node_id}")]
    Sign {
        /// The node whose certificate failed.
        node_id: String,
        /// What the library says.
        #[source]
        source: rcgen::Error,
    },
}

impl CertificateAuthority {
    /// A new authority, valid from an hour before `now`.
    pub fn generate(now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Generate)?;
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - BACK_DATE);
        params.not_after = OffsetDateTime::from(now + CA_VALIDITY);
        params.serial_number = Some(serial());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, CA_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(CaError::SelfSign)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority out of its stored certificate and key.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let certificate = parse_certificates(certificate_pem)
            .map_err(|source| CaError::Certificate(source.to_string()))?
            .into_iter()
            .next()
            .ok_or_else(|| CaError::Certificate("no certificate in it".into()))?;
        let key = KeyPair::from_pem(key_pem).map_err(CaError::Key)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|source| CaError::Certificate(source.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CaError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|source| CaError::Certificate(source.to_string()))?;
        Ok(Self { certificate_pem: certificate_pem.to_owned(), certificate, issuer })
    }

    /// The authority's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key: whoever has it *is* the swarm.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// SHA-256 of the certificate, as join tokens carry it.
    pub fn digest(&self) -> CaDigest {
        CaDigest::of(&self.certificate)
    }

    /// Signs a node's certificate. Of the request only the key counts (and its proof of possession); every name comes
    /// from the arguments. Returns the node's certificate followed by the authority's, in PEM.
    ///
    /// `validity` below an hour is raised to it.
    pub fn sign_csr(
        &self,
        csr_pem: &str,
        node_id: &str,
        cluster_id: &str,
        role: Role,
        now: SystemTime,
        validity: Duration,
    ) -> Result<String, CaError> {
        if csr_pem.len() > MAX_CSR {
            return Err(CaError::CsrTooLarge(csr_pem.len()));
        }
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem).map_err(CaError::Csr)?;
        if csr.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(CaError::CsrKeyKind);
        }
        let name = |text: &str| -> Result<SanType, CaError> {
            let name = text.try_into().map_err(|_| CaError::NodeId(node_id.to_owned()))?;
            Ok(SanType::DnsName(name))
        };
        if rustls::pki_types::DnsName::try_from(node_id).is_err() {
            return Err(CaError::NodeId(node_id.to_owned()));
        }
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - BACK_DATE);
        params.not_after = OffsetDateTime::from(now + validity.max(MIN_VALIDITY));
        params.serial_number = Some(serial());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, cluster_id);
        params.distinguished_name.push(DnType::OrganizationalUnitName, role.as_unit());
        params.distinguished_name.push(DnType::CommonName, node_id);
        params.subject_alt_names = vec![name(node_id)?, name(role.as_unit())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        csr.params = params;
        let certificate = csr
            .signed_by(&self.issuer)
            .map_err(|source| CaError::Sign { node_id: node_id.to_owned(), source })?;
        Ok(format!("{}{}", certificate.pem(), self.certificate_pem))
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificateAuthority({})", self.digest())
    }
}

/// RFC 5280, 4.1.2.2: positive, at most 20 bytes, unpredictable.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Identity, NewKey, PeerIdentity};

    fn signed(role: Role) -> (CertificateAuthority, NewKey, String) {
        let ca = CertificateAuthority::generate(SystemTime::now()).unwrap();
        let key = NewKey::generate().unwrap();
        let chain = ca
            .sign_csr(key.csr_pem(), "node1", "cluster1", role, SystemTime::now(), DEFAULT_VALIDITY)
            .unwrap();
        (ca, key, chain)
    }

    #[test]
    fn certificate_names_the_node() {
        let (ca, key, chain) = signed(Role::Manager);
        let certificates = parse_certificates(&chain).unwrap();
        assert_eq!(certificates.len(), 2);
        assert_eq!(CaDigest::of(&certificates[1]), ca.digest());
        let peer = PeerIdentity::from_certificate(&certificates[0]).unwrap();
        assert_eq!(
            (peer.node_id.as_str(), peer.cluster_id.as_str(), peer.role),
            ("node1", "cluster1", Role::Manager)
        );
        let left = peer.not_after.duration_since(SystemTime::now()).unwrap();
        assert!(left > DEFAULT_VALIDITY - Duration::from_secs(5) && left <= DEFAULT_VALIDITY);
        let age = SystemTime::now().duration_since(peer.not_before).unwrap();
        assert!(age >= BACK_DATE - Duration::from_secs(1), "back-dated, was {age:?}");
        Identity::from_pem(key.key_pem(), &chain, ca.certificate_pem()).unwrap();
    }

    #[test]
    fn survives_storage() {
        let (ca, _, _) = signed(Role::Worker);
        let again = CertificateAuthority::from_pem(ca.certificate_pem(), &ca.key_pem()).unwrap();
        assert_eq!(again.digest(), ca.digest());
        let key = NewKey::generate().unwrap();
        let chain = again
            .sign_csr(key.csr_pem(), "node2", "cluster1", Role::Worker, SystemTime::now(), DEFAULT_VALIDITY)
            .unwrap();
        Identity::from_pem(key.key_pem(), &chain, ca.certificate_pem()).unwrap();
        let other = CertificateAuthority::generate(SystemTime::now()).unwrap();
        assert!(matches!(
            CertificateAuthority::from_pem(ca.certificate_pem(), &other.key_pem()),
            Err(CaError::KeyMismatch)
        ));
    }

    #[test]
    fn damaged_requests_are_refused() {
        let (ca, key, _) = signed(Role::Worker);
        let sign = |csr: &str, node: &str| {
            ca.sign_csr(csr, node, "c", Role::Worker, SystemTime::now(), DEFAULT_VALIDITY)
        };
        assert!(matches!(sign("nonsense", "n"), Err(CaError::Csr(_))));
        assert!(matches!(sign(&"x".repeat(MAX_CSR + 1), "n"), Err(CaError::CsrTooLarge(_))));
        assert!(matches!(sign(key.csr_pem(), "no node"), Err(CaError::NodeId(_))));
        assert!(matches!(sign(key.csr_pem(), ""), Err(CaError::NodeId(_))));
        // The last bytes are the request's signature.
        let mut der = pem_body(key.csr_pem());
        let last = der.len() - 1;
        der[last] ^= 1;
        let forged = CertificateSigningRequestParams::from_der(&der.into());
        assert!(matches!(forged, Err(rcgen::Error::InvalidCertificationRequestSignature)));
    }

    fn pem_body(pem: &str) -> Vec<u8> {
        use rustls::pki_types::CertificateSigningRequestDer;
        use rustls::pki_types::pem::PemObject as _;
        CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }
}
