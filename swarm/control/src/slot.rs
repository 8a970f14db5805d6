//! Slots: the places of a service, each with the tasks that have held it.

use std::collections::BTreeMap;

use skep_state::TaskState;

use crate::draft::{Draft, TaskRef};

/// Where a task belongs: its number in a replicated service, its node in a global one (the other is 0 or empty).
pub(crate) type SlotKey = (u64, String);

/// The slots of a service.
pub(crate) type Slots = BTreeMap<SlotKey, Slot>;

/// One slot.
#[derive(Debug, Default, Clone)]
pub(crate) struct Slot {
    /// Its tasks, oldest first, without those that are to be forgotten.
    pub(crate) tasks: Vec<TaskRef>,
    /// Tasks to be forgotten; some may still run.
    pub(crate) leaving: Vec<TaskRef>,
}

impl Slot {
    /// Those that shall run.
    pub(crate) fn live(&self, draft: &Draft<'_>) -> Vec<TaskRef> {
        self.tasks
            .iter()
            .copied()
            .filter(|&task| draft.task(task).desired_state <= TaskState::Running)
            .collect()
    }

    /// The newest.
    pub(crate) fn latest(&self) -> Option<TaskRef> {
        self.tasks.last().copied()
    }
}

/// The slots of a service by number (`by_node` false) or by node.
pub(crate) fn group(draft: &Draft<'_>, service_id: &str, by_node: bool) -> Slots {
    let mut slots = Slots::new();
    for task_ref in draft.tasks_of(service_id) {
        let task = draft.task(task_ref);
        let key = if by_node { (0, task.node_id.clone()) } else { (task.slot, String::new()) };
        let slot: &mut Slot = slots.entry(key).or_default();
        if task.desired_state == TaskState::Remove {
            slot.leaving.push(task_ref);
        } else {
            slot.tasks.push(task_ref);
        }
    }
    for slot in slots.values_mut() {
        // Of tasks made in one transaction (which no tick does in one slot) the ID decides, so that every leader sees
        // the same order.
        slot.tasks.sort_by(|&one, &other| {
            (draft.created_at(one), &draft.task(one).meta.id)
                .cmp(&(draft.created_at(other), &draft.task(other).meta.id))
        });
    }
    slots
}

/// Looks at a slot again after its tasks were changed.
pub(crate) fn refresh(draft: &Draft<'_>, slot: &mut Slot) {
    let (leaving, tasks) = slot
        .tasks
        .iter()
        .copied()
        .filter(|&task| draft.exists(task))
        .partition(|&task| draft.task(task).desired_state == TaskState::Remove);
    slot.tasks = tasks;
    slot.leaving.extend::<Vec<TaskRef>>(leaving);
}
