//! A swarm in memory for tests: the leader's loop (tick, commit, wake up), agents that move tasks forward, a clock
//! that jumps. Each commit is checked against the invariants in [`invariant`].

mod bench_test;
mod invariant;
mod job_test;
mod random_test;
mod schedule_test;
mod service_test;
mod update_test;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skep_state::object::{IpamConfig, UpdateState};
use skep_state::spec::{
    Availability, GlobalService, ReplicatedService, Resources, RestartPolicy, ServiceSpec, UpdateConfig,
};
use skep_state::{
    Change, Cluster, Kind, Network, Node, NodeState, Service, State, Task, TaskState, TaskStatus, Timestamp,
    Transaction, id,
};

use crate::{TickInput, assignments_for, next_node_index, node_state_change, task_status_update, tick};

/// Rounds of tick and agents after which a swarm that still changes is called a livelock.
const MAX_ROUNDS: usize = 2_000;

/// An image that runs until it is stopped. `crash` fails when it is started, `exit` completes, all others run too.
pub(super) const GOOD: &str = "good:1";

#[derive(Clone)]
pub(super) struct Sim {
    pub(super) state: State,
    pub(super) now: Timestamp,
    random: u128,
    wakeup: Option<Timestamp>,
    /// Nodes whose agents do nothing: without power or cut off.
    pub(super) silent: BTreeSet<String>,
    /// Nodes whose tasks do not stop when they are told to.
    pub(super) stubborn: BTreeSet<String>,
    pub(super) commits: u64,
    /// All tasks that ever were, as they were last.
    pub(super) seen: BTreeMap<String, Task>,
}

impl Sim {
    /// A swarm of `nodes` ready nodes `n1`, `n2`… with an ingress network.
    pub(super) fn new(nodes: usize) -> Self {
        let mut sim = Self {
            state: State::default(),
            now: Timestamp::from_nanos(1_000_000_000_000),
            random: 1,
            wakeup: None,
            silent: BTreeSet::new(),
            stubborn: BTreeSet::new(),
            commits: 0,
            seen: BTreeMap::new(),
        };
        let mut ingress = Network {
            name: "ingress".to_owned(),
            ingress: true,
            ipam: vec![IpamConfig { subnet: "10.255.0.0/16".to_owned(), gateway: "10.255.0.1".to_owned() }],
            ..Network::default()
        };
        ingress.meta.id = "ingress-id".to_owned();
        let mut cluster = Cluster::default();
        cluster.meta.id = "cluster".to_owned();
        sim.commit(vec![Change::PutCluster(Box::new(cluster)), Change::PutNetwork(Box::new(ingress))]);
        for number in 1..=nodes {
            sim.add_node(&format!("n{number}"));
        }
        sim
    }

    pub(super) fn add_node(&mut self, node_id: &str) {
        let mut node = Node { index: next_node_index(&self.state).unwrap(), ..Node::default() };
        node.meta.id = node_id.to_owned();
        node.status.state = NodeState::Ready;
        node.description.hostname = node_id.to_owned();
        node.description.resources =
            Resources { nano_cpus: 4_000_000_000, memory_bytes: 8 << 30, ..Resources::default() };
        self.commit(vec![Change::PutNode(Box::new(node))]);
    }

    /// Commits changes, and checks that nothing that must not happen happened.
    pub(super) fn commit(&mut self, changes: Vec<Change>) {
        self.elapse();
        self.commit_now(changes);
    }

    /// No two commits at one moment, as with a real clock.
    fn elapse(&mut self) {
        self.now = self.now.plus(Duration::from_nanos(1));
    }

    fn commit_now(&mut self, changes: Vec<Change>) {
        self.commits += 1;
        let index = self.state.index + 1;
        let before = self.state.clone();
        self.state.apply(index, &Transaction { at: self.now, changes }).unwrap();
        invariant::check(&before, self);
        for task in self.state.tasks.values() {
            self.seen.insert(task.meta.id.clone(), task.clone());
        }
    }

    /// One turn of the leader's loop; whether it changed anything.
    pub(super) fn tick(&mut self) -> bool {
        self.elapse();
        let nobody = BTreeMap::new();
        let input = TickInput { now: self.now, awaited_since: &nobody };
        let mut random = self.random;
        let plan = tick(&self.state, &input, &mut || {
            random += 1;
            random
        });
        self.random = random;
        assert!(plan.changes.len() <= crate::MAX_CHANGES, "too many changes: {}", plan.changes.len());
        self.wakeup = plan.next_wakeup;
        let more = plan.next_wakeup == Some(self.now);
        if plan.changes.is_empty() {
            assert!(!more, "a tick that changes nothing asks for another");
            return false;
        }
        self.commit_now(plan.changes);
        if !more {
            let again =
                tick(&self.state, &TickInput { now: self.now, awaited_since: &BTreeMap::new() }, &mut || 0);
            assert!(again.changes.is_empty(), "does not converge: {:#?}", brief(&again.changes));
        }
        true
    }

    /// Every agent takes each of its tasks one state further; whether anything was reported.
    pub(super) fn agents(&mut self) -> bool {
        let ids: Vec<String> =
            self.state.nodes.keys().filter(|id| !self.silent.contains(*id)).cloned().collect();
        let mut any = false;
        for node_id in ids {
            let stubborn = self.stubborn.contains(&node_id);
            let reports: Vec<Change> = assignments_for(&self.state, &node_id)
                .into_iter()
                .filter_map(|task| {
                    let state = next_state(task, stubborn)?;
                    let status = TaskStatus { state, timestamp: self.now, ..TaskStatus::default() };
                    task_status_update(task, status)
                })
                .map(|task| Change::PutTask(Box::new(task)))
                .collect();
            if !reports.is_empty() {
                any = true;
                self.commit(reports);
            }
        }
        any
    }

    /// Lets leader and agents work until nothing changes at this moment.
    pub(super) fn settle(&mut self) {
        for _ in 0..MAX_ROUNDS {
            let ticked = self.tick();
            if !self.agents() && !ticked {
                return;
            }
        }
        let tasks: Vec<Change> =
            self.state.tasks.values().map(|task| Change::PutTask(Box::new(task.clone()))).collect();
        panic!("livelock: {:#?}", brief(&tasks));
    }

    /// Lets time pass, with everything that happens in it.
    pub(super) fn pass(&mut self, seconds: f64) {
        let until = self.now.plus(Duration::from_secs_f64(seconds));
        for _ in 0..MAX_ROUNDS {
            self.settle();
            match self.wakeup {
                Some(wakeup) if wakeup <= until => self.now = self.now.max(wakeup),
                _ => {
                    self.now = self.now.max(until);
                    self.settle();
                    return;
                }
            }
        }
        panic!("too many wake-ups");
    }

    pub(super) fn node_state(&mut self, node_id: &str, to: NodeState) {
        let change = node_state_change(&self.state, node_id, to, "");
        self.commit(change.into_iter().collect());
    }

    /// A node loses its power and the dispatcher notices.
    pub(super) fn kill_node(&mut self, node_id: &str) {
        self.silent.insert(node_id.to_owned());
        self.node_state(node_id, NodeState::Down);
    }

    /// A node is back and its agent has a session.
    pub(super) fn revive_node(&mut self, node_id: &str) {
        self.silent.remove(node_id);
        self.node_state(node_id, NodeState::Ready);
    }

    pub(super) fn availability(&mut self, node_id: &str, availability: Availability) {
        let mut node = self.state.nodes[node_id].clone();
        node.spec.availability = availability;
        self.commit(vec![Change::PutNode(Box::new(node))]);
    }

    pub(super) fn create(&mut self, spec: ServiceSpec) -> String {
        self.random += 1;
        let mut service = Service { spec, spec_version: 1, ..Service::default() };
        service.meta.id = id::from_random(self.random);
        service.ports = service.spec.ports().to_vec();
        let id = service.meta.id.clone();
        self.commit(vec![Change::PutService(Box::new(service))]);
        id
    }

    /// As `service update`: the old spec is kept, the update status cleared.
    pub(super) fn update(&mut self, service_id: &str, change: impl FnOnce(&mut ServiceSpec)) {
        let mut service = self.state.services[service_id].clone();
        service.previous_spec = Some(service.spec.clone());
        service.previous_spec_version = service.spec_version;
        change(&mut service.spec);
        if service.previous_spec.as_ref().map(|spec| &spec.task_template) != Some(&service.spec.task_template)
        {
            service.spec_version = service.meta.version.index + 1;
        }
        service.ports = service.spec.ports().to_vec();
        service.update_status = None;
        self.commit(vec![Change::PutService(Box::new(service))]);
    }

    pub(super) fn scale(&mut self, service_id: &str, replicas: u64) {
        self.update(service_id, |spec| {
            spec.mode.replicated = Some(ReplicatedService { replicas: Some(replicas) });
        });
    }

    pub(super) fn remove_service(&mut self, service_id: &str) {
        self.commit(vec![Change::Remove(Kind::Service, service_id.to_owned())]);
    }

    /// The container of a task ends by itself.
    pub(super) fn end_task(&mut self, task_id: &str, state: TaskState) {
        let status = TaskStatus { state, timestamp: self.now, ..TaskStatus::default() };
        if let Some(task) = task_status_update(&self.state.tasks[task_id], status) {
            self.commit(vec![Change::PutTask(Box::new(task))]);
        }
    }

    /// The tasks of a service that run and shall run, by slot.
    pub(super) fn running(&self, service_id: &str) -> Vec<&Task> {
        let mut tasks: Vec<&Task> = self
            .state
            .tasks
            .values()
            .filter(|task| {
                task.service_id == service_id
                    && task.status.state == TaskState::Running
                    && task.desired_state == TaskState::Running
            })
            .collect();
        tasks.sort_by_key(|task| task.slot);
        tasks
    }

    /// How many running tasks of a service each node has, in order of node ID.
    pub(super) fn spread(&self, service_id: &str) -> Vec<usize> {
        let running = self.running(service_id);
        let on = |node: &str| running.iter().filter(|task| task.node_id == node).count();
        self.state.nodes.keys().map(|node| on(node)).collect()
    }

    pub(super) fn update_state(&self, service_id: &str) -> Option<UpdateState> {
        self.state.services[service_id].update_status.as_ref().map(|status| status.state)
    }

    pub(super) fn update_message(&self, service_id: &str) -> &str {
        self.state.services[service_id].update_status.as_ref().map_or("", |status| &status.message)
    }

    /// The running images of a service, each with its number of tasks.
    pub(super) fn images(&self, service_id: &str) -> BTreeMap<&str, usize> {
        let mut images = BTreeMap::new();
        for task in self.running(service_id) {
            *images.entry(task.spec.container_spec.image.as_str()).or_default() += 1;
        }
        images
    }
}

/// Changes in a few words.
fn brief(changes: &[Change]) -> Vec<String> {
    let describe = |change: &Change| match change {
        Change::PutTask(task) => {
            let image = &task.spec.container_spec.image;
            let (state, desired) = (task.status.state, task.desired_state);
            format!(
                "{} {} {image} on {:?}: {state:?}/{desired:?} {}",
                task.meta.id,
                task.name(),
                task.node_id,
                task.status.err
            )
        }
        Change::PutService(service) => format!("{} {:?}", service.meta.id, service.update_status),
        other => format!("{other:?}"),
    };
    changes.iter().map(describe).collect()
}

/// What an agent does next with a task.
fn next_state(task: &Task, stubborn: bool) -> Option<TaskState> {
    let image = task.spec.container_spec.image.as_str();
    let state = task.status.state;
    if state.is_terminal() {
        return None;
    }
    if task.desired_state > TaskState::Running {
        return (!stubborn).then_some(TaskState::Shutdown);
    }
    let next = match state {
        TaskState::Assigned => TaskState::Accepted,
        TaskState::Accepted => TaskState::Preparing,
        TaskState::Preparing => TaskState::Ready,
        TaskState::Ready => TaskState::Starting,
        TaskState::Starting if image.starts_with("crash") => TaskState::Failed,
        TaskState::Starting if image.starts_with("exit") => TaskState::Complete,
        TaskState::Starting => TaskState::Running,
        _ => return None,
    };
    (next <= TaskState::Ready || task.desired_state == TaskState::Running).then_some(next)
}

/// A replicated service of an image.
pub(super) fn web(replicas: u64) -> ServiceSpec {
    let mut spec = ServiceSpec { name: "web".to_owned(), ..ServiceSpec::default() };
    spec.task_template.container_spec.image = GOOD.to_owned();
    spec.mode.replicated = Some(ReplicatedService { replicas: Some(replicas) });
    spec
}

/// A global service.
pub(super) fn agent() -> ServiceSpec {
    let mut spec = web(0);
    spec.name = "agent".to_owned();
    spec.mode.replicated = None;
    spec.mode.global = Some(GlobalService {});
    spec
}

pub(super) fn set_image(spec: &mut ServiceSpec, image: &str) {
    image.clone_into(&mut spec.task_template.container_spec.image);
}

pub(super) fn update_config(spec: &mut ServiceSpec) -> &mut UpdateConfig {
    spec.update_config.get_or_insert_with(|| UpdateConfig { parallelism: 1, ..UpdateConfig::default() })
}

pub(super) fn restart_policy(spec: &mut ServiceSpec) -> &mut RestartPolicy {
    spec.task_template.restart_policy.get_or_insert_default()
}
