//! Measures a cluster in one process: commits a second on this disk, and how long a dead leader is missed.
//!
//! `cargo run --release -p skep-raft --example raft_measure -- FOLDER [ELECTIONS]`

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use skep_raft::{RaftNode, RaftOptions, Transport, TransportError};
use skep_state::{Change, Task, Transaction};

type Nodes = Arc<Mutex<BTreeMap<String, RaftNode>>>;
type Failure = Box<dyn std::error::Error>;

struct Link {
    nodes: Nodes,
    from: String,
}

#[async_trait]
impl Transport for Link {
    async fn send(&self, target: &str, rpc: Bytes) -> Result<Bytes, TransportError> {
        let node = {
            let nodes = self.nodes.lock();
            // A dead node says nothing either.
            nodes.get(target).filter(|_| nodes.contains_key(&self.from)).cloned()
        };
        match node {
            Some(node) => Ok(node.handle_rpc(&self.from, rpc).await),
            // As a dead host: no answer at all.
            None => std::future::pending().await,
        }
    }
}

fn put(name: &str) -> Transaction {
    // A task: a service's name is compared with all the others', which is not what is measured here.
    let mut task = Task::default();
    task.meta.id = name.to_owned();
    Transaction { changes: vec![Change::PutTask(Box::new(task))], ..Transaction::default() }
}

async fn open(dir: &Path, nodes: &Nodes, name: &str) -> Result<RaftNode, Failure> {
    let link = Link { nodes: Arc::clone(nodes), from: name.to_owned() };
    let node =
        RaftNode::open(RaftOptions::new(dir.join(name), name, skep_seal::Key::random()), Arc::new(link))
            .await?;
    nodes.lock().insert(name.to_owned(), node.clone());
    Ok(node)
}

async fn cluster(dir: &Path, count: usize) -> Result<Nodes, Failure> {
    let nodes = Nodes::default();
    let first = open(dir, &nodes, "node0").await?;
    first.initialize(put("first")).await?;
    for number in 1..count {
        let name = format!("node{number}");
        open(dir, &nodes, &name).await?;
        first.add_manager(&name).await?;
    }
    Ok(nodes)
}

async fn commits(node: &RaftNode, writers: usize, label: &str) -> Result<(), Failure> {
    let started = Instant::now();
    let limit = Duration::from_secs(3);
    let mut writing = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let (node, label) = (node.clone(), label.to_owned());
        writing.spawn(async move {
            let mut times = Vec::new();
            while started.elapsed() < limit {
                let asked = Instant::now();
                let name = format!("{label}-{writer}-{}", times.len());
                if node.propose(put(&name)).await.is_ok() {
                    times.push(asked.elapsed());
                }
            }
            times
        });
    }
    let mut times: Vec<Duration> = writing.join_all().await.concat();
    times.sort();
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!("{label}, {writers} at once: {rate:.0} commits/s, median {:?}, 99 % {:?}", at(50), at(99));
    Ok(())
}

async fn elections(dir: &Path, runs: usize) -> Result<(), Failure> {
    let nodes = cluster(dir, 3).await?;
    let mut times = Vec::new();
    for run in 0..runs {
        let leader = loop {
            let all: Vec<RaftNode> = nodes.lock().values().cloned().collect();
            let leads = all.iter().find_map(|node| node.is_leader().then(|| node.leader())).flatten();
            let agreed = all.iter().all(|node| node.leader().is_some() && node.leader() == leads);
            if let (Some(leader), true) = (leads, agreed) {
                break leader;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        // Somewhere between two heartbeats.
        tokio::time::sleep(Duration::from_millis(300 + (run as u64 * 37) % 150)).await;
        let dead = nodes.lock().remove(&leader).ok_or("the leader is gone")?;
        let died = Instant::now();
        let mut new = nodes.lock().values().next().ok_or("no survivor")?.watch_leader();
        new.wait_for(|now| now.leader.as_ref().is_some_and(|now| *now != leader)).await?;
        times.push(died.elapsed());
        println!("run {run}: {:?}", died.elapsed());
        dead.shutdown().await;
        drop(dead);
        open(dir, &nodes, &leader).await?;
    }
    times.sort();
    println!("new leader known: min {:?}, median {:?}, max {:?}", times[0], times[runs / 2], times[runs - 1]);
    let all = std::mem::take(&mut *nodes.lock());
    for node in all.values() {
        node.shutdown().await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a folder on the disk to measure")?;
    let runs: usize = arguments.next().map_or(Ok(20), |runs| runs.parse())?;
    let folder = Path::new(&folder);
    elections(&folder.join("elections"), runs).await?;
    for count in [1, 3] {
        let nodes = cluster(&folder.join(format!("of{count}")), count).await?;
        let all: Vec<RaftNode> = nodes.lock().values().cloned().collect();
        commits(&all[0], 1, &format!("{count} nodes")).await?;
        commits(&all[0], 64, &format!("{count} nodes")).await?;
        if let Some(follower) = all.get(1) {
            commits(follower, 1, &format!("{count} nodes, through a follower")).await?;
            commits(follower, 64, &format!("{count} nodes, through a follower")).await?;
        }
        nodes.lock().clear();
        for node in all {
            node.shutdown().await;
        }
    }
    Ok(())
}
