//! Hosts that can only dial out are full members: they get images and work, serve published ports, are reached from
//! everywhere, and lead the swarm like any other.

use std::collections::BTreeSet;

use crate::support::load::Calls;
use crate::support::nat::{INSIDE, Router};
use crate::support::swarm::Task;
use crate::support::{Playground, archive, wait_until};

const PORT: u16 = 8080;

/// Elections of which the node behind NAT must win one; it has an even chance in each.
const ROUNDS: usize = 20;

/// Whether the way to a node that `node ls` of another tells is this.
fn way(playground: &Playground, seen_by: u8, number: u8) -> String {
    let table = playground.ok(seen_by, &["node", "ls"]);
    let line = table.lines().find(|line| line.contains(&format!("node-{number} "))).unwrap_or_default();
    let words = line.to_lowercase();
    ["relayed", "direct"].into_iter().find(|word| words.contains(word)).unwrap_or_default().to_owned()
}

/// Waits until each of these tasks has answered a call to a node's own address, from the node itself.
fn wait_for_answers_from_inside(playground: &Playground, number: u8, tasks: &[Task]) {
    let mut heard = BTreeSet::new();
    wait_until(&format!("all tasks answer on node {number}, behind its router"), || {
        heard.extend(playground.call_from(number, (INSIDE, PORT)).ok().map(|answer| answer.task_id));
        tasks.iter().all(|task| heard.contains(&task.id))
    });
}

#[test]
fn nodes_behind_nat_are_full_members() {
    let playground = Playground::up_with("nat", 5, &["--no-swarm"]);
    let _routers = [Router::before(&playground, 4), Router::before(&playground, 5)];
    playground.ok(1, &["swarm", "init"]);
    playground.join(2, 1, "manager");
    playground.join(3, 1, "worker");
    playground.join(4, 1, "worker");
    playground.join(5, 2, "manager");
    for number in playground.numbers() {
        playground.wait_for_node(1, number, "ready");
        playground.wait_for_node(5, number, "ready");
    }

    // An image that only one of them has comes to all.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.tar");
    std::fs::write(&file, archive::web_image("registry.test/nat:1")).unwrap();
    playground.ok(4, &["image", "load", "--input", file.to_str().unwrap()]);
    let publish = format!("{PORT}:80");
    let create = [
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--replicas",
        "5",
        "-p",
        &publish,
        "registry.test/nat:1",
    ];
    playground.ok(5, &create);
    let tasks = playground.wait_for_tasks(5, "web", 5, |_| true);
    assert_eq!(tasks.iter().map(|task| task.node).collect::<BTreeSet<_>>().len(), 5, "{tasks:#?}");
    for number in [1, 2, 3] {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    for number in [4, 5] {
        wait_for_answers_from_inside(&playground, number, &tasks);
    }

    // Node 4 and 5 have no way to each other but through somebody.
    wait_until("node 5 sees node 4 relayed", || way(&playground, 5, 4) == "relayed");
    for (seen_by, number) in [(1, 4), (1, 5), (2, 4), (5, 1), (5, 3), (1, 2)] {
        wait_until(&format!("node {seen_by} sees node {number} direct"), || {
            way(&playground, seen_by, number) == "direct"
        });
    }

    // None of that drops calls; and a relay may go.
    let calls = Calls::start(&playground, &[1, 3], PORT);
    for _ in 0..20 {
        playground.call_from(4, (INSIDE, PORT)).unwrap();
        playground.call_from(5, (INSIDE, PORT)).unwrap();
    }
    calls.none_failed();
    playground.power("kill", 2);
    let now = playground.wait_for_tasks(5, "web", 5, |task| task.node != 2);
    for number in [4, 5] {
        wait_for_answers_from_inside(&playground, number, &now);
    }
}

#[test]
fn a_manager_behind_nat_leads_like_any_other() {
    let playground = Playground::up_with("natlead", 3, &["--no-swarm"]);
    let _router = Router::before(&playground, 3);
    playground.ok(1, &["swarm", "init"]);
    playground.join(2, 1, "manager");
    playground.join(3, 1, "manager");
    // Whoever leads loses its power, until it is node 3's turn.
    for round in 0..ROUNDS {
        let leader = playground.wait_for_leader(&[1, 2, 3], 0);
        if leader == 3 {
            let web = ["service", "create", "--name", "web", "--mode", "global", "whoami"];
            playground.ok(1, &web);
            assert_eq!(playground.running(3, "web").len(), 3);
            return;
        }
        playground.power("kill", leader);
        let survivors: Vec<u8> = playground.numbers().filter(|number| *number != leader).collect();
        let now = playground.wait_for_leader(&survivors, leader);
        let name = format!("round-{round}");
        playground.ok(now, &["service", "create", "-d", "--name", &name, "--replicas", "0", "whoami"]);
        playground.power("start", leader);
        for number in playground.numbers() {
            playground.wait_for_node(now, number, "ready");
        }
    }
    panic!("node 3 has not led in {ROUNDS} elections");
}
