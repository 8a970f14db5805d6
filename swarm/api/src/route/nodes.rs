//! Nodes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::response::Response;
use skep_control::request::{self, find};
use skep_node::{NodeError, Reachability};
use skep_state::spec::{NodeRole, NodeSpec};
use skep_state::{Conflict, Node, State as Swarm};

use super::{Ctx, done, json};
use crate::body::Json;
use crate::engine::Engine;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::params::Params;
use crate::tls::Authorities;
use crate::wire;

/// The filters that dockerd accepts.
const FILTERS: [&str; 6] = ["id", "label", "membership", "name", "node.label", "role"];

/// How long a removal waits for the node to stop being a manager: scripts demote and remove in one go.
const DEMOTION: Duration = Duration::from_secs(5);
const DEMOTION_POLL: Duration = Duration::from_millis(50);

/// How often a removal is tried again after the node or the list of removed nodes changed meanwhile.
const REMOVE_ATTEMPTS: usize = 10;

/// `GET /nodes`.
pub(super) async fn list(State(engine): Ctx, params: Params) -> Result<Response> {
    let filters = params.filters(&FILTERS)?;
    check_words(&filters)?;
    let wanted = |node: &Node| {
        let role = match node.spec.role {
            NodeRole::Manager => "manager",
            NodeRole::Worker => "worker",
        };
        filters.any("id", |prefix| node.meta.id.starts_with(prefix))
            && filters.any("name", |prefix| node.description.hostname.starts_with(prefix))
            && filters.any("role", |wanted| wanted.is_empty() || wanted.eq_ignore_ascii_case(role))
            && filters
                .any("membership", |wanted| wanted.is_empty() || wanted.eq_ignore_ascii_case("accepted"))
            && filters.labels("label", &node.description.engine.labels)
            && filters.labels("node.label", &node.spec.labels)
    };
    let (nodes, tls) = engine.read(|state| {
        let nodes: Vec<Node> = state.nodes.values().filter(|node| wanted(node)).cloned().collect();
        (nodes, authorities(state))
    })?;
    let nodes: Vec<wire::Node> = nodes.iter().map(|node| shown(&*engine, node, &tls)).collect();
    Ok(json(nodes))
}

/// Refuses roles and memberships that there are none of, in dockerd's words (moby `daemon/cluster/filters.go`): a slip of
/// the pen must not look like an empty list.
fn check_words(filters: &Filters) -> Result<()> {
    for (name, known) in [("role", ["worker", "manager"]), ("membership", ["pending", "accepted"])] {
        let strange =
            |word: &&String| !word.is_empty() && !known.iter().any(|known| known.eq_ignore_ascii_case(word));
        if let Some(word) = filters.values(name).iter().find(strange) {
            return Err(ApiError::bad_request(format!("Invalid {name} filter: '{word}'")));
        }
    }
    Ok(())
}

/// `GET /nodes/{id}`.
pub(super) async fn inspect(State(engine): Ctx, Path(reference): Path<String>) -> Result<Response> {
    let id = this_node(&*engine, reference);
    let (node, tls) =
        engine.read(|state| find::node(state, &id).map(|node| (node.clone(), authorities(state))))??;
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
    let id = this_node(&*engine, reference);
    let force = params.flag("force");
    let asked = Instant::now();
    let mut attempt = 1;
    loop {
        let now = engine.now();
        let (leaving, removal) = engine.read(|state| {
            (request::demotion_pending(state, &id), request::remove_node(state, &id, force, now))
        })?;
        if leaving && asked.elapsed() < DEMOTION {
            tokio::time::sleep(DEMOTION_POLL).await;
            continue;
        }
        match engine.write(removal?).await {
            Err(NodeError::Conflict(Conflict::OutOfSequence { .. })) if attempt < REMOVE_ATTEMPTS => {
                attempt += 1
            }
            result => return result.map(|_| done()).map_err(ApiError::from),
        }
    }
}

/// The command line sends `self` as it is in some commands.
fn this_node(engine: &dyn Engine, reference: String) -> String {
    if reference == "self" { engine.swarm_info().node_id } else { reference }
}

/// `GET /skep/paths`: how this manager reaches each other node that it knows, by ID.
pub(super) async fn paths(State(engine): Ctx) -> Result<Response> {
    let ids = engine.read(|state| state.nodes.keys().cloned().collect::<Vec<_>>())?;
    let paths = ids.into_iter().filter_map(|id| {
        let path = wire::Path::from(engine.node_path(&id)?);
        Some((id, path))
    });
    Ok(json(paths.collect::<BTreeMap<_, _>>()))
}

fn authorities(state: &Swarm) -> Authorities {
    state.cluster.as_ref().map(Authorities::of).unwrap_or_default()
}

fn shown(engine: &dyn Engine, node: &Node, tls: &Authorities) -> wire::Node {
    let tls = tls.of_node(&node.certificate.issuer_digest);
    wire::Node::new(node, engine.manager_status(&node.meta.id), tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_memberships_that_there_are_none_of_are_refused() {
        let check = |json: &str| check_words(&Filters::parse(json, &FILTERS).unwrap());
        assert_eq!(check(r#"{"role":["x"]}"#).unwrap_err().message, "Invalid role filter: 'x'");
        assert_eq!(
            check(r#"{"membership":{"x":true}}"#).unwrap_err().message,
            "Invalid membership filter: 'x'"
        );
        check(r#"{"role":["Manager","worker",""],"membership":["pending","ACCEPTED"]}"#).unwrap();
    }
}
