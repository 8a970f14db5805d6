//! Keeps the mesh's peers, and the managers remembered on disk, as the swarm's nodes are.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_mesh::Mesh;

use crate::access::Directory;
use crate::manager::peer_config;
use crate::member::Record;
use crate::view::NodeRoute;

/// Runs until cancelled.
pub(crate) async fn follow(directory: Arc<Directory>, mesh: Mesh, record: Arc<Record>) {
    let mut known: BTreeMap<String, NodeRoute> = BTreeMap::new();
    let mut changes = directory.changes();
    loop {
        let nodes = directory.nodes();
        if nodes != known && !nodes.is_empty() {
            for (id, node) in nodes.iter().filter(|(id, node)| known.get(*id) != Some(*node)) {
                mesh.set_peer(id, peer_config(&node.addresses, node.manager));
            }
            for id in known.keys().filter(|id| !nodes.contains_key(*id)) {
                mesh.remove_peer(id);
            }
            let managers: Vec<(String, Vec<String>)> = nodes
                .iter()
                .filter(|(id, node)| node.manager && *id != mesh.node_id())
                .map(|(id, node)| (id.clone(), node.addresses.clone()))
                .collect();
            if let Err(error) = record.update(|member| member.managers = managers) {
                tracing::warn!(%error, "cannot remember the managers");
            }
            known = nodes;
        }
        if !changes.next().await {
            return;
        }
    }
}
