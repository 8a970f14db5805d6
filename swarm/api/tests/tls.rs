//! The API over TCP: clients with a certificate of the right authority are served, nobody else is.

#![allow(clippy::unwrap_used, reason = "the lint knows tests, not their helpers")]

#[allow(dead_code, reason = "the other tests use the rest of it")]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use support::Fake;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = folder.join(name);
        std::fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file }
    }

    /// Certificate and key, PEM.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// The status line of `GET /_ping`; `None` when the connection came to nothing.
async fn ping(
    address: std::net::SocketAddr,
    ours: &Authority,
    shown: Option<(String, String)>,
) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ours.issuer.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match shown {
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    // A server that hangs up without a word has refused.
    let _ = stream.read_to_string(&mut answer).await;
    answer.lines().next().map(str::to_owned)
}

#[tokio::test]
async fn a_certificate_of_the_right_authority_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) =
        (Authority::new(folder.path(), "ours.pem"), Authority::new(folder.path(), "other.pem"));
    let (certificate, key) = ours.issue();
    let (certificate_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate_file, certificate).unwrap();
    std::fs::write(&key_file, key).unwrap();
    let tls = skep_api::tls_config(&ours.file, &certificate_file, &key_file).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Fake::new(&folder.path().join("store"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let listen = vec![skep_api::Listen::Tls(listener, tls)];
    let server = tokio::spawn(skep_api::serve(fake, listen, async move { drop(stopped.await) }));

    assert_eq!(ping(address, &ours, Some(ours.issue())).await.as_deref(), Some("HTTP/1.1 200 OK"));
    assert_eq!(ping(address, &ours, None).await, None);
    assert_eq!(ping(address, &ours, Some(other.issue())).await, None);
    assert_eq!(ping(address, &other, Some(other.issue())).await, None, "a server of another authority");
    // Who speaks no TLS does not hurt those who do.
    TcpStream::connect(address).await.unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(ping(address, &ours, Some(ours.issue())).await.as_deref(), Some("HTTP/1.1 200 OK"));

    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    let wrong = skep_api::tls_config(&key_file, &certificate_file, &key_file).unwrap_err().to_string();
    assert!(wrong.contains("key.pem"), "{wrong}");
}
