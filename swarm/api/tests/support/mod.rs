//! A stand-in for a node: a plain state, whose tasks run at once.

pub(crate) mod archive;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use skep_api::Engine;
use skep_control::request::{self, Changes};
use skep_image::Store;
use skep_node::{
    ContainerCounts, InitRequest, JoinRequest, LocalState, ManagerStatus, NodeError, NodeInfo, PeerPath,
    Reachability, RecoverRequest, Rotate, SwarmInfo,
};
use skep_state::object::{ContainerStatus, IpamConfig};
use skep_state::spec::{ClusterSpec, NodeRole};
use skep_state::{
    Change, Cluster, JoinTokens, Network, NetworkAttachment, Node, NodeState, Raft, State, Task, TaskState,
    TaskStatus, Timestamp, Transaction,
};

/// ID of the only node.
pub(crate) const NODE_ID: &str = "node1node1node1node1node1";

/// A stand-in for a node.
#[derive(Clone)]
pub(crate) struct Fake {
    store: Store,
    state: Arc<Mutex<Option<State>>>,
    /// Images that some other node has.
    elsewhere: Arc<Mutex<Vec<String>>>,
    local: Arc<Mutex<LocalState>>,
    ids: Arc<AtomicU64>,
}

impl Fake {
    /// A manager that was restarted and waits for the unlock key.
    pub(crate) fn lock_up(&self) {
        *self.local.lock().unwrap() = LocalState::Locked;
    }

    /// In no swarm, with an image store of its own.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            store: Store::open(root).unwrap(),
            state: Arc::default(),
            elsewhere: Arc::default(),
            local: Arc::new(Mutex::new(LocalState::Inactive)),
            ids: Arc::default(),
        }
    }

    /// Makes an image available without loading it.
    pub(crate) fn add_image(&self, name: &str) {
        self.elsewhere.lock().unwrap().push(name.to_owned());
    }

    /// Pretends to be a worker.
    pub(crate) fn become_worker(&self) {
        *self.state.lock().unwrap() = None;
        *self.local.lock().unwrap() = LocalState::Active;
    }

    /// The state, as it is.
    pub(crate) fn state(&self) -> State {
        self.lock().clone().unwrap()
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap()
    }

    fn missing(&self) -> NodeError {
        match *self.local.lock().unwrap() {
            LocalState::Inactive => NodeError::NotInSwarm,
            _ => NodeError::NotManager,
        }
    }

    fn commit(&self, transaction: &Transaction) -> Result<u64, NodeError> {
        let mut guard = self.lock();
        let state = guard.as_mut().ok_or_else(|| self.missing())?;
        let index = state.index + 1;
        state.apply(index, transaction)?;
        let tasks = self.orchestrate(state);
        let index = state.index + 1;
        state.apply(index, &Transaction { at: self.now(), changes: tasks })?;
        Ok(index)
    }

    /// What orchestrator, scheduler and agent would do, at once.
    fn orchestrate(&self, state: &State) -> Vec<Change> {
        let mut changes = Vec::new();
        for task in state.tasks.values() {
            if !state.services.contains_key(&task.service_id) {
                changes.push(Change::Remove(skep_state::Kind::Task, task.meta.id.clone()));
            }
        }
        for service in state.services.values() {
            let wanted = service.spec.replicas().unwrap_or(1);
            for slot in 1..=wanted {
                let mut runs = false;
                for task in state.tasks_of(&service.meta.id).filter(|task| task.slot == slot) {
                    if task.desired_state != TaskState::Running {
                        continue;
                    }
                    if task.spec == service.spec.task_template {
                        runs = true;
                    } else {
                        changes.push(Change::PutTask(Box::new(stopped(task))));
                    }
                }
                if !runs {
                    changes.push(Change::PutTask(Box::new(self.task(service, slot))));
                }
            }
            for task in state.tasks_of(&service.meta.id) {
                if task.slot > wanted && task.desired_state == TaskState::Running {
                    changes.push(Change::PutTask(Box::new(stopped(task))));
                }
            }
        }
        changes
    }

    fn task(&self, service: &skep_state::Service, slot: u64) -> Task {
        let mut task = Task {
            spec: service.spec.task_template.clone(),
            spec_version: service.spec_version,
            service_id: service.meta.id.clone(),
            service_name: service.spec.name.clone(),
            slot,
            node_id: NODE_ID.to_owned(),
            status: TaskStatus {
                timestamp: self.now(),
                state: TaskState::Running,
                message: "started".to_owned(),
                err: String::new(),
                container_status: Some(ContainerStatus {
                    container_id: "c".repeat(64),
                    pid: 7,
                    exit_code: 0,
                }),
            },
            desired_state: TaskState::Running,
            networks: vec![NetworkAttachment {
                network_id: "ingress".to_owned(),
                addresses: vec!["10.255.0.8/16".to_owned()],
            }],
            ..Task::default()
        };
        task.meta.id = self.new_id();
        task
    }
}

fn stopped(task: &Task) -> Task {
    let mut task = task.clone();
    task.desired_state = TaskState::Shutdown;
    task.status.state = TaskState::Shutdown;
    task
}

/// The certificate of a real swarm.
fn certificate() -> String {
    let info = include_str!("../fixtures/daemon-responses-1.41/info--info.json");
    let info: serde_json::Value = serde_json::from_str(info).unwrap();
    info["Swarm"]["Cluster"]["TLSInfo"]["TrustRoot"].as_str().unwrap().to_owned()
}

#[async_trait]
impl Engine for Fake {
    fn images(&self) -> &Store {
        &self.store
    }

    fn version(&self) -> &str {
        "0.1.0"
    }

    async fn info(&self) -> NodeInfo {
        NodeInfo {
            hostname: "host1".to_owned(),
            root: "/var/lib/skep".into(),
            version: "0.1.0".to_owned(),
            cgroup_version: 2,
            cpus: 2,
            memory_bytes: 1 << 30,
            containers: ContainerCounts { running: 1, stopped: 2 },
        }
    }

    fn swarm_info(&self) -> SwarmInfo {
        let manager = self.lock().is_some();
        let local_state = *self.local.lock().unwrap();
        let active = local_state == LocalState::Active;
        SwarmInfo {
            node_id: if active { NODE_ID.to_owned() } else { String::new() },
            node_addr: if active { "10.77.0.1".to_owned() } else { String::new() },
            local_state,
            control_available: manager,
            error: String::new(),
            remote_managers: if active {
                vec![(NODE_ID.to_owned(), "10.77.0.1:2377".to_owned())]
            } else {
                Vec::new()
            },
        }
    }

    async fn swarm_init(&self, request: InitRequest) -> Result<String, NodeError> {
        let mut cluster = Cluster {
            spec: request.spec,
            ca_cert: certificate(),
            ca_key: "very secret".to_owned(),
            join_tokens: JoinTokens { worker: "SWMTKN-1-w".to_owned(), manager: "SWMTKN-1-m".to_owned() },
            default_addr_pool: vec!["10.0.0.0/8".to_owned()],
            subnet_size: 24,
            ..Cluster::default()
        };
        cluster.meta.id = self.new_id();
        let mut node =
            Node { role: NodeRole::Manager, raft: Some(Raft { id: 1 }), index: 1, ..Node::default() };
        node.meta.id = NODE_ID.to_owned();
        node.spec.role = NodeRole::Manager;
        node.spec.availability = request.availability;
        node.description.hostname = "host1".to_owned();
        node.description.platform.architecture = "x86_64".to_owned();
        node.description.platform.os = "linux".to_owned();
        node.description.resources.nano_cpus = 2_000_000_000;
        node.description.resources.memory_bytes = 1 << 30;
        node.description.engine.engine_version = "0.1.0".to_owned();
        node.status.state = NodeState::Ready;
        node.status.addr = "10.77.0.1".to_owned();
        let mut ingress = Network {
            name: "ingress".to_owned(),
            driver: "overlay".to_owned(),
            ipam: vec![IpamConfig { subnet: "10.255.0.0/16".to_owned(), gateway: "10.255.0.1".to_owned() }],
            ingress: true,
            ..Network::default()
        };
        ingress.meta.id = "ingress".to_owned();
        *self.lock() = Some(State { index: 8, ..State::default() });
        *self.local.lock().unwrap() = LocalState::Active;
        self.commit(&Transaction {
            at: self.now(),
            changes: vec![
                Change::PutCluster(Box::new(cluster)),
                Change::PutNode(Box::new(node)),
                Change::PutNetwork(Box::new(ingress)),
            ],
        })?;
        Ok(NODE_ID.to_owned())
    }

    async fn swarm_join(&self, request: JoinRequest) -> Result<(), NodeError> {
        Err(NodeError::Invalid(format!("invalid join token {}", request.join_token)))
    }

    async fn swarm_leave(&self, force: bool) -> Result<(), NodeError> {
        if *self.local.lock().unwrap() == LocalState::Inactive {
            return Err(NodeError::NotPartOfSwarm);
        }
        if !force {
            return Err(NodeError::Unavailable("You are attempting to leave the swarm".to_owned()));
        }
        *self.lock() = None;
        *self.local.lock().unwrap() = LocalState::Inactive;
        Ok(())
    }

    async fn swarm_update(&self, version: u64, spec: ClusterSpec, rotate: Rotate) -> Result<(), NodeError> {
        let fresh = |prefix: &str| format!("{prefix}-1-{}", self.ids.fetch_add(1, Ordering::Relaxed));
        let transaction = {
            let guard = self.lock();
            let state = guard.as_ref().ok_or_else(|| self.missing())?;
            let cluster = state.cluster.as_ref().ok_or_else(|| self.missing())?;
            let unlock = rotate.unlock_key || request::needs_unlock_key(cluster, &spec);
            let changes = Changes {
                worker_token: rotate.worker_token.then(|| fresh("SWMTKN")),
                manager_token: rotate.manager_token.then(|| fresh("SWMTKN")),
                unlock_key: unlock.then(|| fresh("SWMKEY")),
                rotation: None,
            };
            request::update_cluster(state, version, spec, changes, self.now())?
        };
        self.commit(&transaction).map(drop)
    }

    async fn swarm_unlock(&self, key: &str) -> Result<(), NodeError> {
        let mut local = self.local.lock().unwrap();
        match *local {
            LocalState::Inactive => Err(NodeError::NotInSwarm),
            LocalState::Locked if key == "SWMKEY-1-right" => {
                *local = LocalState::Active;
                Ok(())
            }
            LocalState::Locked => Err(NodeError::WrongUnlockKey),
            _ => Err(NodeError::NotLocked),
        }
    }

    fn unlock_key(&self) -> Result<String, NodeError> {
        let guard = self.lock();
        let state = guard.as_ref().ok_or_else(|| self.missing())?;
        Ok(state.cluster.as_ref().map(|cluster| cluster.unlock_key.clone()).unwrap_or_default())
    }

    async fn swarm_recover(&self, _request: RecoverRequest) -> Result<String, NodeError> {
        self.lock().as_ref().map(|_| NODE_ID.to_owned()).ok_or(NodeError::NotPartOfSwarm)
    }

    fn addresses(&self) -> Result<(SocketAddr, SocketAddr), NodeError> {
        let here = SocketAddr::from(([127, 0, 0, 1], 2377));
        self.lock().as_ref().map(|_| (here, here)).ok_or(NodeError::NotPartOfSwarm)
    }

    async fn swarm_address(&self, _listen: &str, _advertise: &str) -> Result<(), NodeError> {
        self.addresses().map(|_| ())
    }

    async fn read_barrier(&self) -> Result<(), NodeError> {
        Ok(())
    }

    fn node_path(&self, node_id: &str) -> Option<PeerPath> {
        (node_id != NODE_ID).then_some(PeerPath::Direct)
    }

    fn look(&self, look: &mut dyn FnMut(&State)) -> Result<(), NodeError> {
        let guard = self.lock();
        look(guard.as_ref().ok_or_else(|| self.missing())?);
        Ok(())
    }

    async fn write(&self, transaction: Transaction) -> Result<u64, NodeError> {
        self.commit(&transaction)
    }

    fn manager_status(&self, node_id: &str) -> Option<ManagerStatus> {
        (node_id == NODE_ID).then(|| ManagerStatus {
            leader: true,
            reachability: Reachability::Reachable,
            addr: "10.77.0.1:2377".to_owned(),
        })
    }

    async fn image_available(&self, reference: &str) -> bool {
        let elsewhere = self.elsewhere.lock().unwrap().iter().any(|name| name == reference);
        elsewhere || self.store.resolve(reference).is_ok()
    }

    fn image_in_use(&self, _image_id: &str) -> Option<String> {
        None
    }

    fn now(&self) -> Timestamp {
        let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Timestamp::from_nanos(i64::try_from(elapsed.as_nanos()).unwrap())
    }

    fn new_id(&self) -> String {
        let number = self.ids.fetch_add(1, Ordering::Relaxed) + 1;
        skep_state::id::from_random(u128::from(number) * 0x1234_5678_9abc_def0_1234_5678_9abc)
    }

    fn mesh_port(&self) -> u16 {
        2377
    }
}
