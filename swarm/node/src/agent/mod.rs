//! The agent: does on this node what the managers assign to it, and tells them how it goes.
//!
//! It keeps its assignments on disk, so that a node that starts with no manager in sight goes on with what it knows.

mod bundle;
mod confinement;
mod exits;
mod listening;
mod runner;
mod session;
mod statuses;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use skep_netns::{HostNetwork, NamespacePool};
use skep_seal::Vault;
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
use crate::keeper::Keeper;
use crate::view::{Assignments, NodeView};
use runner::{Runner, Wish, container_id, host_ifname};

/// What the seal of the saved view vouches for.
const VIEW: &[u8] = b"skep agent view 1";

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
    pub keeper: Arc<Keeper>,
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
    /// Seals what is kept on disk.
    pub vault: Vault,
    /// The images that containers were made of, by task.
    pub images_used: Mutex<HashMap<String, String>>,
}

/// The agent of a node in a swarm.
pub(crate) struct Agent {
    context: Arc<AgentContext>,
    data: Arc<DataPlane>,
    view: Mutex<NodeView>,
    /// `None` once this node leaves: nothing is started any more.
    runners: Mutex<Option<HashMap<String, watch::Sender<Wish>>>>,
    tracker: TaskTracker,
    file: PathBuf,
    unsaved: Notify,
    changed: watch::Sender<()>,
    /// Whether a leader tells this node at the moment what changes: then what is known is what is.
    current: AtomicBool,
}

impl Agent {
    /// An agent that goes on with what it knew before the last stop, after removing what nothing accounts for.
    pub(crate) async fn start(context: AgentContext, data: Arc<DataPlane>) -> Arc<Self> {
        let file = context.root.join("agent").join("view.sealed");
        let remembered = remembered(&file, &context.vault);
        let context = Arc::new(context);
        match &remembered {
            Ok(view) => {
                let tasks = view.iter().flat_map(|view| view.tasks.keys());
                let known: BTreeSet<String> = tasks.map(|id| container_id(id)).collect();
                let sweeper = Arc::clone(&context);
                // Before anything runs: what is started from now on must not be taken for a left-over.
                let _ = tokio::task::spawn_blocking(move || sweep(&sweeper, &known)).await;
            }
            // Which containers are left-overs cannot be told, so all stay until a manager says.
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "cannot read the last assignments; waiting for a manager");
            }
        }
        let remembered = remembered.ok().flatten();
        let agent = Arc::new(Self {
            context,
            data,
            view: Mutex::new(NodeView::default()),
            runners: Mutex::new(Some(HashMap::new())),
            tracker: TaskTracker::new(),
            file,
            unsaved: Notify::new(),
            changed: watch::Sender::new(()),
            current: AtomicBool::new(false),
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
        let mut guard = self.runners.lock();
        let Some(runners) = guard.as_mut() else { return };
        let mut view = self.view.lock();
        let before = view.clone();
        view.apply(change);
        if *view == before {
            return;
        }
        self.data.update(&self.context.node_id, &view);
        for (id, wish) in runners.iter() {
            let wanted =
                view.tasks.get(id).filter(|task| task.desired_state != TaskState::Remove || !ended(task));
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
        drop(view);
        drop(guard);
        self.unsaved.notify_one();
        self.changed.send_replace(());
    }

    /// Follows the view, and whether it is current.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether a session with a leader keeps the view current; otherwise it is what was known last.
    pub(crate) fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire)
    }

    fn set_current(&self, current: bool) {
        if self.current.swap(current, Ordering::AcqRel) != current {
            self.changed.send_replace(());
        }
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
            let vault = self.context.vault.clone();
            let saved = tokio::task::spawn_blocking(move || {
                let plain = serde_json::to_vec(&view)?;
                durable::write(&file, &vault.seal(VIEW, &plain))
            });
            let saved = saved.await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(file = %self.file.display(), %error, "cannot save the assignments");
            }
        }
    }

    /// Stops every task and waits until all are gone: this node leaves the swarm.
    pub(crate) async fn stop_all(&self) {
        for (_, wish) in self.runners.lock().take().into_iter().flatten() {
            wish.send_replace(None);
        }
        self.tracker.close();
        self.tracker.wait().await;
        *self.view.lock() = NodeView::default();
    }
}

/// The view that was saved last; tasks carry what is nobody's business, so it is sealed.
fn remembered(file: &Path, vault: &Vault) -> std::io::Result<Option<NodeView>> {
    let Some(sealed) = durable::read(file)? else { return Ok(None) };
    let plain = vault.open_sealed(VIEW, &sealed).map_err(std::io::Error::other)?;
    serde_json::from_slice(&plain).map(Some).map_err(std::io::Error::other)
}

/// Removes what no assigned task accounts for: containers and links left by a crash. Blocks.
fn sweep(context: &AgentContext, known: &BTreeSet<String>) {
    let containers = context.keeper.list().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the keeper's containers");
        Vec::new()
    });
    for container in containers.iter().filter(|container| !known.contains(&container.id)) {
        tracing::info!(container = %container.id, "removing a container that no task accounts for");
        if let Err(error) = context.keeper.delete(&container.id) {
            tracing::warn!(container = %container.id, %error, "cannot remove it");
        }
    }
    // A known task's link is its runner's affair.
    let links: BTreeSet<String> = known.iter().map(|id| host_ifname(&context.host_prefix, id)).collect();
    for attached in context.network.attachments().unwrap_or_default() {
        if !links.contains(&attached.host_ifname) {
            let _ = context.network.detach(&attached.host_ifname);
        }
    }
}

fn ended(task: &Task) -> bool {
    task.status.state.is_terminal()
}
