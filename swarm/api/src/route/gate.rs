//! What stands before every path of the swarm: a locked manager answers none of them, and what is read is up to date.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;
use skep_node::{LocalState, NodeError};

use super::Ctx;
use crate::error::Result;

/// Refuses while this manager is locked; before a read, waits until this manager has what any manager acknowledged.
///
/// A node that is no manager passes: what it says then is the handler's matter. Writes pass too, as each is checked
/// again where it is committed.
pub(super) async fn gate(State(engine): Ctx, request: Request, next: Next) -> Result<Response> {
    let info = engine.swarm_info();
    if info.local_state == LocalState::Locked {
        return Err(NodeError::Locked.into());
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && info.control_available {
        engine.read_barrier().await?;
    }
    Ok(next.run(request).await)
}
