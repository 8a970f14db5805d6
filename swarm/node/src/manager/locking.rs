//! Keeps this manager's vault locked as the swarm says: with the swarm's unlock key while managers are to be locked, with
//! this node's own key otherwise.

use skep_raft::RaftNode;
use skep_seal::{UnlockKey, Vault};

/// Follows the committed unlock key, until cancelled.
pub(crate) async fn follow(raft: RaftNode, vault: Vault) {
    let mut updates = raft.subscribe();
    let mut known: Option<String> = None;
    loop {
        let wanted = raft.read(|state| state.cluster.as_ref().map(|cluster| cluster.unlock_key.clone()));
        if let Some(wanted) = wanted.filter(|wanted| known.as_ref() != Some(wanted)) {
            let vault = vault.clone();
            let key = wanted.clone();
            match tokio::task::spawn_blocking(move || lock(&vault, &key)).await {
                Ok(Ok(())) => known = Some(wanted),
                Ok(Err(error)) => {
                    tracing::error!(%error, "cannot lock this manager's keys as the swarm demands")
                }
                Err(error) => tracing::error!(%error, "cannot lock this manager's keys"),
            }
        }
        if updates.next().await.is_none() {
            return;
        }
        while updates.try_next().is_some() {}
    }
}

/// Wraps the keys in a vault by an unlock key, or by the node's own where that is empty. Blocks.
pub(crate) fn lock(vault: &Vault, unlock_key: &str) -> Result<(), String> {
    if unlock_key.is_empty() {
        return vault.set_unlock_key(None).map_err(|error| error.to_string());
    }
    let key: UnlockKey = unlock_key.parse().map_err(|error| format!("the swarm's unlock key: {error}"))?;
    vault.set_unlock_key(Some(&key)).map_err(|error| error.to_string())
}
