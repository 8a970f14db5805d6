//! Certificates from an external authority, which speaks cfssl's API (`POST /api/v1/cfssl/sign`).
//!
//! The request is what SwarmKit sends (`ca/external.go`, `ca/certificates.go` `PrepareCSR`): the signing request, and the
//! subject and names that the certificate must have. The answer is not believed: the certificate must be for the key and
//! names that were asked for and descend from the CA that was named.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certificate::{csr_key_digest, key_digest_of, parse_certificates};
use crate::identity::{Identity, IdentityError, PeerIdentity, Role};
use crate::{ca_pem, chain, tls};

/// Time for one URL, as SwarmKit (`externalRequestTimeout`).
const TIMEOUT: Duration = Duration::from_secs(5);
/// An answer is a certificate and some words.
const MAX_ANSWER: usize = 256 << 10;
/// Of what a server says when it refuses, this much is repeated, bytes.
const MAX_REASON: usize = 1024;
/// SwarmKit's name for managers as issuers; it stands in their certificates.
const CA_ROLE: &str = "swarm-ca";
/// Where systems keep the certificates of the world's authorities (Debian, Fedora, Alpine, openSUSE).
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
];
/// Such a file has some 200 KiB.
const MAX_SYSTEM_ROOTS: u64 = 4 << 20;

/// An external authority: where it listens, and the CA that its certificates descend from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalCa {
    /// Complete URLs, `http` or `https`, asked in turn.
    pub urls: Vec<String>,
    /// The CA's certificate, PEM; certificates that do not descend from it are refused.
    pub ca_pem: String,
}

/// Why an external authority gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ExternalCaError {
    /// None was named.
    #[error("the external CA has no URL")]
    NoUrl,
    /// The URL is not one of a server that can be asked.
    #[error("{url:?} is not an http or https URL")]
    Url {
        /// The URL.
        url: String,
    },
    /// The server could not be reached.
    #[error("connect to {url}")]
    Connect {
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS could not be set up.
    #[error("set up TLS for {url}: {reason}")]
    Tls {
        /// The URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// The exchange broke.
    #[error("ask {url}: {reason}")]
    Http {
        /// The URL.
        url: String,
        /// What broke.
        reason: String,
    },
    /// The server took too long.
    #[error("{url} did not answer within {waited:?}")]
    Timeout {
        /// The URL.
        url: String,
        /// How long it had.
        waited: Duration,
    },
    /// The server answered, but not with a certificate.
    #[error("{url} answered {status}: {reason}")]
    Refused {
        /// The URL.
        url: String,
        /// HTTP's status.
        status: StatusCode,
        /// What it said.
        reason: String,
    },
    /// The certificate is not the one that was asked for.
    #[error("{url} signed another certificate than asked for: {reason}")]
    Unfit {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The signing request is damaged.
    #[error(transparent)]
    Request(#[from] IdentityError),
}

/// `signer.SignRequest`.
#[derive(Serialize)]
struct SignRequest<'a> {
    hosts: Vec<&'a str>,
    certificate_request: &'a str,
    subject: Subject<'a>,
    profile: &'a str,
    crl_override: &'a str,
    label: &'a str,
}

/// `signer.Subject`.
#[derive(Serialize)]
struct Subject<'a> {
    #[serde(rename = "CN")]
    common_name: &'a str,
    names: [Name<'a>; 1],
}

/// `csr.Name`.
#[derive(Serialize)]
struct Name<'a> {
    #[serde(rename = "O")]
    organization: &'a str,
    #[serde(rename = "OU")]
    unit: &'a str,
}

/// `api.Response`.
#[derive(Deserialize)]
struct Response {
    success: bool,
    result: Option<Signed>,
    #[serde(default)]
    errors: Option<Vec<Message>>,
}

#[derive(Deserialize)]
struct Signed {
    certificate: String,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

impl ExternalCa {
    /// Has a node's certificate signed by the first URL that does it; see [`cfssl_sign`].
    pub async fn sign(
        &self,
        identity: Option<&Identity>,
        csr_pem: &str,
        node_id: &str,
        cluster_id: &str,
        role: Role,
    ) -> Result<String, ExternalCaError> {
        let mut last = ExternalCaError::NoUrl;
        for url in &self.urls {
            match cfssl_sign(url, &self.ca_pem, identity, csr_pem, node_id, cluster_id, role).await {
                Ok(leaf) => return Ok(leaf),
                Err(error) => {
                    tracing::warn!(%error, "the external CA did not sign");
                    last = error;
                }
            }
        }
        Err(last)
    }
}

/// Has a node's certificate signed at one URL. `ca_pem` is the CA that it must descend from; HTTPS servers may be
/// certified by it as well as by the system's CAs, and are shown the certificate of `identity`. Returns the node's
/// certificate and those between it and the CA, PEM.
pub async fn cfssl_sign(
    url: &str,
    ca_pem: &str,
    identity: Option<&Identity>,
    csr_pem: &str,
    node_id: &str,
    cluster_id: &str,
    role: Role,
) -> Result<String, ExternalCaError> {
    let unit = role.as_unit();
    let mut hosts = vec![unit, node_id];
    if role == Role::Manager {
        hosts.push(CA_ROLE);
    }
    let request = SignRequest {
        hosts,
        certificate_request: csr_pem,
        subject: Subject { common_name: node_id, names: [Name { organization: cluster_id, unit }] },
        profile: "",
        crl_override: "",
        label: "",
    };
    let key_digest = csr_key_digest(csr_pem)?;
    let roots = parse_certificates(ca_pem)?;
    let asked = ask(url, &roots, identity, &request);
    let waited = tokio::time::timeout(TIMEOUT, asked).await;
    let pem = waited.map_err(|_| ExternalCaError::Timeout { url: url.to_owned(), waited: TIMEOUT })??;
    judge(&pem, &roots, &key_digest, node_id, cluster_id, role)
        .map_err(|reason| ExternalCaError::Unfit { url: url.to_owned(), reason })
}

/// Whether a certificate is the one that was asked for; it and those above it as they are passed on.
fn judge(
    pem: &str,
    roots: &[CertificateDer<'static>],
    key_digest: &str,
    node_id: &str,
    cluster_id: &str,
    role: Role,
) -> Result<String, String> {
    let certificates = parse_certificates(pem).map_err(|error| error.to_string())?;
    let (leaf, others) = certificates.split_first().ok_or("there is none in the answer")?;
    if key_digest_of(leaf).map_err(|error| error.to_string())? != key_digest {
        return Err("it is for another key".into());
    }
    let peer = PeerIdentity::from_certificate(leaf).map_err(|error| error.to_string())?;
    if (peer.node_id.as_str(), peer.cluster_id.as_str(), peer.role) != (node_id, cluster_id, role) {
        return Err(format!("it is for {} ({:?}) of swarm {}", peer.node_id, peer.role, peer.cluster_id));
    }
    chain::verify(leaf, others, roots)
        .map_err(|error| format!("it does not descend from the CA: {error}"))?;
    let between = others.iter().filter(|other| !roots.contains(other));
    Ok([leaf].into_iter().chain(between).map(|certificate| ca_pem::certificate(certificate)).collect())
}

async fn ask(
    url: &str,
    roots: &[CertificateDer<'static>],
    identity: Option<&Identity>,
    request: &SignRequest<'_>,
) -> Result<String, ExternalCaError> {
    let bad_url = || ExternalCaError::Url { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| bad_url())?;
    let authority = uri.authority().ok_or_else(bad_url)?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(bad_url()),
    };
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let failed = |source| ExternalCaError::Connect { url: url.to_owned(), source };
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let body = serde_json::to_vec(request).map_err(|error| broken(url, &error))?;
    let post = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, authority.as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| broken(url, &error))?;
    if !secure {
        return exchange(url, stream, post).await;
    }
    let failed = |reason: String| ExternalCaError::Tls { url: url.to_owned(), reason };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| bad_url())?;
    let config = client_config(roots, identity).await.map_err(failed)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    exchange(url, stream.map_err(|error| failed(error.to_string()))?, post).await
}

async fn client_config(
    roots: &[CertificateDer<'static>],
    identity: Option<&Identity>,
) -> Result<rustls::ClientConfig, String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(system_roots().await);
    store.add_parsable_certificates(roots.iter().cloned());
    let builder = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(store);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain(), identity.key()).map_err(|error| error.to_string())
        }
    }
}

/// The system's CAs; none where it has none.
async fn system_roots() -> Vec<CertificateDer<'static>> {
    for path in SYSTEM_ROOTS {
        match tokio::fs::metadata(path).await {
            Ok(about) if about.len() <= MAX_SYSTEM_ROOTS => {}
            _ => continue,
        }
        if let Ok(pem) = tokio::fs::read(path).await {
            return CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        }
    }
    Vec::new()
}

async fn exchange(
    url: &str,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    post: Request<Full<Bytes>>,
) -> Result<String, ExternalCaError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(url, &error))?;
    let answered = async {
        let response = sender.send_request(post).await.map_err(|error| broken(url, &error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| broken(url, &error))?;
        understand(url, status, &body.to_bytes())
    };
    tokio::pin!(connection, answered);
    tokio::select! {
        answered = &mut answered => answered,
        // The server may close as soon as it has answered.
        _ = &mut connection => answered.await,
    }
}

fn understand(url: &str, status: StatusCode, body: &[u8]) -> Result<String, ExternalCaError> {
    let refused = |reason: String| ExternalCaError::Refused { url: url.to_owned(), status, reason };
    let response: Response = serde_json::from_slice(body).map_err(|_| refused(words(body)))?;
    match response.result {
        Some(signed) if response.success && status == StatusCode::OK => Ok(signed.certificate),
        _ => {
            let errors = response.errors.unwrap_or_default();
            let texts: Vec<_> =
                errors.iter().map(|error| format!("{} (code {})", error.message, error.code)).collect();
            Err(refused(words(texts.join("; ").as_bytes())))
        }
    }
}

fn words(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(MAX_REASON)];
    String::from_utf8_lossy(start).chars().filter(|letter| !letter.is_control()).collect()
}

fn broken(url: &str, error: &dyn std::fmt::Display) -> ExternalCaError {
    ExternalCaError::Http { url: url.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests;
