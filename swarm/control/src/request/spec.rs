//! Checks of a service spec (swarmkit `manager/controlapi/service.go`, `common.go`), in swarmkit's order and words.

use std::collections::BTreeSet;

use skep_state::spec::{
    EndpointSpec, Placement, PublishMode, ReplicatedService, ResolutionMode, ResourceRequirements,
    ServiceSpec, UpdateConfig,
};
use skep_state::{Network, State};

use super::container::check_container;
use super::{Refusal, find};

/// The longest name of a service: a DNS label (RFC 1035, section 2.3.4).
const NAME_LENGTH_MAX: usize = 63;
/// The least CPU that may be asked for, in billionths.
const NANO_CPUS_MIN: i64 = 1_000_000;
/// The least memory that may be asked for, in bytes.
const MEMORY_BYTES_MIN: i64 = 4 * 1024 * 1024;
/// The most tasks of one service: far above what the store is made for, far below what would fill it.
const REPLICAS_MAX: u64 = 100_000;

/// Brings a spec into the form in which it is stored.
///
/// What clients may leave out is filled in: replicated mode, and 1 replica (`stack deploy` sends `{"Replicated":{}}`,
/// and the command line cannot show a service without a number). What the API adds on every read is taken out, because
/// clients send back what they have read: else scaling a service would look like a change of its task template.
pub(super) fn normalize(spec: &mut ServiceSpec) {
    let mode = &mut spec.mode;
    if mode.replicated.is_none()
        && mode.global.is_none()
        && mode.replicated_job.is_none()
        && mode.global_job.is_none()
    {
        mode.replicated = Some(ReplicatedService::default());
    }
    if let Some(replicated) = &mut mode.replicated {
        replicated.replicas.get_or_insert(1);
    }
    if let Some(job) = &mut mode.replicated_job {
        let at_once = *job.max_concurrent.get_or_insert(1);
        job.total_completions.get_or_insert(at_once);
    }
    let task = &mut spec.task_template;
    if task.runtime == "container" {
        task.runtime.clear();
    }
    if task.container_spec.isolation == "default" {
        task.container_spec.isolation.clear();
    }
}

/// Checks a spec by itself.
pub(super) fn check_spec(spec: &ServiceSpec) -> Result<(), Refusal> {
    check_name(&spec.name)?;
    let task = &spec.task_template;
    if let Some(resources) = &task.resources {
        check_resources(resources)?;
    }
    if let Some(placement) = &task.placement {
        check_placement(placement)?;
    }
    if !task.runtime.is_empty() || task.plugin_spec.is_some() || task.network_attachment_spec.is_some() {
        return Err(Refusal::unimplemented("RuntimeUnsupported: only containers can be run as tasks"));
    }
    check_container(&task.container_spec)?;
    for update in spec.update_config.iter().chain(&spec.rollback_config) {
        check_update_config(update)?;
    }
    if let Some(endpoint) = &spec.endpoint_spec {
        check_endpoint(endpoint)?;
    }
    check_mode(spec)
}

/// Checks what a spec refers to, and writes the IDs of networks in place of their names.
pub(super) fn check_references(state: &State, spec: &mut ServiceSpec) -> Result<(), Refusal> {
    // The deprecated place and the new one say the same.
    for attachment in spec.networks.iter_mut().chain(&mut spec.task_template.networks) {
        let network: &Network = find::network(state, &attachment.target)?;
        if network.ingress {
            return Err(Refusal::invalid(format!(
                "Service cannot be explicitly attached to the ingress network {:?}",
                network.name
            )));
        }
        attachment.target = network.meta.id.clone();
    }
    let container = &spec.task_template.container_spec;
    let missing = |kind: &str, names: Vec<&str>| match names.as_slice() {
        [] => Ok(()),
        [name] => Err(Refusal::invalid(format!("{kind} not found: {name}"))),
        names => Err(Refusal::invalid(format!("{kind}s not found: {}", names.join(", ")))),
    };
    let secrets = container.secrets.iter().filter(|reference| {
        state.secrets.get(&reference.secret_id).is_none_or(|secret| secret.spec.name != reference.secret_name)
    });
    missing("secret", secrets.map(|reference| reference.secret_name.as_str()).collect())?;
    let configs = container.configs.iter().filter(|reference| {
        state.configs.get(&reference.config_id).is_none_or(|config| config.spec.name != reference.config_name)
    });
    missing("config", configs.map(|reference| reference.config_name.as_str()).collect())
}

/// A DNS label, with underscores as swarmkit allows them: `^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`.
fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::invalid("meta: name must be provided"));
    }
    let word = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let all = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if !all || !word(name.bytes().next()) || !word(name.bytes().next_back()) {
        return Err(Refusal::invalid("name must be valid as a DNS name component"));
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err(Refusal::invalid(format!("name must be {NAME_LENGTH_MAX} characters or fewer")));
    }
    Ok(())
}

fn check_resources(resources: &ResourceRequirements) -> Result<(), Refusal> {
    let limits = resources.limits.as_ref().map(|limit| (limit.nano_cpus, limit.memory_bytes));
    let reserved = resources.reservations.as_ref().map(|amount| (amount.nano_cpus, amount.memory_bytes));
    for (nano_cpus, memory_bytes) in limits.into_iter().chain(reserved) {
        if nano_cpus != 0 && nano_cpus < NANO_CPUS_MIN {
            return Err(Refusal::invalid(format!(
                "invalid cpu value {}: Must be at least {}",
                nano_cpus as f64 / 1e9,
                NANO_CPUS_MIN as f64 / 1e9
            )));
        }
        if memory_bytes != 0 && memory_bytes < MEMORY_BYTES_MIN {
            return Err(Refusal::invalid(format!(
                "invalid memory value {memory_bytes}: Must be at least 4MiB"
            )));
        }
    }
    if resources.limits.as_ref().is_some_and(|limit| limit.pids < 0) {
        return Err(Refusal::invalid("invalid pids limit: Must not be below 0"));
    }
    Ok(())
}

fn check_placement(placement: &Placement) -> Result<(), Refusal> {
    for constraint in &placement.constraints {
        let Some((key, value)) = constraint.split_once("==").or_else(|| constraint.split_once("!=")) else {
            return Err(Refusal::invalid("constraint expected one operator from ==, !="));
        };
        let (key, value) = (key.trim(), value.trim());
        let mut letters = key.bytes();
        let valid = letters.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
            && key.len() > 1
            && letters.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !valid {
            return Err(Refusal::invalid(format!("key '{key}' is invalid")));
        }
        if value.is_empty() {
            return Err(Refusal::invalid(format!("value '{value}' is invalid")));
        }
    }
    Ok(())
}

fn check_update_config(update: &UpdateConfig) -> Result<(), Refusal> {
    if !(0.0..=1.0).contains(&update.max_failure_ratio) {
        return Err(Refusal::invalid(
            "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
        ));
    }
    Ok(())
}

fn check_endpoint(endpoint: &EndpointSpec) -> Result<(), Refusal> {
    let mut published = BTreeSet::new();
    for port in &endpoint.ports {
        if endpoint.mode == Some(ResolutionMode::Dnsrr) && port.publish_mode == PublishMode::Ingress {
            return Err(Refusal::invalid(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ));
        }
        if port.target_port == 0 {
            return Err(Refusal::invalid("EndpointSpec: a target port must be from 1 to 65535"));
        }
        if port.published_port != 0 && !published.insert((port.protocol, port.published_port)) {
            return Err(Refusal::invalid("EndpointSpec: duplicate published ports provided"));
        }
    }
    Ok(())
}

fn check_mode(spec: &ServiceSpec) -> Result<(), Refusal> {
    let mode = &spec.mode;
    let given = [
        mode.replicated.is_some(),
        mode.global.is_some(),
        mode.replicated_job.is_some(),
        mode.global_job.is_some(),
    ];
    if given.into_iter().filter(|given| *given).count() != 1 {
        return Err(Refusal::invalid("must specify one mode (replicated or global), not several"));
    }
    let job = mode.replicated_job.as_ref();
    if (job.is_some() || mode.global_job.is_some()) && spec.update_config.is_some() {
        return Err(Refusal::invalid("update config is not allowed for a job: its tasks are not updated"));
    }
    let counts =
        [spec.replicas(), job.and_then(|job| job.total_completions), job.and_then(|job| job.max_concurrent)];
    if let Some(replicas) = counts.into_iter().flatten().find(|count| *count > REPLICAS_MAX) {
        return Err(Refusal::invalid(format!(
            "invalid replica count {replicas}: must be at most {REPLICAS_MAX}"
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "spec_test.rs"]
mod tests;
