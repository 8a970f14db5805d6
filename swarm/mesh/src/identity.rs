//! Who a node is: its key, its certificate and the CAs that its swarm trusts.
//!
//! A node keeps one key for life; what changes is the certificate for it ([`Identity::renewed`]) and the trust bundle
//! ([`Identity::with_trust`]): one CA, and two while a swarm changes from one to another. On disk: `identity_files`.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use skep_seal::SealError;
use zeroize::Zeroizing;

use crate::ca::BACK_DATE;
use crate::certificate::{key_digest_of, parse, parse_certificates, time_of};
use crate::chain;
use crate::token::CaDigest;

/// What a node may do; stands in its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes part in consensus and may give orders.
    Manager,
    /// Runs tasks.
    Worker,
}

/// What a peer's certificate says of it. Only ever made from a certificate that the cluster's CA signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// CN.
    pub node_id: String,
    /// O.
    pub cluster_id: String,
    /// OU.
    pub role: Role,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// A node's own identity.
#[derive(Clone)]
pub struct Identity {
    peer: PeerIdentity,
    key_pem: Zeroizing<String>,
    chain_pem: String,
    trust_pem: String,
    key_der: Zeroizing<Vec<u8>>,
    /// As shown to peers: the node's certificate, those between it and a CA, CAs.
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    key_digest: String,
    issuer_digest: String,
}

/// A fresh key with its signing request, not yet certified.
pub struct NewKey {
    key_pem: String,
    csr_pem: String,
}

/// What can go wrong with an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A key could not be made.
    #[error("generate a node key")]
    Generate(#[source] rcgen::Error),
    /// A signing request could not be made.
    #[error("make a signing request")]
    Request(#[source] rcgen::Error),
    /// The text holds no certificate, or a damaged one.
    #[error("damaged certificate file: {0}")]
    Pem(String),
    /// A certificate does not parse.
    #[error("damaged certificate: {0}")]
    Certificate(String),
    /// A name that every node certificate carries is missing.
    #[error("the certificate has no {0}")]
    MissingName(&'static str),
    /// The role is neither of the two.
    #[error("the certificate names the unknown role {0:?}")]
    UnknownRole(String),
    /// The key does not parse.
    #[error("damaged node key")]
    Key(#[source] rcgen::Error),
    /// Key and certificate are not a pair.
    #[error("the key does not belong to the certificate of node {0}")]
    KeyMismatch(String),
    /// The certificate does not descend from any CA of the bundle.
    #[error("the certificate of node {0} was not signed by the CA")]
    NotSignedByCa(String),
    /// A renewed certificate must be of the same node and swarm.
    #[error("the certificate is of node {seen}, not of {own}")]
    OtherNode {
        /// This node and its swarm.
        own: String,
        /// Those in the certificate.
        seen: String,
    },
    /// The signing request does not parse, or its signature does not verify.
    #[error("damaged signing request: {0}")]
    DamagedRequest(String),
    /// A signature could not be made.
    #[error("sign with the node's key")]
    Sign(#[source] rcgen::Error),
    /// The key file was sealed under another key, or is damaged.
    #[error("unseal {}", path.display())]
    Sealed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SealError,
    },
    /// A file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

// === impl Role ===

impl Role {
    /// The certificate's OU, which is also a subject alternative name.
    pub fn as_unit(self) -> &'static str {
        match self {
            Self::Manager => "swarm-manager",
            Self::Worker => "swarm-worker",
        }
    }

    fn from_unit(unit: &str) -> Option<Self> {
        [Self::Manager, Self::Worker].into_iter().find(|role| role.as_unit() == unit)
    }
}

// === impl PeerIdentity ===

impl PeerIdentity {
    /// Reads the names out of a certificate. Proves nothing: verify the chain first.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|source| IdentityError::Certificate(source.to_string()))?;
        let subject = certificate.subject();
        let unit = first(subject.iter_organizational_unit(), "role (OU)")?;
        Ok(Self {
            node_id: first(subject.iter_common_name(), "node id (CN)")?,
            cluster_id: first(subject.iter_organization(), "cluster id (O)")?,
            role: Role::from_unit(&unit).ok_or(IdentityError::UnknownRole(unit))?,
            not_before: time_of(certificate.validity().not_before.timestamp()),
            not_after: time_of(certificate.validity().not_after.timestamp()),
        })
    }
}

fn first<'a>(
    mut names: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
    what: &'static str,
) -> Result<String, IdentityError> {
    let name = names.next().and_then(|name| name.as_str().ok()).ok_or(IdentityError::MissingName(what))?;
    Ok(name.to_owned())
}

// === impl NewKey ===

impl NewKey {
    /// A new ECDSA P-256 key and a signing request for it.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Generate)?;
        Ok(Self { csr_pem: request(&key)?, key_pem: key.serialize_pem() })
    }

    /// The private key. Keep it.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The signing request. Send it to a manager.
    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }
}

// === impl Identity ===

impl Identity {
    /// Puts an identity together: `chain_pem` begins with the node's certificate, to which `key_pem` must belong and
    /// which must descend from one of the CAs in `trust_pem` (the swarm's own CA first), by way of the others in
    /// `chain_pem` if need be. Validity in time is not looked at.
    pub fn from_pem(key_pem: &str, chain_pem: &str, trust_pem: &str) -> Result<Self, IdentityError> {
        let given = parse_certificates(chain_pem)?;
        let (leaf, others) =
            given.split_first().ok_or_else(|| IdentityError::Pem("no certificate in it".into()))?;
        let roots = parse_certificates(trust_pem)?;
        if roots.is_empty() {
            return Err(IdentityError::Pem("no CA certificate in it".into()));
        }
        let peer = PeerIdentity::from_certificate(leaf)?;
        let key = KeyPair::from_pem(key_pem).map_err(IdentityError::Key)?;
        let parsed = parse(leaf)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(IdentityError::KeyMismatch(peer.node_id));
        }
        if chain::verify(leaf, others, &roots).is_err() {
            return Err(IdentityError::NotSignedByCa(peer.node_id));
        }
        let issuer = issuer(leaf, others, &roots)?;
        Ok(Self {
            key_digest: key_digest_of(leaf)?,
            issuer_digest: hex::encode(CaDigest::of(issuer).0),
            chain: shown(leaf, others, issuer),
            peer,
            key_pem: Zeroizing::new(key_pem.to_owned()),
            chain_pem: chain_pem.to_owned(),
            trust_pem: trust_pem.to_owned(),
            key_der: Zeroizing::new(key.serialize_der()),
            roots,
        })
    }

    /// The same node with a new certificate for its key and the CAs that came with it.
    pub fn renewed(&self, chain_pem: &str, trust_pem: &str) -> Result<Self, IdentityError> {
        let new = Self::from_pem(&self.key_pem, chain_pem, trust_pem)?;
        if new.peer.node_id != self.peer.node_id || new.peer.cluster_id != self.peer.cluster_id {
            let name = |peer: &PeerIdentity| format!("{} of swarm {}", peer.node_id, peer.cluster_id);
            return Err(IdentityError::OtherNode { own: name(&self.peer), seen: name(&new.peer) });
        }
        Ok(new)
    }

    /// The same certificate, with other CAs trusted from now on. Fails if the certificate descends from none of them:
    /// then a new certificate is needed first.
    pub fn with_trust(&self, trust_pem: &str) -> Result<Self, IdentityError> {
        Self::from_pem(&self.key_pem, &self.chain_pem, trust_pem)
    }

    /// A signing request for the node's key.
    pub fn csr_pem(&self) -> Result<String, IdentityError> {
        request(&KeyPair::from_pem(&self.key_pem).map_err(IdentityError::Key)?)
    }

    /// What peers see of this identity.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// The node's id.
    pub fn node_id(&self) -> &str {
        &self.peer.node_id
    }

    /// The swarm's id.
    pub fn cluster_id(&self) -> &str {
        &self.peer.cluster_id
    }

    /// The role in the certificate.
    pub fn role(&self) -> Role {
        self.peer.role
    }

    /// The node's certificate and what came with it, as given.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The trust bundle as given: the certificates of all CAs that this node trusts.
    pub fn trust_pem(&self) -> &str {
        &self.trust_pem
    }

    /// SHA-256 of the first CA in the trust bundle, which is the one that join tokens name.
    pub fn ca_digest(&self) -> CaDigest {
        // Never empty (`from_pem`).
        CaDigest::of(self.roots.first().map_or(&[], |root| root.as_ref()))
    }

    /// SHA-256 of the node's public key (`SubjectPublicKeyInfo`), hex: who the node is, for life.
    pub fn key_digest(&self) -> String {
        self.key_digest.clone()
    }

    /// SHA-256 of the CA certificate whose key signed the node's certificate, hex. As long as that CA itself is not
    /// trusted yet, of its certificate that another CA signed.
    pub fn issuer_digest(&self) -> String {
        self.issuer_digest.clone()
    }

    /// When to ask for a new certificate: at a random point (`random` from 0 to 1) of 50 to 80 % of its life, as
    /// SwarmKit does, so that a swarm's renewals spread out. Life begins when the certificate was signed: the back-date
    /// (`ca::BACK_DATE`, half of the validity at most) does not count, or a certificate of one hour would be renewed at
    /// once.
    pub fn renew_at(&self, random: f64) -> SystemTime {
        let validity = self.peer.not_after.duration_since(self.peer.not_before).unwrap_or_default();
        let back_date = BACK_DATE.min(validity / 2);
        let life = validity - back_date;
        self.peer.not_before + back_date + life.mul_f64(0.5 + 0.3 * random.clamp(0.0, 1.0))
    }

    /// Signs with the node's key: ECDSA P-256, SHA-256, ASN.1.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let key = KeyPair::from_pem(&self.key_pem).map_err(IdentityError::Key)?;
        key.sign(message).map_err(IdentityError::Sign)
    }

    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der.to_vec()))
    }

    pub(crate) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub(crate) fn key_bytes(&self) -> &[u8] {
        &self.key_der
    }
}

fn request(key: &KeyPair) -> Result<String, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(key).map_err(IdentityError::Request)?;
    csr.pem().map_err(IdentityError::Request)
}

/// The CA certificate whose key signed `leaf`: a trusted one if there is, else one of those that came with it.
fn issuer<'a>(
    leaf: &CertificateDer<'static>,
    others: &'a [CertificateDer<'static>],
    roots: &'a [CertificateDer<'static>],
) -> Result<&'a CertificateDer<'static>, IdentityError> {
    for authority in roots.iter().chain(others) {
        if chain::is_issued_by(leaf, authority)? {
            return Ok(authority);
        }
    }
    // Cannot be: the chain has been verified.
    Err(IdentityError::Certificate("nobody signed it".into()))
}

/// What a node shows: its certificate; then those that lead from a CA which is not trusted everywhere yet to one that
/// is; then the CAs themselves, since a joiner looks for the one that its token names.
fn shown(
    leaf: &CertificateDer<'static>,
    others: &[CertificateDer<'static>],
    issuer: &CertificateDer<'static>,
) -> Vec<CertificateDer<'static>> {
    let (roots, between): (Vec<_>, Vec<_>) =
        others.iter().partition(|certificate| chain::is_self_signed(certificate));
    let mut shown = vec![leaf.clone()];
    for certificate in between.into_iter().chain([issuer]).chain(roots) {
        if !shown.contains(certificate) {
            shown.push(certificate.clone());
        }
    }
    shown
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("peer", &self.peer)
            .field("ca", &self.ca_digest())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ca::{CertificateAuthority, DEFAULT_VALIDITY};
    use crate::certificate::csr_key_digest;

    const HOUR: Duration = Duration::from_secs(3600);

    fn signed(ca: &CertificateAuthority, key: &NewKey, validity: Duration) -> Identity {
        let now = SystemTime::now();
        let chain = ca.sign_csr(key.csr_pem(), "node1", "c", Role::Worker, now, validity).unwrap();
        Identity::from_pem(key.key_pem(), &chain, ca.certificate_pem()).unwrap()
    }

    #[test]
    fn strangers_are_refused() {
        let now = SystemTime::now();
        let ca = CertificateAuthority::generate(now).unwrap();
        let other = CertificateAuthority::generate(now).unwrap();
        let key = NewKey::generate().unwrap();
        let chain = ca.sign_csr(key.csr_pem(), "node1", "c", Role::Worker, now, DEFAULT_VALIDITY).unwrap();
        assert!(matches!(
            Identity::from_pem(key.key_pem(), &chain, other.certificate_pem()),
            Err(IdentityError::NotSignedByCa(_))
        ));
        let stranger = NewKey::generate().unwrap();
        assert!(matches!(
            Identity::from_pem(stranger.key_pem(), &chain, ca.certificate_pem()),
            Err(IdentityError::KeyMismatch(_))
        ));
        assert!(matches!(
            PeerIdentity::from_certificate(&parse_certificates(ca.certificate_pem()).unwrap()[0]),
            Err(IdentityError::MissingName(_))
        ));
    }

    #[test]
    fn a_renewal_keeps_the_key_and_is_of_the_same_node() {
        let now = SystemTime::now();
        let ca = CertificateAuthority::generate(now).unwrap();
        let identity = signed(&ca, &NewKey::generate().unwrap(), HOUR);
        let csr = identity.csr_pem().unwrap();
        assert_eq!(csr_key_digest(&csr).unwrap(), identity.key_digest());
        let chain = |node: &str| ca.sign_csr(&csr, node, "c", Role::Manager, now, HOUR).unwrap();
        let renewed = identity.renewed(&chain("node1"), ca.certificate_pem()).unwrap();
        assert_eq!((renewed.role(), renewed.key_digest()), (Role::Manager, identity.key_digest()));
        assert!(matches!(
            identity.renewed(&chain("node2"), ca.certificate_pem()),
            Err(IdentityError::OtherNode { .. })
        ));
        let other = NewKey::generate().unwrap();
        let foreign = ca.sign_csr(other.csr_pem(), "node1", "c", Role::Worker, now, HOUR).unwrap();
        assert!(matches!(
            identity.renewed(&foreign, ca.certificate_pem()),
            Err(IdentityError::KeyMismatch(_))
        ));
    }

    #[test]
    fn a_damaged_request_has_no_digest() {
        let csr = NewKey::generate().unwrap().csr_pem().to_owned();
        assert!(csr_key_digest(&csr).is_ok());
        let middle = csr.len() / 2;
        let mut damaged = csr.into_bytes();
        damaged[middle] = if damaged[middle] == b'A' { b'B' } else { b'A' };
        assert!(csr_key_digest(&String::from_utf8(damaged).unwrap()).is_err());
        assert!(csr_key_digest("nonsense").is_err());
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let error = csr_key_digest(&request(&other).unwrap()).unwrap_err();
        assert!(error.to_string().contains("not ECDSA P-256"), "{error}");
    }

    #[test]
    fn renewal_lies_in_the_second_half_whatever_the_validity() {
        let ca = CertificateAuthority::generate(SystemTime::now()).unwrap();
        for validity in [Duration::from_secs(60), HOUR, HOUR * 3, DEFAULT_VALIDITY] {
            let identity = signed(&ca, &NewKey::generate().unwrap(), validity);
            let share = |random| {
                let left = identity.renew_at(random).duration_since(SystemTime::now()).unwrap();
                left.as_secs_f64() / validity.as_secs_f64()
            };
            // Certificates know whole seconds only.
            let slack = 3.0 / validity.as_secs_f64();
            for (random, at) in [(-1.0, 0.5), (0.0, 0.5), (0.5, 0.65), (1.0, 0.8), (7.0, 0.8)] {
                assert!((share(random) - at).abs() < slack, "{validity:?} {random} {}", share(random));
            }
        }
    }
}
