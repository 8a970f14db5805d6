//! The network is cut: the majority goes on, the minority says that it cannot, and healing leaves nothing doubled.

use std::collections::BTreeSet;

use crate::support::swarm::text;
use crate::support::{Playground, wait_until};

const PORT: u16 = 8080;

/// The containers of all nodes.
fn containers(playground: &Playground) -> BTreeSet<String> {
    playground.numbers().flat_map(|number| playground.containers(number)).map(|(id, _)| id).collect()
}

#[test]
fn a_cut_nodes_tasks_run_elsewhere_and_are_not_doubled_when_it_heals() {
    let playground = Playground::up("cut", 3);
    playground.create_web(1, "web", 3, PORT);
    let before = playground.wait_for_tasks(1, "web", 3, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &before);
    }
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    let cut = if leader == 3 { 2 } else { 3 };
    let others: Vec<u8> = playground.numbers().filter(|number| *number != cut).collect();
    let cut_off: Vec<String> = playground.containers(cut).into_iter().map(|(id, _)| id).collect();
    assert_eq!(cut_off.len(), 1);

    playground.power("cut", cut);
    playground.wait_for_node(leader, cut, "down");
    let during = playground.wait_for_tasks(leader, "web", 3, |task| task.node != cut);
    for number in &others {
        playground.wait_for_answers(*number, PORT, &during);
    }
    playground.call_often(&others, PORT, 60);
    let still_there: Vec<String> = playground.containers(cut).into_iter().map(|(id, _)| id).collect();
    assert_eq!(still_there, cut_off, "a node that hears no manager keeps its tasks running");

    playground.power("heal", cut);
    playground.wait_for_node(leader, cut, "ready");
    wait_until("the old container is gone", || playground.containers(cut).is_empty());
    let after = playground.wait_for_tasks(cut, "web", 3, |_| true);
    assert_eq!(after, during, "tasks stay where they are");
    let wanted: BTreeSet<String> = after.iter().map(|task| task.container.clone()).collect();
    assert_eq!(containers(&playground), wanted, "as many containers as tasks");
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &after);
    }
    playground.call_often(&[1, 2, 3], PORT, 60);
    let old = playground.tasks(leader, "web").into_iter().find(|task| task.node == cut).unwrap();
    assert_eq!((old.state.as_str(), old.desired.as_str()), ("shutdown", "shutdown"), "{old:?}");
}

#[test]
fn a_cut_leader_refuses_writes_while_the_majority_goes_on() {
    let playground = Playground::up("minority", 3);
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    let majority: Vec<u8> = playground.numbers().filter(|number| *number != leader).collect();
    playground.create_web(leader, "web", 3, PORT);
    let before = playground.wait_for_tasks(leader, "web", 3, |_| true);
    playground.wait_for_answers(leader, PORT, &before);

    playground.power("cut", leader);
    playground.wait_for_no_leader(leader);
    playground.wait_for_leader(&majority, leader);
    playground.create_web(majority[0], "accepted", 1, PORT + 1);
    let during = playground.wait_for_tasks(majority[1], "web", 3, |task| task.node != leader);
    playground.wait_for_tasks(majority[1], "accepted", 1, |task| task.node != leader);
    for number in &majority {
        playground.wait_for_answers(*number, PORT, &during);
    }
    playground.call_often(&majority, PORT, 40);
    let refused = playground.skep(leader, &["service", "scale", "-d", "web=1"]);
    refused.is_refused_with("The swarm does not have a leader");

    playground.power("heal", leader);
    playground.wait_for_leader(&[1, 2, 3], 0);
    for number in playground.numbers() {
        for of in playground.numbers() {
            playground.wait_for_node(number, of, "ready");
        }
    }
    let names = |number| -> Option<BTreeSet<String>> {
        let services = playground.try_get(number, "/services")?;
        Some(services.as_array()?.iter().map(|service| text(service, "/Spec/Name")).collect())
    };
    let expected = BTreeSet::from(["accepted".to_owned(), "web".to_owned()]);
    wait_until("all managers know the same services", || {
        playground.numbers().all(|number| names(number).as_ref() == Some(&expected))
    });
    wait_until("the old containers are gone", || playground.containers(leader).is_empty());
    let after = playground.wait_for_tasks(leader, "web", 3, |_| true);
    assert_eq!(after, during);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &after);
    }
    playground.call_often(&[1, 2, 3], PORT, 60);
    // One leader for good: writes go through every node.
    for number in playground.numbers() {
        playground.ok(number, &["service", "scale", "-d", &format!("web={number}")]);
    }
    playground.wait_for_tasks(1, "web", 3, |_| true);
}
