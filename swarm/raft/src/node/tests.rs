//! Clusters in one process, over a transport that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use parking_lot::Mutex;
use skep_state::{Change, Conflict, Service, Timestamp};
use tempfile::TempDir;

use super::*;
use crate::{TransportError, Update};

mod alone;
mod cluster;
mod faults;
mod members;
mod retention;
mod storage_suite;

/// Passes requests between the nodes of one test, except over the links that are cut.
#[derive(Default)]
pub(super) struct Switch {
    nodes: Mutex<BTreeMap<String, RaftNode>>,
    /// Nodes that nobody reaches and that reach nobody.
    cut: Mutex<BTreeSet<String>>,
}

struct Link {
    switch: Arc<Switch>,
    from: String,
}

impl Switch {
    fn allows(&self, from: &str, to: &str) -> bool {
        let cut = self.cut.lock();
        !cut.contains(from) && !cut.contains(to)
    }
}

#[async_trait]
impl Transport for Link {
    async fn send(&self, target: &str, rpc: Bytes) -> Result<Bytes, TransportError> {
        let node_id = target.to_owned();
        let reason = "cut".to_owned();
        let node = self.switch.nodes.lock().get(target).cloned();
        let Some(node) = node.filter(|_| self.switch.allows(&self.from, target)) else {
            return Err(TransportError::Unreachable { node_id, reason });
        };
        // On a task of its own, as a real peer: it goes on when this side gives up.
        let from = self.from.clone();
        let answer = tokio::spawn(async move { node.handle_rpc(&from, rpc).await }).await;
        match answer {
            Ok(answer) if self.switch.allows(&self.from, target) => Ok(answer),
            _ => Err(TransportError::Lost { node_id, reason }),
        }
    }
}

/// Some nodes, their folders, and the switch between them.
pub(super) struct Cluster {
    switch: Arc<Switch>,
    dir: TempDir,
    nodes: BTreeMap<String, RaftNode>,
    interval: u64,
}

pub(super) fn name(number: usize) -> String {
    format!("node{number:021}")
}

impl Cluster {
    /// `count` managers, the first of which made the swarm.
    pub(super) async fn of(count: usize) -> Self {
        Self::with_interval(count, 10_000).await
    }

    pub(super) async fn with_interval(count: usize, interval: u64) -> Self {
        let mut cluster =
            Self { switch: Arc::default(), dir: TempDir::new().unwrap(), nodes: BTreeMap::new(), interval };
        for number in 0..count {
            cluster.open(number).await;
        }
        cluster.node(0).initialize(put("first", 0)).await.unwrap();
        for number in 1..count {
            cluster.node(0).add_manager(&name(number)).await.unwrap();
        }
        cluster
    }

    pub(super) fn path(&self, number: usize) -> PathBuf {
        self.dir.path().join(name(number))
    }

    pub(super) fn options(&self, number: usize) -> RaftOptions {
        let mut options =
            RaftOptions::new(self.path(number), name(number), skep_seal::Key::from_bytes([7; 32]));
        options.snapshot_interval = self.interval;
        options.log_entries_kept = self.interval / 10;
        options
    }

    pub(super) async fn open(&mut self, number: usize) -> RaftNode {
        let link = Link { switch: Arc::clone(&self.switch), from: name(number) };
        let node = RaftNode::open(self.options(number), Arc::new(link)).await.unwrap();
        self.switch.nodes.lock().insert(name(number), node.clone());
        self.nodes.insert(name(number), node.clone());
        node
    }

    pub(super) fn node(&self, number: usize) -> RaftNode {
        self.nodes[&name(number)].clone()
    }

    pub(super) fn cut(&self, number: usize) {
        self.switch.cut.lock().insert(name(number));
    }

    pub(super) fn heal(&self, number: usize) {
        self.switch.cut.lock().remove(&name(number));
    }

    /// Takes a node away as a power cut does for the others; its folder stays, and is free when this returns.
    pub(super) async fn kill(&mut self, number: usize) {
        self.switch.nodes.lock().remove(&name(number));
        if let Some(node) = self.nodes.remove(&name(number)) {
            let mut closed = node.inner.closed.clone();
            drop(node);
            // Requests that it still serves have handles too.
            let _ = closed.wait_for(|&closed| closed).await;
        }
    }

    /// The number of the node that leads, once a node among `among` sees one among them.
    pub(super) async fn leader(&self, among: &[usize]) -> usize {
        until("a leader", || among.iter().copied().find(|&number| self.node(number).is_leader())).await
    }
}

/// Waits for a condition; panics after far longer than it can take.
pub(super) async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A transaction that puts a service, seen at this version.
pub(super) fn put(name: &str, version: u64) -> Transaction {
    let mut service = Service::default();
    service.meta.id = format!("id-{name}");
    service.meta.version.index = version;
    service.spec.name = name.to_owned();
    Transaction { at: Timestamp::from_nanos(1), changes: vec![Change::PutService(Box::new(service))] }
}

pub(super) fn has(node: &RaftNode, name: &str) -> bool {
    node.read(|state| state.service_by_name(name).is_some())
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_folder(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}
