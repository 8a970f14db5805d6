//! The handle that the API layer works with.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use parking_lot::{Mutex, RwLock};
use skep_image::Store;
use skep_mesh::SwarmClock;
use skep_raft::{ProposeError, RaftNode};
use skep_runtime::keeper::{ContainerStatus, KeeperOptions};
use skep_state::spec::{Availability, ClusterSpec, NodeRole};
use skep_state::{NodeState, State, Timestamp, Transaction};

use crate::agent::Exits;
use crate::keeper::Keeper;
use crate::manager::ManagerPart;
use crate::membership::{Local, Membership};
use crate::{NodeConfig, NodeError, RecoverRequest, clock, host, swarm_ops};

/// The answer to a write that was under way when this node stopped being a manager.
const DEMOTED: &str =
    "this node stopped being a manager before the change was confirmed: it may or may not have been made";

/// What a node says of itself that the others do not listen to.
const REMOVED: &str = "the other nodes refuse this one: it was removed from the swarm. Leave the swarm with `docker swarm leave --force`, then it can join again";

/// A manager that was not heard for so long is unreachable: the leader has given it up by then, or is about to.
const REACHABLE: Duration = Duration::from_secs(2);

/// Pauses before a membership that could not be taken up is tried again: from this …
const RESUME_FIRST: Duration = Duration::from_secs(1);
/// … doubling to this.
const RESUME_MOST: Duration = Duration::from_secs(30);

/// One node of a swarm, or a node that is in none yet. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) local: Local,
    /// Held for the process' life: one daemon for each `--run`.
    _lock: Flock<File>,
    pub(crate) membership: RwLock<Option<Arc<Membership>>>,
    /// Why a membership on disk could not be taken up again.
    pub(crate) error: Mutex<String>,
    /// Whether the membership on disk waits for the unlock key.
    pub(crate) locked: AtomicBool,
    /// One `init`, `join` or `leave` at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Whether an `init` or a `join` is under way.
    pub(crate) pending: AtomicBool,
}

/// `swarm init`.
#[derive(Debug, Clone)]
pub struct InitRequest {
    /// Where the mesh listens, as `0.0.0.0:2377`; empty means the default.
    pub listen_addr: String,
    /// The address told to others: an IP, `IP:port` or an interface name; empty means choose.
    pub advertise_addr: String,
    /// Docker's address for data between nodes, an IP or an interface name. Checked and shown; skep's data goes over
    /// its one port.
    pub data_path_addr: String,
    /// Docker's port for data between nodes (1024 to 49151), 0 for none. Kept and shown as the address is.
    pub data_path_port: u32,
    /// Settings of the swarm.
    pub spec: ClusterSpec,
    /// Availability of this node.
    pub availability: Availability,
    /// Pools for networks; empty means the default.
    pub default_addr_pool: Vec<String>,
    /// Prefix length of networks taken from the pools; 0 means the default.
    pub subnet_size: u32,
    /// Make a new one-manager swarm of this node's state.
    pub force_new_cluster: bool,
}

/// `swarm join`.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// As in [`InitRequest`].
    pub listen_addr: String,
    /// As in [`InitRequest`].
    pub advertise_addr: String,
    /// As in [`InitRequest`].
    pub data_path_addr: String,
    /// Managers to ask, as `HOST:2377`.
    pub remote_addrs: Vec<String>,
    /// `SWMTKN-1-…`.
    pub join_token: String,
    /// Availability of this node.
    pub availability: Availability,
}

/// Whether this node is in a swarm (Docker's `LocalNodeState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalState {
    /// In none.
    Inactive,
    /// Joining.
    Pending,
    /// A member.
    Active,
    /// Failed to start as a member.
    Error,
    /// Waits for the unlock key.
    Locked,
}

/// What `info` shows of the swarm.
#[derive(Debug, Clone)]
pub struct SwarmInfo {
    /// This node's ID; empty outside a swarm.
    pub node_id: String,
    /// The address that this node tells others.
    pub node_addr: String,
    /// Member or not.
    pub local_state: LocalState,
    /// Whether this node is a manager that can serve requests.
    pub control_available: bool,
    /// Why `local_state` is `Error`.
    pub error: String,
    /// The managers that this node knows: ID and `ip:port`.
    pub remote_managers: Vec<(String, String)>,
}

/// What `info` shows of the node itself.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// Host name.
    pub hostname: String,
    /// `--root`.
    pub root: std::path::PathBuf,
    /// Version of this program.
    pub version: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// CPUs.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Containers by state.
    pub containers: ContainerCounts,
}

/// Containers of this node by state.
#[derive(Debug, Clone, Copy, Default)]
pub struct ContainerCounts {
    /// Running now.
    pub running: usize,
    /// Ended, or not started yet.
    pub stopped: usize,
}

/// A manager's place in Raft, as `node ls` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerStatus {
    /// Whether it leads.
    pub leader: bool,
    /// Whether this manager hears it.
    pub reachability: Reachability,
    /// Its mesh address, `ip:port`.
    pub addr: String,
}

/// Whether a manager is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// Not known.
    Unknown,
    /// Not heard.
    Unreachable,
    /// Heard.
    Reachable,
}

impl Node {
    /// Starts a node: takes the lock of `--run`, opens the image store, finds or starts the keeper, and takes part in
    /// the swarm that it was in before. A swarm that cannot be taken up again is reported by [`Node::swarm_info`].
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let (local, lock) = tokio::task::spawn_blocking(move || start_local(config))
            .await
            .map_err(NodeError::internal("start"))??;
        let exits = Arc::clone(&local.exits);
        exits.follow(Arc::clone(&local.keeper)).map_err(NodeError::internal("cannot follow the keeper"))?;
        let node = Self {
            inner: Arc::new(Inner {
                local,
                _lock: lock,
                membership: RwLock::new(None),
                error: Mutex::new(String::new()),
                locked: AtomicBool::new(false),
                changing: tokio::sync::Mutex::new(()),
                pending: AtomicBool::new(false),
            }),
        };
        if !node.resume().await {
            tokio::spawn(resume_later(Arc::downgrade(&node.inner)));
        }
        Ok(node)
    }

    /// Goes on with the membership on disk; false when it must be tried again.
    async fn resume(&self) -> bool {
        match swarm_ops::resume(&self.inner.local, None).await {
            Ok(membership) => {
                *self.inner.membership.write() = membership.map(Arc::new);
                self.inner.error.lock().clear();
                true
            }
            // Nothing to try again: it takes a person.
            Err(NodeError::Locked) => {
                tracing::warn!("this manager is locked until it gets the swarm's unlock key");
                self.inner.locked.store(true, Ordering::Release);
                self.inner.error.lock().clear();
                true
            }
            Err(error) => {
                tracing::error!(%error, "cannot take part in the swarm; trying again");
                *self.inner.error.lock() = error.to_string();
                false
            }
        }
    }

    /// Stops the node in good order; its containers go on running.
    pub async fn shutdown(&self) {
        let _changing = self.inner.changing.lock().await;
        let membership = self.inner.membership.write().take();
        if let Some(membership) = membership {
            membership.stop_loops().await;
            membership.stop().await;
        }
        let keeper = Arc::clone(&self.inner.local.keeper);
        match tokio::task::spawn_blocking(move || keeper.daemon_stopping()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot tell the keeper that this daemon stops"),
            Err(error) => tracing::warn!(%error, "cannot tell the keeper that this daemon stops"),
        }
    }

    /// The image store of this node. Its calls block: use `tokio::task::spawn_blocking`.
    pub fn images(&self) -> &Store {
        &self.inner.local.store
    }

    /// What `info` shows of the node itself.
    pub async fn info(&self) -> NodeInfo {
        let local = &self.inner.local;
        let keeper = Arc::clone(&local.keeper);
        let listed = tokio::task::spawn_blocking(move || keeper.list()).await;
        let mut containers = ContainerCounts::default();
        for container in listed.ok().and_then(Result::ok).unwrap_or_default() {
            match container.status {
                ContainerStatus::Running => containers.running += 1,
                _ => containers.stopped += 1,
            }
        }
        let resources = &local.description.resources;
        NodeInfo {
            hostname: local.config.hostname.clone(),
            root: local.config.root.clone(),
            version: local.config.version.clone(),
            cgroup_version: host::cgroup_version(),
            cpus: usize::try_from(resources.nano_cpus / 1_000_000_000).unwrap_or(1),
            memory_bytes: u64::try_from(resources.memory_bytes).unwrap_or(0),
            containers,
        }
    }

    /// What `info` shows of the swarm.
    pub fn swarm_info(&self) -> SwarmInfo {
        let error = self.inner.error.lock().clone();
        let pending = self.inner.pending.load(Ordering::Acquire);
        let Some(membership) = self.membership() else {
            return SwarmInfo {
                node_id: String::new(),
                node_addr: String::new(),
                local_state: match (self.is_locked(), error.is_empty()) {
                    (true, _) => LocalState::Locked,
                    (false, true) if pending => LocalState::Pending,
                    (false, true) => LocalState::Inactive,
                    (false, false) => LocalState::Error,
                },
                control_available: false,
                error,
                remote_managers: Vec::new(),
            };
        };
        let own = membership.node_id();
        let managers = |nodes: &mut dyn Iterator<Item = (String, Option<String>)>| {
            nodes.filter_map(|(id, address)| Some((id, address?))).collect()
        };
        let remote_managers: Vec<(String, String)> = match membership.raft() {
            Some(raft) => raft.read(|state| {
                let nodes = state.nodes.values().filter(|node| node.role == NodeRole::Manager);
                managers(&mut nodes.map(|node| (node.meta.id.clone(), node.addresses.first().cloned())))
            }),
            None => membership.agent.view(|view| {
                let nodes = view.nodes.iter().filter(|(_, node)| node.manager);
                managers(&mut nodes.map(|(id, node)| (id.clone(), node.addresses.first().cloned())))
            }),
        };
        let removed = membership.is_refused();
        SwarmInfo {
            node_id: own.to_owned(),
            node_addr: membership.record.get().advertise.ip().to_string(),
            local_state: match (removed, pending) {
                (true, _) => LocalState::Error,
                // A member already, but not served yet: the command that joins has not come back.
                (false, true) => LocalState::Pending,
                (false, false) => LocalState::Active,
            },
            control_available: membership.raft().is_some(),
            error: if removed { REMOVED.to_owned() } else { error },
            remote_managers,
        }
    }

    /// Makes a swarm of which this node is the first manager; its node ID.
    pub async fn swarm_init(&self, request: InitRequest) -> Result<String, NodeError> {
        let node = self.clone();
        to_the_end(async move { node.init(request).await }).await
    }

    async fn init(&self, request: InitRequest) -> Result<String, NodeError> {
        if request.force_new_cluster && self.membership().is_some() {
            let request = RecoverRequest {
                listen_addr: request.listen_addr,
                advertise_addr: request.advertise_addr,
                unlock_key: None,
            };
            return self.recover(request).await;
        }
        let _changing = self.inner.changing.lock().await;
        self.refuse_if_member()?;
        let _pending = Pending::begin(&self.inner.pending);
        let membership = Arc::new(swarm_ops::init(&self.inner.local, request).await?);
        let id = membership.node_id().to_owned();
        self.become_member(&membership);
        membership.wait_until_served().await?;
        Ok(id)
    }

    /// Joins a swarm; the role comes from the token.
    pub async fn swarm_join(&self, request: JoinRequest) -> Result<(), NodeError> {
        let node = self.clone();
        to_the_end(async move { node.join(request).await }).await
    }

    async fn join(&self, request: JoinRequest) -> Result<(), NodeError> {
        let _changing = self.inner.changing.lock().await;
        self.refuse_if_member()?;
        let _pending = Pending::begin(&self.inner.pending);
        let membership = Arc::new(swarm_ops::join_swarm(&self.inner.local, request).await?);
        self.become_member(&membership);
        membership.wait_until_served().await
    }

    /// Leaves the swarm: stops its tasks, forgets identity and state. A manager needs `force`.
    pub async fn swarm_leave(&self, force: bool) -> Result<(), NodeError> {
        let node = self.clone();
        to_the_end(async move { node.leave(force).await }).await
    }

    async fn leave(&self, force: bool) -> Result<(), NodeError> {
        let _changing = self.inner.changing.lock().await;
        let Some(membership) = self.membership() else {
            if self.inner.error.lock().is_empty() && !self.is_locked() {
                return Err(NodeError::NotPartOfSwarm);
            }
            if self.is_locked() && !force {
                return Err(NodeError::Locked);
            }
            swarm_ops::forget_all(&self.inner.local).await;
            self.inner.error.lock().clear();
            self.inner.locked.store(false, Ordering::Release);
            return Ok(());
        };
        if membership.raft().is_some() && !force {
            return Err(NodeError::Unavailable(self.what_leaving_breaks(&membership)));
        }
        swarm_ops::leave(&self.inner.local, &membership).await;
        *self.inner.membership.write() = None;
        Ok(())
    }

    /// Looks at the replicated state of this manager. Short: writers wait meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> Result<R, NodeError> {
        Ok(self.raft()?.read(look))
    }

    /// Commits a transaction (through the leader, wherever it is) and returns its index once this manager has
    /// applied it, so that a `read` sees it.
    pub async fn write(&self, transaction: Transaction) -> Result<u64, NodeError> {
        let part = self.manager()?;
        let proposed = part.while_it_runs(part.raft.propose(transaction)).await;
        proposed.ok_or_else(|| NodeError::Unavailable(DEMOTED.to_owned()))?.map_err(refused)
    }

    /// The place in Raft of a node, if it is a manager.
    pub fn manager_status(&self, node_id: &str) -> Option<ManagerStatus> {
        let membership = self.membership()?;
        let raft = membership.raft()?;
        let (addr, down) = raft.read(|state| {
            let node = state.nodes.get(node_id).filter(|node| node.role == NodeRole::Manager)?;
            Some((node.addresses.first().cloned()?, node.status.state == NodeState::Down))
        })?;
        let recently = |heard: std::time::Instant| heard.elapsed() < REACHABLE;
        let heard = node_id == membership.node_id()
            || !down
                && membership.mesh.is_connected(node_id)
                && membership.mesh.last_heard(node_id).is_some_and(recently);
        // A manager that was promoted a moment ago has no vote yet: it does not count for a majority.
        let votes = raft.members().iter().any(|member| member.voter && member.node_id == node_id);
        let reachability = match (votes, heard) {
            (true, true) => Reachability::Reachable,
            (true, false) => Reachability::Unreachable,
            (false, _) => Reachability::Unknown,
        };
        Some(ManagerStatus { leader: raft.leader().as_deref() == Some(node_id), reachability, addr })
    }

    /// Whether some node of the swarm (or this one) has an image, so that tasks can run it.
    pub async fn image_available(&self, reference: &str) -> bool {
        match self.membership() {
            Some(membership) => membership.images.available(reference).await,
            None => self.images().resolve(reference).is_ok(),
        }
    }

    /// The containers of this node that use an image (for refusing `image rm`): a name of one of them. Asks the store
    /// nothing: it is called with the store locked.
    pub fn image_in_use(&self, image_id: &str) -> Option<String> {
        let membership = self.membership()?;
        let used = membership.agent.context().images_used.lock().clone();
        membership.agent.view(|view| {
            let living = view.tasks.values().filter(|task| !task.status.state.is_terminal());
            let mut users =
                living.filter(|task| used.get(&task.meta.id).is_some_and(|image| image == image_id));
            users.next().map(skep_state::Task::name)
        })
    }

    /// A new random join token for the swarm: `SWMTKN-1-…`.
    pub fn new_join_token(&self) -> Result<String, NodeError> {
        let membership = self.membership().ok_or_else(|| self.why_not_in_swarm())?;
        crate::manager::new_token(membership.identity().trust_pem())
    }

    /// This moment.
    pub fn now(&self) -> Timestamp {
        clock::now()
    }

    /// A new random object ID.
    pub fn new_id(&self) -> String {
        clock::new_id()
    }

    /// What the node was started with.
    pub fn config(&self) -> &NodeConfig {
        &self.inner.local.config
    }

    pub(crate) fn membership(&self) -> Option<Arc<Membership>> {
        self.inner.membership.read().clone()
    }

    pub(crate) fn manager(&self) -> Result<Arc<ManagerPart>, NodeError> {
        let membership = self.membership().ok_or_else(|| self.why_not_in_swarm())?;
        membership.manager.get().ok_or(NodeError::NotManager)
    }

    pub(crate) fn raft(&self) -> Result<RaftNode, NodeError> {
        let membership = self.membership().ok_or_else(|| self.why_not_in_swarm())?;
        membership.raft().ok_or(NodeError::NotManager)
    }

    /// Whether this node waits for the unlock key.
    pub(crate) fn is_locked(&self) -> bool {
        self.inner.locked.load(Ordering::Acquire)
    }

    pub(crate) fn why_not_in_swarm(&self) -> NodeError {
        if self.is_locked() { NodeError::Locked } else { NodeError::NotInSwarm }
    }

    fn refuse_if_member(&self) -> Result<(), NodeError> {
        let member = self.membership().is_some() || !self.inner.error.lock().is_empty() || self.is_locked();
        if member { Err(NodeError::AlreadyInSwarm) } else { Ok(()) }
    }

    fn become_member(&self, membership: &Arc<Membership>) {
        *self.inner.membership.write() = Some(Arc::clone(membership));
    }

    /// Docker's warnings for a manager that leaves.
    fn what_leaving_breaks(&self, membership: &Membership) -> String {
        let members = membership.raft().as_ref().map(RaftNode::members).unwrap_or_default();
        let own = membership.node_id();
        let others = members.iter().filter(|member| member.node_id != own);
        let reachable = others.filter(|member| membership.mesh.is_connected(&member.node_id)).count();
        leave_warning(members.len(), reachable)
    }
}

/// What a manager that leaves is told, of so many managers of which it reaches so many others (moby
/// `daemon/cluster/swarm.go`, `Leave`).
fn leave_warning(managers: usize, reachable: usize) -> String {
    let mut text =
        "You are attempting to leave the swarm on a node that is participating as a manager. ".to_owned();
    if managers < 2 {
        text.push_str(
            "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message.",
        );
        return text;
    }
    if reachable < managers / 2 + 1 {
        text.push_str(&format!(
            "Removing this node leaves {reachable} managers out of {managers}. Without a Raft quorum your swarm will be inaccessible. "
        ));
    }
    text.push_str(
        "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message. (With skep, `skep swarm recover` reinitializes it.)",
    );
    text
}

/// An `init` or a `join` that is under way; over when it is dropped, however that comes.
struct Pending<'a>(&'a AtomicBool);

impl<'a> Pending<'a> {
    fn begin(pending: &'a AtomicBool) -> Self {
        pending.store(true, Ordering::Release);
        Self(pending)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The class of a refusal by Raft.
pub(crate) fn refused(error: ProposeError) -> NodeError {
    match error {
        ProposeError::Conflict(conflict) => NodeError::Conflict(conflict),
        ProposeError::NoLeader => NodeError::NoLeader,
        other => NodeError::Unavailable(other.to_string()),
    }
}

/// Tries again to take a membership up: an address that is not there yet, a port that is still taken. Ends when that
/// worked, when somebody left the swarm meanwhile, or with the node.
async fn resume_later(inner: Weak<Inner>) {
    let mut pause = RESUME_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RESUME_MOST);
        let Some(inner) = inner.upgrade() else { return };
        let node = Node { inner };
        let _changing = node.inner.changing.lock().await;
        let settled = node.inner.error.lock().is_empty();
        if settled || node.resume().await {
            return;
        }
    }
}

/// Runs a change of membership to its end even when the client that asked for it goes away: half of one would be
/// neither in nor out.
pub(crate) async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, NodeError>> + Send + 'static,
) -> Result<T, NodeError> {
    tokio::spawn(change).await.map_err(NodeError::internal("the change of membership broke off"))?
}

/// Opens what a node needs whether it is in a swarm or not. Blocks.
fn start_local(config: NodeConfig) -> Result<(Local, Flock<File>), NodeError> {
    // The root holds keys, the swarm's state, and what containers write (set-user-ID programs among it): root's alone.
    for (folder, mode) in [(&config.root, 0o700), (&config.run, 0o711)] {
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::set_permissions(folder, Permissions::from_mode(mode)))
            .map_err(NodeError::internal(format!("cannot make {}", folder.display())))?;
    }
    let lock_path = config.run.join("daemon.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(NodeError::internal(format!("cannot open {}", lock_path.display())))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        NodeError::internal(format!(
            "another skep daemon uses {} (stop it, or give --run)",
            config.run.display()
        ))(error)
    })?;
    let store = Store::open(&config.root.join("images"))
        .map_err(NodeError::internal("cannot open the image store"))?;
    let mut options = KeeperOptions::new(&config.run, config.root.join("keeper"), &config.cgroup_parent);
    options.respawn = (!config.respawn.is_empty()).then(|| config.respawn.clone());
    let command = host::keeper_command(&options);
    let keeper = Keeper::start(options, command).map_err(NodeError::internal("cannot reach the keeper"))?;
    let description = host::description(&config);
    let clock = SwarmClock::with_skew(config.clock_offset);
    let (keeper, exits) = (Arc::new(keeper), Arc::new(Exits::default()));
    let local = Local { config, store, keeper, exits, description, clock };
    Ok((local, lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_leaves_is_told_what_breaks() {
        let last = leave_warning(1, 0);
        assert!(last.ends_with("Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message."), "{last}");
        for (managers, reachable) in [(2, 1), (3, 1), (3, 0), (5, 2)] {
            let text = leave_warning(managers, reachable);
            let counted = format!(
                "participating as a manager. Removing this node leaves {reachable} managers out of {managers}. Without a Raft quorum your swarm will be inaccessible. The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message."
            );
            assert!(text.contains(&counted), "{text}");
            assert!(text.contains("`skep swarm recover`"), "{text}");
        }
        let harmless = leave_warning(3, 2);
        assert!(!harmless.contains("Without a Raft quorum"), "{harmless}");
        assert!(harmless.contains("`--force` to suppress this message."), "{harmless}");
    }

    #[test]
    fn a_join_is_pending_until_it_ends_in_any_way() {
        let pending = AtomicBool::new(false);
        let failing = || -> Result<(), NodeError> {
            let _pending = Pending::begin(&pending);
            assert!(pending.load(Ordering::Acquire));
            Err(NodeError::NotInSwarm)
        };
        assert!(failing().is_err());
        assert!(!pending.load(Ordering::Acquire));
    }
}
