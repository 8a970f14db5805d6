//! What no commit may break.

use std::collections::{BTreeMap, BTreeSet};

use skep_state::spec::UpdateOrder;
use skep_state::{State, TaskState};

use super::Sim;
use crate::Mode;

pub(super) fn check(before: &State, sim: &Sim) {
    tasks_move_forward(before, sim);
    addresses_are_unique(&sim.state);
    slots_hold_one_task(&sim.state);
    removed_tasks_stay_away(before, sim);
}

/// Task states and desired states only grow, and a task never changes its node.
fn tasks_move_forward(before: &State, sim: &Sim) {
    for (id, task) in &sim.state.tasks {
        let Some(old) = before.tasks.get(id) else { continue };
        assert!(task.status.state >= old.status.state, "task went back: {old:#?} {task:#?}");
        assert!(task.desired_state >= old.desired_state, "desired state went back: {old:#?} {task:#?}");
        assert!(old.node_id.is_empty() || old.node_id == task.node_id, "task moved: {old:#?} {task:#?}");
        assert!(old.networks.is_empty() || old.networks == task.networks, "address changed: {task:#?}");
    }
}

/// No two tasks that have not ended have one address.
fn addresses_are_unique(state: &State) {
    let mut taken = BTreeMap::new();
    for task in state.tasks.values().filter(|task| !task.status.state.is_terminal()) {
        if let Some(address) = task.address()
            && let Some(other) = taken.insert(address, &task.meta.id)
        {
            panic!("{address} given to {other} and {}", task.meta.id);
        }
    }
}

/// One task of a slot shall run; two while a start-first update is under way there.
fn slots_hold_one_task(state: &State) {
    for service in state.services.values() {
        let start_first = [&service.spec.update_config, &service.spec.rollback_config]
            .into_iter()
            .flatten()
            .any(|config| config.order == UpdateOrder::StartFirst);
        let by_node = Mode::of(&service.spec).is_per_node();
        let mut live: BTreeMap<(u64, &str), usize> = BTreeMap::new();
        for task in state.tasks_of(&service.meta.id) {
            if task.desired_state <= TaskState::Running {
                let key = if by_node { (0, task.node_id.as_str()) } else { (task.slot, "") };
                *live.entry(key).or_default() += 1;
            }
        }
        for (slot, count) in live {
            // A slot may still hold both when the order is changed in the middle of an update.
            let allowed = if start_first || service.previous_spec.is_some() { 2 } else { 1 };
            assert!(count <= allowed, "{count} live tasks in slot {slot:?} of {}", service.spec.name);
        }
    }
}

/// Identifiers are not used again, and only tasks that can run no more are forgotten.
fn removed_tasks_stay_away(before: &State, sim: &Sim) {
    let added: BTreeSet<&String> =
        sim.state.tasks.keys().filter(|id| !before.tasks.contains_key(*id)).collect();
    assert!(added.iter().all(|id| !sim.seen.contains_key(*id)), "a task came back");
    for (id, task) in before.tasks.iter().filter(|(id, _)| !sim.state.tasks.contains_key(*id)) {
        let lost = sim
            .state
            .nodes
            .get(&task.node_id)
            .is_none_or(|node| node.status.state == skep_state::NodeState::Down);
        assert!(
            task.status.state.is_terminal() || task.status.state < TaskState::Assigned || lost,
            "task {id} was forgotten while it may run: {task:#?}"
        );
    }
}
