//! What a service is made of, and how it fares.

use skep_state::spec::ServiceSpec;
use skep_state::{Node, Service, State, Task, TaskState};

use crate::{constraint, node};

/// The mode of a service with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A number of tasks.
    Replicated {
        /// How many.
        replicas: u64,
    },
    /// One task on every eligible node.
    Global,
    /// A number of tasks that run to completion.
    ReplicatedJob {
        /// How many at once.
        max_concurrent: u64,
        /// How many in all.
        total: u64,
    },
    /// One task on every eligible node, run to completion.
    GlobalJob,
}

impl Mode {
    /// The mode that a spec asks for; replicated with one task when it names none.
    pub fn of(spec: &ServiceSpec) -> Self {
        let mode = &spec.mode;
        if mode.global.is_some() {
            Self::Global
        } else if mode.global_job.is_some() {
            Self::GlobalJob
        } else if let Some(job) = &mode.replicated_job {
            let max_concurrent = job.max_concurrent.unwrap_or(1);
            Self::ReplicatedJob { max_concurrent, total: job.total_completions.unwrap_or(max_concurrent) }
        } else {
            let replicas = mode.replicated.as_ref().and_then(|replicated| replicated.replicas).unwrap_or(1);
            Self::Replicated { replicas }
        }
    }

    /// Whether its tasks belong to nodes rather than to numbered slots.
    pub fn is_per_node(self) -> bool {
        matches!(self, Self::Global | Self::GlobalJob)
    }

    /// Whether its tasks run to completion.
    pub fn is_job(self) -> bool {
        matches!(self, Self::ReplicatedJob { .. } | Self::GlobalJob)
    }
}

/// How many tasks a service has, for `service ls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceStatus {
    /// Running now and meant to.
    pub running: u64,
    /// Meant to run: the replicas, the nodes with a task, or the tasks at once of a job.
    pub desired: u64,
    /// Ended well, of a job's present iteration.
    pub completed: u64,
}

/// Counts the tasks of a service. A task on a node that is down does not run, whatever it last said.
pub fn service_status(state: &State, service: &Service) -> ServiceStatus {
    let mode = Mode::of(&service.spec);
    let mut status = ServiceStatus::default();
    for task in state.tasks_of(&service.meta.id) {
        let wanted = task.desired_state == TaskState::Running;
        if wanted && task.status.state == TaskState::Running && !node::is_lost(state.nodes.get(&task.node_id))
        {
            status.running += 1;
        }
        if mode.is_job() && task.status.state == TaskState::Complete && is_current(service, task) {
            status.completed += 1;
        }
        if mode.is_per_node()
            && task.desired_state <= TaskState::Complete
            && (!mode.is_job() || is_current(service, task))
        {
            status.desired += 1;
        }
    }
    match mode {
        Mode::Replicated { replicas } => status.desired = replicas,
        Mode::ReplicatedJob { max_concurrent, .. } => status.desired = max_concurrent,
        Mode::Global | Mode::GlobalJob => {}
    }
    status
}

/// Whether a task runs something else than its service now asks for (swarmkit `orchestrator.IsTaskDirty`).
///
/// Only the task template counts: replicas, ports and update settings restart nothing. Nor does a change of the
/// placement alone while `node`, the task's, still satisfies it. The API's `_up-to-date` filter shows the others.
pub fn is_task_dirty(service: &Service, task: &Task, node: Option<&Node>) -> bool {
    let wanted = &service.spec.task_template;
    if task.spec == *wanted {
        return false;
    }
    let placement_alone = {
        let mut placed = task.spec.clone();
        placed.placement.clone_from(&wanted.placement);
        placed == *wanted
    };
    if !placement_alone {
        return true;
    }
    // A task that has no node yet can be scheduled by the rules it has; only what runs is worth keeping.
    !node.is_some_and(|node| placement_holds(wanted, node))
}

/// Whether a node satisfies the constraints of a task spec.
pub(crate) fn placement_holds(spec: &skep_state::spec::TaskSpec, node: &Node) -> bool {
    spec.placement.as_ref().is_none_or(|placement| constraint::all_match(&placement.constraints, node))
}

/// Whether a task belongs to the present iteration of a job.
pub(crate) fn is_current(service: &Service, task: &Task) -> bool {
    task.spec == service.spec.task_template
}
