//! What one node must know of the swarm, and how it is told: a whole view first, then differences.
//!
//! Pure. The leader's dispatcher computes [`NodeView::of`] the committed state for each session and sends
//! [`NodeView::diff`]; the node's agent keeps its own copy by [`NodeView::apply`]. Endpoints, ports and routes come from
//! the same committed task table as the assignments, so nothing resolves or routes to a task that the managers have
//! given up.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use skep_control::certificates;
use skep_state::object::NodeState;
use skep_state::spec::{NodeRole, PortProtocol, PublishMode};
use skep_state::{Cluster, Node, State, Task, TaskState};

/// What one node must know.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeView {
    /// The tasks assigned to this node, by ID.
    pub tasks: BTreeMap<String, Task>,
    /// Where tasks' addresses are: the node's index.
    pub endpoints: BTreeMap<IpAddr, u16>,
    /// All nodes, by ID.
    pub nodes: BTreeMap<String, NodeRoute>,
    /// Ports that this node publishes.
    pub ports: Vec<PortRoute>,
    /// Subnets that go over the mesh.
    pub subnets: Vec<String>,
    /// The role that this node shall have.
    pub wanted_role: NodeRole,
    /// The role that the managers give it.
    pub given_role: NodeRole,
    /// The CAs that nodes trust now, PEM.
    pub trust: String,
    /// Digest (SHA-256, hex) of the CA that issues certificates now: a node with one of another CA asks for a new one.
    /// Empty when not known.
    pub issuer: String,
}

/// How a node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeRoute {
    /// Its number in the data plane.
    pub index: u16,
    /// Hints, best first, as `10.77.0.2:2377`.
    pub addresses: Vec<String>,
    /// Whether it is a manager.
    pub manager: bool,
}

impl NodeRoute {
    /// Of a node.
    pub(crate) fn of(node: &Node) -> Self {
        let manager = node.role == NodeRole::Manager;
        Self { index: node.index, addresses: node.addresses.clone(), manager }
    }
}

/// A published port and the tasks behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortRoute {
    /// TCP or UDP.
    pub protocol: PortProtocol,
    /// Port on the node.
    pub port: u16,
    /// Task address and port in the container.
    pub backends: Vec<(IpAddr, u16)>,
}

/// A change of a view. With `complete` set it replaces what was known.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Assignments {
    /// Counts up by one in a session; a gap means that the session is broken.
    pub sequence: u64,
    /// Whether this is the whole view.
    pub complete: bool,
    /// New and changed tasks.
    pub put_tasks: Vec<Task>,
    /// Tasks to forget: stop and remove them.
    pub remove_tasks: Vec<String>,
    /// New and moved addresses.
    pub put_endpoints: Vec<(IpAddr, u16)>,
    /// Addresses of nobody.
    pub remove_endpoints: Vec<IpAddr>,
    /// All nodes, when anything about them changed.
    pub nodes: Option<BTreeMap<String, NodeRoute>>,
    /// All ports, when anything about them changed.
    pub ports: Option<Vec<PortRoute>>,
    /// All subnets, when they changed.
    pub subnets: Option<Vec<String>>,
    /// The node's own role, wanted and given, when one of them changed.
    pub roles: Option<(NodeRole, NodeRole)>,
    /// The CAs to trust, when they changed.
    pub trust: Option<String>,
    /// The CA that issues, when it changed.
    pub issuer: Option<String>,
}

impl NodeView {
    /// What a node must know of a state.
    pub(crate) fn of(state: &State, node_id: &str) -> Self {
        let tasks = skep_control::assignments_for(state, node_id)
            .into_iter()
            .map(|task| (task.meta.id.clone(), task.clone()))
            .collect();
        let mut endpoints = BTreeMap::new();
        for task in state.tasks.values().filter(|task| task.status.state <= TaskState::Running) {
            // What a dead node had is nowhere: connections to it are reset, so that clients call again.
            let node = state.nodes.get(&task.node_id).filter(|node| node.status.state != NodeState::Down);
            if let (Some(address), Some(node)) = (task.address(), node) {
                endpoints.insert(address, node.index);
            }
        }
        let nodes = state.nodes.values().map(|node| (node.meta.id.clone(), NodeRoute::of(node)));
        let own = state.nodes.get(node_id);
        let cluster = state.cluster.as_ref();
        Self {
            tasks,
            endpoints,
            nodes: nodes.collect(),
            ports: port_routes(state, node_id),
            subnets: state
                .networks
                .values()
                .flat_map(|network| network.ipam.iter().map(|range| range.subnet.clone()))
                .collect(),
            wanted_role: own.map(|node| node.spec.role).unwrap_or_default(),
            given_role: own.map(|node| node.role).unwrap_or_default(),
            trust: cluster.map(certificates::trust_bundle).unwrap_or_default(),
            issuer: cluster.map(issuer_digest).unwrap_or_default(),
        }
    }

    /// What must be told to one who knows `self` so that it knows `new`; `None` when nothing differs.
    pub(crate) fn diff(&self, new: &Self) -> Option<Assignments> {
        let put_tasks: Vec<Task> = new
            .tasks
            .iter()
            .filter(|(id, task)| self.tasks.get(*id) != Some(task))
            .map(|(_, task)| task.clone())
            .collect();
        let difference = Assignments {
            sequence: 0,
            complete: false,
            put_tasks,
            remove_tasks: missing_keys(&self.tasks, &new.tasks),
            put_endpoints: new
                .endpoints
                .iter()
                .filter(|(address, node)| self.endpoints.get(*address) != Some(node))
                .map(|(address, node)| (*address, *node))
                .collect(),
            remove_endpoints: missing_keys(&self.endpoints, &new.endpoints),
            nodes: (self.nodes != new.nodes).then(|| new.nodes.clone()),
            ports: (self.ports != new.ports).then(|| new.ports.clone()),
            subnets: (self.subnets != new.subnets).then(|| new.subnets.clone()),
            roles: (self.roles() != new.roles()).then(|| new.roles()),
            trust: (self.trust != new.trust).then(|| new.trust.clone()),
            issuer: (self.issuer != new.issuer).then(|| new.issuer.clone()),
        };
        (difference != Assignments::default()).then_some(difference)
    }

    /// The whole view as a first message.
    pub(crate) fn complete(&self) -> Assignments {
        let mut whole = Self::default().diff(self).unwrap_or_default();
        whole.complete = true;
        whole.nodes.get_or_insert_default();
        whole.ports.get_or_insert_default();
        whole.subnets.get_or_insert_default();
        whole
    }

    /// Takes a change in.
    pub(crate) fn apply(&mut self, change: Assignments) {
        if change.complete {
            *self = Self::default();
        }
        for task in change.put_tasks {
            self.tasks.insert(task.meta.id.clone(), task);
        }
        for id in &change.remove_tasks {
            self.tasks.remove(id);
        }
        self.endpoints.extend(change.put_endpoints);
        for address in &change.remove_endpoints {
            self.endpoints.remove(address);
        }
        if let Some(nodes) = change.nodes {
            self.nodes = nodes;
        }
        if let Some(ports) = change.ports {
            self.ports = ports;
        }
        if let Some(subnets) = change.subnets {
            self.subnets = subnets;
        }
        if let Some((wanted, given)) = change.roles {
            (self.wanted_role, self.given_role) = (wanted, given);
        }
        if let Some(trust) = change.trust {
            self.trust = trust;
        }
        if let Some(issuer) = change.issuer {
            self.issuer = issuer;
        }
    }

    fn roles(&self) -> (NodeRole, NodeRole) {
        (self.wanted_role, self.given_role)
    }
}

/// The ports that a node publishes: ingress ports with every task that serves, host ports with its own tasks.
fn port_routes(state: &State, node_id: &str) -> Vec<PortRoute> {
    let mut routes = Vec::new();
    for service in state.services.values() {
        for port in &service.ports {
            let backends: Vec<(IpAddr, u16)> = state
                .tasks_of(&service.meta.id)
                .filter(|task| port.publish_mode == PublishMode::Ingress || task.node_id == node_id)
                .filter(|task| serves(state, task))
                .filter_map(|task| Some((task.address()?, port.target_port)))
                .collect();
            // A host port answers only where a task runs; an ingress port answers everywhere, if only to refuse.
            if port.publish_mode == PublishMode::Ingress || !backends.is_empty() {
                routes.push(PortRoute { protocol: port.protocol, port: port.published_port, backends });
            }
        }
    }
    routes
}

/// Whether new connections may go to a task: it runs, shall run, and its node is not known to be down.
fn serves(state: &State, task: &Task) -> bool {
    task.status.state == TaskState::Running
        && task.desired_state <= TaskState::Running
        && state.nodes.get(&task.node_id).is_some_and(|node| node.status.state != NodeState::Down)
}

/// Empty when the certificate cannot be read: nodes then keep what they have.
fn issuer_digest(cluster: &Cluster) -> String {
    skep_mesh::root_digest(certificates::current_issuer(cluster).cert).unwrap_or_default()
}

fn missing_keys<K: Ord + Clone, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Vec<K> {
    old.keys().filter(|key| !new.contains_key(*key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_state::object::{NetworkAttachment, Node, Service};
    use skep_state::spec::PortConfig;

    fn task(id: &str, node: &str, address: &str, state: TaskState) -> Task {
        let mut task = Task::default();
        task.meta.id = id.to_owned();
        task.service_id = "s".to_owned();
        task.node_id = node.to_owned();
        task.status.state = state;
        task.desired_state = TaskState::Running;
        task.networks =
            vec![NetworkAttachment { network_id: "n".to_owned(), addresses: vec![format!("{address}/16")] }];
        task
    }

    fn sample() -> State {
        let mut state = State::default();
        for (index, id) in ["a", "b"].into_iter().enumerate() {
            let mut node = Node::default();
            node.meta.id = id.to_owned();
            node.index = u16::try_from(index).unwrap() + 1;
            node.status.state = NodeState::Ready;
            state.nodes.insert(id.to_owned(), node);
        }
        let mut service = Service::default();
        service.meta.id = "s".to_owned();
        service.ports = vec![PortConfig { published_port: 8080, target_port: 80, ..PortConfig::default() }];
        state.services.insert("s".to_owned(), service);
        for task in [
            task("t1", "a", "10.255.0.2", TaskState::Running),
            task("t2", "b", "10.255.0.3", TaskState::Running),
            task("t3", "b", "10.255.0.4", TaskState::Starting),
        ] {
            state.tasks.insert(task.meta.id.clone(), task);
        }
        state
    }

    #[test]
    fn only_serving_tasks_are_behind_a_port() {
        let mut state = sample();
        let backends = |state: &State| NodeView::of(state, "a").ports[0].backends.len();
        assert_eq!(backends(&state), 2);
        state.tasks.get_mut("t1").unwrap().desired_state = TaskState::Shutdown;
        assert_eq!(backends(&state), 1, "a task that shall stop gets no new connection");
        state.nodes.get_mut("b").unwrap().status.state = NodeState::Down;
        assert_eq!(backends(&state), 0, "a task of a dead node gets none either");
        assert_eq!(NodeView::of(&state, "a").endpoints.len(), 1, "and its address leads nowhere");
    }

    #[test]
    fn a_follower_of_differences_knows_the_same() {
        let mut state = sample();
        let mut sent = NodeView::of(&state, "b");
        let mut known = NodeView::default();
        known.apply(sent.complete());
        assert_eq!(known, sent);
        assert_eq!(sent.diff(&sent.clone()), None);

        state.tasks.remove("t2");
        state.tasks.get_mut("t3").unwrap().status.state = TaskState::Running;
        state.nodes.get_mut("a").unwrap().addresses.push("10.77.0.9:2377".to_owned());
        state.nodes.get_mut("b").unwrap().spec.role = NodeRole::Manager;
        state.cluster.get_or_insert_default().ca_cert = "CA".to_owned();
        let next = NodeView::of(&state, "b");
        known.apply(sent.diff(&next).unwrap());
        sent = next;
        assert_eq!(known, sent);
        assert_eq!((known.wanted_role, known.given_role), (NodeRole::Manager, NodeRole::Worker));
        assert_eq!(known.trust.trim_end(), "CA");
    }

    #[test]
    fn a_complete_message_clears_what_was_known() {
        let mut known = NodeView::of(&sample(), "b");
        known.apply(NodeView::default().complete());
        assert_eq!(known, NodeView::default());
    }
}
