//! The command line's side of the API: HTTP/1.1 over the daemon's unix socket (or TCP), one connection a request.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Where the daemon listens when nothing says otherwise.
pub(crate) const DEFAULT_HOST: &str = "unix:///run/skep/skep.sock";

/// What a body is sent as.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A daemon.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    host: String,
    target: Target,
}

#[derive(Debug, Clone)]
enum Target {
    Unix(PathBuf),
    Tcp(String),
    Tls { address: String, name: ServerName<'static>, config: Arc<ClientConfig> },
}

/// Ports of a daemon's host without one, plain and with TLS.
const PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// Why a command failed. The text is the one line that the user sees.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The daemon said no.
    #[error("Error response from daemon: {message}")]
    Daemon {
        /// HTTP status.
        status: StatusCode,
        /// The daemon's words.
        message: String,
    },
    /// Nobody listens.
    #[error("Cannot connect to the skep daemon at {host}. Is the skep daemon running? ({source})")]
    NoDaemon {
        /// Where.
        host: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("lost the connection to the daemon at {host}: {source}")]
    Lost {
        /// Where.
        host: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon sent something else than expected.
    #[error("cannot read the daemon's answer to {path}: {source}")]
    Answer {
        /// Which request.
        path: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// The user asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// A file or the terminal.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Some of several things failed; each has been reported.
    #[error("{0}")]
    Several(String),
}

impl CliError {
    /// What was to be changed was changed by somebody else meanwhile.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Daemon { message, .. } if message.contains("update out of sequence"))
    }
}

impl Client {
    /// The daemon at `host`: `unix:///path` or `tcp://host:port`, without TLS.
    pub(crate) fn new(host: &str) -> Result<Self, CliError> {
        Self::with_tls(host, None)
    }

    /// The daemon at `host`, with TLS if it is there over TCP. A socket of this host needs none.
    pub(crate) fn with_tls(host: &str, tls: Option<Arc<ClientConfig>>) -> Result<Self, CliError> {
        let target = if let Some(path) = host.strip_prefix("unix://") {
            Target::Unix(PathBuf::from(path))
        } else if let Some(address) = host.strip_prefix("tcp://") {
            let (address, name) =
                with_port(address.trim_end_matches('/'), if tls.is_some() { TLS_PORT } else { PORT });
            match tls {
                None => Target::Tcp(address),
                Some(config) => {
                    let name = ServerName::try_from(name).map_err(|_| {
                        CliError::Usage(format!("unable to parse host {host:?}: it names no server for TLS"))
                    })?;
                    Target::Tls { address, name, config }
                }
            }
        } else {
            return Err(CliError::Usage(format!(
                "unable to parse host {host:?}: give unix:///path/to/socket or tcp://host:port"
            )));
        };
        Ok(Self { host: host.to_owned(), target })
    }

    /// `GET`, decoded.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        let bytes = self.exchange(Method::GET, path, None).await?;
        serde_json::from_slice(&bytes).map_err(|source| CliError::Answer { path: path.to_owned(), source })
    }

    /// `POST` with a JSON body; the answer decoded, null when it has none.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        let bytes = self.exchange(Method::POST, path, Some(body)).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|source| CliError::Answer { path: path.to_owned(), source })
    }

    /// `DELETE`; the answer decoded, null when it has none.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        let bytes = self.exchange(Method::DELETE, path, None).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|source| CliError::Answer { path: path.to_owned(), source })
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, CliError> {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let body = Full::new(body).map_err(|never| match never {}).boxed();
        let incoming = self.send(method, path, "application/json", body).await?;
        incoming.collect().await.map(http_body_util::Collected::to_bytes).map_err(|source| self.lost(source))
    }

    /// Sends a request; the answer's body once the daemon has said yes.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Body,
    ) -> Result<Incoming, CliError> {
        let no_daemon = |source| CliError::NoDaemon { host: self.host.clone(), source };
        let mut sender = match &self.target {
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(no_daemon)?;
                self.handshake(TokioIo::new(stream)).await?
            }
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(no_daemon)?;
                self.handshake(TokioIo::new(stream)).await?
            }
            Target::Tls { address, name, config } => {
                let stream = TcpStream::connect(address).await.map_err(no_daemon)?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), stream).await.map_err(no_daemon)?;
                self.handshake(TokioIo::new(stream)).await?
            }
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "skep")
            .header("Content-Type", content_type)
            .header("User-Agent", concat!("skep/", env!("CARGO_PKG_VERSION")))
            .body(body)
            .map_err(|source| CliError::Usage(format!("{path:?} is not a request path: {source}")))?;
        let response = sender.send_request(request).await.map_err(|source| self.lost(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let bytes = response.into_body().collect().await.map_err(|source| self.lost(source))?.to_bytes();
        let message = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|answer| answer["message"].as_str().map(str::to_owned))
            .unwrap_or_else(|| format!("{status}: {}", String::from_utf8_lossy(&bytes)));
        Err(CliError::Daemon { status, message })
    }

    async fn handshake<S>(&self, stream: S) -> Result<hyper::client::conn::http1::SendRequest<Body>, CliError>
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|source| self.lost(source))?;
        // An error of the connection also ends the request that runs over it, which reports it.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn lost(&self, source: hyper::Error) -> CliError {
        CliError::Lost { host: self.host.clone(), source: Box::new(source) }
    }
}

/// An address with its port, and the name in it: `host`, `host:port`, `[::1]:port`.
fn with_port(address: &str, port: u16) -> (String, String) {
    let name = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
    match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (format!("{host}:{port}"), name(host)),
        _ => (format!("{address}:{port}"), name(address)),
    }
}

/// A text made safe for a path or a query.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// `?filters=…` of `key=value` pairs, in the form that Docker's own clients send; empty without pairs.
pub(crate) fn filters(pairs: &[(String, String)]) -> String {
    let mut by_key = serde_json::Map::new();
    for (key, value) in pairs {
        let values = by_key.entry(key.clone()).or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Value::Object(values) = values {
            values.insert(value.clone(), Value::Bool(true));
        }
    }
    if by_key.is_empty() {
        String::new()
    } else {
        format!("filters={}", escape(&Value::Object(by_key).to_string()))
    }
}

/// `--filter key=value` as clap parses it.
pub(crate) fn parse_filter(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("invalid filter '{text}': give NAME=VALUE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_have_dockers_form() {
        assert_eq!(filters(&[]), "");
        let encoded = filters(&[("name".to_owned(), "a b".to_owned())]);
        assert_eq!(encoded, "filters=%7B%22name%22:%7B%22a%20b%22:true%7D%7D");
    }

    #[test]
    fn hosts_are_unix_or_tcp() {
        assert!(Client::new("unix:///x").is_ok());
        assert!(Client::new("ssh://x").unwrap_err().to_string().contains("ssh://x"));
        for (address, whole, name) in [
            ("node-1", "node-1:2376", "node-1"),
            ("node-1:5000", "node-1:5000", "node-1"),
            ("[::1]", "[::1]:2376", "::1"),
            ("[::1]:5000", "[::1]:5000", "::1"),
            ("10.0.0.1:2376", "10.0.0.1:2376", "10.0.0.1"),
        ] {
            assert_eq!(with_port(address, TLS_PORT), (whole.to_owned(), name.to_owned()));
        }
    }
}
