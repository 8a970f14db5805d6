//! When a task that ended, or whose node must be left, gets a successor, and when the successor may start.
//!
//! ```text
//! live (desired <= running) --ended by itself--> desired shutdown --policy says yes--> successor, after the delay
//!                           |                                    `--policy says no--> the slot stays as it is
//!                           `--node down, gone or drained, constraint broken--> desired shutdown -> successor at once
//! successor: desired ready --delay over and predecessor stopped (or its node lost, or 1 min waited)--> running
//! ```
//!
//! The number of restarts is not stored: it is the number of ended tasks in the slot, which the reaper keeps for as
//! long as the policy needs them.

use std::time::Duration;

use skep_state::spec::RestartCondition;
use skep_state::{Service, Task, TaskState};

use crate::draft::{Draft, TaskRef};
use crate::node::{is_lost, must_be_left};
use crate::service::{Mode, placement_holds};
use crate::slot::{Slot, SlotKey, Slots, refresh};

/// The restart delay where the service names none (swarmkit `api/defaults/service.go`).
const DEFAULT_DELAY: Duration = Duration::from_secs(5);

/// A successor waits no longer than this for its predecessor to stop (swarmkit `restart/restart.go`).
const OLD_TASK_TIMEOUT: Duration = Duration::from_secs(60);

/// Shuts down what ended or cannot stay where it is. `false` when the draft is full.
pub(crate) fn sweep(draft: &mut Draft<'_>, service: &Service, slots: &mut Slots) -> bool {
    let job = Mode::of(&service.spec).is_job();
    for slot in slots.values_mut() {
        let mut touched = false;
        for task_ref in slot.live(draft) {
            let task = draft.task(task_ref);
            let node = draft.node_of(task_ref);
            let placed = !task.node_id.is_empty();
            let done = if job && task.status.state == TaskState::Complete {
                draft.edit(task_ref, |task| task.desired_state = TaskState::Complete)
            } else if task.status.state.is_terminal()
                || placed && must_be_left(node)
                || placed && node.is_some_and(|node| !placement_holds(&task.spec, node))
            {
                draft.shut_down(task_ref)
            } else {
                continue;
            };
            if !done {
                return false;
            }
            touched = true;
        }
        if touched {
            refresh(draft, slot);
        }
    }
    true
}

/// Fills a slot in which nothing shall run any more, if the policy allows. `false` when the draft is full.
pub(crate) fn replace(draft: &mut Draft<'_>, service: &Service, key: &SlotKey, slot: &mut Slot) -> bool {
    if !slot.live(draft).is_empty() {
        return true;
    }
    if !should_restart(draft, service, slot) {
        return true;
    }
    let start_after =
        slot.latest().and_then(|latest| delay_after(draft, latest)).map(|delay| draft.now.plus(delay));
    let Some(made) = draft.create(service, key.0, &key.1, TaskState::Ready) else { return false };
    draft.edit(made, |task| task.start_after = start_after);
    slot.tasks.push(made);
    true
}

/// Lets waiting tasks run when nothing holds them back any more, and asks to be woken when something still does.
/// `false` when the draft is full.
pub(crate) fn release(draft: &mut Draft<'_>, slots: &Slots) -> bool {
    for slot in slots.values() {
        for task_ref in slot.live(draft) {
            let task = draft.task(task_ref);
            if task.desired_state == TaskState::Running {
                continue;
            }
            if let Some(start_after) = task.start_after
                && start_after > draft.now
            {
                draft.wake(start_after);
                continue;
            }
            let patience = draft.created_at(task_ref).plus(OLD_TASK_TIMEOUT);
            if patience > draft.now && predecessor_runs(draft, slot) {
                draft.wake(patience);
                continue;
            }
            if !draft.edit(task_ref, |task| task.desired_state = TaskState::Running) {
                return false;
            }
        }
    }
    true
}

/// Whether the newest task of a slot shall have a successor by its restart policy.
pub(crate) fn should_restart(draft: &Draft<'_>, service: &Service, slot: &Slot) -> bool {
    let Some(latest_ref) = slot.latest() else { return true };
    let latest = draft.task(latest_ref);
    let mode = Mode::of(&service.spec);
    let by_itself = ended_by_itself(latest);
    let policy = latest.spec.restart_policy.clone().unwrap_or_default();
    match policy.condition.unwrap_or_default() {
        // A global service follows its nodes: one that comes back gets its task, whatever the policy.
        RestartCondition::None if by_itself || !mode.is_per_node() => return false,
        RestartCondition::OnFailure if latest.status.state == TaskState::Complete => return false,
        RestartCondition::Any if mode.is_job() && latest.status.state == TaskState::Complete => return false,
        _ => {}
    }
    let max_attempts = policy.max_attempts.unwrap_or(0);
    if max_attempts == 0 || !by_itself {
        return true;
    }
    // The leader's clock, not the agents': each ended task is last changed when its end is committed.
    let ended = latest.meta.updated_at;
    let window = policy.window.filter(|&window| window > 0).map(Duration::from_nanos);
    let restarts = slot
        .tasks
        .iter()
        .filter(|&&task_ref| task_ref != latest_ref)
        .map(|&task_ref| draft.task(task_ref))
        .filter(|task| task.spec_version == latest.spec_version && ended_by_itself(task))
        .filter(|task| window.is_none_or(|window| ended.since(task.meta.updated_at) <= window))
        .count();
    u64::try_from(restarts).is_ok_and(|restarts| restarts < max_attempts)
}

/// How long the successor of a task waits; `None` when it need not.
pub(crate) fn delay_after(draft: &Draft<'_>, latest: TaskRef) -> Option<Duration> {
    let task = draft.task(latest);
    if !ended_by_itself(task) || must_be_left(draft.node_of(latest)) {
        return None;
    }
    let given = task.spec.restart_policy.as_ref().and_then(|policy| policy.delay);
    Some(given.map_or(DEFAULT_DELAY, Duration::from_nanos)).filter(|delay| !delay.is_zero())
}

/// Whether a task came to its end without being told to.
pub(crate) fn ended_by_itself(task: &Task) -> bool {
    matches!(task.status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected)
}

/// Whether a task of the slot that shall stop has not stopped yet.
fn predecessor_runs(draft: &Draft<'_>, slot: &Slot) -> bool {
    slot.tasks.iter().chain(&slot.leaving).any(|&task_ref| {
        let task = draft.task(task_ref);
        draft.exists(task_ref)
            && task.desired_state > TaskState::Running
            && !task.status.state.is_terminal()
            && task.status.state >= TaskState::Assigned
            && !is_lost(draft.node_of(task_ref))
    })
}
