//! What a node must remember of its membership between two runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skep_mesh::EpochProof;
use skep_state::spec::NodeRole;
use tokio::sync::watch;

use crate::address::Origin;
use crate::durable;

/// A node's membership of a swarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Where the mesh listens.
    pub listen: SocketAddr,
    /// The address told to others.
    pub advertise: SocketAddr,
    /// Where that address comes from.
    #[serde(default)]
    pub origin: Origin,
    /// The interface that has, or had last, that address; empty when none is known.
    #[serde(default)]
    pub interface: String,
    /// The role in the node's certificate.
    pub role: NodeRole,
    /// The managers that were known last: node ID and addresses.
    pub managers: Vec<(String, Vec<String>)>,
    /// Subnets that go over the mesh.
    pub subnets: Vec<String>,
    /// The proof of the swarm's epoch, as [`EpochProof::encode`] gives it; empty in a swarm that was never recovered.
    #[serde(default)]
    pub epoch: Vec<u8>,
}

impl Member {
    /// The swarm's epoch as this node knows it; nothing in a swarm that was never recovered.
    pub(crate) fn epoch(&self) -> Option<EpochProof> {
        EpochProof::decode(&self.epoch)
    }
}

/// The [`Member`] record while the node runs: everybody sees the same one, and what changes is on disk before it counts.
pub(crate) struct Record {
    file: PathBuf,
    value: watch::Sender<Member>,
    /// One writer at a time; whether the record is on disk at all: a join that is not complete must leave none.
    kept: Mutex<bool>,
}

impl Record {
    /// Of a membership that is on disk already, or (not `kept`) will be with [`Self::keep`].
    pub(crate) fn new(folders: &Folders, member: Member, kept: bool) -> Arc<Self> {
        let (value, kept) = (watch::Sender::new(member), Mutex::new(kept));
        Arc::new(Self { file: folders.record(), value, kept })
    }

    /// As it is now.
    pub(crate) fn get(&self) -> Member {
        self.value.borrow().clone()
    }

    /// Follows it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Member> {
        self.value.subscribe()
    }

    /// Writes it for the first time: from now on the node is a member after a restart.
    pub(crate) fn keep(&self) -> std::io::Result<()> {
        let mut kept = self.kept.lock();
        durable::write_json(&self.file, &*self.value.borrow())?;
        *kept = true;
        Ok(())
    }

    /// Changes it, on disk first. Nothing is written when nothing differs.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Member)) -> std::io::Result<()> {
        let kept = self.kept.lock();
        let mut member = self.get();
        change(&mut member);
        if member == *self.value.borrow() {
            return Ok(());
        }
        if *kept {
            durable::write_json(&self.file, &member)?;
        }
        self.value.send_replace(member);
        Ok(())
    }
}

/// Where membership is kept below `--root`.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Below a root.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.join("swarm") }
    }

    /// Everything about the membership.
    pub(crate) fn all(&self) -> &Path {
        &self.root
    }

    /// Key and certificates.
    pub(crate) fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// The keys that everything else is sealed with.
    pub(crate) fn vault(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// A worker's copy of the swarm's state.
    pub(crate) fn backup(&self) -> PathBuf {
        self.root.join("backup.sealed")
    }

    /// Raft's log and snapshots.
    pub(crate) fn raft(&self) -> PathBuf {
        self.root.join("raft")
    }

    /// The [`Member`] record: the last file written when a node joins, so that a half-finished join is none.
    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("member.json")
    }
}
