//! The swarm: make, join, leave, look, change.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use skep_control::request::{self, NewTokens};
use skep_node::{InitRequest, JoinRequest, LocalState, NodeError};
use skep_state::spec::{Availability, ClusterSpec};

use super::{Ctx, done, json};
use crate::body::Json;
use crate::engine::Engine;
use crate::error::{ApiError, Result};
use crate::params::Params;
use crate::wire::{self, Swarm};

/// `POST /swarm/init`; the answer is the node's ID as a JSON string.
pub(super) async fn init(State(engine): Ctx, Json(body): Json<wire::InitRequest>) -> Result<Response> {
    // Said before anything else: other faults of the request do not matter then.
    let active = engine.swarm_info().local_state != LocalState::Inactive;
    if active && !body.force_new_cluster {
        return Err(NodeError::AlreadyInSwarm.into());
    }
    let mut spec = wire::with_defaults(body.spec);
    spec.encryption_config.auto_lock_managers |= body.auto_lock_managers;
    request::check_cluster_spec(&spec)?;
    let request = InitRequest {
        listen_addr: body.listen_addr,
        advertise_addr: body.advertise_addr,
        spec,
        availability: availability(&body.availability)?,
        default_addr_pool: body.default_addr_pool,
        subnet_size: body.subnet_size,
        force_new_cluster: body.force_new_cluster,
    };
    Ok(json(engine.swarm_init(request).await?))
}

/// `POST /swarm/join`.
pub(super) async fn join(State(engine): Ctx, Json(body): Json<wire::JoinRequest>) -> Result<Response> {
    if engine.swarm_info().local_state != LocalState::Inactive {
        return Err(NodeError::AlreadyInSwarm.into());
    }
    if body.remote_addrs.is_empty() {
        return Err(ApiError::bad_request("at least 1 RemoteAddr is required to join"));
    }
    if body.join_token.trim().is_empty() {
        return Err(ApiError::bad_request("invalid join token: it is empty"));
    }
    let request = JoinRequest {
        listen_addr: body.listen_addr,
        advertise_addr: body.advertise_addr,
        remote_addrs: body.remote_addrs,
        join_token: body.join_token.trim().to_owned(),
        availability: availability(&body.availability)?,
    };
    engine.swarm_join(request).await?;
    Ok(done())
}

/// `POST /swarm/leave`.
pub(super) async fn leave(State(engine): Ctx, params: Params) -> Result<Response> {
    engine.swarm_leave(params.flag("force")).await?;
    Ok(done())
}

/// `GET /swarm`.
pub(super) async fn inspect(State(engine): Ctx) -> Result<Response> {
    let port = engine.mesh_port();
    let swarm = engine.read(|state| state.cluster.as_ref().map(|cluster| Swarm::new(cluster, port)))?;
    swarm.map(json).ok_or_else(|| NodeError::NotInSwarm.into())
}

/// `POST /swarm/update`.
pub(super) async fn update(
    State(engine): Ctx,
    params: Params,
    Json(spec): Json<ClusterSpec>,
) -> Result<Response> {
    let version = params.version()?;
    if params.flag("rotateManagerUnlockKey") {
        return Err(ApiError::unimplemented("locking managers (autolock)"));
    }
    let tokens = NewTokens {
        worker: new_token(&*engine, params.flag("rotateWorkerToken"))?,
        manager: new_token(&*engine, params.flag("rotateManagerToken"))?,
    };
    let now = engine.now();
    let transaction = engine.read(|state| request::update_cluster(state, version, spec, tokens, now))??;
    engine.write(transaction).await?;
    Ok(done())
}

/// `GET /swarm/unlockkey`: empty, as managers are never locked.
pub(super) async fn unlock_key(State(engine): Ctx) -> Result<Response> {
    engine.read(|_| ())?;
    Ok(json(json!({ "UnlockKey": "" })))
}

/// `POST /swarm/unlock`.
pub(super) async fn unlock(State(engine): Ctx) -> Result<Response> {
    match engine.swarm_info().local_state {
        LocalState::Inactive => Err(NodeError::NotInSwarm.into()),
        _ => Err(ApiError::new(StatusCode::CONFLICT, "swarm is not locked")),
    }
}

fn new_token(engine: &dyn Engine, wanted: bool) -> Result<Option<String>> {
    Ok(if wanted { Some(engine.new_join_token()?) } else { None })
}

fn availability(text: &str) -> Result<Availability> {
    wire::availability(text).ok_or_else(|| {
        ApiError::bad_request(format!("invalid Availability: {text:?}: must be active, pause or drain"))
    })
}
