//! What each path does.

mod events;
mod gate;
mod images;
mod load;
mod nodes;
mod objects;
mod services;
mod swarm;
mod system;
mod tasks;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::{StatusCode, header};
use serde::Serialize;

use crate::engine::Engine;
use crate::server::Shared;
use crate::version::page_not_found;

/// What every handler gets.
type Ctx = State<Arc<dyn Engine>>;

/// Every path that is there.
pub(crate) fn routes(shared: Shared) -> Router {
    let gate = middleware::from_fn_with_state(shared.clone(), gate::gate);
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(events::events))
        .route("/system/df", get(system::disk_usage))
        .route("/containers/json", get(system::containers))
        .route("/volumes", get(system::volumes))
        .route("/swarm/init", post(swarm::init))
        .route("/swarm/join", post(swarm::join))
        .route("/swarm/leave", post(swarm::leave))
        .route("/swarm/unlock", post(swarm::unlock))
        .route("/skep/swarm/recover", post(swarm::recover))
        .route("/skep/swarm/address", get(swarm::addresses).post(swarm::set_addresses))
        .route("/images/json", get(images::list))
        .route("/images/load", post(load::load))
        // Image names have slashes in them, and clients send those as they are.
        .route("/images/{*rest}", any(images::by_name))
        .route("/distribution/{*rest}", get(images::distribution))
        .merge(of_the_swarm().route_layer(gate))
        .fallback(page_not_found)
        .method_not_allowed_fallback(page_not_found)
        .with_state(shared)
}

/// The paths that show or change the swarm's state: all of them go through the [`gate`].
fn of_the_swarm() -> Router<Shared> {
    Router::new()
        .route("/swarm", get(swarm::inspect))
        .route("/swarm/update", post(swarm::update))
        .route("/swarm/unlockkey", get(swarm::unlock_key))
        .route("/skep/paths", get(nodes::paths))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}", get(nodes::inspect).delete(nodes::remove))
        .route("/nodes/{id}/update", post(nodes::update))
        .route("/services", get(services::list))
        .route("/services/create", post(services::create))
        .route("/services/{id}", get(services::inspect).delete(services::remove))
        .route("/services/{id}/update", post(services::update))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::inspect))
        .route("/networks", get(objects::networks))
        .route("/networks/{id}", get(objects::network))
        .route("/secrets", get(objects::secrets))
        .route("/secrets/{id}", get(objects::secret))
        .route("/configs", get(objects::configs))
        .route("/configs/{id}", get(objects::config))
}

/// A reply of JSON, whose content type has no charset.
fn json(value: impl Serialize) -> Response {
    Json(value).into_response()
}

/// The reply to a write that gives nothing back.
fn done() -> Response {
    StatusCode::OK.into_response()
}

/// A stream of JSON whose headers go out at once.
fn json_stream(body: axum::body::Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
