//! Which node a task gets.
//!
//! ```text
//! pending --a node passes all filters--> assigned
//!    `--none does--> pending, the reason in `status.err`; tried again at every tick
//! ```
//!
//! Filters first, in one array, each able to explain itself; then the node with the fewest tasks of the service, then
//! the fewest in all. Reservations count, usage does not. Nothing is moved once it is placed.

mod filter;
mod load;
mod spread;

use std::collections::BTreeMap;

use skep_state::{TaskState, TaskStatus};

use crate::allocator;
use crate::draft::{Draft, TaskRef};

pub(crate) use filter::platform_suits;
use filter::{Wanted, explain};
use load::Load;

/// Gives nodes to the tasks that wait for one.
pub(crate) fn run(draft: &mut Draft<'_>) {
    let waiting: Vec<TaskRef> = draft
        .tasks()
        .filter(|(_, task)| {
            task.status.state == TaskState::Pending && task.desired_state <= TaskState::Running
        })
        .filter(|(_, task)| !allocator::lacks_address(draft, task))
        .map(|(task, _)| task)
        .collect();
    if waiting.is_empty() {
        return;
    }
    let mut loads = load::read(draft);
    // What the static filters say of each node, for tasks of one service made from one spec.
    let mut groups: BTreeMap<(String, u64), Wanted> = BTreeMap::new();
    for task_ref in waiting {
        let task = draft.task(task_ref);
        let key = (task.service_id.clone(), task.spec_version);
        let known = groups.get(&key).is_some_and(|wanted| wanted.is_for(&task.spec));
        if !known {
            let wanted = Wanted::of(task, draft.service(&task.service_id), &loads);
            groups.insert(key.clone(), wanted);
        }
        let Some(wanted) = groups.get(&key) else { continue };
        let mut refusals = [0; filter::FILTERS.len()];
        let mut suitable: Vec<usize> = Vec::with_capacity(loads.len());
        for (index, load) in loads.iter().enumerate() {
            if !task.node_id.is_empty() && task.node_id != load.node.meta.id {
                continue;
            }
            match wanted.first_refusal(index, load) {
                None => suitable.push(index),
                Some(refusal) => refusals[refusal] += 1,
            }
        }
        let now = draft.now;
        let chosen = spread::choose(task, wanted, &loads, suitable);
        let done = match chosen {
            Some(index) => {
                let node_id = loads[index].node.meta.id.clone();
                let done = draft.edit(task_ref, |task| {
                    task.node_id = node_id;
                    task.status = TaskStatus {
                        state: TaskState::Assigned,
                        timestamp: now,
                        message: "scheduler assigned task to node".to_owned(),
                        ..TaskStatus::default()
                    };
                });
                if done {
                    loads[index].add(wanted);
                }
                done
            }
            None => {
                let reason = explain(&refusals);
                draft.edit(task_ref, |task| {
                    if task.status.err != reason {
                        task.status.err = reason;
                        task.status.timestamp = now;
                    }
                })
            }
        };
        if !done {
            return;
        }
    }
}

/// Looks up what one service has on a node.
fn tasks_of_service(load: &Load<'_>, service_id: &str) -> usize {
    load.by_service.get(service_id).copied().unwrap_or(0)
}
