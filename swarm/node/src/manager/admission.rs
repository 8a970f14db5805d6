//! Admits nodes: a token that matches gets a certificate, and the node an entry in the state.

use std::net::SocketAddr;
use std::time::SystemTime;

use skep_control::certificates;
use skep_mesh::{Identity, JoinReply, JoinRequest, JoinToken, RemoteError};
use skep_raft::{RaftNode, raft_id};
use skep_state::object::Raft;
use skep_state::spec::{NodeRole, NodeSpec};
use skep_state::{Change, Cluster, Node, NodeState, NodeStatus, State, Transaction};

use super::issuing::{FAILED, REFUSED, Signed, sign};
use crate::clock;
use crate::rpc::{self, JoinExtra, JoinedExtra};

/// The refusal of a token, in Docker's words.
const BAD_TOKEN: &str = "A valid join token is necessary to join this cluster";

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
    let node_id = clock::new_id();
    let signed = sign(&cluster, Some(own), &request.csr_pem, &node_id, role, now).await.map_err(failed)?;
    commit(raft, &node_id, role, &extra, remote, &signed).await.map_err(failed)?;
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
) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let node = raft.read(|state| {
            if !certificates::is_issuer(state, &signed.issuer) {
                return Err("the swarm's CA changed meanwhile; try again");
            }
            let node = new_node(state, node_id, role, extra, remote);
            node.ok_or("the swarm has no number left for another node")
        })?;
        let node = Node { certificate: signed.certificate.clone(), ..node };
        let transaction = Transaction { at: clock::now(), changes: vec![Change::PutNode(Box::new(node))] };
        match raft.propose(transaction).await {
            Ok(_) => return Ok(()),
            Err(error @ skep_raft::ProposeError::Conflict(_)) => last = error.to_string(),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(last)
}

/// The entry of a node that joins.
fn new_node(
    state: &State,
    node_id: &str,
    role: NodeRole,
    extra: &JoinExtra,
    remote: SocketAddr,
) -> Option<Node> {
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
        index: skep_control::next_node_index(state)?,
        ..Node::default()
    };
    node_id.clone_into(&mut node.meta.id);
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
