//! The way of a request: version off the path, route, headers on the reply.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, Request};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::engine::Engine;
use crate::events::Events;
use crate::listen::{Bounded, Listen};
use crate::{route, version};

/// How long requests under way may take after shutdown was asked for; event streams never end by themselves.
pub const DRAIN_TIME: Duration = Duration::from_secs(2);

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    /// What `info` warns of.
    pub(crate) warnings: Arc<[String]>,
    /// What happens to the nodes.
    pub(crate) events: Arc<Events>,
}

impl FromRef<Shared> for Arc<dyn Engine> {
    fn from_ref(shared: &Shared) -> Self {
        Self::clone(&shared.engine)
    }
}

/// Answers at all of `listeners` until `shutdown` is done, then lets requests under way finish for [`DRAIN_TIME`].
///
/// # Errors
/// That a listener failed for good.
pub async fn serve(
    engine: impl Engine,
    listeners: Vec<Listen>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let router = router(engine, listeners.iter().filter_map(Listen::warning).collect());
    let (stopping, stopped) = watch::channel(false);
    let mut servers = JoinSet::new();
    for listen in listeners {
        let mut stopped = stopped.clone();
        let server = axum::serve(Bounded::new(listen), router.clone());
        let server = server.with_graceful_shutdown(async move {
            // A sender that is gone means stop as well.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        });
        servers.spawn(server.into_future());
    }
    let ended = async {
        while let Some(server) = servers.join_next().await {
            server.map_err(io::Error::other)??;
        }
        Ok(())
    };
    let late = async {
        shutdown.await;
        stopping.send_replace(true);
        tokio::time::sleep(DRAIN_TIME).await;
    };
    tokio::select! {
        ended = ended => ended,
        () = late => Ok(()),
    }
}

/// The API as a service. `info` shows the warnings.
pub fn router(engine: impl Engine, warnings: Vec<String>) -> Router {
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let events = Events::watch(&engine);
    let routes = route::routes(Shared { engine: Arc::clone(&engine), warnings: warnings.into(), events });
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
