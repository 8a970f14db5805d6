//! Nodes leave a swarm, take every trace of it from their hosts, and join again.

use crate::support::network::{self, Snapshot};
use crate::support::swarm::text;
use crate::support::{Playground, wait_until};

const PORT: u16 = 8080;

fn network_of(playground: &Playground, number: u8) -> Snapshot {
    network::snapshot(&playground.network(number))
}

fn state_of(playground: &Playground, number: u8) -> String {
    text(&playground.get(number, "/info"), "/Swarm/LocalNodeState")
}

/// What the daemon keeps of a swarm.
fn swarm_files(playground: &Playground, number: u8) -> bool {
    playground.disk(number).join("root/swarm").exists()
}

/// Joins by the command line, as a user would.
fn join(playground: &Playground, number: u8, through: u8, role: &str) {
    let token = playground.ok(through, &["swarm", "join-token", "-q", role]);
    let address = format!("{}:2377", playground.address(through));
    let told = playground.ok(number, &["swarm", "join", "--token", token.trim(), &address]);
    assert_eq!(told, format!("This node joined a swarm as a {role}.\n"));
}

#[test]
fn nodes_leave_without_a_trace_and_join_again() {
    let playground = Playground::up_with("leave", 4, &["--no-swarm"]);
    let bare: Vec<Snapshot> = playground.numbers().map(|number| network_of(&playground, number)).collect();
    assert!(bare[0].tables.is_empty(), "{bare:#?}");
    playground.ok(1, &["swarm", "init"]);
    join(&playground, 2, 1, "manager");
    join(&playground, 3, 1, "manager");
    join(&playground, 4, 1, "worker");
    playground.create_web(1, "web", 4, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 4, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
        assert!(network_of(&playground, number).tables.contains(&"skep".to_owned()));
    }

    // A worker just leaves.
    let told = playground.ok(4, &["swarm", "leave"]);
    assert_eq!(told, "Node left the swarm.\n");
    assert_eq!(state_of(&playground, 4), "inactive");
    assert!(playground.containers(4).is_empty(), "{:?}", playground.containers(4));
    assert_eq!(network_of(&playground, 4), bare[3]);
    assert!(!swarm_files(&playground, 4));
    playground.wait_for_node(1, 4, "down");
    let tasks = playground.wait_for_tasks(1, "web", 4, |task| task.node != 4);
    playground.wait_for_answers(2, PORT, &tasks);
    playground.skep(4, &["swarm", "leave"]).is_refused_with("This node is not part of a swarm");

    // A manager must insist.
    let refused = playground.skep(3, &["swarm", "leave"]);
    refused.is_refused_with(
        "You are attempting to leave the swarm on a node that is participating as a manager",
    );
    assert_eq!(state_of(&playground, 3), "active");
    playground.ok(3, &["swarm", "leave", "--force"]);
    assert_eq!(state_of(&playground, 3), "inactive");
    assert!(playground.containers(3).is_empty());
    assert_eq!(network_of(&playground, 3), bare[2]);
    assert!(!swarm_files(&playground, 3));
    let tasks = playground.wait_for_tasks(2, "web", 4, |task| task.node < 3);
    for number in [1, 2] {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    playground.call_often(&[1, 2], PORT, 40);

    // Both join again, each as the other's kind; what is left of their first membership can be removed.
    join(&playground, 3, 2, "worker");
    join(&playground, 4, 2, "manager");
    let leader = playground.wait_for_leader(&[1, 2, 4], 0);
    let nodes = playground.nodes_seen_by(leader).unwrap();
    let down: Vec<String> = nodes
        .iter()
        .filter(|node| text(node, "/Status/State") == "down")
        .map(|node| text(node, "/ID"))
        .collect();
    assert_eq!(down.len(), 2, "{nodes:#?}");
    for id in &down {
        playground.ok(1, &["node", "rm", id]);
    }
    for number in [3, 4] {
        playground.wait_for_node(1, number, "ready");
    }
    playground.ok(4, &["service", "scale", "-d", "web=8"]);
    let tasks = playground.wait_for_tasks(1, "web", 8, |_| true);
    for number in playground.numbers() {
        assert!(tasks.iter().any(|task| task.node == number), "{tasks:#?}");
        playground.wait_for_answers(number, PORT, &tasks);
    }
    playground.call_often(&[1, 2, 3, 4], PORT, 60);
}

#[test]
fn the_leader_may_leave_too() {
    let playground = Playground::up("boss", 3);
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    let others: Vec<u8> = playground.numbers().filter(|number| *number != leader).collect();
    playground.create_web(leader, "web", 3, PORT);
    let tasks = playground.wait_for_tasks(leader, "web", 3, |_| true);
    playground.wait_for_answers(others[0], PORT, &tasks);
    playground.ok(leader, &["swarm", "leave", "--force"]);
    playground.wait_for_leader(&others, leader);
    let tasks = playground.wait_for_tasks(others[0], "web", 3, |task| task.node != leader);
    for number in &others {
        playground.wait_for_answers(*number, PORT, &tasks);
    }
    assert!(playground.containers(leader).is_empty());
    join(&playground, leader, others[0], "manager");
    playground.wait_for_leader(&[1, 2, 3], 0);
    playground.wait_for_answers(leader, PORT, &tasks);
}

#[test]
fn the_last_manager_takes_the_swarm_with_it_and_may_make_another() {
    let playground = Playground::up_with("last", 1, &["--no-swarm"]);
    let bare = network_of(&playground, 1);
    for _ in 0..2 {
        playground.ok(1, &["swarm", "init"]);
        playground.create_web(1, "web", 2, PORT);
        let tasks = playground.wait_for_tasks(1, "web", 2, |_| true);
        playground.wait_for_answers(1, PORT, &tasks);
        playground
            .skep(1, &["swarm", "leave"])
            .is_refused_with("Removing the last manager erases all current state");
        playground.ok(1, &["swarm", "leave", "--force"]);
        assert_eq!(network_of(&playground, 1), bare);
        assert!(playground.containers(1).is_empty());
        assert!(playground.call(1, PORT).is_err());
    }
    // A daemon that starts again knows nothing of it either.
    let daemon = playground.daemon(1).unwrap();
    daemon.kill();
    wait_until("the next daemon", || playground.daemon(1).is_some_and(|next| next != daemon));
    wait_until("its API", || playground.try_get(1, "/info").is_some());
    assert_eq!(state_of(&playground, 1), "inactive");
}
