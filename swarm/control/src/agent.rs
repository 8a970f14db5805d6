//! What agents are told, and what they tell.

use skep_state::{State, Task, TaskState, TaskStatus};

/// The tasks that a node must know: everything assigned to it that is not reaped yet, ended tasks included (their
/// logs stay with them). A task that is no longer here must be stopped and forgotten by the node.
///
/// Ordered by task ID.
pub fn assignments_for<'a>(state: &'a State, node_id: &str) -> Vec<&'a Task> {
    state
        .tasks
        .values()
        .filter(|task| task.node_id == node_id && task.status.state >= TaskState::Assigned)
        .collect()
}

/// The task with an agent's report applied, or `None` when the report brings nothing forward.
///
/// States only grow and an ended task stays as it ended, so late and repeated reports do no harm. A report of the
/// state that the task has already may bring a new message or container, and keeps the time of the first.
pub fn task_status_update(task: &Task, reported: TaskStatus) -> Option<Task> {
    let current = &task.status;
    let not_given_out = current.state < TaskState::Assigned;
    let not_an_agents_word = reported.state < TaskState::Assigned
        || matches!(reported.state, TaskState::Orphaned | TaskState::Remove);
    if not_given_out || not_an_agents_word || current.state.is_terminal() || reported.state < current.state {
        return None;
    }
    let mut status = reported;
    if status.container_status.is_none() {
        status.container_status.clone_from(&current.container_status);
    }
    if status.state == current.state {
        status.timestamp = current.timestamp;
        if status == *current {
            return None;
        }
    }
    let mut updated = task.clone();
    if status.state == TaskState::Running && updated.running_since.is_none() {
        updated.running_since = Some(status.timestamp);
    }
    updated.status = status;
    Some(updated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_state::Timestamp;

    fn task(state: TaskState) -> Task {
        let mut task = Task::default();
        task.status.state = state;
        task.status.timestamp = Timestamp::from_nanos(1);
        task
    }

    fn report(state: TaskState) -> TaskStatus {
        TaskStatus { state, timestamp: Timestamp::from_nanos(5), ..TaskStatus::default() }
    }

    #[test]
    fn reports_only_move_a_task_forward() {
        let running = task_status_update(&task(TaskState::Starting), report(TaskState::Running)).unwrap();
        assert_eq!(running.running_since, Some(Timestamp::from_nanos(5)));
        assert_eq!(task_status_update(&running, report(TaskState::Starting)), None);
        assert_eq!(task_status_update(&running, report(TaskState::Running)), None);
        assert_eq!(task_status_update(&task(TaskState::Shutdown), report(TaskState::Failed)), None);
        assert_eq!(task_status_update(&task(TaskState::Pending), report(TaskState::Running)), None);
        assert_eq!(task_status_update(&running, report(TaskState::Remove)), None);
    }

    #[test]
    fn a_message_within_a_state_keeps_the_time() {
        let mut said = report(TaskState::Preparing);
        said.message = "pulling".to_owned();
        let updated = task_status_update(&task(TaskState::Preparing), said).unwrap();
        assert_eq!(updated.status.message, "pulling");
        assert_eq!(updated.status.timestamp, Timestamp::from_nanos(1));
    }
}
