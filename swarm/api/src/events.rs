//! What happened to the swarm's nodes, for `GET /events` (moby `daemon/events.go`).
//!
//! A manager looks at its own state a few times a second and compares. What comes and goes between two looks is not
//! told; the names of events, their order and their attributes are dockerd's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::Serialize;
use skep_node::Reachability;
use skep_state::spec::{NodeRole, StringMap};
use skep_state::{Node, Timestamp};
use tokio::sync::broadcast;

use crate::engine::Engine;

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Events that are kept for `--since`, and that a slow reader may be behind (moby `daemon/events`: 256).
const KEPT: usize = 256;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Action")]
    action: &'static str,
    #[serde(rename = "Actor")]
    actor: Actor,
    scope: &'static str,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes")]
    attributes: StringMap,
}

impl Event {
    fn of_node(action: &'static str, id: &str, attributes: StringMap, at: Timestamp) -> Self {
        let actor = Actor { id: id.to_owned(), attributes };
        let nanos = at.nanos();
        Self { kind: "node", action, actor, scope: "swarm", time: nanos / 1_000_000_000, time_nano: nanos }
    }

    /// When it was seen, in nanoseconds.
    pub(crate) fn nanos(&self) -> i64 {
        self.time_nano
    }

    /// Its type, action and scope.
    pub(crate) fn words(&self) -> [(&'static str, &'static str); 3] {
        [("type", self.kind), ("event", self.action), ("scope", self.scope)]
    }

    /// Whether ID or name begin so.
    pub(crate) fn is_about(&self, prefix: &str) -> bool {
        let name = self.actor.attributes.get("name").map_or("", String::as_str);
        self.actor.id.starts_with(prefix) || name.starts_with(prefix)
    }

    /// What it tells.
    pub(crate) fn attributes(&self) -> &StringMap {
        &self.actor.attributes
    }
}

/// The latest events, and those to come.
#[derive(Debug)]
pub(crate) struct Events {
    latest: Mutex<VecDeque<Event>>,
    new: broadcast::Sender<Event>,
}

impl Events {
    /// Starts to look, as long as somebody holds the answer; without a runtime there are no events.
    pub(crate) fn watch(engine: &Arc<dyn Engine>) -> Arc<Self> {
        let events = Arc::new(Self { latest: Mutex::default(), new: broadcast::Sender::new(KEPT) });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(look_on(Arc::clone(engine), Arc::downgrade(&events)));
        }
        events
    }

    /// What was, and what will be: nothing is lost or told twice between the two.
    pub(crate) fn subscribe(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let latest = self.lock();
        (latest.iter().cloned().collect(), self.new.subscribe())
    }

    fn push(&self, event: Event) {
        let mut latest = self.lock();
        if latest.len() == KEPT {
            latest.pop_front();
        }
        latest.push_back(event.clone());
        // Nobody may be listening.
        let _ = self.new.send(event);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_on(engine: Arc<dyn Engine>, events: Weak<Events>) {
    let mut before: Option<Seen> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(events) = events.upgrade() else { return };
        // A node that is no manager, or not any more, knows nothing of the others.
        let after = Seen::of(&*engine, before.as_ref());
        if let (Some(before), Some(after)) = (&before, &after) {
            for event in changes(&before.nodes, &after.nodes, engine.now()) {
                events.push(event);
            }
        }
        before = after;
    }
}

/// The nodes as they were at one moment.
struct Seen {
    index: u64,
    nodes: BTreeMap<String, SeenNode>,
}

/// What events tell of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SeenNode {
    version: u64,
    name: String,
    availability: String,
    role: &'static str,
    state: String,
    manager: Option<(bool, &'static str)>,
}

impl Seen {
    /// Now; the state is copied only when it has changed since `before`.
    fn of(engine: &dyn Engine, before: Option<&Self>) -> Option<Self> {
        let seen = engine.read(|state| {
            let nodes = match before.filter(|before| before.index == state.index) {
                Some(before) => before.nodes.clone(),
                None => state.nodes.values().map(|node| (node.meta.id.clone(), SeenNode::of(node))).collect(),
            };
            Self { index: state.index, nodes }
        });
        let mut seen = seen.ok()?;
        for (id, node) in seen.nodes.iter_mut().filter(|(_, node)| node.role == "manager") {
            node.manager = engine.manager_status(id).map(|status| {
                let reachability = match status.reachability {
                    Reachability::Unknown => "unknown",
                    Reachability::Unreachable => "unreachable",
                    Reachability::Reachable => "reachable",
                };
                (status.leader, reachability)
            });
        }
        Some(seen)
    }
}

impl SeenNode {
    fn of(node: &Node) -> Self {
        let word = |value: serde_json::Result<serde_json::Value>| {
            value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
        };
        let name = if node.spec.name.is_empty() { &node.description.hostname } else { &node.spec.name };
        Self {
            version: node.meta.version.index,
            name: name.clone(),
            availability: word(serde_json::to_value(node.spec.availability)),
            role: match node.role {
                NodeRole::Manager => "manager",
                NodeRole::Worker => "worker",
            },
            state: word(serde_json::to_value(node.status.state)),
            manager: None,
        }
    }

    /// The attributes of an event: the name, and what is different.
    fn attributes(&self, before: Option<&Self>) -> StringMap {
        let mut attributes = StringMap::from([("name".to_owned(), self.name.clone())]);
        let mut differs = |what: &str, old: &str, new: &str| {
            if old != new {
                attributes.insert(format!("{what}.old"), old.to_owned());
                attributes.insert(format!("{what}.new"), new.to_owned());
            }
        };
        let Some(before) = before else { return attributes };
        differs("availability", &before.availability, &self.availability);
        differs("role", before.role, self.role);
        differs("state", &before.state, &self.state);
        if let (Some((led, old)), Some((leads, new))) = (before.manager, self.manager) {
            let word = |leads: bool| if leads { "true" } else { "false" };
            differs("leader", word(led), word(leads));
            differs("reachability", old, new);
        }
        attributes
    }
}

/// The events between two looks.
fn changes(
    before: &BTreeMap<String, SeenNode>,
    after: &BTreeMap<String, SeenNode>,
    at: Timestamp,
) -> Vec<Event> {
    let mut events = Vec::new();
    for (id, node) in after {
        match before.get(id) {
            None => events.push(Event::of_node("create", id, node.attributes(None), at)),
            Some(old) if old != node => {
                events.push(Event::of_node("update", id, node.attributes(Some(old)), at));
            }
            Some(_) => {}
        }
    }
    for (id, node) in before.iter().filter(|(id, _)| !after.contains_key(*id)) {
        events.push(Event::of_node("remove", id, node.attributes(None), at));
    }
    events
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_state::NodeState;
    use skep_state::spec::Availability;

    use super::*;

    fn seen(change: impl FnOnce(&mut Node), manager: Option<(bool, &'static str)>) -> SeenNode {
        let mut node = Node::default();
        node.description.hostname = "host".to_owned();
        node.status.state = NodeState::Ready;
        change(&mut node);
        SeenNode { manager, ..SeenNode::of(&node) }
    }

    fn told(before: &[(&str, SeenNode)], after: &[(&str, SeenNode)]) -> serde_json::Value {
        let map = |nodes: &[(&str, SeenNode)]| {
            nodes.iter().map(|(id, node)| ((*id).to_owned(), node.clone())).collect::<BTreeMap<_, _>>()
        };
        serde_json::to_value(changes(&map(before), &map(after), Timestamp::from_nanos(2_000_000_003)))
            .unwrap()
    }

    #[test]
    fn nodes_come_change_and_go_in_dockers_words() {
        let plain = || seen(|_| {}, None);
        assert_eq!(told(&[("n1", plain())], &[("n1", plain())]), json!([]));
        assert_eq!(
            told(&[], &[("n1", plain())]),
            json!([{
                "Type": "node", "Action": "create", "Actor": { "ID": "n1", "Attributes": { "name": "host" } },
                "scope": "swarm", "time": 2, "timeNano": 2_000_000_003,
            }])
        );
        assert_eq!(told(&[("n1", plain())], &[])[0]["Action"], "remove");
        let changed = seen(
            |node| {
                node.meta.version.index = 7;
                node.spec.availability = Availability::Drain;
                node.status.state = NodeState::Down;
                node.role = NodeRole::Manager;
            },
            None,
        );
        let update = told(&[("n1", plain())], &[("n1", changed)]);
        assert_eq!(update[0]["Action"], "update");
        assert_eq!(
            update[0]["Actor"]["Attributes"],
            json!({
                "name": "host", "availability.old": "active", "availability.new": "drain", "state.old": "ready",
                "state.new": "down", "role.old": "worker", "role.new": "manager",
            })
        );
        let labelled = seen(|node| node.meta.version.index = 8, None);
        assert_eq!(
            told(&[("n1", plain())], &[("n1", labelled)])[0]["Actor"]["Attributes"],
            json!({ "name": "host" })
        );
    }

    #[test]
    fn a_change_of_leader_is_told_of_both() {
        let manager = |leads, heard| seen(|node| node.role = NodeRole::Manager, Some((leads, heard)));
        let events = told(
            &[("a", manager(true, "reachable")), ("b", manager(false, "reachable"))],
            &[("a", manager(false, "unreachable")), ("b", manager(true, "reachable"))],
        );
        assert_eq!(
            events[0]["Actor"]["Attributes"],
            json!({
                "name": "host", "leader.old": "true", "leader.new": "false", "reachability.old": "reachable",
                "reachability.new": "unreachable",
            })
        );
        assert_eq!(
            events[1]["Actor"]["Attributes"],
            json!({ "name": "host", "leader.old": "false", "leader.new": "true" })
        );
    }

    #[test]
    fn only_the_latest_are_kept() {
        let events = Events { latest: Mutex::default(), new: broadcast::Sender::new(KEPT) };
        for number in 0..300 {
            let id = number.to_string();
            events.push(Event::of_node("update", &id, StringMap::new(), Timestamp::default()));
        }
        let (latest, mut new) = events.subscribe();
        assert_eq!((latest.len(), latest[0].actor.id.as_str()), (KEPT, "44"));
        assert!(new.try_recv().is_err());
        events.push(latest[0].clone());
        assert_eq!(new.try_recv().unwrap(), latest[0]);
    }
}
