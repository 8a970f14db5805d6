//! A service (moby `api/types/swarm/service.go`).

use serde::Serialize;
use skep_state::object::UpdateStatus;
use skep_state::spec::{
    DnsConfig, EndpointSpec, FailureAction, NetworkAttachmentConfig, PortConfig, RestartCondition,
    RestartPolicy, ServiceMode, StringMap, TaskSpec, UpdateOrder,
};
use skep_state::{Meta, Timestamp};

/// Docker's defaults, in nanoseconds (swarmkit `api/defaults/service.go`).
const STOP_GRACE_PERIOD: u64 = 10_000_000_000;
const RESTART_DELAY: u64 = 5_000_000_000;
const UPDATE_MONITOR: u64 = 5_000_000_000;

/// A service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Service {
    #[serde(flatten)]
    meta: Meta,
    spec: ServiceSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_spec: Option<ServiceSpec>,
    endpoint: Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_status: Option<UpdateStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_status: Option<ServiceStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_status: Option<JobStatus>,
}

/// Where a job stands. The command line cannot do without it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct JobStatus {
    job_iteration: Iteration,
    last_execution: Timestamp,
}

/// One run of a job: `spec_version` counts them, as every change of a job's task template is a new run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Iteration {
    pub(super) index: u64,
}

/// How many tasks there are and should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceStatus {
    /// That run.
    pub(crate) running_tasks: u64,
    /// That should.
    pub(crate) desired_tasks: u64,
    /// That have done their work (of a job).
    pub(crate) completed_tasks: u64,
}

/// How a service is reached. Published ports have no virtual address here: they are forwarded on every node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    spec: EndpointSpec,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortConfig>,
}

/// A spec as it is read: with what dockerd adds on every read, and on request the defaults.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceSpec {
    name: String,
    labels: StringMap,
    task_template: TaskSpec,
    mode: ServiceMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_config: Option<UpdateConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback_config: Option<UpdateConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    networks: Vec<NetworkAttachmentConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_spec: Option<EndpointSpec>,
}

/// How an update goes; unlike the stored form it always says what happens on failure.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateConfig {
    parallelism: u64,
    #[serde(skip_serializing_if = "is_zero")]
    delay: u64,
    failure_action: FailureAction,
    #[serde(skip_serializing_if = "is_zero")]
    monitor: u64,
    max_failure_ratio: f64,
    order: UpdateOrder,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Service {
    /// The service as clients see it. `defaults` fills in what the user left out.
    pub(crate) fn new(service: &skep_state::Service, defaults: bool, status: Option<ServiceStatus>) -> Self {
        let endpoint = if service.ports.is_empty() {
            Endpoint { spec: EndpointSpec::default(), ports: Vec::new() }
        } else {
            Endpoint {
                spec: service.spec.endpoint_spec.clone().unwrap_or_default(),
                ports: service.ports.clone(),
            }
        };
        Self {
            meta: service.meta.clone(),
            spec: ServiceSpec::new(&service.spec, defaults),
            previous_spec: service.previous_spec.as_ref().map(|spec| ServiceSpec::new(spec, defaults)),
            endpoint,
            update_status: service.update_status.clone(),
            service_status: status,
            job_status: is_job(&service.spec.mode).then_some(JobStatus {
                job_iteration: Iteration { index: service.spec_version },
                last_execution: service.meta.created_at,
            }),
        }
    }
}

impl ServiceSpec {
    fn new(spec: &skep_state::spec::ServiceSpec, defaults: bool) -> Self {
        let mut task_template = read_task_spec(&spec.task_template);
        if task_template.runtime.is_empty() {
            task_template.runtime = "container".to_owned();
        }
        let mut update_config = spec.update_config.as_ref().map(UpdateConfig::from);
        let mut rollback_config = spec.rollback_config.as_ref().map(UpdateConfig::from);
        if defaults {
            let container = &mut task_template.container_spec;
            container.stop_grace_period.get_or_insert(STOP_GRACE_PERIOD);
            container.dns_config.get_or_insert_with(DnsConfig::default);
            let resources = task_template.resources.get_or_insert_default();
            resources.limits.get_or_insert_default();
            resources.reservations.get_or_insert_default();
            let restart = task_template.restart_policy.get_or_insert_with(RestartPolicy::default);
            restart.condition.get_or_insert(RestartCondition::Any);
            restart.delay.get_or_insert(RESTART_DELAY);
            restart.max_attempts.get_or_insert(0);
            task_template.placement.get_or_insert_default();
            update_config.get_or_insert_with(UpdateConfig::docker_default).fill();
            rollback_config.get_or_insert_with(UpdateConfig::docker_default).fill();
        }
        Self {
            name: spec.name.clone(),
            labels: spec.labels.clone(),
            task_template,
            mode: spec.mode.clone(),
            update_config,
            rollback_config,
            networks: spec.networks.clone(),
            endpoint_spec: spec.endpoint_spec.clone(),
        }
    }
}

/// Whether the tasks of a service run to completion.
pub(super) fn is_job(mode: &ServiceMode) -> bool {
    mode.replicated_job.is_some() || mode.global_job.is_some()
}

/// A task template as dockerd shows it.
pub(super) fn read_task_spec(spec: &TaskSpec) -> TaskSpec {
    let mut spec = spec.clone();
    if spec.container_spec.isolation.is_empty() {
        spec.container_spec.isolation = "default".to_owned();
    }
    spec
}

impl UpdateConfig {
    fn docker_default() -> Self {
        Self {
            parallelism: 1,
            delay: 0,
            failure_action: FailureAction::Pause,
            monitor: UPDATE_MONITOR,
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }

    fn fill(&mut self) {
        if self.monitor == 0 {
            self.monitor = UPDATE_MONITOR;
        }
    }
}

impl From<&skep_state::spec::UpdateConfig> for UpdateConfig {
    fn from(config: &skep_state::spec::UpdateConfig) -> Self {
        Self {
            parallelism: config.parallelism,
            delay: config.delay,
            failure_action: config.failure_action,
            monitor: config.monitor,
            max_failure_ratio: config.max_failure_ratio,
            order: config.order,
        }
    }
}
