//! Replicated services: a number of slots, from 1.

use std::collections::BTreeMap;

use skep_state::{Service, TaskState};

use crate::draft::Draft;
use crate::slot::{Slots, group, refresh};
use crate::{restart, updater};

pub(crate) fn run(draft: &mut Draft<'_>, service: &Service, replicas: u64) {
    let mut slots = group(draft, &service.meta.id, false);
    // Task-level matters first: what ended is replaced in its slot before slots are counted.
    let _ = restart::sweep(draft, service, &mut slots)
        && scale(draft, service, replicas, &mut slots)
        && slots
            .iter_mut()
            .filter(|(_, slot)| !slot.tasks.is_empty())
            .all(|(key, slot)| restart::replace(draft, service, key, slot))
        && updater::run(draft, service, &mut slots)
        && restart::release(draft, &slots);
}

fn scale(draft: &mut Draft<'_>, service: &Service, replicas: u64, slots: &mut Slots) -> bool {
    let occupied = slots.values().filter(|slot| !slot.tasks.is_empty()).count() as u64;
    if occupied > replicas {
        scale_down(draft, usize::try_from(occupied - replicas).unwrap_or(usize::MAX), slots)
    } else {
        scale_up(draft, service, replicas - occupied, slots)
    }
}

fn scale_up(draft: &mut Draft<'_>, service: &Service, missing: u64, slots: &mut Slots) -> bool {
    let mut number = 0;
    for _ in 0..missing {
        let slot = loop {
            number += 1;
            let slot = slots.entry((number, String::new())).or_default();
            if slot.tasks.is_empty() {
                break slot;
            }
        };
        let Some(made) = draft.create(service, number, "", TaskState::Ready) else { return false };
        slot.tasks.push(made);
    }
    true
}

/// Takes slots away: those that do not run, then those on the nodes with the most tasks of the service, then the
/// highest numbers.
fn scale_down(draft: &mut Draft<'_>, surplus: usize, slots: &mut Slots) -> bool {
    let mut ranked = Vec::new();
    for (key, slot) in slots.iter().filter(|(_, slot)| !slot.tasks.is_empty()) {
        let live = slot.live(draft);
        let runs = live.iter().any(|&task| draft.task(task).status.state == TaskState::Running);
        let node = live.first().map(|&task| draft.task(task).node_id.clone()).unwrap_or_default();
        ranked.push((runs, node, key.clone()));
    }
    // Running ones are counted first on each node, so that the n-th copy is one that can be spared.
    ranked.sort_by_key(|(runs, _, key)| (!runs, key.0));
    let mut on_node: BTreeMap<String, usize> = BTreeMap::new();
    let mut order: Vec<_> = ranked
        .into_iter()
        .map(|(runs, node, key)| {
            let copies = on_node.entry(node).or_default();
            *copies += 1;
            (!runs, *copies, key)
        })
        .collect();
    order.sort_unstable();
    for (_, _, key) in order.into_iter().rev().take(surplus) {
        let Some(slot) = slots.get_mut(&key) else { continue };
        // Whole slots only: of a slot taken away by half the rest would be restarted.
        if !draft.room(slot.tasks.len()) {
            return false;
        }
        for &task in &slot.tasks {
            draft.discard(task);
        }
        refresh(draft, slot);
    }
    true
}
