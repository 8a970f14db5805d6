//! TLS to a daemon over TCP: Docker's flags and variables (docker/cli `cli/flags/options.go`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Flags about TLS, which stand before the command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TlsFlags {
    /// Use TLS to a tcp:// daemon without verifying it; --tlsverify implies it
    #[arg(long)]
    tls: bool,
    /// Use TLS to a tcp:// daemon and verify it (also with DOCKER_TLS_VERIFY set)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tlsverify: Option<bool>,
    /// Trust daemons with a certificate by this authority alone [default: ca.pem in DOCKER_CERT_PATH or ~/.docker]
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// This client's certificate [default: cert.pem beside ca.pem]
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// The certificate's key [default: key.pem beside ca.pem]
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
}

/// What the environment says of TLS.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsEnvironment {
    tls: bool,
    verify: bool,
    folder: PathBuf,
}

impl TlsEnvironment {
    /// As it is.
    pub(crate) fn read() -> Self {
        let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = || given("HOME").map_or_else(PathBuf::new, PathBuf::from).join(".docker");
        let folder = given("DOCKER_CERT_PATH").map(PathBuf::from);
        let folder = folder.or_else(|| given("DOCKER_CONFIG").map(PathBuf::from)).unwrap_or_else(home);
        Self { tls: given("DOCKER_TLS").is_some(), verify: given("DOCKER_TLS_VERIFY").is_some(), folder }
    }
}

/// Why the files for TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read or is no PEM of that kind.
    #[error("could not read {what} {:?}: {source}", path.display().to_string())]
    Read {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// The authority's certificate is not usable.
    #[error("failed to append certificates from PEM file: {:?}", .0.display().to_string())]
    Authority(PathBuf),
    /// Only one of the two is there.
    #[error(
        "could not load X509 key pair: a certificate and its key are needed, give both --tlscert and --tlskey"
    )]
    HalfPair,
    /// Certificate and key do not go together, or are of a kind that is not known.
    #[error("could not load X509 key pair: {0}")]
    Pair(rustls::Error),
}

impl TlsFlags {
    /// TLS as flags and environment ask for it; none when they do not.
    pub(crate) fn config(&self, environment: &TlsEnvironment) -> Result<Option<Arc<ClientConfig>>, TlsError> {
        let verify = self.tlsverify.unwrap_or(environment.verify);
        // As with Docker, to say --tlsverify=false is to ask for TLS without verifying.
        if !(self.tls || environment.tls || verify || self.tlsverify.is_some()) {
            return Ok(None);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?;
        let builder = if verify {
            let authority = given_or(self.tlscacert.as_ref(), environment, "ca.pem");
            builder.with_root_certificates(roots(&authority)?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        };
        let certificate = optional(self.tlscert.as_ref(), environment, "cert.pem");
        let key = optional(self.tlskey.as_ref(), environment, "key.pem");
        let mut config = match (certificate, key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = certificates(&certificate, "certificate")?;
                let key = PrivateKeyDer::from_pem_file(&key).map_err(|source| TlsError::Read {
                    what: "key",
                    path: key.clone(),
                    source,
                })?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Pair)?
            }
            _ => return Err(TlsError::HalfPair),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(Arc::new(config)))
    }
}

fn given_or(given: Option<&PathBuf>, environment: &TlsEnvironment, name: &str) -> PathBuf {
    given.cloned().unwrap_or_else(|| environment.folder.join(name))
}

/// A file that was named, or the one of the usual place if it is there.
fn optional(given: Option<&PathBuf>, environment: &TlsEnvironment, name: &str) -> Option<PathBuf> {
    let path = given_or(given, environment, name);
    (given.is_some() || path.exists()).then_some(path)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(path, "CA certificate")? {
        roots.add(root).map_err(|_| TlsError::Authority(path.to_owned()))?;
    }
    if roots.is_empty() { Err(TlsError::Authority(path.to_owned())) } else { Ok(roots) }
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Read { what, path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

/// Takes every server for the right one: what `--tls` without `--tlsverify` means. The connection is still encrypted,
/// and the server must have the key of the certificate that it shows.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use serde_json::Value;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::client::{CliError, Client};
    use super::*;

    /// A folder as DOCKER_CERT_PATH: an authority and a pair by it, which serves for both sides.
    fn authority() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        for (name, text) in
            [("ca.pem", issuer.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
        {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn environment(folder: &Path) -> TlsEnvironment {
        TlsEnvironment { folder: folder.to_owned(), ..TlsEnvironment::default() }
    }

    /// Answers one request at a time as the daemon's TLS listener does; its address.
    async fn serve(folder: &Path) -> String {
        let path = |name: &str| folder.join(name);
        let config = skep_api::tls_config(&path("ca.pem"), &path("cert.pem"), &path("key.pem")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await else {
                    continue;
                };
                let mut request = [0; 4096];
                if stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                    stream.write_all(answer).await.unwrap();
                    let _ = stream.shutdown().await;
                }
            }
        });
        address
    }

    async fn get(host: &str, flags: &TlsFlags, environment: &TlsEnvironment) -> Result<Value, CliError> {
        Client::with_tls(host, flags.config(environment).unwrap())?.get("/info").await
    }

    #[tokio::test]
    async fn daemon_and_client_verify_each_other() {
        let (ours, other) = (authority(), authority());
        let host = serve(ours.path()).await;
        let verify = TlsFlags { tlsverify: Some(true), ..TlsFlags::default() };
        let here = environment(ours.path());
        assert_eq!(get(&host, &verify, &here).await.unwrap(), serde_json::json!({}));
        let by_name = host.replace("127.0.0.1", "localhost");
        assert_eq!(get(&by_name, &verify, &here).await.unwrap(), serde_json::json!({}));
        let from_environment = TlsEnvironment { verify: true, ..here.clone() };
        assert!(get(&host, &TlsFlags::default(), &from_environment).await.is_ok());

        // A daemon of another authority: taken without verification only, with our certificate.
        let mut strange = TlsFlags { tlscacert: Some(other.path().join("ca.pem")), ..verify };
        let error = get(&host, &strange, &here).await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
        strange.tlsverify = Some(false);
        assert!(get(&host, &strange, &here).await.is_ok());
        // A client of another authority, or without a certificate, or without TLS.
        let unverified = TlsFlags { tls: true, ..TlsFlags::default() };
        assert!(get(&host, &unverified, &environment(other.path())).await.is_err());
        let empty = tempfile::tempdir().unwrap();
        assert!(get(&host, &unverified, &environment(empty.path())).await.is_err());
        assert!(get(&host, &TlsFlags::default(), &here).await.is_err());
    }

    #[test]
    fn files_that_are_missing_or_do_not_go_together_are_named() {
        let (ours, empty) = (authority(), tempfile::tempdir().unwrap());
        let verify = TlsFlags { tlsverify: Some(true), ..TlsFlags::default() };
        let error = |flags: &TlsFlags, folder: &Path| {
            flags.config(&environment(folder)).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(TlsFlags::default().config(&environment(ours.path())).unwrap().is_none());
        let missing = error(&verify, empty.path());
        assert!(
            missing.starts_with("could not read CA certificate") && missing.contains("ca.pem"),
            "{missing}"
        );
        let half = TlsFlags { tls: true, tlscert: Some(ours.path().join("cert.pem")), ..TlsFlags::default() };
        assert!(error(&half, empty.path()).contains("--tlskey"));
        let named = TlsFlags { tlskey: Some(empty.path().join("none.pem")), ..half };
        assert!(error(&named, empty.path()).contains("none.pem"));
        let no_authority = TlsFlags { tlscacert: Some(ours.path().join("key.pem")), ..verify };
        assert!(error(&no_authority, ours.path()).contains("key.pem"));
    }
}
