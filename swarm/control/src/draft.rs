//! The next state while a tick works on it: the stored objects, and copies of those that were changed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use skep_state::spec::PortProtocol;
use skep_state::{Change, Kind, Node, Service, State, Task, TaskState, TaskStatus, Timestamp, id};

use crate::tick::{MAX_CHANGES, Plan};

/// A task of the draft; stays valid for as long as the draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskRef(usize);

/// The next state. Bounded: an edit that would change one object too many is refused and asks for another tick; all
/// phases look at levels, so that tick takes up what was left.
pub(crate) struct Draft<'a> {
    pub(crate) state: &'a State,
    pub(crate) now: Timestamp,
    random: &'a mut dyn FnMut() -> u128,
    tasks: Vec<Entry<'a>>,
    by_service: BTreeMap<String, Vec<TaskRef>>,
    services: BTreeMap<String, Service>,
    /// Changes of other objects, in order.
    others: Vec<Change>,
    changed: usize,
    truncated: bool,
    wakeup: Option<Timestamp>,
}

struct Entry<'a> {
    /// Owned once it differs from what is stored.
    task: Cow<'a, Task>,
    removed: bool,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(state: &'a State, now: Timestamp, random: &'a mut dyn FnMut() -> u128) -> Self {
        let mut by_service: BTreeMap<String, Vec<TaskRef>> = BTreeMap::new();
        let mut tasks = Vec::with_capacity(state.tasks.len() + MAX_CHANGES);
        for (index, task) in state.tasks.values().enumerate() {
            match by_service.get_mut(&task.service_id) {
                Some(refs) => refs.push(TaskRef(index)),
                None => drop(by_service.insert(task.service_id.clone(), vec![TaskRef(index)])),
            }
            tasks.push(Entry { task: Cow::Borrowed(task), removed: false });
        }
        Self {
            state,
            now,
            random,
            tasks,
            by_service,
            services: BTreeMap::new(),
            others: Vec::new(),
            changed: 0,
            truncated: false,
            wakeup: None,
        }
    }

    pub(crate) fn into_plan(self) -> Plan {
        let mut changes = self.others;
        changes.extend(self.services.into_values().map(|service| Change::PutService(Box::new(service))));
        for entry in self.tasks {
            match (entry.removed, entry.task) {
                // A task that was made and removed within the tick never was.
                (true, task) if task.meta.version.index == 0 => {}
                (true, task) => changes.push(Change::Remove(Kind::Task, task.meta.id.clone())),
                (false, Cow::Owned(task)) => changes.push(Change::PutTask(Box::new(task))),
                (false, Cow::Borrowed(_)) => {}
            }
        }
        let next_wakeup = if self.truncated { Some(self.now) } else { self.wakeup };
        Plan { changes, next_wakeup }
    }

    /// Whether `count` more objects may change; a refusal is remembered as work left over.
    pub(crate) fn room(&mut self, count: usize) -> bool {
        let room = self.changed + count <= MAX_CHANGES;
        self.truncated |= !room;
        room
    }

    /// Asks for another tick at once: something was left over.
    pub(crate) fn more(&mut self) {
        self.truncated = true;
    }

    /// Asks for a tick at `at`. Moments that have come already are no reason to tick again.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        if at > self.now {
            self.wakeup = Some(self.wakeup.map_or(at, |earlier| earlier.min(at)));
        }
    }

    pub(crate) fn task(&self, task: TaskRef) -> &Task {
        &self.tasks[task.0].task
    }

    /// Whether the task is not removed.
    pub(crate) fn exists(&self, task: TaskRef) -> bool {
        !self.tasks[task.0].removed
    }

    /// Every task that is not removed, oldest entry first.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = (TaskRef, &Task)> {
        self.tasks
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.removed)
            .map(|(index, entry)| (TaskRef(index), &*entry.task))
    }

    /// The tasks of a service.
    pub(crate) fn tasks_of(&self, service_id: &str) -> Vec<TaskRef> {
        let refs = self.by_service.get(service_id).map_or(&[][..], Vec::as_slice);
        refs.iter().copied().filter(|task| !self.tasks[task.0].removed).collect()
    }

    /// The services that have tasks but are gone.
    pub(crate) fn removed_services(&self) -> Vec<String> {
        self.by_service.keys().filter(|id| !self.state.services.contains_key(*id)).cloned().collect()
    }

    /// The service as it is in the draft.
    pub(crate) fn service(&self, id: &str) -> Option<&Service> {
        self.services.get(id).or_else(|| self.state.services.get(id))
    }

    /// The node of a task, while the swarm has it.
    pub(crate) fn node_of(&self, task: TaskRef) -> Option<&'a Node> {
        self.state.nodes.get(&self.task(task).node_id)
    }

    /// Changes a task; `false` when there is no room for it.
    pub(crate) fn edit(&mut self, task: TaskRef, change: impl FnOnce(&mut Task)) -> bool {
        let entry = &self.tasks[task.0];
        if let Cow::Borrowed(stored) = entry.task {
            let mut edited = stored.clone();
            change(&mut edited);
            if edited == *stored {
                return true;
            }
            if !self.room(1) {
                return false;
            }
            self.changed += 1;
            self.tasks[task.0].task = Cow::Owned(edited);
        } else {
            change(self.tasks[task.0].task.to_mut());
        }
        true
    }

    /// Changes what is neither a task nor a service, all or nothing; `false` when there is no room for it.
    pub(crate) fn change(&mut self, changes: Vec<Change>) -> bool {
        let room = self.room(changes.len());
        if room {
            self.changed += changes.len();
            self.others.extend(changes);
        }
        room
    }

    /// Changes a service; `false` when there is no room for it.
    pub(crate) fn edit_service(&mut self, id: &str, change: impl FnOnce(&mut Service)) -> bool {
        if let Some(service) = self.services.get_mut(id) {
            change(service);
            return true;
        }
        let Some(stored) = self.state.services.get(id) else { return false };
        let mut edited = stored.clone();
        change(&mut edited);
        if edited == *stored {
            return true;
        }
        if !self.room(1) {
            return false;
        }
        self.changed += 1;
        self.services.insert(id.to_owned(), edited);
        true
    }

    /// Forgets a task; `false` when there is no room for it.
    pub(crate) fn remove(&mut self, task: TaskRef) -> bool {
        if matches!(self.tasks[task.0].task, Cow::Borrowed(_)) {
            if !self.room(1) {
                return false;
            }
            self.changed += 1;
        }
        self.tasks[task.0].removed = true;
        true
    }

    /// A new task of `service`; `None` when there is no room for it. `node_id` is empty where the scheduler chooses.
    pub(crate) fn create(
        &mut self,
        service: &Service,
        slot: u64,
        node_id: &str,
        desired_state: TaskState,
    ) -> Option<TaskRef> {
        if !self.room(1) {
            return None;
        }
        self.changed += 1;
        let mut task = Task {
            spec: service.spec.task_template.clone(),
            spec_version: service.spec_version,
            service_id: service.meta.id.clone(),
            service_name: service.spec.name.clone(),
            slot,
            listens: listens(service),
            node_id: node_id.to_owned(),
            status: TaskStatus {
                timestamp: self.now,
                message: "created".to_owned(),
                ..TaskStatus::default()
            },
            desired_state,
            ..Task::default()
        };
        task.meta.id = id::from_random((self.random)());
        let made = TaskRef(self.tasks.len());
        self.by_service.entry(task.service_id.clone()).or_default().push(made);
        self.tasks.push(Entry { task: Cow::Owned(task), removed: false });
        Some(made)
    }

    /// Has a task stopped. One that no node was given is forgotten: nobody would ever report its end.
    pub(crate) fn shut_down(&mut self, task: TaskRef) -> bool {
        if self.task(task).status.state < TaskState::Assigned {
            return self.remove(task);
        }
        self.edit(task, |task| task.desired_state = TaskState::Shutdown)
    }

    /// Has a task stopped and then forgotten.
    pub(crate) fn discard(&mut self, task: TaskRef) -> bool {
        if self.task(task).status.state < TaskState::Assigned {
            return self.remove(task);
        }
        self.edit(task, |task| task.desired_state = TaskState::Remove)
    }

    /// When a task was made, by the leader's clock.
    pub(crate) fn created_at(&self, task: TaskRef) -> Timestamp {
        let meta = &self.task(task).meta;
        if meta.version.index == 0 { self.now } else { meta.created_at }
    }
}
/// The ports inside a container on which its service's published TCP ports arrive.
fn listens(service: &Service) -> Vec<u16> {
    let tcp = service.ports.iter().filter(|port| port.protocol == PortProtocol::Tcp);
    let mut ports: Vec<u16> = tcp.map(|port| port.target_port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}
