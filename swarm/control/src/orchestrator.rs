//! From services to tasks.

use skep_state::Service;

use crate::draft::Draft;
use crate::service::Mode;
use crate::{global, job, replicated};

/// Brings the tasks of every service to what the service asks for.
pub(crate) fn run(draft: &mut Draft<'_>) {
    for id in draft.removed_services() {
        for task in draft.tasks_of(&id) {
            if !draft.discard(task) {
                return;
            }
        }
    }
    let ids: Vec<String> = draft.state.services.keys().cloned().collect();
    for id in ids {
        // A rollback changes the spec: the second pass works towards the spec that the first one restored, so that
        // this tick needs no other to follow it.
        for _ in 0..2 {
            let Some(service) = draft.service(&id).cloned() else { break };
            match Mode::of(&service.spec) {
                Mode::Replicated { replicas } => replicated::run(draft, &service, replicas),
                Mode::Global => global::run(draft, &service),
                Mode::ReplicatedJob { max_concurrent, total } => {
                    job::run_replicated(draft, &service, max_concurrent, total);
                }
                Mode::GlobalJob => job::run_global(draft, &service),
            }
            let same = |now: &Service| now.spec == service.spec && now.previous_spec == service.previous_spec;
            if draft.service(&id).is_none_or(same) {
                break;
            }
        }
    }
}
