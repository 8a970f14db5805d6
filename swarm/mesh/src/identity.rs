//! Who a node is: its key, its certificate and its swarm's CA, on disk and on the wire.
//!
//! On disk an identity is three files in one folder: `node.key` (mode 0600), `node.crt` (the node's certificate, then
//! the CA's) and `ca.crt`. A renewal writes the key before the certificate; a crash between the two leaves a pair that
//! does not match, so the former key is kept as `node.key.old` and [`Identity::load`] tries both.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::X509Certificate;

use crate::token::CaDigest;

const KEY_FILE: &str = "node.key";
const OLD_KEY_FILE: &str = "node.key.old";
const CERTIFICATE_FILE: &str = "node.crt";
const CA_FILE: &str = "ca.crt";
/// No certificate chain or key of ours comes near this size.
const MAX_PEM: u64 = 256 * 1024;
/// A chain is a certificate and an authority or two.
const MAX_CHAIN: usize = 8;

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
    key_pem: String,
    chain_pem: String,
    ca_pem: String,
    key_der: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    ca: CertificateDer<'static>,
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
    /// The CA did not sign the certificate.
    #[error("the certificate of node {0} was not signed by the CA")]
    NotSignedByCa(String),
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

fn time_of(unix_seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds.max(0).unsigned_abs())
}

// === impl NewKey ===

impl NewKey {
    /// A new ECDSA P-256 key and a signing request for it.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Generate)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).map_err(IdentityError::Request)?;
        Ok(Self { key_pem: key.serialize_pem(), csr_pem: csr.pem().map_err(IdentityError::Request)? })
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
    /// Puts an identity together: `chain_pem` begins with the node's certificate, which `ca_pem` must have signed and
    /// `key_pem` must belong to. Validity in time is not looked at.
    pub fn from_pem(key_pem: &str, chain_pem: &str, ca_pem: &str) -> Result<Self, IdentityError> {
        let chain = parse_certificates(chain_pem)?;
        let leaf = chain.first().ok_or_else(|| IdentityError::Pem("no certificate in it".into()))?;
        let ca = parse_certificates(ca_pem)?
            .into_iter()
            .next()
            .ok_or_else(|| IdentityError::Pem("no CA certificate in it".into()))?;
        let peer = PeerIdentity::from_certificate(leaf)?;
        let key = KeyPair::from_pem(key_pem).map_err(IdentityError::Key)?;
        let parsed = parse(leaf)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(IdentityError::KeyMismatch(peer.node_id));
        }
        let authority = parse(&ca)?;
        if parsed.verify_signature(Some(authority.public_key())).is_err() {
            return Err(IdentityError::NotSignedByCa(peer.node_id));
        }
        // What we send is always exactly leaf and CA: a joiner checks the CA against its token.
        let chain = vec![leaf.clone(), ca.clone()];
        Ok(Self {
            peer,
            key_pem: key_pem.to_owned(),
            chain_pem: chain_pem.to_owned(),
            ca_pem: ca_pem.to_owned(),
            key_der: key.serialize_der(),
            chain,
            ca,
        })
    }

    /// Reads the identity in a folder.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let chain = read(&dir.join(CERTIFICATE_FILE))?;
        let ca = read(&dir.join(CA_FILE))?;
        let identity = Self::from_pem(&read(&dir.join(KEY_FILE))?, &chain, &ca);
        match identity {
            Err(IdentityError::KeyMismatch(_)) if dir.join(OLD_KEY_FILE).exists() => {
                Self::from_pem(&read(&dir.join(OLD_KEY_FILE))?, &chain, &ca)
            }
            identity => identity,
        }
    }

    /// Writes the identity into a folder (made if missing), so that a power cut leaves the former or this one.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Write { path, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        // Only a key that fits the certificate in place is worth keeping.
        if let Ok(former) = Self::load(dir)
            && former.key_pem != self.key_pem
        {
            let path = dir.join(OLD_KEY_FILE);
            write_durably(&path, former.key_pem.as_bytes(), 0o600).map_err(failed(&path))?;
        }
        for (name, text, mode) in [
            (KEY_FILE, &self.key_pem, 0o600),
            (CA_FILE, &self.ca_pem, 0o644),
            (CERTIFICATE_FILE, &self.chain_pem, 0o644),
        ] {
            let path = dir.join(name);
            write_durably(&path, text.as_bytes(), mode).map_err(failed(&path))?;
        }
        Ok(())
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

    /// The CA's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// SHA-256 of the CA's certificate.
    pub fn ca_digest(&self) -> CaDigest {
        CaDigest::of(&self.ca)
    }

    /// When to ask for a new certificate: at a random point (`random` from 0 to 1) of 50 to 80 % of its life, as
    /// SwarmKit does, so that a swarm's renewals spread out.
    pub fn renew_at(&self, random: f64) -> SystemTime {
        let life = self.peer.not_after.duration_since(self.peer.not_before).unwrap_or_default();
        self.peer.not_before + life.mul_f64(0.5 + 0.3 * random.clamp(0.0, 1.0))
    }

    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der.clone()))
    }

    pub(crate) fn key_bytes(&self) -> &[u8] {
        &self.key_der
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("peer", &self.peer)
            .field("ca", &self.ca_digest())
            .finish_non_exhaustive()
    }
}

/// All certificates of a PEM text.
pub(crate) fn parse_certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CHAIN).collect();
    certificates.map_err(|source| IdentityError::Pem(source.to_string()))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IdentityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|source| IdentityError::Certificate(source.to_string()))?;
    Ok(parsed)
}

fn read(path: &Path) -> Result<String, IdentityError> {
    let failed = |source| IdentityError::Read { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_PEM {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes"))));
    }
    fs::read_to_string(path).map_err(failed)
}

/// Temporary name, fsync, rename, fsync of the folder.
fn write_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // create_new: never write a key into a file that someone else made and can read.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let dir = path.parent().ok_or_else(|| io::Error::other("a file without a folder"))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{CertificateAuthority, DEFAULT_VALIDITY};
    use std::os::unix::fs::PermissionsExt as _;

    fn identity(ca: &CertificateAuthority, role: Role) -> Identity {
        let key = NewKey::generate().unwrap();
        let now = SystemTime::now();
        let chain = ca.sign_csr(key.csr_pem(), "node1", "c", role, now, DEFAULT_VALIDITY).unwrap();
        Identity::from_pem(key.key_pem(), &chain, ca.certificate_pem()).unwrap()
    }

    #[test]
    fn saves_and_loads() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("certificates");
        let ca = CertificateAuthority::generate(SystemTime::now()).unwrap();
        identity(&ca, Role::Worker).save(&dir).unwrap();
        assert_eq!(Identity::load(&dir).unwrap().role(), Role::Worker);
        let mode = fs::metadata(dir.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let renewed = identity(&ca, Role::Manager);
        renewed.save(&dir).unwrap();
        assert_eq!(Identity::load(&dir).unwrap().role(), Role::Manager);
        assert!(
            !fs::read_dir(&dir)
                .unwrap()
                .any(|entry| entry.unwrap().path().extension() == Some("new".as_ref()))
        );
    }

    #[test]
    fn a_crash_between_key_and_certificate_keeps_the_former() {
        let dir = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::generate(SystemTime::now()).unwrap();
        identity(&ca, Role::Worker).save(dir.path()).unwrap();
        let former = fs::read(dir.path().join(CERTIFICATE_FILE)).unwrap();
        identity(&ca, Role::Manager).save(dir.path()).unwrap();
        // As if the power had gone before the last rename.
        fs::write(dir.path().join(CERTIFICATE_FILE), former).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap().role(), Role::Worker);
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
        assert!(matches!(Identity::load(Path::new("/nonexistent")), Err(IdentityError::Read { .. })));
        assert!(matches!(
            PeerIdentity::from_certificate(&parse_certificates(ca.certificate_pem()).unwrap()[0]),
            Err(IdentityError::MissingName(_))
        ));
    }

    #[test]
    fn renewal_lies_in_the_second_half() {
        let ca = CertificateAuthority::generate(SystemTime::now()).unwrap();
        let identity = identity(&ca, Role::Worker);
        let day = Duration::from_secs(24 * 3600);
        let in_days = |random| {
            identity.renew_at(random).duration_since(SystemTime::now()).unwrap().as_secs() / day.as_secs()
        };
        assert_eq!((in_days(0.0), in_days(1.0)), (44, 71));
    }
}
