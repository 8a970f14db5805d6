//! The best of the nodes that suit.

use std::collections::BTreeMap;

use skep_state::Task;

use super::filter::Wanted;
use super::load::Load;
use super::tasks_of_service;
use crate::constraint;

/// From so many recent failures of a service version on, a node is taken only when no other will do (swarmkit
/// `manager/scheduler/scheduler.go`).
const MAX_FAILURES: usize = 5;

/// The node for a task among the `suitable` ones (indexes into `loads`).
pub(super) fn choose(
    task: &Task,
    wanted: &Wanted,
    loads: &[Load<'_>],
    mut suitable: Vec<usize>,
) -> Option<usize> {
    for preference in &wanted.placement().preferences {
        let Some(spread) = &preference.spread else { continue };
        suitable = least_used_branch(&spread.spread_descriptor, wanted, loads, suitable);
    }
    let failures_key = (wanted.service_id.clone(), wanted.spec_version);
    // Equal nodes take turns: the order starts at another node for each service and slot.
    let turn = hash(&wanted.service_id).wrapping_add(task.slot);
    let count = loads.len() as u64;
    suitable.into_iter().min_by_key(|&index| {
        let load = &loads[index];
        let failures = load.failures.get(&failures_key).copied().unwrap_or(0);
        let weighed_down = if failures >= MAX_FAILURES { failures } else { 0 };
        let place = (index as u64).wrapping_sub(turn) % count.max(1);
        (weighed_down, tasks_of_service(load, &wanted.service_id), load.tasks, place)
    })
}

/// Of the groups of nodes that share a label's value, the one with the fewest tasks of the service. Nodes without the
/// label are one group; an unknown descriptor makes one group of all.
fn least_used_branch(
    descriptor: &str,
    wanted: &Wanted,
    loads: &[Load<'_>],
    suitable: Vec<usize>,
) -> Vec<usize> {
    let mut branches: BTreeMap<&str, (usize, Vec<usize>)> = BTreeMap::new();
    for index in suitable {
        let load = &loads[index];
        let value = constraint::label(load.node, descriptor).unwrap_or("");
        let (used, nodes) = branches.entry(value).or_default();
        *used += tasks_of_service(load, &wanted.service_id);
        nodes.push(index);
    }
    branches.into_values().min_by_key(|(used, _)| *used).map(|(_, nodes)| nodes).unwrap_or_default()
}

/// FNV-1a: the same on every manager and in every version, which the standard hasher does not promise.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
