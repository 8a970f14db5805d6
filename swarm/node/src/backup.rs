//! Copies of the swarm's state on workers, for the day on which no manager is left: sealed with the unlock key, so that a
//! worker can do nothing with its copy until somebody who knows that key asks it to (`swarm recover`).
//!
//! Only swarms whose managers are locked have copies: without an unlock key nothing could seal them.

use std::path::Path;
use std::time::Duration;

use skep_mesh::Mesh;
use skep_raft::RaftNode;
use skep_seal::UnlockKey;
use skep_state::spec::NodeRole;
use skep_state::{NodeState, State};

use crate::{durable, rpc};

/// How old a worker's copy may get.
const PERIOD: Duration = Duration::from_secs(10);
/// Workers that get one.
const COPIES: usize = 3;
/// How long a worker may take to store it.
const STORE: Duration = Duration::from_secs(10);
/// What the seal vouches for.
const CONTEXT: &[u8] = b"skep state backup 1";
/// Most bytes of a state that is unpacked: far above what fits into a request when packed.
const STATE_BYTES: usize = 1 << 28;
/// Speed counts more than size.
const COMPRESSION: i32 = 1;

/// Hands out copies while this manager leads, until cancelled.
pub(crate) async fn spread(raft: RaftNode, mesh: Mesh) {
    let mut sent = 0;
    loop {
        tokio::time::sleep(PERIOD).await;
        if !raft.is_leader() {
            sent = 0;
            continue;
        }
        let (state, workers) = raft.read(|state| {
            let changed = state.index != sent && state.cluster.is_some();
            (changed.then(|| state.clone()), up_workers(state))
        });
        let Some(state) = state else { continue };
        let index = state.index;
        let packed = tokio::task::spawn_blocking(move || seal(&state)).await;
        match packed.map_err(|error| error.to_string()).and_then(|sealed| sealed) {
            // An empty copy takes the worker's old one away: the swarm is not locked any more.
            Ok(sealed) => {
                let body = bytes::Bytes::from(sealed.unwrap_or_default());
                for worker in workers.iter().filter(|id| mesh.is_connected(id)).take(COPIES) {
                    if let Err(error) = mesh.request(worker, rpc::BACKUP, body.clone(), STORE).await {
                        tracing::debug!(%worker, %error, "a worker did not take its copy of the state");
                    }
                }
                sent = index;
            }
            Err(error) => tracing::warn!(%error, "cannot seal a copy of the state"),
        }
    }
}

/// Keeps the copy that a manager sent; an empty one is none.
pub(crate) fn store(path: &Path, copy: &[u8]) -> std::io::Result<()> {
    if !copy.is_empty() {
        return durable::write(path, copy);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The state out of this node's copy.
pub(crate) fn load(path: &Path, key: &UnlockKey) -> Result<State, LoadError> {
    let sealed = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => LoadError::Missing,
        _ => LoadError::Read(error),
    })?;
    let packed = skep_seal::open(key.key(), CONTEXT, &sealed).map_err(|_| LoadError::WrongKey)?;
    let plain = zstd::bulk::decompress(&packed, STATE_BYTES).map_err(LoadError::Read)?;
    serde_json::from_slice(&plain).map_err(|error| LoadError::Read(error.into()))
}

/// Why a copy is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// There is none.
    #[error("this node holds no copy of the swarm's state")]
    Missing,
    /// The seal does not open.
    #[error("invalid unlock key: it does not open this node's copy of the swarm's state")]
    WrongKey,
    /// It cannot be read.
    #[error("this node's copy of the swarm's state cannot be read: {0}")]
    Read(#[source] std::io::Error),
}

/// Nothing when the swarm has no unlock key.
fn seal(state: &State) -> Result<Option<Vec<u8>>, String> {
    let key = state.cluster.as_ref().map(|cluster| cluster.unlock_key.as_str()).unwrap_or_default();
    if key.is_empty() {
        return Ok(None);
    }
    let key: UnlockKey = key.parse().map_err(|error| format!("the unlock key: {error}"))?;
    let plain = serde_json::to_vec(state).map_err(|error| error.to_string())?;
    let packed = zstd::bulk::compress(&plain, COMPRESSION).map_err(|error| error.to_string())?;
    let sealed = skep_seal::seal(key.key(), CONTEXT, &packed);
    if sealed.len() > skep_mesh::wire_limits::MAX_BODY {
        return Err(format!("it has {} bytes, more than fit into a message", sealed.len()));
    }
    Ok(Some(sealed))
}

/// Workers that are up, the same ones first each time.
fn up_workers(state: &State) -> Vec<String> {
    let workers = state
        .nodes
        .values()
        .filter(|node| node.role == NodeRole::Worker && node.status.state == NodeState::Ready);
    workers.map(|node| node.meta.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_state::Cluster;

    #[test]
    fn a_copy_opens_with_the_unlock_key_alone() {
        let (key, other) = (UnlockKey::random(), UnlockKey::random());
        let mut cluster = Cluster {
            unlock_key: key.to_string(),
            ca_key: "planted-secret".to_owned(),
            ..Cluster::default()
        };
        cluster.meta.id = "c1".to_owned();
        let state = State { index: 7, cluster: Some(cluster), ..State::default() };
        let sealed = seal(&state).unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup");
        assert!(matches!(load(&path, &key), Err(LoadError::Missing)));
        store(&path, &sealed).unwrap();
        assert!(!std::fs::read(&path).unwrap().windows(14).any(|bytes| bytes == b"planted-secret"));
        assert!(matches!(load(&path, &other), Err(LoadError::WrongKey)));
        assert_eq!(load(&path, &key).unwrap(), state);
        store(&path, b"").unwrap();
        assert!(matches!(load(&path, &key), Err(LoadError::Missing)));
    }

    #[test]
    fn a_swarm_without_an_unlock_key_gives_no_copies() {
        let state = State { cluster: Some(Cluster::default()), ..State::default() };
        assert!(seal(&state).unwrap().is_none());
    }
}
