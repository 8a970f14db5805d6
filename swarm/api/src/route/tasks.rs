//! Tasks.

use axum::extract::{Path, State};
use axum::response::Response;
use skep_control::is_task_dirty;
use skep_control::request::find;
use skep_state::{State as Swarm, Task, TaskState};

use super::{Ctx, json};
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::params::Params;
use crate::wire;

/// The filters that dockerd accepts; `_up-to-date` is what the command line's progress display asks for.
const FILTERS: [&str; 8] =
    ["_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service"];

/// What `desired-state` may be, as the object writes it.
const STATES: [(&str, TaskState); 14] = [
    ("new", TaskState::New),
    ("pending", TaskState::Pending),
    ("assigned", TaskState::Assigned),
    ("accepted", TaskState::Accepted),
    ("preparing", TaskState::Preparing),
    ("ready", TaskState::Ready),
    ("starting", TaskState::Starting),
    ("running", TaskState::Running),
    ("complete", TaskState::Complete),
    ("shutdown", TaskState::Shutdown),
    ("failed", TaskState::Failed),
    ("rejected", TaskState::Rejected),
    ("orphaned", TaskState::Orphaned),
    ("remove", TaskState::Remove),
];

/// `GET /tasks`.
pub(super) async fn list(State(engine): Ctx, params: Params) -> Result<Response> {
    let filters = params.filters(&FILTERS)?;
    let desired = filters
        .values("desired-state")
        .iter()
        .map(|name| {
            let state = STATES.iter().find(|(known, _)| known == name).map(|(_, state)| *state);
            state.ok_or_else(|| ApiError::bad_request(format!("invalid desired-state filter: '{name}'")))
        })
        .collect::<Result<Vec<TaskState>>>()?;
    let own_id = engine.swarm_info().node_id;
    let tasks = engine.read(|state| {
        let filters = resolve(state, filters, &own_id)?;
        let wanted = |task: &&Task| {
            (desired.is_empty() || desired.contains(&task.desired_state)) && matches(state, &filters, task)
        };
        Ok::<_, ApiError>(
            state.tasks.values().filter(wanted).map(|task| wire::Task::new(task, state)).collect::<Vec<_>>(),
        )
    })??;
    Ok(json(tasks))
}

/// `GET /tasks/{id}`.
pub(super) async fn inspect(State(engine): Ctx, Path(reference): Path<String>) -> Result<Response> {
    let task =
        engine.read(|state| find::task(state, &reference).map(|task| wire::Task::new(task, state)))??;
    Ok(json(task))
}

/// Turns names of services and nodes into IDs, which must be there (moby `daemon/cluster/filters.go`).
fn resolve(state: &Swarm, mut filters: Filters, own_id: &str) -> Result<Filters> {
    let mut missing = None;
    filters.map_values("service", |name| match find::service(state, &name) {
        Ok(service) => service.meta.id.clone(),
        Err(refusal) => {
            // The ID of a removed service still finds the tasks that it has left.
            if !state.tasks.values().any(|task| task.service_id == name) {
                missing.get_or_insert(refusal);
            }
            name
        }
    });
    filters.map_values("node", |name| {
        let name = if name == "self" { own_id.to_owned() } else { name };
        match find::node(state, &name) {
            Ok(node) => node.meta.id.clone(),
            Err(refusal) => {
                if !state.tasks.values().any(|task| task.node_id == name) {
                    missing.get_or_insert(refusal);
                }
                name
            }
        }
    });
    missing.map_or(Ok(filters), |refusal| Err(refusal.into()))
}

fn matches(state: &Swarm, filters: &Filters, task: &Task) -> bool {
    let service = state.services.get(&task.service_id);
    let labels = service.map(|service| service.spec.labels.clone()).unwrap_or_default();
    filters.any("id", |prefix| task.meta.id.starts_with(prefix))
        && filters.any("name", |prefix| task.name().starts_with(prefix))
        && filters.any("service", |id| task.service_id == id)
        && filters.any("node", |id| task.node_id == id)
        && filters.any("runtime", |runtime| runtime == "container")
        && filters.labels("label", &labels)
        && filters.any("_up-to-date", |wanted| {
            let current =
                service.is_some_and(|service| !is_task_dirty(service, task, state.nodes.get(&task.node_id)));
            current == (wanted == "true")
        })
}
