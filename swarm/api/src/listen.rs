//! Where the API listens: a unix socket, TCP to clients with a certificate, or plain TCP with a warning.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at once, of each listener. A client opens a few, a watcher of events keeps one; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 512;

/// How long a client may take to prove who it is. It takes a place among the connections meanwhile.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// A place to listen at.
#[derive(Debug)]
pub enum Listen {
    /// A unix socket: whoever may open it may use it.
    Unix(UnixListener),
    /// TCP for clients with a certificate of one authority, see [`tls_config`].
    Tls(TcpListener, Arc<ServerConfig>),
    /// TCP for everybody, which gives root on this host to everybody who reaches it.
    Tcp(TcpListener),
}

impl Listen {
    /// What `info` must say of it, in Docker's words (moby `daemon/info.go`).
    pub(crate) fn warning(&self) -> Option<String> {
        let Self::Tcp(listener) = self else { return None };
        let address =
            listener.local_addr().map(|address: SocketAddr| address.to_string()).unwrap_or_default();
        Some(format!(
            "[DEPRECATION NOTICE]: API is accessible on http://{address} without encryption.
         Access to the remote API is equivalent to root access on the host. Refer
         to the 'Docker daemon attack surface' section in the documentation for
         more information: https://docs.docker.com/go/attack-surface/
In future versions this will be a hard failure preventing the daemon from starting! Learn more at: https://docs.docker.com/go/api-security/"
        ))
    }
}

/// Why the files for TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// A file cannot be read or is no PEM of that kind.
    #[error("cannot read the {what} in {}: {source}", path.display())]
    Read {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// A file without any certificate.
    #[error("there is no certificate in {}", .0.display())]
    Empty(PathBuf),
    /// The authority's certificate is not usable.
    #[error("the certificate authority in {} cannot be used: {source}", path.display())]
    Authority {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Certificate and key do not go together, or are of a kind that is not known.
    #[error("the certificate in {} cannot be used with the key: {source}", path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

/// TLS for [`Listen::Tls`]: the daemon shows `certificate`, and serves only clients that show one that `authority`
/// signed (dockerd's `--tlsverify`).
///
/// # Errors
/// Which file cannot be used, and why.
pub fn tls_config(
    authority: &Path,
    certificate: &Path,
    key: &Path,
) -> Result<Arc<ServerConfig>, TlsFilesError> {
    let mut roots = RootCertStore::empty();
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| TlsFilesError::Authority {
        path: authority.to_owned(),
        source,
    };
    for root in certificates(authority, "certificate authority")? {
        roots.add(root).map_err(|error| unusable(error.into()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error: VerifierBuilderError| unusable(error.into()))?;
    let chain = certificates(certificate, "certificate")?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsFilesError::Read {
        what: "private key",
        path: key.to_owned(),
        source,
    })?;
    let unusable = |source| TlsFilesError::Pair { path: certificate.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let unreadable = |source| TlsFilesError::Read { what, path: path.to_owned(), source };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if found.is_empty() { Err(TlsFilesError::Empty(path.to_owned())) } else { Ok(found) }
}

/// A listener that accepts no more than so many connections at once.
pub(crate) struct Bounded {
    listen: Listen,
    permits: Arc<Semaphore>,
    /// Clients that are proving who they are; each has its permit.
    handshakes: JoinSet<Option<Connection>>,
}

impl Bounded {
    pub(crate) fn new(listen: Listen) -> Self {
        Self { listen, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)), handshakes: JoinSet::new() }
    }
}

/// A connection that gives its place back when it is dropped.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    _permit: Option<OwnedSemaphorePermit>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        // The semaphore is never closed, so there is always a permit in the end.
        let permits = Arc::clone(&self.permits);
        let permit = async move { permits.acquire_owned().await.ok() };
        match &mut self.listen {
            Listen::Unix(listener) => {
                let permit = permit.await;
                let (stream, _) = Listener::accept(listener).await;
                (Connection { stream: Box::new(stream), _permit: permit }, ())
            }
            Listen::Tcp(listener) => {
                let permit = permit.await;
                let (stream, _) = Listener::accept(listener).await;
                (Connection { stream: Box::new(stream), _permit: permit }, ())
            }
            Listen::Tls(listener, config) => loop {
                let permits = Arc::clone(&self.permits);
                let next = async {
                    let permit = permits.acquire_owned().await.ok();
                    let (stream, address) = Listener::accept(listener).await;
                    (stream, address, permit)
                };
                tokio::select! {
                    (stream, address, permit) = next => {
                        let acceptor = TlsAcceptor::from(Arc::clone(config));
                        self.handshakes.spawn(async move {
                            match tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
                                Ok(Ok(stream)) => {
                                    Some(Connection { stream: Box::new(stream), _permit: permit })
                                }
                                Ok(Err(error)) => {
                                    tracing::warn!(%address, %error, "a client of the API was refused");
                                    None
                                }
                                Err(_) => None,
                            }
                        });
                    }
                    Some(ended) = self.handshakes.join_next() => {
                        if let Ok(Some(connection)) = ended {
                            return (connection, ());
                        }
                    }
                }
            },
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
