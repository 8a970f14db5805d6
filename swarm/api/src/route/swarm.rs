//! The swarm: make, join, leave, look, change.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use skep_control::request;
use skep_node::{InitRequest, JoinRequest, LocalState, NodeError, RecoverRequest, Rotate};
use skep_state::spec::{Availability, ClusterSpec};

use super::{Ctx, done, json};
use crate::body::Json;
use crate::error::{ApiError, Result};
use crate::params::Params;
use crate::wire::{self, Swarm};

/// What a locked manager says to `leave` (moby `daemon/cluster/swarm.go`).
const LEAVE_LOCKED: &str =
    "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";

/// `POST /swarm/init`; the answer is the node's ID as a JSON string.
pub(super) async fn init(State(engine): Ctx, Json(body): Json<wire::InitRequest>) -> Result<Response> {
    // Said before anything else: other faults of the request do not matter then.
    let active = engine.swarm_info().local_state != LocalState::Inactive;
    if active && !body.force_new_cluster {
        return Err(NodeError::AlreadyInSwarm.into());
    }
    body.check().map_err(ApiError::bad_request)?;
    let mut spec = wire::with_defaults(body.spec);
    spec.encryption_config.auto_lock_managers |= body.auto_lock_managers;
    request::check_cluster_spec(&spec)?;
    let request = InitRequest {
        listen_addr: body.listen_addr,
        advertise_addr: body.advertise_addr,
        data_path_addr: body.data_path_addr,
        data_path_port: body.data_path_port,
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
        data_path_addr: body.data_path_addr,
        remote_addrs: body.remote_addrs,
        join_token: body.join_token.trim().to_owned(),
        availability: availability(&body.availability)?,
    };
    engine.swarm_join(request).await?;
    Ok(done())
}

/// `POST /swarm/leave`.
pub(super) async fn leave(State(engine): Ctx, params: Params) -> Result<Response> {
    let force = params.flag("force");
    if !force && engine.swarm_info().local_state == LocalState::Locked {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, LEAVE_LOCKED));
    }
    engine.swarm_leave(force).await?;
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
    let rotate = Rotate {
        worker_token: params.flag("rotateWorkerToken"),
        manager_token: params.flag("rotateManagerToken"),
        unlock_key: params.flag("rotateManagerUnlockKey"),
    };
    engine.swarm_update(version, spec, rotate).await?;
    Ok(done())
}

/// `GET /swarm/unlockkey`.
pub(super) async fn unlock_key(State(engine): Ctx) -> Result<Response> {
    Ok(json(json!({ "UnlockKey": engine.unlock_key()? })))
}

/// `POST /swarm/unlock`.
pub(super) async fn unlock(State(engine): Ctx, Json(body): Json<wire::UnlockRequest>) -> Result<Response> {
    engine.swarm_unlock(body.unlock_key.trim()).await?;
    Ok(done())
}

/// `POST /skep/swarm/recover`; the answer is the node's ID as a JSON string.
pub(super) async fn recover(State(engine): Ctx, Json(body): Json<wire::RecoverRequest>) -> Result<Response> {
    let request = RecoverRequest {
        unlock_key: (!body.unlock_key.is_empty()).then_some(body.unlock_key),
        listen_addr: body.listen_addr,
        advertise_addr: body.advertise_addr,
    };
    Ok(json(engine.swarm_recover(request).await?))
}

/// `GET /skep/swarm/address`.
pub(super) async fn addresses(State(engine): Ctx) -> Result<Response> {
    let (listen, advertise) = engine.addresses()?;
    Ok(json(wire::Addresses { listen_addr: listen.to_string(), advertise_addr: advertise.to_string() }))
}

/// `POST /skep/swarm/address`; fields that are empty or missing mean as it is.
pub(super) async fn set_addresses(State(engine): Ctx, Json(body): Json<wire::Addresses>) -> Result<Response> {
    engine.swarm_address(body.listen_addr.trim(), body.advertise_addr.trim()).await?;
    addresses(State(engine)).await
}

fn availability(text: &str) -> Result<Availability> {
    wire::availability(text).ok_or_else(|| {
        ApiError::bad_request(format!("invalid Availability: {text:?}: must be active, pause or drain"))
    })
}
