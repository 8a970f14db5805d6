//! Jobs: tasks that run to completion. A change of the task template (`--force` too) starts a new iteration.

use skep_state::{Service, TaskState};

use crate::draft::Draft;
use crate::slot::{Slot, Slots, group, refresh};
use crate::{global, restart, service};

/// A number of completions, a number of tasks at once.
pub(crate) fn run_replicated(draft: &mut Draft<'_>, service: &Service, max_concurrent: u64, total: u64) {
    let mut slots = group(draft, &service.meta.id, false);
    if !restart::sweep(draft, service, &mut slots) || !end_iterations(draft, service, &mut slots) {
        return;
    }
    let mut live = slots.values().filter(|slot| !slot.live(draft).is_empty()).count() as u64;
    for number in 1..=total {
        if live >= max_concurrent {
            break;
        }
        let key = (number, String::new());
        let slot = slots.entry(key.clone()).or_default();
        if !slot.live(draft).is_empty() || is_done(draft, service, slot) {
            continue;
        }
        let before = slot.tasks.len();
        if !fill(draft, service, &key, slot) {
            return;
        }
        live += u64::from(slot.tasks.len() > before);
    }
    restart::release(draft, &slots);
}

/// One completion on every node.
pub(crate) fn run_global(draft: &mut Draft<'_>, service: &Service) {
    let mut slots = group(draft, &service.meta.id, true);
    if !restart::sweep(draft, service, &mut slots)
        || !end_iterations(draft, service, &mut slots)
        || !global::leave_others(draft, service, &mut slots)
    {
        return;
    }
    for node in draft.state.nodes.values().filter(|node| global::takes_tasks(service, node)) {
        let key = (0, node.meta.id.clone());
        let slot = slots.entry(key.clone()).or_default();
        if slot.live(draft).is_empty() && !is_done(draft, service, slot) && !fill(draft, service, &key, slot)
        {
            return;
        }
    }
    restart::release(draft, &slots);
}

/// Discards the running tasks of earlier iterations. `false` when the draft is full.
fn end_iterations(draft: &mut Draft<'_>, service: &Service, slots: &mut Slots) -> bool {
    for slot in slots.values_mut() {
        for task in slot.live(draft) {
            if !service::is_current(service, draft.task(task)) && !draft.discard(task) {
                return false;
            }
        }
        refresh(draft, slot);
    }
    true
}

fn is_done(draft: &Draft<'_>, service: &Service, slot: &Slot) -> bool {
    slot.tasks
        .iter()
        .map(|&task| draft.task(task))
        .any(|task| task.status.state == TaskState::Complete && service::is_current(service, task))
}

/// Makes a task in an empty slot: by the restart policy, or at once when the iteration has none there yet.
fn fill(draft: &mut Draft<'_>, service: &Service, key: &(u64, String), slot: &mut Slot) -> bool {
    let latest = slot.latest().map(|task| draft.task(task));
    if latest.is_some_and(|task| service::is_current(service, task)) {
        return restart::replace(draft, service, key, slot);
    }
    let Some(made) = draft.create(service, key.0, &key.1, TaskState::Ready) else { return false };
    slot.tasks.push(made);
    true
}
