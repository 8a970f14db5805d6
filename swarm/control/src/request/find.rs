//! From what a user typed to the object: its whole ID, else its name, else the start of exactly one ID.
//!
//! The order and the words are dockerd's (`daemon/cluster/helpers.go`).

use skep_state::{Config, Kind, Meta, Network, Node, Secret, Service, State, Task};

use super::Refusal;

/// The service that `reference` means.
pub fn service<'a>(state: &'a State, reference: &str) -> Result<&'a Service, Refusal> {
    find(Kind::Service, reference, state.services.values(), |object| &object.meta, |object| &object.spec.name)
}

/// The node that `reference` means; a node's name is its host name.
pub fn node<'a>(state: &'a State, reference: &str) -> Result<&'a Node, Refusal> {
    find(
        Kind::Node,
        reference,
        state.nodes.values(),
        |object| &object.meta,
        |object| &object.description.hostname,
    )
}

/// The task that `reference` means: an ID, the start of one, or a name as `web.2.<ID>`.
pub fn task<'a>(state: &'a State, reference: &str) -> Result<&'a Task, Refusal> {
    // The command line shows tasks as `web.2.<ID>`; the last part alone is enough to find one.
    let by_full_name = reference.rsplit_once('.').and_then(|(_, id)| state.tasks.get(id));
    match by_full_name {
        Some(task) => Ok(task),
        None => find(Kind::Task, reference, state.tasks.values(), |object| &object.meta, |_| ""),
    }
}

/// The network that `reference` means.
pub fn network<'a>(state: &'a State, reference: &str) -> Result<&'a Network, Refusal> {
    find(Kind::Network, reference, state.networks.values(), |object| &object.meta, |object| &object.name)
}

/// The secret that `reference` means.
pub fn secret<'a>(state: &'a State, reference: &str) -> Result<&'a Secret, Refusal> {
    find(Kind::Secret, reference, state.secrets.values(), |object| &object.meta, |object| &object.spec.name)
}

/// The config that `reference` means.
pub fn config<'a>(state: &'a State, reference: &str) -> Result<&'a Config, Refusal> {
    find(Kind::Config, reference, state.configs.values(), |object| &object.meta, |object| &object.spec.name)
}

fn find<'a, T: 'a>(
    kind: Kind,
    reference: &str,
    objects: impl Iterator<Item = &'a T> + Clone,
    meta: impl Fn(&'a T) -> &'a Meta,
    name: impl Fn(&'a T) -> &'a str,
) -> Result<&'a T, Refusal> {
    let missing = || Refusal::not_found(format!("{kind} {reference} not found"));
    if reference.is_empty() {
        return Err(missing());
    }
    if let Some(found) = objects.clone().find(|object| meta(object).id == reference) {
        return Ok(found);
    }
    let named = || objects.clone().filter(|object| name(object) == reference);
    let prefixed = || objects.clone().filter(|object| meta(object).id.starts_with(reference));
    let (first, count) = match named().count() {
        0 => (prefixed().next(), prefixed().count()),
        count => (named().next(), count),
    };
    match (first, count) {
        (Some(found), 1) => Ok(found),
        (None, _) => Err(missing()),
        (Some(_), count) => {
            Err(Refusal::ambiguous(format!("{kind} {reference} is ambiguous ({count} matches found)")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::RefusalKind;
    use super::*;

    fn state() -> State {
        let mut state = State::default();
        for (id, name) in [("abc1", "web"), ("abd2", "abc"), ("xyz3", "web2")] {
            let mut service = Service::default();
            service.meta.id = id.to_owned();
            service.spec.name = name.to_owned();
            state.services.insert(id.to_owned(), service);
        }
        for id in ["n1", "n2"] {
            let mut node = Node::default();
            node.meta.id = id.to_owned();
            node.description.hostname = "twin".to_owned();
            state.nodes.insert(id.to_owned(), node);
        }
        let mut task = Task::default();
        task.meta.id = "t1".to_owned();
        state.tasks.insert("t1".to_owned(), task);
        state
    }

    #[test]
    fn exact_id_then_name_then_unique_prefix() {
        let state = state();
        assert_eq!(service(&state, "abc1").unwrap().spec.name, "web");
        assert_eq!(service(&state, "abc").unwrap().meta.id, "abd2", "a name wins over the start of an ID");
        assert_eq!(service(&state, "x").unwrap().meta.id, "xyz3");
        assert_eq!(task(&state, "web.1.t1").unwrap().meta.id, "t1");
        assert_eq!(task(&state, "t").unwrap().meta.id, "t1");
    }

    #[test]
    fn missing_and_ambiguous_say_so() {
        let state = state();
        let refused = service(&state, "nope").unwrap_err();
        assert_eq!(
            (refused.kind, refused.message.as_str()),
            (RefusalKind::NotFound, "service nope not found")
        );
        let refused = service(&state, "ab").unwrap_err();
        assert_eq!(refused.message, "service ab is ambiguous (2 matches found)");
        assert_eq!(refused.kind, RefusalKind::Invalid);
        assert_eq!(node(&state, "twin").unwrap_err().message, "node twin is ambiguous (2 matches found)");
        assert_eq!(service(&state, "").unwrap_err().kind, RefusalKind::NotFound);
    }
}
