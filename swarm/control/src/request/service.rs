//! Requests about services (swarmkit `manager/controlapi/service.go`).

use skep_state::object::{UpdateState, UpdateStatus};
use skep_state::spec::ServiceSpec;
use skep_state::{Change, Kind, Service, State, Timestamp, Transaction};

use super::spec::{check_references, check_spec, normalize};
use super::{Refusal, allocate_ports, find};

/// The first [`Service::spec_version`] of a service.
const SPEC_VERSION_FIRST: u64 = 1;

/// Whether an update goes back to the spec before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rollback {
    /// Takes the spec that came with the request.
    #[default]
    No,
    /// Ignores it, and swaps the spec with the previous one.
    Previous,
}

/// Makes a service with the given new ID. Its ports have their numbers when this returns.
pub fn create_service(
    state: &State,
    id: String,
    spec: ServiceSpec,
    at: Timestamp,
) -> Result<Transaction, Refusal> {
    let spec = checked(state, spec)?;
    if state.service_by_name(&spec.name).is_some() {
        return Err(Refusal::exists(format!(
            "name conflicts with an existing object: service {} already exists",
            spec.name
        )));
    }
    let ports = allocate_ports(state, None, &spec)?;
    let mut service = Service { spec, ports, spec_version: SPEC_VERSION_FIRST, ..Service::default() };
    service.meta.id = id;
    Ok(put(service, at))
}

/// Changes a service that the user saw at `version`.
///
/// `spec_version` grows only when the task template changes, so that scaling or labelling a service replaces no task;
/// a rollback brings the previous spec's version back, so that tasks of that version count as up to date. A new
/// `spec_version` was never used by this service before.
pub fn update_service(
    state: &State,
    reference: &str,
    version: u64,
    spec: ServiceSpec,
    rollback: Rollback,
    at: Timestamp,
) -> Result<Transaction, Refusal> {
    let service = find::service(state, reference)?;
    if service.meta.version.index != version {
        return Err(Refusal::out_of_sequence());
    }
    let mut updated = service.clone();
    match rollback {
        Rollback::Previous => {
            let Some(previous) = service.previous_spec.clone() else {
                return Err(Refusal::precondition(format!(
                    "service {reference} does not have a previous spec"
                )));
            };
            updated.ports = allocate_ports(state, Some(service), &previous)?;
            updated.spec = previous;
            updated.spec_version = service.previous_spec_version;
            updated.previous_spec = Some(service.spec.clone());
            updated.previous_spec_version = service.spec_version;
            updated.update_status = Some(UpdateStatus {
                state: UpdateState::RollbackStarted,
                started_at: Some(at),
                completed_at: None,
                message: "manually requested rollback".to_owned(),
            });
        }
        Rollback::No => {
            // The name first: a client that sends no name must not be told about a malformed one.
            if spec.name != service.spec.name {
                return Err(Refusal::unimplemented("renaming services is not supported"));
            }
            let spec = checked(state, spec)?;
            if mode_name(&spec) != mode_name(&service.spec) {
                return Err(Refusal::unimplemented("service mode change is not allowed"));
            }
            updated.ports = allocate_ports(state, Some(service), &spec)?;
            if spec.task_template != service.spec.task_template {
                // Versions of the object only grow and are above every number given here before.
                updated.spec_version = version
                    .max(service.spec_version.saturating_add(1))
                    .max(service.previous_spec_version.saturating_add(1));
            }
            updated.previous_spec = Some(service.spec.clone());
            updated.previous_spec_version = service.spec_version;
            updated.spec = spec;
            updated.update_status = None;
        }
    }
    Ok(put(updated, at))
}

/// Removes a service; the orchestrator then shuts its tasks down.
pub fn remove_service(state: &State, reference: &str, at: Timestamp) -> Result<Transaction, Refusal> {
    let service = find::service(state, reference)?;
    Ok(Transaction { at, changes: vec![Change::Remove(Kind::Service, service.meta.id.clone())] })
}

/// The spec with what clients may leave out filled in, after all checks.
fn checked(state: &State, mut spec: ServiceSpec) -> Result<ServiceSpec, Refusal> {
    normalize(&mut spec);
    check_spec(&spec)?;
    check_references(state, &mut spec)?;
    Ok(spec)
}

fn put(service: Service, at: Timestamp) -> Transaction {
    Transaction { at, changes: vec![Change::PutService(Box::new(service))] }
}

fn mode_name(spec: &ServiceSpec) -> &'static str {
    let mode = &spec.mode;
    match (&mode.global, &mode.replicated_job, &mode.global_job) {
        (Some(_), ..) => "global",
        (_, Some(_), _) => "replicated job",
        (_, _, Some(_)) => "global job",
        _ => "replicated",
    }
}

#[cfg(test)]
#[path = "service_test.rs"]
mod tests;
