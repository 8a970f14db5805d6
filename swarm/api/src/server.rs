//! The listener and the way of a request: version off the path, route, headers on the reply.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream, unix};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt as _;

use crate::engine::Engine;
use crate::{route, version};

/// Connections at once. A client opens a few, a watcher of events keeps one; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 512;

/// How long requests under way may take after shutdown was asked for; event streams never end by themselves.
pub const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Answers on a unix socket until `shutdown` is done, then lets requests under way finish for [`DRAIN_TIME`].
///
/// # Errors
/// That the listener failed for good.
pub async fn serve(
    engine: impl Engine,
    listener: UnixListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = Bounded { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let server = axum::serve(listener, router(engine)).with_graceful_shutdown(async move {
        shutdown.await;
        // Nobody listens any more when the server ended by itself.
        let _ = stopping.send(());
    });
    let late = async move {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(DRAIN_TIME).await;
    };
    tokio::select! {
        ended = server.into_future() => ended,
        () = late => Ok(()),
    }
}

/// The API as a service.
pub fn router(engine: impl Engine) -> Router {
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let routes = route::routes().with_state(Arc::clone(&engine));
    // Around the routes, not a layer of them: the path must change before it is matched.
    Router::new().fallback(move |mut request: Request| {
        let (routes, engine) = (routes.clone(), Arc::clone(&engine));
        async move {
            let mut response: Response = match version::strip(&mut request) {
                Ok(()) => routes.oneshot(request).await.into_response(),
                Err(error) => error.into_response(),
            };
            version::set_headers(&mut response, engine.version());
            response
        }
    })
}

/// A listener that accepts no more than so many connections at once.
struct Bounded {
    listener: UnixListener,
    permits: Arc<Semaphore>,
}

/// A connection that gives its place back when it is dropped.
struct Connection {
    stream: UnixStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = unix::SocketAddr;

    async fn accept(&mut self) -> (Connection, unix::SocketAddr) {
        // The semaphore is never closed, so there is always a permit in the end.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Connection { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<unix::SocketAddr> {
        self.listener.local_addr()
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
