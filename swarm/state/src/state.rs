//! The replicated state and the one way it changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::object::Meta;
use crate::spec::{NodeRole, PublishMode};
use crate::{
    Change, Cluster, Config, Conflict, Event, Kind, Network, Node, Secret, Service, Task, Timestamp,
    Transaction,
};

/// Everything that the managers agree on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The Raft index of the last applied transaction.
    pub index: u64,
    /// The swarm; absent only before the first transaction.
    pub cluster: Option<Cluster>,
    /// By ID.
    pub nodes: BTreeMap<String, Node>,
    /// By ID.
    pub services: BTreeMap<String, Service>,
    /// By ID.
    pub tasks: BTreeMap<String, Task>,
    /// By ID.
    pub networks: BTreeMap<String, Network>,
    /// By ID.
    pub secrets: BTreeMap<String, Secret>,
    /// By ID.
    pub configs: BTreeMap<String, Config>,
}

impl State {
    /// Applies a committed transaction, or refuses the whole of it and changes nothing but `index`.
    ///
    /// Deterministic: the same state, index and transaction give the same result on every manager.
    pub fn apply(&mut self, index: u64, transaction: &Transaction) -> Result<Vec<Event>, Conflict> {
        self.index = index;
        self.check(transaction)?;
        Ok(transaction.changes.iter().map(|change| self.apply_one(index, transaction.at, change)).collect())
    }

    /// The service with this name.
    pub fn service_by_name(&self, name: &str) -> Option<&Service> {
        self.services.values().find(|service| service.spec.name == name)
    }

    /// The tasks of a service.
    pub fn tasks_of<'a>(&'a self, service_id: &'a str) -> impl Iterator<Item = &'a Task> {
        self.tasks.values().filter(move |task| task.service_id == service_id)
    }

    /// The network that carries published ports.
    pub fn ingress(&self) -> Option<&Network> {
        self.networks.values().find(|network| network.ingress)
    }

    fn check(&self, transaction: &Transaction) -> Result<(), Conflict> {
        // What the transaction itself has put or removed so far: later changes are checked against that.
        let mut touched: BTreeMap<(Kind, &str), bool> = BTreeMap::new();
        for change in &transaction.changes {
            let (kind, id, given) = change.target();
            if let Some(given) = given
                && !touched.contains_key(&(kind, id))
            {
                let stored = self.version_of(kind, id);
                if stored != given {
                    return Err(Conflict::OutOfSequence { kind, id: id.to_owned(), stored, given });
                }
            }
            touched.insert((kind, id), given.is_none());
            if let Change::PutService(service) = change {
                let others = self.services.values().filter(|other| {
                    other.meta.id != service.meta.id
                        && touched.get(&(Kind::Service, other.meta.id.as_str())) != Some(&true)
                });
                for other in others {
                    if other.spec.name == service.spec.name {
                        return Err(Conflict::NameInUse { kind, name: service.spec.name.clone() });
                    }
                    if let Some(port) = shared_port(service, other) {
                        return Err(Conflict::PortInUse { port, service: other.spec.name.clone() });
                    }
                }
            }
            let taken = match change {
                Change::PutSecret(new) => self
                    .secrets
                    .values()
                    .any(|old| old.meta.id != new.meta.id && old.spec.name == new.spec.name)
                    .then(|| new.spec.name.clone()),
                Change::PutConfig(new) => self
                    .configs
                    .values()
                    .any(|old| old.meta.id != new.meta.id && old.spec.name == new.spec.name)
                    .then(|| new.spec.name.clone()),
                Change::PutNetwork(new) => self
                    .networks
                    .values()
                    .any(|old| old.meta.id != new.meta.id && old.name == new.name)
                    .then(|| new.name.clone()),
                _ => None,
            };
            if let Some(name) = taken {
                return Err(Conflict::NameInUse { kind, name });
            }
        }
        self.check_managers(transaction)
    }

    /// A transaction that ends the last node's being meant to be a manager is refused: two managers may be demoted at the
    /// same time, each because the other one stays.
    fn check_managers(&self, transaction: &Transaction) -> Result<(), Conflict> {
        let mut wanted: BTreeMap<&str, bool> = BTreeMap::new();
        for change in &transaction.changes {
            match change {
                Change::PutNode(node) => {
                    wanted.insert(&node.meta.id, node.spec.role == NodeRole::Manager);
                }
                Change::Remove(Kind::Node, id) => {
                    wanted.insert(id, false);
                }
                _ => {}
            }
        }
        if wanted.values().any(|&manager| manager) {
            return Ok(());
        }
        let managers = || self.nodes.values().filter(|node| node.spec.role == NodeRole::Manager);
        let last = managers().find(|node| wanted.contains_key(node.meta.id.as_str()));
        match last {
            Some(node) if managers().all(|node| wanted.contains_key(node.meta.id.as_str())) => {
                Err(Conflict::LastManager { node: node.meta.id.clone() })
            }
            _ => Ok(()),
        }
    }

    fn version_of(&self, kind: Kind, id: &str) -> u64 {
        let meta = match kind {
            Kind::Cluster => self.cluster.as_ref().map(|object| &object.meta),
            Kind::Node => self.nodes.get(id).map(|object| &object.meta),
            Kind::Service => self.services.get(id).map(|object| &object.meta),
            Kind::Task => self.tasks.get(id).map(|object| &object.meta),
            Kind::Network => self.networks.get(id).map(|object| &object.meta),
            Kind::Secret => self.secrets.get(id).map(|object| &object.meta),
            Kind::Config => self.configs.get(id).map(|object| &object.meta),
        };
        meta.map_or(0, |meta| meta.version.index)
    }

    fn apply_one(&mut self, index: u64, at: Timestamp, change: &Change) -> Event {
        let (kind, id, _) = change.target();
        let event = Event { kind, id: id.to_owned(), removed: matches!(change, Change::Remove(..)) };
        match change {
            Change::PutCluster(object) => {
                let mut object = (**object).clone();
                stamp(&mut object.meta, index, at);
                self.cluster = Some(object);
            }
            Change::PutNode(object) => put(&mut self.nodes, object, index, at, |object| &mut object.meta),
            Change::PutService(object) => {
                put(&mut self.services, object, index, at, |object| &mut object.meta)
            }
            Change::PutTask(object) => put(&mut self.tasks, object, index, at, |object| &mut object.meta),
            Change::PutNetwork(object) => {
                put(&mut self.networks, object, index, at, |object| &mut object.meta)
            }
            Change::PutSecret(object) => put(&mut self.secrets, object, index, at, |object| &mut object.meta),
            Change::PutConfig(object) => put(&mut self.configs, object, index, at, |object| &mut object.meta),
            Change::Remove(kind, id) => match kind {
                Kind::Cluster => self.cluster = None,
                Kind::Node => drop(self.nodes.remove(id)),
                Kind::Service => drop(self.services.remove(id)),
                Kind::Task => drop(self.tasks.remove(id)),
                Kind::Network => drop(self.networks.remove(id)),
                Kind::Secret => drop(self.secrets.remove(id)),
                Kind::Config => drop(self.configs.remove(id)),
            },
        }
        event
    }
}

impl Change {
    /// Kind and ID of the object, and the version that a put was made against.
    fn target(&self) -> (Kind, &str, Option<u64>) {
        let (kind, meta) = match self {
            Self::PutCluster(object) => (Kind::Cluster, &object.meta),
            Self::PutNode(object) => (Kind::Node, &object.meta),
            Self::PutService(object) => (Kind::Service, &object.meta),
            Self::PutTask(object) => (Kind::Task, &object.meta),
            Self::PutNetwork(object) => (Kind::Network, &object.meta),
            Self::PutSecret(object) => (Kind::Secret, &object.meta),
            Self::PutConfig(object) => (Kind::Config, &object.meta),
            Self::Remove(kind, id) => return (*kind, id, None),
        };
        (kind, &meta.id, Some(meta.version.index))
    }
}

fn put<T: Clone>(
    objects: &mut BTreeMap<String, T>,
    object: &T,
    index: u64,
    at: Timestamp,
    meta: impl Fn(&mut T) -> &mut Meta,
) {
    let mut object = object.clone();
    stamp(meta(&mut object), index, at);
    let id = meta(&mut object).id.clone();
    objects.insert(id, object);
}

fn stamp(meta: &mut Meta, index: u64, at: Timestamp) {
    if meta.version.index == 0 {
        meta.created_at = at;
    }
    meta.version.index = index;
    meta.updated_at = at;
}

/// A published port that both services claim: the same protocol and number, unless both publish it on the host only
/// (the scheduler keeps those apart).
fn shared_port(service: &Service, other: &Service) -> Option<u16> {
    service.ports.iter().find_map(|port| {
        other
            .ports
            .iter()
            .any(|taken| {
                port.published_port != 0
                    && taken.published_port == port.published_port
                    && taken.protocol == port.protocol
                    && (port.publish_mode == PublishMode::Ingress
                        || taken.publish_mode == PublishMode::Ingress)
            })
            .then_some(port.published_port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{EndpointSpec, PortConfig};

    fn service(id: &str, name: &str, port: u16) -> Service {
        let mut service = Service::default();
        service.meta.id = id.to_owned();
        service.spec.name = name.to_owned();
        service.ports = vec![PortConfig { published_port: port, target_port: 80, ..PortConfig::default() }];
        service.spec.endpoint_spec = Some(EndpointSpec { mode: None, ports: service.ports.clone() });
        service
    }

    fn put(service: &Service) -> Transaction {
        Transaction {
            at: Timestamp::from_nanos(7),
            changes: vec![Change::PutService(Box::new(service.clone()))],
        }
    }

    #[test]
    fn a_put_is_stamped_and_seen() {
        let mut state = State::default();
        let events = state.apply(5, &put(&service("a", "web", 80))).unwrap();
        assert_eq!(events, vec![Event { kind: Kind::Service, id: "a".to_owned(), removed: false }]);
        let stored = state.service_by_name("web").unwrap();
        assert_eq!((stored.meta.version.index, stored.meta.created_at.nanos()), (5, 7));
    }

    #[test]
    fn a_stale_put_is_refused_whole() {
        let mut state = State::default();
        state.apply(5, &put(&service("a", "web", 80))).unwrap();
        let mut transaction = put(&service("b", "other", 81));
        transaction.changes.push(Change::PutService(Box::new(service("a", "web", 80))));
        let before = state.services.clone();
        let refused = state.apply(6, &transaction).unwrap_err();
        assert!(refused.to_string().contains("update out of sequence"), "{refused}");
        assert_eq!(state.services, before);
    }

    #[test]
    fn names_and_ports_are_unique() {
        let mut state = State::default();
        state.apply(1, &put(&service("a", "web", 80))).unwrap();
        assert!(matches!(state.apply(2, &put(&service("b", "web", 81))), Err(Conflict::NameInUse { .. })));
        assert!(matches!(
            state.apply(3, &put(&service("b", "api", 80))),
            Err(Conflict::PortInUse { port: 80, .. })
        ));
        let remove = Change::Remove(Kind::Service, "a".to_owned());
        let replace = Transaction {
            changes: vec![remove, Change::PutService(Box::new(service("b", "web", 80)))],
            ..Transaction::default()
        };
        state.apply(4, &replace).unwrap();
        assert_eq!(state.services.len(), 1);
    }

    #[test]
    fn the_last_manager_is_not_demoted() {
        let node = |id: &str, role: NodeRole| {
            let mut node = Node::default();
            node.meta.id = id.to_owned();
            node.meta.version.index = 1;
            node.spec.role = role;
            Change::PutNode(Box::new(node))
        };
        let of = |changes: Vec<Change>| Transaction { changes, ..Transaction::default() };
        let mut state = State::default();
        for id in ["a", "b"] {
            let mut new = Node::default();
            new.meta.id = id.to_owned();
            new.spec.role = NodeRole::Manager;
            state.apply(1, &of(vec![Change::PutNode(Box::new(new))])).unwrap();
        }
        let both = vec![node("a", NodeRole::Worker), node("b", NodeRole::Worker)];
        assert!(matches!(state.apply(1, &of(both)), Err(Conflict::LastManager { .. })));
        state.apply(1, &of(vec![node("a", NodeRole::Worker)])).unwrap();
        // Another manager asked for this when it still saw both.
        let refused = state.apply(1, &of(vec![node("b", NodeRole::Worker)])).unwrap_err();
        assert_eq!(refused, Conflict::LastManager { node: "b".to_owned() });
        assert!(state.apply(1, &of(vec![Change::Remove(Kind::Node, "b".to_owned())])).is_err());
        let swapped = vec![node("b", NodeRole::Worker), node("a", NodeRole::Manager)];
        state.apply(1, &of(swapped)).unwrap();
        state.apply(1, &of(vec![Change::Remove(Kind::Node, "b".to_owned())])).unwrap();
    }
}
