//! Nodes.

use axum::extract::{Path, State};
use axum::response::Response;
use skep_control::request::{self, find};
use skep_node::Reachability;
use skep_state::spec::{NodeRole, NodeSpec};
use skep_state::{Node, State as Swarm};

use super::{Ctx, done, json};
use crate::body::Json;
use crate::engine::Engine;
use crate::error::Result;
use crate::params::Params;
use crate::tls::TlsInfo;
use crate::wire;

/// The filters that dockerd accepts.
const FILTERS: [&str; 6] = ["id", "label", "membership", "name", "node.label", "role"];

/// `GET /nodes`.
pub(super) async fn list(State(engine): Ctx, params: Params) -> Result<Response> {
    let filters = params.filters(&FILTERS)?;
    let wanted = |node: &Node| {
        let role = match node.spec.role {
            NodeRole::Manager => "manager",
            NodeRole::Worker => "worker",
        };
        filters.any("id", |prefix| node.meta.id.starts_with(prefix))
            && filters.any("name", |prefix| node.description.hostname.starts_with(prefix))
            && filters.any("role", |wanted| wanted == role)
            && filters.any("membership", |wanted| wanted == "accepted")
            && filters.labels("label", &node.description.engine.labels)
            && filters.labels("node.label", &node.spec.labels)
    };
    let (nodes, tls) = engine.read(|state| {
        let nodes: Vec<Node> = state.nodes.values().filter(|node| wanted(node)).cloned().collect();
        (nodes, authority(state))
    })?;
    let nodes: Vec<wire::Node> = nodes.iter().map(|node| shown(&*engine, node, &tls)).collect();
    Ok(json(nodes))
}

/// `GET /nodes/{id}`.
pub(super) async fn inspect(State(engine): Ctx, Path(reference): Path<String>) -> Result<Response> {
    let id = this_node(&*engine, reference);
    let (node, tls) =
        engine.read(|state| find::node(state, &id).map(|node| (node.clone(), authority(state))))??;
    Ok(json(shown(&*engine, &node, &tls)))
}

/// `POST /nodes/{id}/update`.
pub(super) async fn update(
    State(engine): Ctx,
    Path(reference): Path<String>,
    params: Params,
    Json(spec): Json<NodeSpec>,
) -> Result<Response> {
    let (version, now) = (params.version()?, engine.now());
    let id = this_node(&*engine, reference);
    let own_id = engine.swarm_info().node_id;
    let others = engine.read(|state| state.nodes.keys().cloned().collect::<Vec<_>>())?;
    // Asked before the state is looked at, for the engine may need the state to answer.
    let reachable: Vec<String> = others
        .into_iter()
        .filter(|id| {
            *id == own_id
                || engine
                    .manager_status(id)
                    .is_some_and(|status| status.reachability == Reachability::Reachable)
        })
        .collect();
    let transaction = engine.read(|state| {
        request::update_node(state, &id, version, spec, |id| reachable.iter().any(|other| other == id), now)
    })??;
    engine.write(transaction).await?;
    Ok(done())
}

/// `DELETE /nodes/{id}`.
pub(super) async fn remove(
    State(engine): Ctx,
    Path(reference): Path<String>,
    params: Params,
) -> Result<Response> {
    let now = engine.now();
    let id = this_node(&*engine, reference);
    let force = params.flag("force");
    let transaction = engine.read(|state| request::remove_node(state, &id, force, now))??;
    engine.write(transaction).await?;
    Ok(done())
}

/// The command line sends `self` as it is in some commands.
fn this_node(engine: &dyn Engine, reference: String) -> String {
    if reference == "self" { engine.swarm_info().node_id } else { reference }
}

fn authority(state: &Swarm) -> TlsInfo {
    state.cluster.as_ref().map(|cluster| TlsInfo::of(&cluster.ca_cert)).unwrap_or_default()
}

fn shown(engine: &dyn Engine, node: &Node, tls: &TlsInfo) -> wire::Node {
    wire::Node::new(node, engine.manager_status(&node.meta.id), tls)
}
