//! What this node's tasks are doing, and which of it the leader has yet to hear.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use skep_state::TaskStatus;
use tokio::sync::Notify;

/// The latest status of each task. Bounded by the number of tasks assigned to the node.
#[derive(Debug, Default)]
pub(crate) struct Statuses {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    latest: BTreeMap<String, TaskStatus>,
    unsent: BTreeSet<String>,
}

impl Statuses {
    /// A task is in a new state. States only move forward: an older one is ignored.
    pub(crate) fn set(&self, task_id: &str, status: TaskStatus) {
        let mut inner = self.inner.lock();
        if inner.latest.get(task_id).is_some_and(|known| known.state > status.state) {
            return;
        }
        inner.latest.insert(task_id.to_owned(), status);
        inner.unsent.insert(task_id.to_owned());
        drop(inner);
        self.changed.notify_one();
    }

    /// A task is gone: nobody wants to hear of it any more.
    pub(crate) fn forget(&self, task_id: &str) {
        let mut inner = self.inner.lock();
        inner.latest.remove(task_id);
        inner.unsent.remove(task_id);
    }

    /// A new session: its leader shall hear everything.
    pub(crate) fn resend_all(&self) {
        let mut inner = self.inner.lock();
        inner.unsent = inner.latest.keys().cloned().collect();
        drop(inner);
        self.changed.notify_one();
    }

    /// Waits until there is something to tell and takes it. Of a task that went through several states meanwhile only
    /// the last is told. Cancel-safe: what is taken is returned at once.
    pub(crate) async fn take_unsent(&self) -> Vec<(String, TaskStatus)> {
        loop {
            {
                let mut inner = self.inner.lock();
                let unsent = std::mem::take(&mut inner.unsent);
                let taken: Vec<_> = unsent
                    .into_iter()
                    .filter_map(|id| inner.latest.get(&id).cloned().map(|status| (id, status)))
                    .collect();
                if !taken.is_empty() {
                    return taken;
                }
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_state::TaskState;

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus { state, ..TaskStatus::default() }
    }

    #[tokio::test]
    async fn only_the_last_state_is_told_and_it_never_goes_back() {
        let statuses = Statuses::default();
        statuses.set("t", status(TaskState::Preparing));
        statuses.set("t", status(TaskState::Running));
        statuses.set("t", status(TaskState::Starting));
        let taken = statuses.take_unsent().await;
        assert_eq!(taken, vec![("t".to_owned(), status(TaskState::Running))]);
        statuses.resend_all();
        assert_eq!(statuses.take_unsent().await.len(), 1);
        statuses.forget("t");
        statuses.resend_all();
        statuses.set("u", status(TaskState::Running));
        assert_eq!(statuses.take_unsent().await[0].0, "u");
    }
}
