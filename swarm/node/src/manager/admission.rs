//! Admits nodes: a token that matches gets a certificate, and the node an entry in the state.
//!
//! The entry is committed before the answer, which may reach nobody. So a join may be said again, to any manager, with the
//! same key and the same outcome, until the node has come:
//!
//! ```text
//!   key is new ──────────────> listed, awaited ── first session ──> listed ── its key joins again ──> refused
//!                                │  ▲      │
//!                  key joins again ──┘      └── does not come: removed by the control plane, its key is refused
//! ```

use std::net::SocketAddr;
use std::time::SystemTime;

use skep_control::certificates;
use skep_mesh::{Identity, JoinReply, JoinRequest, JoinToken, RemoteError, csr_key_digest};
use skep_raft::{ProposeError, RaftNode, raft_id};
use skep_state::object::Raft;
use skep_state::spec::{NodeRole, NodeSpec};
use skep_state::{Change, Cluster, Node, NodeState, NodeStatus, State, Transaction};

use super::issuing::{FAILED, REFUSED, Signed, sign};
use crate::clock;
use crate::rpc::{self, JoinExtra, JoinedExtra};

/// The refusal of a token, in Docker's words.
const BAD_TOKEN: &str = "A valid join token is necessary to join this cluster";

/// The refusal of a key whose node has come.
const IN_ALREADY: &str = "a node with this key is in the swarm already; leave first, or join with a new key";

/// The refusal of a key whose node was removed.
const REMOVED: &str = "the node with this key was removed from the swarm; join with a new key";

/// How often a commit is tried again when another node took the same number first.
const ATTEMPTS: usize = 8;

/// Decides on a node that wants to join. Nothing is left of one that is refused.
pub(crate) async fn admit(
    raft: &RaftNode,
    own: &Identity,
    remote: SocketAddr,
    request: JoinRequest,
    now: SystemTime,
    epoch: Vec<u8>,
) -> Result<JoinReply, RemoteError> {
    let failed = |reason: String| RemoteError::new(FAILED, reason);
    let extra: JoinExtra = rpc::decode(&request.extra).map_err(failed)?;
    let cluster = raft
        .read(|state| state.cluster.clone())
        .ok_or_else(|| failed("this manager has not received the swarm's state yet; try again".to_owned()))?;
    let role = role_of(&cluster, &request.token).ok_or_else(|| {
        tracing::warn!(%remote, "refused a node with a wrong join token");
        RemoteError::new(REFUSED, BAD_TOKEN)
    })?;
    let refused = |reason: &str| RemoteError::new(REFUSED, reason);
    let key_digest = csr_key_digest(&request.csr_pem).map_err(|error| refused(&error.to_string()))?;
    let node_id = raft.read(|state| node_of_key(state, &key_digest, role)).map_err(refused)?;
    let signed = sign(&cluster, Some(own), &request.csr_pem, &node_id, role, now).await.map_err(failed)?;
    commit(raft, &node_id, role, &extra, remote, &signed).await?;
    tracing::info!(%remote, node = %node_id, ?role, hostname = %extra.hello.description.hostname, "admitted a node");
    let extra = raft.read(|state| JoinedExtra {
        managers: managers(state, &node_id),
        subnets: subnets(state),
        epoch,
    });
    let ca_pem = certificates::trust_bundle(&cluster);
    Ok(JoinReply { chain_pem: signed.chain_pem, ca_pem, extra: rpc::encode(&extra) })
}

async fn commit(
    raft: &RaftNode,
    node_id: &str,
    role: NodeRole,
    extra: &JoinExtra,
    remote: SocketAddr,
    signed: &Signed,
) -> Result<(), RemoteError> {
    let failed = |reason: String| RemoteError::new(FAILED, reason);
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let node = raft.read(|state| {
            if !certificates::is_issuer(state, &signed.issuer) {
                return Err(failed("the swarm's CA changed meanwhile; try again".to_owned()));
            }
            // Another manager may have taken the same node in meanwhile.
            let node_id = node_of_key(state, &signed.certificate.key_digest, role)
                .ok()
                .filter(|listed| listed == node_id)
                .ok_or_else(|| RemoteError::new(REFUSED, IN_ALREADY))?;
            let node = new_node(state, &node_id, role, extra, remote);
            node.ok_or_else(|| failed("the swarm has no number left for another node".to_owned()))
        })?;
        let node = Node { certificate: signed.certificate.clone(), ..node };
        let transaction = Transaction { at: clock::now(), changes: vec![Change::PutNode(Box::new(node))] };
        match raft.propose(transaction).await {
            Ok(_) => return Ok(()),
            Err(error @ ProposeError::Conflict(_)) => {
                last = error.to_string();
                // Another manager's commit won, and this one need not have it yet; without a leader the next attempt fails.
                let _ = raft.read_barrier().await;
            }
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    Err(failed(last))
}

/// The ID under which the node with a key joins, or why it may not. The ID of a new one comes from its key, so that two
/// managers who are asked by the same node at once do not make two of it.
fn node_of_key(state: &State, key_digest: &str, role: NodeRole) -> Result<String, &'static str> {
    if let Some(listed) = state.nodes.values().find(|node| node.certificate.key_digest == key_digest) {
        return match listed.awaited && listed.role == role {
            true => Ok(listed.meta.id.clone()),
            false => Err(IN_ALREADY),
        };
    }
    let bits = key_digest.get(..32).and_then(|bits| u128::from_str_radix(bits, 16).ok());
    let node_id = skep_state::id::from_random(bits.ok_or("the key's digest is none")?);
    match &state.cluster {
        Some(cluster) if cluster.removed.contains_key(&node_id) => Err(REMOVED),
        _ => Ok(node_id),
    }
}

/// The entry of a node that joins; one that is awaited already keeps its place.
fn new_node(
    state: &State,
    node_id: &str,
    role: NodeRole,
    extra: &JoinExtra,
    remote: SocketAddr,
) -> Option<Node> {
    let awaited = state.nodes.get(node_id);
    let mut node = Node {
        spec: NodeSpec { role, availability: extra.availability, ..NodeSpec::default() },
        description: extra.hello.description.clone(),
        status: NodeStatus {
            state: NodeState::Unknown,
            message: String::new(),
            addr: remote.ip().to_canonical().to_string(),
        },
        role,
        raft: (role == NodeRole::Manager).then(|| Raft { id: raft_id(node_id) }),
        addresses: extra.hello.addresses.clone(),
        index: match awaited {
            Some(node) => node.index,
            None => skep_control::next_node_index(state)?,
        },
        awaited: true,
        ..Node::default()
    };
    match awaited {
        Some(awaited) => (node.meta, node.spec) = (awaited.meta.clone(), awaited.spec.clone()),
        None => node_id.clone_into(&mut node.meta.id),
    }
    Some(node)
}

/// The role that a token gives; both comparisons are made in constant time.
fn role_of(cluster: &Cluster, token: &JoinToken) -> Option<NodeRole> {
    let matches = |text: &str| text.parse::<JoinToken>().is_ok_and(|known| known.matches(token));
    let manager = matches(&cluster.join_tokens.manager);
    let worker = matches(&cluster.join_tokens.worker);
    if manager {
        Some(NodeRole::Manager)
    } else if worker {
        Some(NodeRole::Worker)
    } else {
        None
    }
}

/// The other managers and their addresses.
fn managers(state: &State, except: &str) -> Vec<(String, Vec<String>)> {
    state
        .nodes
        .values()
        .filter(|node| node.role == NodeRole::Manager && node.meta.id != except)
        .map(|node| (node.meta.id.clone(), node.addresses.clone()))
        .collect()
}

fn subnets(state: &State) -> Vec<String> {
    state
        .networks
        .values()
        .flat_map(|network| network.ipam.iter().map(|range| range.subnet.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skep_state::Timestamp;

    use super::*;

    const KEY: &str = "00000000000000000000000000000024aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const ID: &str = "0000000000000000000000010";

    fn extra() -> JoinExtra {
        JoinExtra { hello: rpc::Hello::default(), availability: skep_state::spec::Availability::Active }
    }

    fn joined(state: &State, role: NodeRole) -> Node {
        let id = node_of_key(state, KEY, role).unwrap();
        let mut node = new_node(state, &id, role, &extra(), "192.0.2.1:5".parse().unwrap()).unwrap();
        node.certificate.key_digest = KEY.to_owned();
        node
    }

    fn put(state: &mut State, node: Node) {
        let changes = vec![Change::PutNode(Box::new(node))];
        state.apply(state.index + 1, &Transaction { at: Timestamp::default(), changes }).unwrap();
    }

    #[test]
    fn a_join_said_again_is_the_same_node() {
        let mut state = State { cluster: Some(Cluster::default()), ..State::default() };
        let node = joined(&state, NodeRole::Worker);
        put(&mut state, node);
        let first = state.nodes[ID].clone();
        assert!(first.awaited && first.index == 1);
        // Silence has been noticed meanwhile.
        let mut down = first.clone();
        down.status.state = NodeState::Down;
        put(&mut state, down);
        let node = joined(&state, NodeRole::Worker);
        put(&mut state, node);
        assert_eq!((state.nodes.len(), state.nodes[ID].index), (1, 1));
        assert_eq!(node_of_key(&state, KEY, NodeRole::Manager), Err(IN_ALREADY));
    }

    #[test]
    fn two_managers_at_once_make_one_node_of_it() {
        let mut state = State::default();
        let (one, other) = (joined(&state, NodeRole::Worker), joined(&state, NodeRole::Worker));
        put(&mut state, one);
        let changes = vec![Change::PutNode(Box::new(other))];
        assert!(state.apply(9, &Transaction { at: Timestamp::default(), changes }).is_err(), "tries again");
    }

    #[test]
    fn a_key_that_has_come_or_was_removed_is_refused() {
        let mut state = State { cluster: Some(Cluster::default()), ..State::default() };
        let arrived = Node { awaited: false, ..joined(&state, NodeRole::Worker) };
        put(&mut state, arrived);
        assert_eq!(node_of_key(&state, KEY, NodeRole::Worker), Err(IN_ALREADY));
        let now = Timestamp::default().plus(Duration::from_secs(1));
        let removal = skep_control::request::remove_node(&state, ID, true, now).unwrap();
        state.apply(state.index + 1, &removal).unwrap();
        assert_eq!(node_of_key(&state, KEY, NodeRole::Worker), Err(REMOVED));
    }
}
