//! The swarm's certificate authority: one key (ECDSA P-256 unless the operator gives another) that signs every node's
//! certificate.
//!
//! Numbers and names are SwarmKit's (`ca/certificates.go`): CN `swarm-ca`, 20 years; node certificates carry the
//! cluster id (O), the role (OU) and the node id (CN), last 90 days and are back-dated by an hour, so that a node whose
//! clock runs behind accepts them.
//!
//! While a swarm changes to another authority, the new one signs and the old one vouches for it, so that nodes accept
//! each other whichever of the two they know:
//!
//! ```text
//! trusts the old one:   node's certificate --> new authority, signed by the old one --> old authority
//! trusts the new one:   node's certificate --> new authority
//! ```

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::certificate::{parse, parse_certificates};
use crate::identity::Role;
use crate::token::CaDigest;
use crate::{ca_pem, chain, root};

/// How long a node certificate lasts unless told otherwise.
pub const DEFAULT_VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);
/// The shortest node certificate that is signed; what an operator may ask for is bounded elsewhere.
pub const MIN_VALIDITY: Duration = Duration::from_secs(10);
/// How far a certificate's start lies before the signer's clock; never further than its end lies after it.
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
    /// What follows the node's certificate in its chain, PEM.
    above_pem: String,
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
    /// The text is not one certificate.
    #[error("there must be exactly one CA certificate, not {0}")]
    Count(usize),
    /// The certificate may not sign others.
    #[error("the certificate is not one of a CA that may sign certificates")]
    NotACa,
    /// The certificate is no root.
    #[error("the CA certificate is not signed with its own key")]
    NotSelfSigned,
    /// The CA's key is of a kind that not all nodes can check.
    #[error("the CA's key must be ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits")]
    RootKeyKind,
    /// The CA's time has not begun.
    #[error("the CA certificate is not valid yet")]
    NotYetValid,
    /// The CA ends too soon.
    #[error("the CA certificate ends too soon: it must be valid for {} more days at least", min_left.as_secs() / 86_400)]
    EndsTooSoon {
        /// How long it must last from now on.
        min_left: Duration,
    },
    /// The other certificate is not this authority's, signed by the old one.
    #[error("the cross-signed certificate is not this CA's, signed by the old CA")]
    NotCrossSigned,
    /// The CA's name does not survive being written again.
    #[error("the CA certificate's name has a form that certificates cannot be issued under")]
    Name,
    /// The cross-signature could not be made.
    #[error("cross-sign the other CA's certificate")]
    CrossSign(#[source] rcgen::Error),
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
        // One more authority may stand below: the next one, cross-signed.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(CaError::SelfSign)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            above_pem: certificate.pem(),
        })
    }

    /// The authority out of its stored certificate and key (PKCS #8, or SEC 1 as OpenSSL and cfssl write it).
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let certificate = one(certificate_pem)?;
        let key = ca_pem::key(key_pem).map_err(CaError::Key)?;
        let parsed = parse(&certificate).map_err(|source| CaError::Certificate(source.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CaError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|source| CaError::Certificate(source.to_string()))?;
        let certificate_pem = ca_pem::certificate(&certificate);
        Ok(Self { above_pem: certificate_pem.clone(), certificate_pem, certificate, issuer })
    }

    /// Shows this authority's certificates to nodes that know only the old one: chains that it signs become node,
    /// `cross_pem` (this authority, signed by the old one), `old_root_pem`.
    pub fn with_cross_signed(mut self, cross_pem: &str, old_root_pem: &str) -> Result<Self, CaError> {
        let (cross, old) = (one(cross_pem)?, one(old_root_pem)?);
        let vouched = chain::is_issued_by(&cross, &old).unwrap_or(false);
        if !vouched || !chain::same_authority(&cross, &self.certificate) {
            return Err(CaError::NotCrossSigned);
        }
        self.above_pem = format!("{}{}", ca_pem::certificate(&cross), ca_pem::certificate(&old));
        Ok(self)
    }

    /// Vouches for another CA: its name and key in a certificate signed by this one, PEM. It is valid as long as the
    /// other CA's own certificate.
    pub fn cross_sign(&self, other_ca_pem: &str) -> Result<String, CaError> {
        let cross = root::cross_sign(&self.certificate, self.issuer.key(), &one(other_ca_pem)?)?;
        Ok(ca_pem::certificate(&cross))
    }

    /// Whether a certificate is fit to be a swarm's root at `now` and for `min_left` from then on; its digest if so.
    pub fn check_root(ca_pem: &str, now: SystemTime, min_left: Duration) -> Result<CaDigest, CaError> {
        let certificate = one(ca_pem)?;
        root::check(&certificate, now, min_left)?;
        Ok(CaDigest::of(&certificate))
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
    /// from the arguments. Returns the node's certificate followed by the authority's, in PEM (see
    /// [`with_cross_signed`](Self::with_cross_signed)).
    ///
    /// `validity` below [`MIN_VALIDITY`] is raised to it.
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
        let validity = validity.max(MIN_VALIDITY);
        params.not_before = OffsetDateTime::from(now - BACK_DATE.min(validity));
        params.not_after = OffsetDateTime::from(now + validity);
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
        if !chain::is_issued_by(certificate.der(), &self.certificate).unwrap_or(false) {
            return Err(CaError::Name);
        }
        Ok(format!("{}{}", certificate.pem(), self.above_pem))
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificateAuthority({})", self.digest())
    }
}

/// RFC 5280, 4.1.2.2: positive, at most 20 bytes, unpredictable.
fn serial() -> SerialNumber {
    SerialNumber::from_slice(&root::serial())
}

/// The only certificate of a text.
fn one(pem: &str) -> Result<CertificateDer<'static>, CaError> {
    let all = parse_certificates(pem).map_err(|source| CaError::Certificate(source.to_string()))?;
    match <[_; 1]>::try_from(all) {
        Ok([certificate]) => Ok(certificate),
        Err(all) => Err(CaError::Count(all.len())),
    }
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

    #[test]
    fn a_cross_signed_authority_is_accepted_by_those_who_know_either() {
        let now = SystemTime::now();
        let old = CertificateAuthority::generate(now).unwrap();
        let new = CertificateAuthority::generate(now).unwrap();
        let cross = old.cross_sign(new.certificate_pem()).unwrap();
        let key_pem = new.key_pem();
        let (new_pem, old_pem) = (new.certificate_pem().to_owned(), old.certificate_pem());
        let signer = new.with_cross_signed(&cross, old_pem).unwrap();
        let key = NewKey::generate().unwrap();
        let chain = signer.sign_csr(key.csr_pem(), "n", "c", Role::Worker, now, DEFAULT_VALIDITY).unwrap();
        assert_eq!(parse_certificates(&chain).unwrap().len(), 3);
        let digest = hex::encode(CaDigest::of(&one(&new_pem).unwrap()).0);
        for (trust, knows_new) in
            [(old_pem.to_owned(), false), (new_pem.clone(), true), (format!("{old_pem}{new_pem}"), true)]
        {
            let identity = Identity::from_pem(key.key_pem(), &chain, &trust).unwrap();
            assert_eq!(identity.issuer_digest() == digest, knows_new);
        }
        // Not without the link between the two.
        let bare = CertificateAuthority::from_pem(&new_pem, &key_pem)
            .unwrap()
            .sign_csr(key.csr_pem(), "n", "c", Role::Worker, now, DEFAULT_VALIDITY)
            .unwrap();
        assert!(Identity::from_pem(key.key_pem(), &bare, old_pem).is_err());
        let third = CertificateAuthority::generate(now).unwrap();
        assert!(matches!(third.with_cross_signed(&cross, old_pem), Err(CaError::NotCrossSigned)));
    }

    /// A CA that the operator made with other tools.
    #[test]
    fn foreign_authorities_sign_and_are_cross_signed() {
        let now = SystemTime::now();
        let own = CertificateAuthority::generate(now).unwrap();
        for (certificate, key_pem) in [
            (include_str!("testdata/p384.crt"), include_str!("testdata/p384.key")),
            (include_str!("testdata/rsa.crt"), include_str!("testdata/rsa.key")),
            (include_str!("testdata/p256-sec1.crt"), include_str!("testdata/p256-sec1.key")),
        ] {
            CertificateAuthority::check_root(certificate, now, DEFAULT_VALIDITY).unwrap();
            let foreign = CertificateAuthority::from_pem(certificate, key_pem).unwrap();
            let (from, to) =
                (own.cross_sign(certificate).unwrap(), foreign.cross_sign(own.certificate_pem()));
            let key = NewKey::generate().unwrap();
            let sign = |ca: CertificateAuthority| {
                ca.sign_csr(key.csr_pem(), "n", "c", Role::Worker, now, DEFAULT_VALIDITY).unwrap()
            };
            let by_foreign = sign(foreign.with_cross_signed(&from, own.certificate_pem()).unwrap());
            Identity::from_pem(key.key_pem(), &by_foreign, own.certificate_pem()).unwrap();
            Identity::from_pem(key.key_pem(), &by_foreign, certificate).unwrap();
            let again = CertificateAuthority::from_pem(own.certificate_pem(), &own.key_pem()).unwrap();
            let by_own = sign(again.with_cross_signed(&to.unwrap(), certificate).unwrap());
            Identity::from_pem(key.key_pem(), &by_own, certificate).unwrap();
        }
    }

    #[test]
    fn roots_are_checked() {
        let now = SystemTime::now();
        let ca = CertificateAuthority::generate(now).unwrap();
        let check = |pem: &str, now, left| CertificateAuthority::check_root(pem, now, left);
        let day = Duration::from_secs(86_400);
        assert_eq!(check(ca.certificate_pem(), now, day * 365).unwrap(), ca.digest());
        assert!(matches!(
            check(ca.certificate_pem(), now, CA_VALIDITY + day),
            Err(CaError::EndsTooSoon { .. })
        ));
        assert!(matches!(check(ca.certificate_pem(), now - day, day), Err(CaError::NotYetValid)));
        assert!(matches!(check("nothing", now, day), Err(CaError::Count(0))));
        let two = ca.certificate_pem().repeat(2);
        assert!(matches!(check(&two, now, day), Err(CaError::Count(2))));
        let other = CertificateAuthority::generate(now).unwrap();
        let cross = other.cross_sign(ca.certificate_pem()).unwrap();
        assert!(matches!(check(&cross, now, day), Err(CaError::NotSelfSigned)));
        let (_, _, chain) = signed(Role::Manager);
        let leaf = ca_pem::certificate(&parse_certificates(&chain).unwrap()[0]);
        assert!(matches!(check(&leaf, now, day), Err(CaError::NotACa)));
    }

    fn pem_body(pem: &str) -> Vec<u8> {
        use rustls::pki_types::CertificateSigningRequestDer;
        use rustls::pki_types::pem::PemObject as _;
        CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }
}
