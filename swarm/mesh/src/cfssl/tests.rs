//! Against a small server that speaks enough HTTP.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::ca::{CertificateAuthority, DEFAULT_VALIDITY};
use crate::identity::NewKey;

/// What the server has read: the request line with its headers, and the body.
type Seen = Arc<Mutex<Vec<(String, serde_json::Value)>>>;

/// Answers every request with `answer`, until the test ends. Gives its `host:port`.
async fn serve(answer: String, tls: Option<rustls::ServerConfig>) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let record = seen.clone();
    let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &tls {
                None => talk(stream, &answer, &record).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        talk(stream, &answer, &record).await;
                    }
                }
            }
        }
    });
    (address.to_string(), seen)
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str, seen: &Seen) {
    let mut request = Vec::new();
    let (head, body) = loop {
        let mut piece = [0; 4096];
        let Ok(len @ 1..) = stream.read(&mut piece).await else { return };
        request.extend_from_slice(&piece[..len]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            break (head.to_owned(), body);
        }
    };
    seen.lock().push((head, body));
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

struct Swarm {
    ca: CertificateAuthority,
    key: NewKey,
}

impl Swarm {
    fn new() -> Self {
        let ca = CertificateAuthority::generate(SystemTime::now()).unwrap();
        Self { ca, key: NewKey::generate().unwrap() }
    }

    fn chain(&self, node: &str, role: Role) -> String {
        let now = SystemTime::now();
        self.ca.sign_csr(self.key.csr_pem(), node, "cluster", role, now, DEFAULT_VALIDITY).unwrap()
    }

    /// cfssl's answer with a certificate.
    fn answer(&self, node: &str, role: Role) -> String {
        let leaf =
            self.chain(node, role).split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned();
        let result = serde_json::json!({ "certificate": leaf });
        let body = serde_json::json!({ "success": true, "result": result, "errors": [], "messages": [] });
        http("200 OK", &body.to_string())
    }

    async fn ask(&self, url: &str, identity: Option<&Identity>) -> Result<String, ExternalCaError> {
        let ca = self.ca.certificate_pem();
        cfssl_sign(url, ca, identity, self.key.csr_pem(), "node1", "cluster", Role::Manager).await
    }
}

#[tokio::test]
async fn asks_as_swarmkit_does_and_takes_the_certificate() {
    let swarm = Swarm::new();
    let (address, seen) = serve(swarm.answer("node1", Role::Manager), None).await;
    let leaf = swarm.ask(&format!("http://{address}/api/v1/cfssl/sign"), None).await.unwrap();
    assert_eq!(parse_certificates(&leaf).unwrap().len(), 1);
    Identity::from_pem(swarm.key.key_pem(), &leaf, swarm.ca.certificate_pem()).unwrap();
    let (head, body) = seen.lock()[0].clone();
    assert!(head.starts_with("POST /api/v1/cfssl/sign HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains(&format!("host: {address}")), "{head}");
    let expected = serde_json::json!({
        "hosts": ["swarm-manager", "node1", "swarm-ca"],
        "certificate_request": swarm.key.csr_pem(),
        "subject": { "CN": "node1", "names": [{ "O": "cluster", "OU": "swarm-manager" }] },
        "profile": "",
        "crl_override": "",
        "label": "",
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn certificates_that_were_not_asked_for_are_refused() {
    let (swarm, other) = (Swarm::new(), Swarm::new());
    for (answer, why) in [
        (swarm.answer("node2", Role::Manager), "it is for node2"),
        (swarm.answer("node1", Role::Worker), "it is for node1 (Worker)"),
        (other.answer("node1", Role::Manager), "it is for another key"),
    ] {
        let (address, _) = serve(answer, None).await;
        let error = swarm.ask(&format!("http://{address}/sign"), None).await.unwrap_err();
        assert!(
            matches!(&error, ExternalCaError::Unfit { .. }) && error.to_string().contains(why),
            "{error}"
        );
    }
    let foreign = Swarm { ca: other.ca, key: NewKey::generate().unwrap() };
    let foreign = Swarm { ca: foreign.ca, key: swarm.key };
    let (address, _) = serve(foreign.answer("node1", Role::Manager), None).await;
    let swarm = Swarm { ca: swarm.ca, key: foreign.key };
    let error = swarm.ask(&format!("http://{address}/sign"), None).await.unwrap_err();
    assert!(error.to_string().contains("does not descend from the CA"), "{error}");
}

#[tokio::test]
async fn refusals_are_told_and_endless_answers_cut() {
    let swarm = Swarm::new();
    let refusal = r#"{"success":false,"result":null,"errors":[{"code":5200,"message":"Invalid policy"}]}"#;
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_ANSWER + 1));
    for (answer, why) in [
        (http("400 Bad Request", refusal), "400 Bad Request: Invalid policy (code 5200)"),
        (http("200 OK", refusal), "Invalid policy"),
        (http("404 Not Found", "404 page not found\n"), "404 page not found"),
        (http("200 OK", "{}"), "answered 200"),
        (endless, "length limit exceeded"),
        ("nonsense\r\n\r\n".to_owned(), "ask http://"),
    ] {
        let (address, _) = serve(answer, None).await;
        let error = swarm.ask(&format!("http://{address}/sign"), None).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error} is not {why}");
    }
    for url in ["ftp://127.0.0.1/x", "nothing", "/api", "http://"] {
        assert!(matches!(swarm.ask(url, None).await, Err(ExternalCaError::Url { .. })), "{url}");
    }
}

#[tokio::test]
async fn several_urls_are_tried_in_turn() {
    let swarm = Swarm::new();
    let (bad, _) = serve(http("500 Internal Server Error", "no"), None).await;
    let (good, seen) = serve(swarm.answer("node1", Role::Worker), None).await;
    let external = |urls: &[&str]| ExternalCa {
        urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        ca_pem: swarm.ca.certificate_pem().to_owned(),
    };
    let (bad, good) = (format!("http://{bad}/"), format!("http://{good}/"));
    let sign = async |external: ExternalCa| {
        external.sign(None, swarm.key.csr_pem(), "node1", "cluster", Role::Worker).await
    };
    sign(external(&["http://127.0.0.1:1/", &bad, &good])).await.unwrap();
    assert_eq!(seen.lock().len(), 1);
    assert!(matches!(sign(external(&[&bad])).await, Err(ExternalCaError::Refused { .. })));
    assert!(matches!(sign(external(&["http://127.0.0.1:1/"])).await, Err(ExternalCaError::Connect { .. })));
    assert!(matches!(sign(external(&[])).await, Err(ExternalCaError::NoUrl)));
}

/// Both sides prove themselves: the server under the CA that was named, the node with its own certificate.
#[tokio::test]
async fn https_shows_the_nodes_certificate_and_checks_the_servers() {
    let swarm = Swarm::new();
    let own = swarm.chain("node1", Role::Manager);
    let identity = Identity::from_pem(swarm.key.key_pem(), &own, swarm.ca.certificate_pem()).unwrap();
    let server_key = NewKey::generate().unwrap();
    let now = SystemTime::now();
    let chain = swarm
        .ca
        .sign_csr(server_key.csr_pem(), "localhost", "cluster", Role::Worker, now, DEFAULT_VALIDITY)
        .unwrap();
    let server = Identity::from_pem(server_key.key_pem(), &chain, swarm.ca.certificate_pem()).unwrap();
    let roots = Arc::new(chain::root_store(identity.roots()).unwrap());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, tls::provider());
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(server.chain(), server.key())
        .unwrap();
    let (address, _) = serve(swarm.answer("node1", Role::Manager), Some(config)).await;
    let url = format!("https://localhost:{}/sign", address.rsplit(':').next().unwrap());
    swarm.ask(&url, Some(&identity)).await.unwrap();
    assert!(swarm.ask(&url, None).await.is_err());
    let stranger = Swarm { ca: Swarm::new().ca, key: swarm.key };
    let refused = stranger.ask(&url, Some(&identity)).await;
    assert!(matches!(refused, Err(ExternalCaError::Tls { .. })), "{refused:?}");
}
