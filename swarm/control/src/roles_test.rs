//! The role machine: each step alone, and all of it under random orders, failures and stale requests.

use std::collections::BTreeMap;

use proptest::prelude::*;
use skep_state::object::{Certificate, Raft};
use skep_state::spec::NodeSpec;
use skep_state::{Cluster, NodeState, Timestamp, Transaction};

use super::*;
use crate::certificates::{issued, role_to_issue};
use crate::request::{remove_node, update_node};

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

fn node(id: &str, wanted: NodeRole, given: NodeRole) -> Node {
    let mut node = Node { role: given, ..Node::default() };
    node.meta.id = id.to_owned();
    node.spec.role = wanted;
    node.status.state = NodeState::Ready;
    node.raft = (given == NodeRole::Manager).then_some(Raft { id: 1 });
    node
}

fn state(nodes: impl IntoIterator<Item = Node>) -> State {
    let nodes = nodes.into_iter().map(|node| (node.meta.id.clone(), node)).collect();
    State { cluster: Some(Cluster::default()), nodes, ..State::default() }
}

fn manager(id: &str) -> Node {
    node(id, NodeRole::Manager, NodeRole::Manager)
}

fn leaving(id: &str) -> Node {
    node(id, NodeRole::Worker, NodeRole::Manager)
}

fn steps(state: &State, leader: &str, voters: &[&str], learners: &[&str], silent: &[&str]) -> Vec<String> {
    let (voters, learners) = (set(voters), set(learners));
    let heard = |id: &str| !silent.contains(&id);
    let view = RaftView { leader, voters: &voters, learners: &learners, heard: &heard };
    next(state, &view)
        .into_iter()
        .map(|step| match step {
            RoleStep::Add(id) => format!("add {id}"),
            RoleStep::Remove(id) => format!("remove {id}"),
            RoleStep::Commit(Change::PutNode(node)) => {
                assert_eq!((node.role, node.raft), (NodeRole::Worker, None));
                format!("commit {}", node.meta.id)
            }
            RoleStep::Commit(other) => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn nothing_is_done_while_all_is_as_wanted() {
    let state = state([manager("a"), manager("b"), node("c", NodeRole::Worker, NodeRole::Worker)]);
    assert!(steps(&state, "a", &["a", "b"], &[], &["b"]).is_empty());
}

#[test]
fn a_new_manager_is_added_once_it_is_heard() {
    let state = state([manager("a"), manager("b"), node("c", NodeRole::Manager, NodeRole::Worker)]);
    assert_eq!(steps(&state, "a", &["a"], &[], &[]), ["add b"]);
    assert_eq!(steps(&state, "a", &["a"], &["b"], &[]), ["add b"], "a learner has no vote yet");
    assert!(steps(&state, "a", &["a"], &[], &["b"]).is_empty());
}

#[test]
fn a_new_manager_is_added_once_it_has_come() {
    let coming = Node { awaited: true, ..manager("b") };
    let connected = state([manager("a"), coming]);
    assert!(steps(&connected, "a", &["a"], &[], &[]).is_empty(), "it may go again: its vote would stay");
}

#[test]
fn a_demoted_manager_leaves_raft_before_its_role_changes() {
    let state = state([manager("a"), manager("c"), leaving("b")]);
    assert_eq!(steps(&state, "a", &["a", "b", "c"], &[], &[]), ["remove b"]);
    assert_eq!(steps(&state, "a", &["a", "c"], &["b"], &[]), ["remove b"]);
    assert_eq!(steps(&state, "a", &["a", "c"], &[], &[]), ["commit b"]);
    assert_eq!(steps(&state, "a", &["a", "b", "c"], &[], &["b"]), ["remove b"], "a silent one too");
    assert!(steps(&state, "a", &["a", "b", "c"], &[], &["c"]).is_empty(), "the rest must be heard");
}

#[test]
fn the_leader_goes_last_and_the_last_voter_stays() {
    let both = state([leaving("a"), leaving("b"), manager("c")]);
    assert_eq!(steps(&both, "a", &["a", "b", "c"], &[], &[]), ["remove b", "remove a"]);
    assert_eq!(steps(&both, "a", &["a", "b"], &[], &[]), ["add c", "remove b"], "until c votes");
    assert_eq!(steps(&both, "a", &["a"], &["c"], &[]), ["commit b", "add c"]);
    assert!(steps(&state([leaving("a")]), "a", &["a"], &[], &[]).is_empty());
}

#[test]
fn silent_ones_go_first_for_then_others_may_go() {
    let state = state([manager("a"), leaving("b"), leaving("c")]);
    assert_eq!(steps(&state, "a", &["a", "b", "c"], &[], &["c"]), ["remove c", "remove b"]);
}

#[test]
fn a_demotion_called_off_half_way_leads_back() {
    assert_eq!(steps(&state([manager("a"), manager("b")]), "a", &["a"], &[], &[]), ["add b"]);
}

#[test]
fn what_is_no_manager_is_taken_out_of_raft() {
    let state = state([manager("a"), manager("b"), node("w", NodeRole::Manager, NodeRole::Worker)]);
    assert_eq!(steps(&state, "a", &["a", "b", "w"], &["gone"], &["gone"]), ["remove gone", "remove w"]);
}

#[test]
fn a_majority_of_the_rest_must_be_heard() {
    let voters = set(&["a", "b", "c", "d"]);
    assert!(can_remove(&voters, "a", |id| id != "d"));
    assert!(!can_remove(&voters, "a", |id| id == "b"));
    assert!(!can_remove(&set(&["a"]), "a", |_| true));
    assert!(can_remove(&set(&["a", "b"]), "x", |_| true));
    assert!(!can_remove(&set(&["a", "b"]), "x", |id| id == "a"));
}

/// A swarm of five nodes, of which any may fall silent; the leader is a voter that is heard.
struct World {
    index: u64,
    state: State,
    voters: BTreeSet<String>,
    learners: BTreeSet<String>,
    silent: BTreeSet<String>,
    /// Requests that were checked against an earlier state and are not committed yet.
    waiting: Vec<Transaction>,
}

#[derive(Debug, Clone)]
enum Event {
    /// Somebody wants a node to have a role; the request waits for [`Event::Commit`].
    Want(usize, bool),
    /// Somebody removes a node.
    RemoveNode(usize),
    /// The oldest request that waits is committed.
    Commit,
    /// A node asks for a certificate.
    Ask(usize),
    /// The leader takes so many steps.
    Lead(usize),
    /// Additions to Raft do not come to their end: they leave a learner.
    SlowAdd,
    /// A node falls silent, or is heard again; the leader may be among them.
    Toggle(usize),
}

impl World {
    fn new(managers: usize) -> Self {
        let ids: Vec<String> = (0..5).map(|number| format!("n{number}")).collect();
        let role = |number| if number < managers { NodeRole::Manager } else { NodeRole::Worker };
        let nodes = ids.iter().enumerate().map(|(number, id)| node(id, role(number), role(number)));
        Self {
            index: 1,
            state: state(nodes),
            voters: ids.iter().take(managers).cloned().collect(),
            learners: BTreeSet::new(),
            silent: BTreeSet::new(),
            waiting: Vec::new(),
        }
    }

    fn heard(&self, id: &str) -> bool {
        !self.silent.contains(id)
    }

    /// A voter that leads; none without a majority that is heard. A voter that is not a manager of the list is refused by
    /// the others, so it neither leads nor counts.
    fn leader(&self) -> Option<String> {
        let counts = |id: &&String| {
            self.heard(id) && self.state.nodes.get(*id).is_some_and(|node| node.role == NodeRole::Manager)
        };
        let answering: Vec<&String> = self.voters.iter().filter(counts).collect();
        (answering.len() > self.voters.len() / 2).then(|| answering[0].clone())
    }

    fn commit(&mut self, transaction: &Transaction) {
        if self.leader().is_some() {
            self.index += 1;
            let _conflicts_are_part_of_life = self.state.apply(self.index, transaction);
        }
    }

    fn happen(&mut self, event: &Event) {
        let at = Timestamp::default();
        match event {
            Event::Want(number, manager) => {
                let id = format!("n{number}");
                let Some(node) = self.state.nodes.get(&id) else { return };
                let role = if *manager { NodeRole::Manager } else { NodeRole::Worker };
                let spec = NodeSpec { role, ..node.spec.clone() };
                let reachable = |id: &str| self.voters.contains(id) && self.heard(id);
                let version = node.meta.version.index;
                self.waiting.extend(update_node(&self.state, &id, version, spec, reachable, at).ok());
            }
            Event::RemoveNode(number) => {
                self.waiting.extend(remove_node(&self.state, &format!("n{number}"), true, at).ok());
            }
            Event::Commit => {
                if !self.waiting.is_empty() {
                    let transaction = self.waiting.remove(0);
                    self.commit(&transaction);
                }
            }
            Event::Ask(number) => {
                let id = format!("n{number}");
                if !self.heard(&id) {
                    return;
                }
                let members = &self.voters | &self.learners;
                let role = role_to_issue(&self.state, &id, &members);
                let changes = issued(&self.state, &id, role, Certificate::default(), 7);
                if let Some(changes) = changes {
                    self.commit(&Transaction { at, changes });
                }
            }
            Event::Lead(most) => self.lead(*most, true),
            Event::SlowAdd => self.lead(usize::MAX, false),
            Event::Toggle(number) => {
                let id = format!("n{number}");
                if !self.silent.remove(&id) {
                    self.silent.insert(id);
                }
            }
        }
    }

    fn lead(&mut self, most: usize, additions_end: bool) {
        let Some(leader) = self.leader() else { return };
        let silent = self.silent.clone();
        let heard = |id: &str| !silent.contains(id);
        let (voters, learners) = (self.voters.clone(), self.learners.clone());
        let view = RaftView { leader: &leader, voters: &voters, learners: &learners, heard: &heard };
        for step in next(&self.state, &view).into_iter().take(most) {
            match step {
                RoleStep::Commit(change) => {
                    self.commit(&Transaction { changes: vec![change], ..Transaction::default() })
                }
                RoleStep::Add(id) if additions_end => {
                    self.learners.remove(&id);
                    self.voters.insert(id);
                }
                RoleStep::Add(id) => {
                    self.learners.insert(id);
                    return;
                }
                RoleStep::Remove(id) => {
                    self.learners.remove(&id);
                    self.voters.remove(&id);
                    assert!(self.leader().is_some(), "the quorum went with {id}");
                }
            }
            self.check();
            if !self.voters.contains(&leader) {
                return;
            }
        }
    }

    fn check(&self) {
        assert!(!self.voters.is_empty(), "Raft lost its last member");
        let managers = |role: fn(&Node) -> NodeRole| {
            self.state.nodes.values().filter(|node| role(node) == NodeRole::Manager).count()
        };
        assert!(managers(|node| node.spec.role) > 0, "no node is meant to be a manager");
        assert!(managers(|node| node.role) > 0, "no node is a manager");
        for id in self.voters.iter().chain(&self.learners) {
            let node = self.state.nodes.get(id);
            assert!(
                node.is_some_and(|node| node.role == NodeRole::Manager && node.raft.is_some()),
                "{id} is in Raft and no manager: {node:?}"
            );
        }
        for node in self.state.nodes.values() {
            assert_eq!(node.role == NodeRole::Manager, node.raft.is_some());
        }
    }

    /// Everybody answers again: all roles become the wanted ones.
    fn settle(&mut self) {
        self.silent.clear();
        for _ in 0..8 {
            for number in 0..5 {
                self.happen(&Event::Ask(number));
                self.check();
            }
            self.lead(usize::MAX, true);
            self.check();
        }
        let roles: BTreeMap<&String, _> =
            self.state.nodes.iter().map(|(id, node)| (id, (node.spec.role, node.role))).collect();
        assert!(roles.values().all(|(wanted, given)| wanted == given), "{roles:?}");
        let managers: BTreeSet<String> = self
            .state
            .nodes
            .values()
            .filter(|node| node.role == NodeRole::Manager)
            .map(|node| node.meta.id.clone())
            .collect();
        assert_eq!(self.voters, managers);
        assert!(self.learners.is_empty());
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..5usize, any::<bool>()).prop_map(|(number, manager)| Event::Want(number, manager)),
        1 => (0..5usize).prop_map(Event::RemoveNode),
        6 => Just(Event::Commit),
        4 => (0..5usize).prop_map(Event::Ask),
        4 => (1..4usize).prop_map(Event::Lead),
        1 => Just(Event::SlowAdd),
        3 => (0..5usize).prop_map(Event::Toggle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_last_manager_is_never_lost_and_roles_become_the_wanted_ones(
        managers in 1..4usize,
        events in proptest::collection::vec(event(), 0..60),
    ) {
        let mut world = World::new(managers);
        for event in &events {
            world.happen(event);
            world.check();
        }
        world.settle();
    }
}
