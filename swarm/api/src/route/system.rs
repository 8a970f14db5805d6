//! The node itself: ping, version, info, disk usage, and lists of what there is none of.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, header};
use serde_json::json;
use skep_node::LocalState;
use skep_state::spec::NodeRole;

use super::{Ctx, json};
use crate::server::Shared;
use crate::wire::{ClusterInfo, ImageSummary, Info, ManagerView, Version, local_state};

/// `GET` and `HEAD /_ping`.
pub(super) async fn ping(State(engine): Ctx) -> Response {
    let info = engine.swarm_info();
    let swarm = match (info.local_state, info.control_available) {
        (LocalState::Active, true) => "active/manager",
        (LocalState::Active, false) => "active/worker",
        (state, _) => local_state(state),
    };
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (header::PRAGMA, "no-cache"),
        (HeaderName::from_static("swarm"), swarm),
    ];
    (headers, "OK").into_response()
}

/// `GET /version`.
pub(super) async fn version(State(engine): Ctx) -> Response {
    json(Version::new(engine.version()))
}

/// `GET /info`.
pub(super) async fn info(State(Shared { engine, warnings, .. }): State<Shared>) -> Response {
    let port = engine.mesh_port();
    // A node that is no manager just has less to say.
    let view = engine
        .read(|state| ManagerView {
            nodes: state.nodes.len(),
            managers: state.nodes.values().filter(|node| node.spec.role == NodeRole::Manager).count(),
            cluster: state.cluster.as_ref().map(|cluster| ClusterInfo::new(cluster, port)),
        })
        .ok();
    let images = engine.images().list().len();
    let info = Info::new(engine.info().await, engine.swarm_info(), view, images, engine.now());
    json(info.with_warnings(&warnings))
}

/// `GET /system/df`.
pub(super) async fn disk_usage(State(engine): Ctx) -> Response {
    let images: Vec<ImageSummary> = engine.images().list().into_iter().map(ImageSummary::from).collect();
    let bytes: u64 = engine.images().list().iter().map(|image| image.size).sum();
    json(json!({ "LayersSize": bytes, "Images": images, "Containers": [], "Volumes": [], "BuildCache": [] }))
}

/// `GET /containers/json`: containers are made by tasks alone, which `service ps` and `node ps` show.
pub(super) async fn containers() -> Response {
    json(json!([]))
}

/// `GET /volumes`.
pub(super) async fn volumes() -> Response {
    json(json!({ "Volumes": [], "Warnings": null }))
}
