//! Tasks of which nobody will ever report: their node is gone, or down for too long.

use std::time::Duration;

use skep_state::{NodeState, TaskState};

use crate::draft::{Draft, TaskRef};

/// How long a node may be down before its tasks are given up (swarmkit `manager/dispatcher/dispatcher.go`).
const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Marks lost tasks as orphaned: their addresses and places in the history become free.
pub(crate) fn run(draft: &mut Draft<'_>) {
    let running: Vec<TaskRef> = draft
        .tasks()
        .filter(|(_, task)| task.status.state >= TaskState::Assigned && !task.status.state.is_terminal())
        .map(|(task, _)| task)
        .collect();
    for task in running {
        let orphaned = match draft.node_of(task) {
            None => true,
            Some(node) if node.status.state == NodeState::Down => {
                let deadline = node.meta.updated_at.plus(ORPHAN_AFTER);
                draft.wake(deadline);
                draft.now >= deadline
            }
            Some(_) => false,
        };
        let now = draft.now;
        if orphaned
            && !draft.edit(task, |task| {
                task.status.state = TaskState::Orphaned;
                task.status.timestamp = now;
                "the node of the task is gone".clone_into(&mut task.status.message);
            })
        {
            return;
        }
    }
}
