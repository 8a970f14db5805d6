//! TLS 1.3 configurations: who has to prove what to whom.
//!
//! Sessions are never resumed: a resumed session would keep the identity and role of the certificate it began with.

use std::sync::Arc;

use parking_lot::Mutex;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{CipherSuite, DigitallySignedStruct, SignatureScheme};

use crate::chain;
use crate::clock::SwarmClock;
use crate::error::MeshError;
use crate::identity::{Identity, PeerIdentity, Role};
use crate::token::CaDigest;

pub(crate) const MESH_PROTOCOL: &[u8] = b"skep-mesh/1";
pub(crate) const RENEW_PROTOCOL: &[u8] = b"skep-renew/1";
pub(crate) const JOIN_PROTOCOL: &[u8] = b"skep-join/1";

/// Where a joiner's verifier leaves the digest of the CA that the server showed.
pub(crate) type SeenCa = Arc<Mutex<Option<CaDigest>>>;

/// The configurations that a member of a swarm needs.
pub(crate) struct TlsConfigs {
    pub(crate) mesh_client: Arc<QuicClientConfig>,
    pub(crate) mesh_server: Arc<QuicServerConfig>,
    pub(crate) join_server: Arc<QuicServerConfig>,
    pub(crate) renew_server: Arc<QuicServerConfig>,
}

impl TlsConfigs {
    /// Certificates are judged by `clock`.
    pub(crate) fn new(identity: &Identity, clock: &SwarmClock) -> Result<Self, MeshError> {
        let failed = |error: &dyn std::fmt::Display| MeshError::Tls(error.to_string());
        let provider = provider();
        let roots = Arc::new(chain::root_store(identity.roots()).map_err(|error| failed(&error))?);

        let clock: Arc<dyn TimeProvider> = Arc::new(clock.clone());
        let mut client = rustls::ClientConfig::builder_with_details(provider.clone(), clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(identity.chain(), identity.key())
            .map_err(|error| failed(&error))?;
        client.alpn_protocols = vec![MESH_PROTOCOL.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| failed(&error))?;
        let server = |client_auth: bool, protocol: &[u8]| -> Result<Arc<QuicServerConfig>, MeshError> {
            let builder = rustls::ServerConfig::builder_with_details(provider.clone(), clock.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| failed(&error))?;
            let builder = if client_auth {
                builder.with_client_cert_verifier(verifier.clone())
            } else {
                builder.with_no_client_auth()
            };
            let mut config =
                builder.with_single_cert(identity.chain(), identity.key()).map_err(|error| failed(&error))?;
            config.alpn_protocols = vec![protocol.to_vec()];
            config.send_tls13_tickets = 0;
            config.max_early_data_size = 0;
            Ok(Arc::new(QuicServerConfig::try_from(config).map_err(|error| failed(&error))?))
        };
        Ok(Self {
            mesh_client: Arc::new(QuicClientConfig::try_from(client).map_err(|error| failed(&error))?),
            mesh_server: server(true, MESH_PROTOCOL)?,
            join_server: server(false, JOIN_PROTOCOL)?,
            renew_server: server(false, RENEW_PROTOCOL)?,
        })
    }
}

/// The configuration of a joiner, and where it leaves the digest of the CA that the server showed.
pub(crate) fn join_client(expected: CaDigest) -> Result<(Arc<QuicClientConfig>, SeenCa), String> {
    let provider = provider();
    let seen = Arc::new(Mutex::new(None));
    let rule = PinnedCa { expected, seen: seen.clone(), provider: provider.clone() };
    let verifier = Verifier { rule, provider: provider.clone() };
    Ok((visitor(Arc::new(verifier), provider, JOIN_PROTOCOL)?, seen))
}

/// The configuration of a member that re-enrols: it recognises managers whatever the time is.
pub(crate) fn renew_client(identity: &Identity) -> Result<Arc<QuicClientConfig>, String> {
    let provider = provider();
    let rule = AnyTime { roots: identity.roots().to_vec(), cluster_id: identity.cluster_id().to_owned() };
    let verifier = Verifier { rule, provider: provider.clone() };
    visitor(Arc::new(verifier), provider, RENEW_PROTOCOL)
}

/// A client without a certificate, for one message each way.
fn visitor(
    verifier: Arc<dyn ServerCertVerifier>,
    provider: Arc<CryptoProvider>,
    protocol: &[u8],
) -> Result<Arc<QuicClientConfig>, String> {
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    client.alpn_protocols = vec![protocol.to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(QuicClientConfig::try_from(client).map_err(|error| error.to_string())?))
}

/// The name that a joiner asks for: only managers' certificates carry it.
pub(crate) fn join_server_name() -> &'static str {
    Role::Manager.as_unit()
}

/// AES first where the processor does it, ChaCha20 first where it would be done by hand.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    let first = if has_aes() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
    } else {
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    };
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != first);
    Arc::new(provider)
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Whom a visitor takes for a manager of the swarm.
trait Rule: std::fmt::Debug + Send + Sync {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error>;
}

/// Trusts exactly the CA of a digest: the server must show that CA's certificate behind its own, and be a manager
/// under it. While the swarm changes its CA, more than one is shown.
#[derive(Debug)]
struct PinnedCa {
    expected: CaDigest,
    seen: SeenCa,
    provider: Arc<CryptoProvider>,
}

impl Rule for PinnedCa {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let expected = |other: &&CertificateDer<'_>| CaDigest::of(other) == self.expected;
        let Some(ca) = others.iter().find(expected).or_else(|| others.last()) else {
            return Err(rustls::Error::General("the server showed no CA certificate".into()));
        };
        let digest = CaDigest::of(ca);
        *self.seen.lock() = Some(digest);
        if digest != self.expected {
            return Err(rustls::Error::General(format!(
                "remote CA does not match fingerprint {}",
                self.expected
            )));
        }
        let roots = Arc::new(chain::root_store(&[ca.clone().into_owned()])?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(leaf, others, server_name, &[], now).map(drop)
    }
}

/// Trusts managers of this swarm, however old their certificates are or seem.
#[derive(Debug)]
struct AnyTime {
    roots: Vec<CertificateDer<'static>>,
    cluster_id: String,
}

impl Rule for AnyTime {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: UnixTime,
    ) -> Result<(), rustls::Error> {
        chain::verify(leaf, others, &self.roots)?;
        let peer = PeerIdentity::from_certificate(leaf)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        if peer.role != Role::Manager || peer.cluster_id != self.cluster_id {
            return Err(rustls::Error::General("the server is no manager of this swarm".into()));
        }
        Ok(())
    }
}

/// A rule with the proofs of possession that every one of them needs.
#[derive(Debug)]
struct Verifier<R> {
    rule: R,
    provider: Arc<CryptoProvider>,
}

impl<R: Rule> ServerCertVerifier for Verifier<R> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.rule.judge(end_entity, intermediates, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
