//! Forgets tasks: those that were to be removed and have ended, and what is beyond the history limit.

use std::collections::BTreeSet;

use skep_state::object::UpdateState;
use skep_state::{Service, TaskState};

use crate::draft::{Draft, TaskRef};
use crate::node::is_lost;
use crate::service::Mode;
use crate::slot::{Slot, group};
use crate::updater;

/// Tasks kept in a slot, the running one among them (swarmkit `manager/manager.go`).
const DEFAULT_HISTORY: i64 = 5;

pub(crate) fn run(draft: &mut Draft<'_>) {
    let leaving: Vec<TaskRef> = draft
        .tasks()
        .filter(|(_, task)| task.desired_state == TaskState::Remove)
        .filter(|(task_ref, task)| {
            task.status.state.is_terminal()
                || task.status.state < TaskState::Assigned
                || is_lost(draft.node_of(*task_ref))
        })
        .map(|(task, _)| task)
        .collect();
    if !leaving.into_iter().all(|task| draft.remove(task)) {
        return;
    }
    let limit = draft
        .state
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.spec.orchestration.task_history_retention_limit)
        .unwrap_or(DEFAULT_HISTORY);
    let ids: Vec<String> = draft.state.services.keys().cloned().collect();
    for id in ids {
        if !reap_history(draft, &id, limit) {
            return;
        }
    }
}

/// `false` when the draft is full.
fn reap_history(draft: &mut Draft<'_>, service_id: &str, limit: i64) -> bool {
    let count = draft.tasks_of(service_id).len();
    // The common case: too few tasks to be beyond any limit.
    if count <= 1 {
        return true;
    }
    let Some(service) = draft.service(service_id).cloned() else { return true };
    for slot in group(draft, service_id, Mode::of(&service.spec).is_per_node()).values() {
        let attempts =
            service.spec.task_template.restart_policy.as_ref().and_then(|policy| policy.max_attempts);
        let limit = match attempts {
            // The restart policy counts the ended tasks.
            Some(attempts) if attempts > 0 => {
                usize::try_from(attempts).unwrap_or(usize::MAX).saturating_add(1)
            }
            _ if limit < 0 => continue,
            _ => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let surplus = slot.tasks.len().saturating_sub(limit);
        if surplus == 0 {
            continue;
        }
        let needed = needed(draft, &service, slot);
        let spare: Vec<TaskRef> = slot
            .tasks
            .iter()
            .copied()
            .filter(|task_ref| {
                let task = draft.task(*task_ref);
                task.desired_state > TaskState::Running
                    && task.status.state.is_terminal()
                    && !needed.contains(&task.meta.id)
            })
            .take(surplus)
            .collect();
        if !spare.into_iter().all(|task| draft.remove(task)) {
            return false;
        }
    }
    true
}

/// What others read from the history: the newest task tells the restart policy why the slot is empty, and two tell
/// the updater what it has done there.
fn needed(draft: &Draft<'_>, service: &Service, slot: &Slot) -> BTreeSet<String> {
    let mut needed = Vec::new();
    if slot.live(draft).is_empty() {
        needed.extend(slot.latest());
    }
    if let Some(status) = &service.update_status
        && matches!(status.state, UpdateState::Updating | UpdateState::RollbackStarted)
        && let Some(started_at) = status.started_at
    {
        needed.extend(updater::last_before_update(draft, slot, started_at));
        needed.extend(updater::task_of_update(draft, service, slot, started_at));
    }
    needed.into_iter().map(|task| draft.task(task).meta.id.clone()).collect()
}
