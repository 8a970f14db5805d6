//! Services.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use skep_control::request::{self, Refusal, Rollback, find};
use skep_control::service_status;
use skep_node::NodeError;
use skep_state::spec::ServiceSpec;
use skep_state::{Conflict, Service, State as Swarm, Transaction};

use super::{Ctx, done, json};
use crate::body::Json;
use crate::engine::Engine;
use crate::error::{ApiError, Result};
use crate::params::Params;
use crate::wire::{self, Created, ServiceStatus};

/// The filters that dockerd accepts.
const FILTERS: [&str; 5] = ["id", "label", "mode", "name", "runtime"];

/// How often a request is checked again after another one took the port that it had been given.
const WRITE_ATTEMPTS: usize = 3;

/// `GET /services`.
pub(super) async fn list(State(engine): Ctx, params: Params) -> Result<Response> {
    let filters = params.filters(&FILTERS)?;
    let wanted = |service: &Service| {
        filters.any("id", |prefix| service.meta.id.starts_with(prefix))
            && filters.any("name", |prefix| service.spec.name.starts_with(prefix))
            && filters.any("mode", |mode| mode == mode_name(&service.spec))
            && filters.any("runtime", |runtime| runtime == "container")
            && filters.labels("label", &service.spec.labels)
    };
    let with_status = params.flag("status");
    let services: Vec<wire::Service> = engine.read(|state| {
        let found = state.services.values().filter(|service| wanted(service));
        found
            .map(|service| wire::Service::new(service, false, with_status.then(|| status(state, service))))
            .collect()
    })?;
    Ok(json(services))
}

/// `GET /services/{id}`.
pub(super) async fn inspect(
    State(engine): Ctx,
    Path(reference): Path<String>,
    params: Params,
) -> Result<Response> {
    let defaults = params.flag("insertDefaults");
    let service = engine.read(|state| {
        find::service(state, &reference).map(|service| wire::Service::new(service, defaults, None))
    })??;
    Ok(json(service))
}

/// `POST /services/create`.
pub(super) async fn create(State(engine): Ctx, Json(spec): Json<ServiceSpec>) -> Result<Response> {
    let (id, now) = (engine.new_id(), engine.now());
    let check = |state: &Swarm| request::create_service(state, id.clone(), spec.clone(), now);
    engine.read(check)??;
    check_image(&*engine, &spec.task_template.container_spec.image).await?;
    write(&*engine, check).await?;
    let created = Created { id: id.clone(), warnings: Vec::new() };
    Ok((StatusCode::CREATED, json(created)).into_response())
}

/// `POST /services/{id}/update`.
pub(super) async fn update(
    State(engine): Ctx,
    Path(reference): Path<String>,
    params: Params,
    Json(spec): Json<ServiceSpec>,
) -> Result<Response> {
    let (version, now) = (params.version()?, engine.now());
    let rollback = match params.get("rollback") {
        None => Rollback::No,
        Some("previous") => Rollback::Previous,
        Some(other) => {
            return Err(ApiError::bad_request(format!("unrecognized rollback option {other}")));
        }
    };
    let check =
        |state: &Swarm| request::update_service(state, &reference, version, spec.clone(), rollback, now);
    let image_before = engine.read(|state| {
        check(state)?;
        find::service(state, &reference)
            .map(|service| service.spec.task_template.container_spec.image.clone())
    })??;
    let image = &spec.task_template.container_spec.image;
    // A service whose image has gone meanwhile can still be scaled, labelled and rolled back.
    if rollback == Rollback::No && *image != image_before {
        check_image(&*engine, image).await?;
    }
    write(&*engine, check).await?;
    Ok(json(serde_json::json!({ "Warnings": null })))
}

/// `DELETE /services/{id}`.
pub(super) async fn remove(State(engine): Ctx, Path(reference): Path<String>) -> Result<Response> {
    let now = engine.now();
    let transaction = engine.read(|state| request::remove_service(state, &reference, now))??;
    engine.write(transaction).await?;
    Ok(done())
}

/// Commits what `check` makes of the state; again, with a fresh look, when another service got the same port between
/// the check and the commit: a port that was chosen for the user can be another one, and for one that the user chose
/// the check now finds the right words.
async fn write(engine: &dyn Engine, check: impl Fn(&Swarm) -> Result<Transaction, Refusal>) -> Result<()> {
    let mut attempt = 1;
    loop {
        let transaction = engine.read(&check)??;
        match engine.write(transaction).await {
            Err(NodeError::Conflict(Conflict::PortInUse { .. })) if attempt < WRITE_ATTEMPTS => attempt += 1,
            result => return result.map(drop).map_err(ApiError::from),
        }
    }
}

/// There is no registry to pull from: an image that is on no node can never run.
async fn check_image(engine: &dyn Engine, image: &str) -> Result<()> {
    if engine.image_available(image).await {
        return Ok(());
    }
    Err(ApiError::not_found(format!(
        "No such image: {image} (no node of the swarm has it; load it first, with \"image load\")"
    )))
}

fn status(state: &Swarm, service: &Service) -> ServiceStatus {
    let counted = service_status(state, service);
    ServiceStatus {
        running_tasks: counted.running,
        desired_tasks: counted.desired,
        completed_tasks: counted.completed,
    }
}

/// Docker's word for the mode of a service in filters.
fn mode_name(spec: &ServiceSpec) -> &'static str {
    let mode = &spec.mode;
    match (&mode.global, &mode.replicated_job, &mode.global_job) {
        (Some(_), ..) => "global",
        (_, Some(_), _) => "replicated-job",
        (_, _, Some(_)) => "global-job",
        _ => "replicated",
    }
}
