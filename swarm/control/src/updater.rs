//! Rolling updates.
//!
//! ```text
//!            +-- dirty slots --> updating --all slots clean, monitored--> completed
//! (nothing) -+                      |--failures > ratio, pause--> paused          (a new update leaves it)
//!                                   `--failures > ratio, rollback--> rollback_started --> rollback_completed
//!                                                                          `--failures > ratio--> rollback_paused
//! a slot:   dirty --a worker is free--> new task made (stop-first: old one shut down; start-first: when the new one
//!           runs) --new task runs, delay over--> worker free --monitor over--> settled
//! ```
//!
//! Nothing of an update's progress is stored but its [`UpdateStatus`]; the rest is read from the tasks. The task that
//! an update made in a slot is the oldest one there that is clean and younger than the update, in a slot that is
//! older than it. Times are the leader's (`created_at`, `updated_at`), except how long a task ran before it failed,
//! which its node measured.

use std::collections::BTreeSet;
use std::time::Duration;

use skep_state::object::{UpdateState, UpdateStatus};
use skep_state::spec::{FailureAction, UpdateConfig, UpdateOrder};
use skep_state::{Service, TaskState, Timestamp};

use crate::draft::{Draft, TaskRef};
use crate::service::is_task_dirty;
use crate::slot::{Slot, SlotKey, Slots, refresh};
use crate::{ports, restart};

/// How long an updated task is watched where the service does not say (swarmkit `api/defaults/service.go`).
const DEFAULT_MONITOR: Duration = Duration::from_secs(5);

/// The monitor must outlast the delay, or failures during the delay would go unseen: it is stretched to the delay
/// and this much more.
const MONITOR_MARGIN: Duration = Duration::from_secs(1);

/// Takes the update of a service one step on. `false` when the draft is full.
pub(crate) fn run(draft: &mut Draft<'_>, service: &Service, slots: &mut Slots) -> bool {
    let status = service.update_status.as_ref();
    match status.map(|status| status.state) {
        Some(UpdateState::Paused | UpdateState::RollbackPaused) => return true,
        Some(UpdateState::Updating | UpdateState::RollbackStarted) => {}
        None | Some(UpdateState::Completed | UpdateState::RollbackCompleted) => {
            if !slots.values().any(|slot| is_dirty(draft, service, slot)) {
                return true;
            }
        }
    }
    let started_at = match status {
        Some(UpdateStatus {
            state: UpdateState::Updating | UpdateState::RollbackStarted,
            started_at,
            ..
        }) => *started_at,
        _ => None,
    };
    let Some(started_at) = started_at.or_else(|| start(draft, service)) else { return false };
    let backwards = status.is_some_and(|status| status.state == UpdateState::RollbackStarted);
    let config = Config::of(service, backwards);
    let progress = Progress::read(draft, service, slots, started_at, &config);
    if progress.too_many_failures(&config)
        && let Some(failed) = &progress.last_failure
    {
        return fail(draft, service, backwards, config.failure_action, failed);
    }
    if !advance(draft, service, slots, &config, &progress) {
        return false;
    }
    // What was just done may have left nothing to do: look again before calling it finished.
    let progress = Progress::read(draft, service, slots, started_at, &config);
    match progress.settled_at {
        Some(settled_at) if progress.dirty == 0 && settled_at <= draft.now => complete(draft, service),
        Some(settled_at) if progress.dirty == 0 => {
            draft.wake(settled_at);
            true
        }
        _ => true,
    }
}

/// Whether a slot needs the updater: it should run something else, or runs two tasks.
fn is_dirty(draft: &Draft<'_>, service: &Service, slot: &Slot) -> bool {
    let live = slot.live(draft);
    match live[..] {
        // Nothing lives here and nothing will by the restart policy: an update brings even that up to date.
        [] => slot.latest().is_some_and(|latest| dirty(draft, service, latest)),
        [only] => dirty(draft, service, only),
        _ => true,
    }
}

fn dirty(draft: &Draft<'_>, service: &Service, task: TaskRef) -> bool {
    is_task_dirty(service, draft.task(task), draft.node_of(task))
}

/// Writes that an update is under way; `None` when the draft is full.
fn start(draft: &mut Draft<'_>, service: &Service) -> Option<Timestamp> {
    let now = draft.now;
    let done = draft.edit_service(&service.meta.id, |service| {
        let under_way = service
            .update_status
            .take()
            .filter(|status| matches!(status.state, UpdateState::Updating | UpdateState::RollbackStarted));
        let mut status = under_way.unwrap_or_else(|| UpdateStatus {
            message: "update in progress".to_owned(),
            ..UpdateStatus::default()
        });
        status.started_at = Some(now);
        service.update_status = Some(status);
    });
    done.then_some(now)
}

/// The settings of an update with the defaults filled in.
struct Config {
    parallelism: usize,
    delay: Duration,
    monitor: Duration,
    failure_action: FailureAction,
    max_failure_ratio: f64,
    order: UpdateOrder,
}

impl Config {
    fn of(service: &Service, backwards: bool) -> Self {
        let spec = &service.spec;
        let given = if backwards { &spec.rollback_config } else { &spec.update_config };
        // An absent config updates one task at a time; a present one with parallelism 0 all at once.
        let config =
            given.clone().unwrap_or_else(|| UpdateConfig { parallelism: 1, ..UpdateConfig::default() });
        let delay = Duration::from_nanos(config.delay);
        let mut monitor =
            if config.monitor == 0 { DEFAULT_MONITOR } else { Duration::from_nanos(config.monitor) };
        if delay >= monitor {
            monitor = delay + MONITOR_MARGIN;
        }
        Self {
            parallelism: match config.parallelism {
                0 => usize::MAX,
                given => usize::try_from(given).unwrap_or(usize::MAX),
            },
            delay,
            monitor,
            failure_action: config.failure_action,
            max_failure_ratio: config.max_failure_ratio,
            order: config.order,
        }
    }
}

/// How far an update has come.
struct Progress {
    /// Slots whose update is under way or in its delay.
    busy: usize,
    /// Slots with a task that this update made.
    visited: BTreeSet<SlotKey>,
    /// Slots that need the updater still.
    dirty: usize,
    /// All slots of the update, also those still to do.
    total: usize,
    failures: usize,
    /// The task that failed last.
    last_failure: Option<String>,
    /// When the last slot will have been watched long enough; `None` while one has not come up.
    settled_at: Option<Timestamp>,
}

impl Progress {
    fn read(
        draft: &mut Draft<'_>,
        service: &Service,
        slots: &Slots,
        started_at: Timestamp,
        config: &Config,
    ) -> Self {
        let mut busy = 0;
        let mut visited = BTreeSet::new();
        let mut failures = Vec::new();
        let mut settled_at = Some(Timestamp::default());
        let mut wakeups = Vec::new();
        for (key, slot) in slots {
            let Some(made) = task_of_update(draft, service, slot, started_at) else { continue };
            visited.insert(key.clone());
            let task = draft.task(made);
            if task.status.state < TaskState::Running {
                if task.desired_state <= TaskState::Running {
                    busy += 1;
                    settled_at = None;
                }
                continue;
            }
            let ran = task.running_since.map(|since| task.status.timestamp.since(since));
            if restart::ended_by_itself(task) && ran.is_none_or(|ran| ran <= config.monitor) {
                failures.push((task.meta.updated_at, task.meta.id.clone()));
            }
            let free_at = task.meta.updated_at.plus(config.delay);
            if free_at > draft.now {
                busy += 1;
                wakeups.push(free_at);
            }
            settled_at = settled_at.map(|latest| latest.max(free_at.plus(config.monitor)));
        }
        for wakeup in wakeups {
            draft.wake(wakeup);
        }
        let dirty: Vec<&SlotKey> =
            slots.iter().filter(|(_, slot)| is_dirty(draft, service, slot)).map(|(key, _)| key).collect();
        let to_do = dirty.iter().filter(|key| !visited.contains(*key)).count();
        Self {
            busy,
            dirty: dirty.len(),
            total: visited.len() + to_do,
            visited,
            failures: failures.len(),
            last_failure: failures.into_iter().max().map(|(_, id)| id),
            settled_at,
        }
    }

    fn too_many_failures(&self, config: &Config) -> bool {
        config.failure_action != FailureAction::Continue
            && self.failures > 0
            && self.failures as f64 / self.total as f64 > config.max_failure_ratio
    }
}

/// The task that the update made in a slot.
pub(crate) fn task_of_update(
    draft: &Draft<'_>,
    service: &Service,
    slot: &Slot,
    started_at: Timestamp,
) -> Option<TaskRef> {
    last_before_update(draft, slot, started_at)?;
    slot.tasks
        .iter()
        .copied()
        .find(|&task| draft.created_at(task) >= started_at && !dirty(draft, service, task))
}

/// The last task that a slot had before the update.
pub(crate) fn last_before_update(draft: &Draft<'_>, slot: &Slot, started_at: Timestamp) -> Option<TaskRef> {
    slot.tasks.iter().copied().rev().find(|&task| draft.created_at(task) < started_at)
}

/// Starts as many slots as there are free workers, and finishes those whose new task runs.
fn advance(
    draft: &mut Draft<'_>,
    service: &Service,
    slots: &mut Slots,
    config: &Config,
    progress: &Progress,
) -> bool {
    let mut free = config.parallelism.saturating_sub(progress.busy);
    for (key, slot) in slots.iter_mut() {
        if !is_dirty(draft, service, slot) {
            continue;
        }
        let live = slot.live(draft);
        let clean = live.iter().copied().filter(|&task| !dirty(draft, service, task)).max_by_key(|&task| {
            let task = draft.task(task);
            (task.status.state == TaskState::Running, task.desired_state)
        });
        if let Some(clean) = clean {
            let runs = draft.task(clean).status.state == TaskState::Running;
            if config.order == UpdateOrder::StartFirst && !runs {
                continue;
            }
            for task in live.into_iter().filter(|&task| task != clean) {
                if !draft.shut_down(task) {
                    return false;
                }
            }
            refresh(draft, slot);
            continue;
        }
        // What waits for a node serves nobody yet: to replace it needs no worker.
        let idle =
            !live.is_empty() && live.iter().all(|&task| draft.task(task).status.state < TaskState::Assigned);
        let needs_worker = !idle && !progress.visited.contains(key);
        if needs_worker && free == 0 {
            continue;
        }
        // The new task of a start-first update failed while the old one still runs: its successor is the restart
        // policy's matter.
        let failed = slot
            .latest()
            .filter(|&latest| !dirty(draft, service, latest) && restart::ended_by_itself(draft.task(latest)));
        if failed.is_some() && !restart::should_restart(draft, service, slot) {
            continue;
        }
        let delay = failed.and_then(|failed| restart::delay_after(draft, failed));
        let start_after = delay.map(|delay| draft.now.plus(delay));
        free -= usize::from(needs_worker);
        // Old and new change together: a slot left with neither would be filled by the wrong rule.
        if !draft.room(1 + live.len()) {
            return false;
        }
        let Some(made) = draft.create(service, key.0, &key.1, TaskState::Ready) else { return false };
        draft.edit(made, |task| task.start_after = start_after);
        slot.tasks.push(made);
        // Start-first keeps the one that serves best, not what an overtaken update had begun beside it.
        let kept = match config.order {
            UpdateOrder::StopFirst => None,
            UpdateOrder::StartFirst => {
                live.iter().copied().max_by_key(|&task| draft.task(task).status.state.min(TaskState::Running))
            }
        };
        for task in live.into_iter().filter(|&task| Some(task) != kept) {
            draft.shut_down(task);
        }
        refresh(draft, slot);
    }
    true
}

fn complete(draft: &mut Draft<'_>, service: &Service) -> bool {
    let now = draft.now;
    draft.edit_service(&service.meta.id, |service| {
        let Some(status) = &mut service.update_status else { return };
        let (state, message) = match status.state {
            UpdateState::RollbackStarted => (UpdateState::RollbackCompleted, "rollback completed"),
            _ => (UpdateState::Completed, "update completed"),
        };
        status.state = state;
        status.completed_at = Some(now);
        message.clone_into(&mut status.message);
    })
}

/// Pauses or rolls back. A rollback is never rolled back.
fn fail(
    draft: &mut Draft<'_>,
    service: &Service,
    backwards: bool,
    action: FailureAction,
    failed: &str,
) -> bool {
    let now = draft.now;
    let previous = service.previous_spec.as_ref().filter(|_| action == FailureAction::Rollback && !backwards);
    let restored_ports = previous.map(|previous| ports::for_spec(draft.state, service, previous));
    draft.edit_service(&service.meta.id, |service| {
        let (Some(ports), Some(previous)) = (
            restored_ports,
            service.previous_spec.take_if(|_| action == FailureAction::Rollback && !backwards),
        ) else {
            let (state, what) = if backwards {
                (UpdateState::RollbackPaused, "rollback")
            } else {
                (UpdateState::Paused, "update")
            };
            let status = service.update_status.get_or_insert_default();
            status.state = state;
            status.message = format!("{what} paused due to failure or early termination of task {failed}");
            return;
        };
        service.spec = previous;
        service.spec_version = service.previous_spec_version;
        service.previous_spec_version = 0;
        service.ports = ports;
        service.update_status = Some(UpdateStatus {
            state: UpdateState::RollbackStarted,
            started_at: Some(now),
            completed_at: None,
            message: format!("update rolled back due to failure or early termination of task {failed}"),
        });
    })
}
