//! The agent: does on this node what the managers assign to it, and tells them how it goes.
//!
//! It keeps its assignments on disk, so that a node that starts with no manager in sight goes on with what it knows.

mod bundle;
mod exits;
mod runner;
mod session;
mod statuses;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use skep_netns::{HostNetwork, NamespacePool};
use skep_runtime::keeper::{ContainerStatus, KeeperClient};
use skep_state::{Task, TaskState};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

pub(crate) use exits::Exits;
pub(crate) use runner::MTU;
pub(crate) use session::SessionLoop;
pub(crate) use statuses::Statuses;

use crate::dataplane::DataPlane;
use crate::durable;
use crate::images::Images;
use crate::view::{Assignments, NodeView};
use runner::{Runner, Wish, container_id, host_ifname};

/// What the runners of all tasks share.
pub(crate) struct AgentContext {
    /// This node.
    pub node_id: String,
    /// Its host name.
    pub hostname: String,
    /// `--root`.
    pub root: PathBuf,
    /// How the names of containers' links start.
    pub host_prefix: String,
    /// Owns the containers.
    pub keeper: Arc<KeeperClient>,
    /// Finds images.
    pub images: Arc<Images>,
    /// This host's network.
    pub network: Arc<HostNetwork>,
    /// Network namespaces ready for use.
    pub namespaces: NamespacePool,
    /// What the tasks are doing.
    pub statuses: Statuses,
    /// When containers end.
    pub exits: Arc<Exits>,
}

/// The agent of a node in a swarm.
pub(crate) struct Agent {
    context: Arc<AgentContext>,
    data: Arc<DataPlane>,
    view: Mutex<NodeView>,
    runners: Mutex<HashMap<String, watch::Sender<Wish>>>,
    tracker: TaskTracker,
    file: PathBuf,
    unsaved: Notify,
    changed: Notify,
}

impl Agent {
    /// An agent that goes on with what it knew before the last stop.
    pub(crate) fn new(context: AgentContext, data: Arc<DataPlane>) -> Arc<Self> {
        let file = context.root.join("agent").join("view.json");
        let remembered = durable::read_json::<NodeView>(&file).unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "cannot read the last assignments; waiting for a manager");
            None
        });
        let agent = Arc::new(Self {
            context: Arc::new(context),
            data,
            view: Mutex::new(NodeView::default()),
            runners: Mutex::new(HashMap::new()),
            tracker: TaskTracker::new(),
            file,
            unsaved: Notify::new(),
            changed: Notify::new(),
        });
        if let Some(view) = remembered {
            agent.apply(view.complete());
        }
        agent
    }

    /// What the runners share.
    pub(crate) fn context(&self) -> &Arc<AgentContext> {
        &self.context
    }

    /// Looks at what this node knows of the swarm.
    pub(crate) fn view<R>(&self, look: impl FnOnce(&NodeView) -> R) -> R {
        look(&self.view.lock())
    }

    /// Takes what the leader says: routes and ports first, so that a task is reachable when it starts.
    pub(crate) fn apply(&self, change: Assignments) {
        let mut view = self.view.lock();
        let before = view.clone();
        view.apply(change);
        if *view == before {
            return;
        }
        self.data.update(&self.context.node_id, &view);
        let mut runners = self.runners.lock();
        for (id, wish) in runners.iter() {
            let wanted = view.tasks.get(id).filter(|task| task.desired_state != TaskState::Remove || !ended(task));
            wish.send_if_modified(|known| {
                let differs = known.as_ref() != wanted;
                if differs {
                    *known = wanted.cloned();
                }
                differs
            });
        }
        runners.retain(|id, _| view.tasks.contains_key(id));
        for (id, task) in &view.tasks {
            if !runners.contains_key(id) {
                runners.insert(id.clone(), self.spawn(task));
            }
        }
        drop(runners);
        drop(view);
        self.unsaved.notify_one();
        self.changed.notify_one();
    }

    /// Waits until the view has changed. For one waiter.
    pub(crate) async fn view_changed(&self) {
        self.changed.notified().await;
    }

    fn spawn(&self, task: &Task) -> watch::Sender<Wish> {
        let (sender, wish) = watch::channel(Some(task.clone()));
        let runner = Runner { context: Arc::clone(&self.context), task: task.clone(), wish };
        self.tracker.spawn(runner.run());
        sender
    }

    /// Saves assignments as they change, until cancelled. What arrives during a write goes into the next.
    pub(crate) async fn keep_saved(self: Arc<Self>) {
        loop {
            self.unsaved.notified().await;
            let (view, file) = (self.view.lock().clone(), self.file.clone());
            let saved = tokio::task::spawn_blocking(move || durable::write_json(&file, &view)).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(file = %self.file.display(), %error, "cannot save the assignments");
            }
        }
    }

    /// Removes what no assigned task accounts for: containers and links left by a crash.
    pub(crate) fn sweep(&self) {
        let known: Vec<String> = self.view(|view| view.tasks.keys().map(|id| container_id(id)).collect());
        let containers = self.context.keeper.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the keeper's containers");
            Vec::new()
        });
        for container in &containers {
            if !known.contains(&container.id) {
                tracing::info!(container = %container.id, "removing a container that no task accounts for");
                if let Err(error) = self.context.keeper.delete(&container.id) {
                    tracing::warn!(container = %container.id, %error, "cannot remove it");
                }
            }
        }
        let living: Vec<String> = containers
            .iter()
            .filter(|container| known.contains(&container.id) && !matches!(container.status, ContainerStatus::Exited(_)))
            .map(|container| host_ifname(&self.context.host_prefix, &container.id))
            .collect();
        for attached in self.context.network.attachments().unwrap_or_default() {
            if !living.contains(&attached.host_ifname) {
                let _ = self.context.network.detach(&attached.host_ifname);
            }
        }
    }

    /// Stops every task and waits until all are gone: this node leaves the swarm.
    pub(crate) async fn stop_all(&self) {
        for (_, wish) in self.runners.lock().drain() {
            wish.send_replace(None);
        }
        self.tracker.close();
        self.tracker.wait().await;
        *self.view.lock() = NodeView::default();
        let _ = tokio::fs::remove_dir_all(self.context.root.join("agent")).await;
    }
}

fn ended(task: &Task) -> bool {
    task.status.state.is_terminal()
}
