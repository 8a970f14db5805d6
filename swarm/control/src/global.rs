//! Global services: one task on every node that is up, active and satisfies the constraints.

use skep_state::spec::Availability;
use skep_state::{Node, NodeState, Service, TaskState};

use crate::draft::Draft;
use crate::service::placement_holds;
use crate::slot::{Slots, group, refresh};
use crate::{restart, scheduler, updater};

pub(crate) fn run(draft: &mut Draft<'_>, service: &Service) {
    let mut slots = group(draft, &service.meta.id, true);
    if !restart::sweep(draft, service, &mut slots) || !leave_others(draft, service, &mut slots) {
        return;
    }
    // Nodes that are down, paused or drained are left out: nothing can start there.
    let mut here = Slots::new();
    for node in draft.state.nodes.values().filter(|node| takes_tasks(service, node)) {
        let key = (0, node.meta.id.clone());
        let mut slot = slots.remove(&key).unwrap_or_default();
        if slot.tasks.is_empty() {
            let Some(made) = draft.create(service, 0, &node.meta.id, TaskState::Ready) else { return };
            slot.tasks.push(made);
        } else if !restart::replace(draft, service, &key, &mut slot) {
            return;
        }
        here.insert(key, slot);
    }
    let _ = updater::run(draft, service, &mut here) && restart::release(draft, &here);
}

/// Discards the tasks on nodes that the service is not for any more. `false` when the draft is full.
pub(crate) fn leave_others(draft: &mut Draft<'_>, service: &Service, slots: &mut Slots) -> bool {
    for (key, slot) in slots.iter_mut() {
        let belongs = draft.state.nodes.get(&key.1).is_some_and(|node| belongs(service, node));
        if belongs {
            continue;
        }
        if !slot.tasks.iter().all(|&task| draft.discard(task)) {
            return false;
        }
        refresh(draft, slot);
    }
    true
}

/// Whether a node can be given a task of the service now.
pub(crate) fn takes_tasks(service: &Service, node: &Node) -> bool {
    node.status.state == NodeState::Ready
        && node.spec.availability == Availability::Active
        && belongs(service, node)
}

fn belongs(service: &Service, node: &Node) -> bool {
    let spec = &service.spec.task_template;
    placement_holds(spec, node) && scheduler::platform_suits(spec, node)
}
